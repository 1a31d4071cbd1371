//! What to do after an incident: a reason, and a command or lines of a configuration.

use sensor_core::verdict::scope::HOST;
use serde::Serialize;

use super::{
    causes::{Cause, Kind},
    earlier::Limit,
    incident::Incident,
    text::Text,
};

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Action {
    /// Why.
    pub reason: Text,
    /// A command, or lines of a configuration.
    pub command: String,
}

fn action(reason: Text, command: impl Into<String>) -> Action {
    Action { reason, command: command.into() }
}

/// Actions against the first cause.
pub fn actions(cause: &Cause, limit: Option<Limit>, incident: &Incident) -> Vec<Action> {
    let mut all: Vec<_> = limit.and_then(|limit| limited(cause, limit)).into_iter().collect();
    let is_host = incident.scope == HOST;
    match (cause.kind, cause.name.as_str()) {
        (Kind::KernelMemory, "shmem") => all.push(action(
            Text::words("Find the files in tmpfs, and give each mount a size"),
            "df -h -t tmpfs\nmount -o remount,size=512M /PATH",
        )),
        (Kind::KernelMemory, name) if name == "kernel" || name.starts_with("slab") => {
            all.push(action(
                Text::words("Find the caches of the kernel that are largest"),
                "slabtop --once --sort=c | head -20",
            ));
        }
        (Kind::TooSmall, _) => all.push(action(
            Text::words("Give it more memory, or run less there"),
            if is_host || !is_plain(&incident.scope) {
                "memsensor top --once --most 20".to_owned()
            } else {
                format!("memsensor explain --scope {}", incident.scope)
            },
        )),
        (Kind::Growth | Kind::ManyProcesses, _) if !is_host && limit.is_none() => all.push(action(
            Text::words("Start it in a unit of its own, with a limit"),
            "systemd-run --scope -p MemoryMax=256M COMMAND",
        )),
        (Kind::Growth | Kind::ManyProcesses, _) if is_host => all.push(action(
            Text::words("If users meet one service, let memsensor judge it apart"),
            "[[scope]]\nname = \"web\"\ncgroup = \"/system.slice/nginx.service\"",
        )),
        _ => {}
    }
    all
}

/// Whether a shell takes a name as it is: the record may be another host's, and damaged.
fn is_plain(name: &str) -> bool {
    let is_allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.@:/".contains(&b);
    !name.starts_with('-') && name.bytes().all(is_allowed)
}

/// A limit for the cgroup.
fn limited(cause: &Cause, limit: Limit) -> Option<Action> {
    if !cause.name.starts_with('/') || !is_plain(&cause.name) {
        return None;
    }
    let unit = cause.name.rsplit('/').next().unwrap_or_default();
    let is_unit = [".service", ".scope", ".slice"].iter().any(|end| unit.ends_with(end));
    let command = if is_unit && !unit.starts_with('-') {
        format!("systemctl set-property {unit} MemoryMax={}M", limit.bytes >> 20)
    } else {
        format!("echo {} > /sys/fs/cgroup{}/memory.max", limit.bytes, cause.name)
    };
    let reason = Text::words("Limit ").and_name(&cause.name);
    Some(action(reason.and(": it then meets its own limit before others run out"), command))
}
