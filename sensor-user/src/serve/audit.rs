//! Who gave a command on the socket: in the log and in the events.
//!
//! Not here: the commands (`admin`).

use std::sync::Arc;

use rustix::process::geteuid;
use sensor_core::{
    common::{
        clock::monotonic_ns,
        text::{Printable, sanitize},
    },
    model::event::{EventKind, OperatorCommand},
};
use tokio::net::UnixStream;
use tracing::{info, warn};

use super::state::app::AppState;
use crate::publish::event_log::EventLog;

/// The process that asks, from the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Peer {
    uid: u32,
    pid: i32,
}

impl Peer {
    /// Who connected; an error if that is neither root nor the daemon's own user. Others cannot
    /// open the socket, unless somebody changed its mode.
    pub(super) fn of(stream: &UnixStream) -> Result<Self, String> {
        let peer = stream.peer_cred().map_err(|e| format!("who connected: {e}"))?;
        // The kernel reports 0 for a process that the daemon's pid namespace does not contain.
        let this = Self { uid: peer.uid(), pid: peer.pid().unwrap_or(0) };
        if this.uid == 0 || this.uid == geteuid().as_raw() {
            return Ok(this);
        }
        warn!("uid {}, pid {} may not use the socket", this.uid, this.pid);
        Err(format!("only root may use this socket, not uid {}", this.uid))
    }

    /// Records a command that was carried out; `detail` is the reason or the result.
    pub(super) async fn record(self, command: OperatorCommand, detail: &str, state: &AppState) {
        let (detail, events) = (sanitize(detail), Arc::clone(&state.published.events));
        // It opens a file, and takes the lock of the events.
        let record = move || self.record_now(command, detail, &events);
        if let Err(e) = state.background.run(record).await {
            warn!("cannot record the command {}: {e:#}", command.label());
        }
    }

    fn record_now(self, command: OperatorCommand, detail: String, events: &EventLog) {
        let Self { uid, pid } = self;
        let comm = comm_of(pid);
        info!(
            "{} by uid {uid}, pid {pid}, process {}: {}",
            command.label(),
            Printable(comm.as_deref().unwrap_or("unknown")),
            Printable(&detail)
        );
        let pid = pid.cast_unsigned();
        events.push(monotonic_ns(), EventKind::Operator { command, uid, pid, comm, detail }, None);
    }
}

/// Name of a process; `None` if it has ended or is hidden.
fn comm_of(pid: i32) -> Option<String> {
    let comm = std::fs::read(format!("/proc/{pid}/comm")).ok()?;
    Some(sanitize(String::from_utf8_lossy(&comm).trim_end_matches('\n')))
}
