//! The last lines of `memsensor probes`: user, capabilities and restrictions of the running daemon,
//! as the kernel reports them.

use std::{fmt::Write as _, path::Path};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::admin_client::call_one;
use crate::{
    host::process_rights::ProcessRights,
    serve::{
        admin_protocol::{ProtectedProcess, Request, Response},
        state::protection::Protection,
    },
};

/// Process id, rights and protection of the daemon.
pub(super) struct Running {
    pid: u32,
    rights: ProcessRights,
    protection: Protection,
}

/// Asks the daemon at this socket; an error if none runs.
pub(super) fn ask(socket: &Path) -> Result<Running> {
    let ProtectedProcess { pid, protection } =
        call_one(socket, &Request::Protection, |response| {
            if let Response::Protection(process) = response { Some(process) } else { None }
        })?;
    let rights = ProcessRights::of(i32::try_from(pid).context("its process id")?)?;
    Ok(Running { pid, rights, protection })
}

/// Lines for people.
pub(super) fn text(running: &Result<Running>) -> String {
    let Running { pid, rights, protection } = match running {
        Ok(running) => running,
        Err(e) => return format!("running daemon: none ({e:#})\n"),
    };
    let uids: Vec<_> = rights.uids.iter().map(u32::to_string).collect();
    let capabilities = match rights.capabilities.join(", ") {
        none if none.is_empty() => "none".to_owned(),
        names => names,
    };
    let yes = |holds| if holds { "yes" } else { "NO" };
    let mut text = format!(
        "running daemon: pid {pid}, uid {}, capabilities: {capabilities}, no_new_privs: {}, \
         seccomp: {}, Landlock: {}\n",
        uids.join(" and "),
        yes(rights.no_new_privs),
        yes(rights.seccomp_filter),
        protection.landlock.as_deref().unwrap_or("NO"),
    );
    for missing in &protection.missing {
        // Writing to a String does not fail.
        let _ = writeln!(text, "running daemon: could not set up {missing}");
    }
    text
}

/// The same as JSON; `null` if none runs.
pub(super) fn json(running: &Result<Running>) -> Value {
    let Ok(Running { pid, rights, protection }) = running else { return Value::Null };
    json!({ "pid": pid, "rights": rights, "protection": protection })
}
