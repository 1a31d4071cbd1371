//! Messages of the kernel half, for example why it dropped an event. Off by default. Messages are
//! rate limited; the counters of losses are complete.

use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya_log::EbpfLogger;

use super::settings::BpfLog;

/// Writes the kernel half's messages to the daemon's log.
#[allow(missing_debug_implementations, reason = "aya's maps have none")]
pub struct DebugLog(EbpfLogger<&'static dyn log::Log>);

impl DebugLog {
    /// Takes the messages' ring buffer, unless the log is off.
    pub(super) fn open(ebpf: &mut Ebpf, level: BpfLog) -> Result<Option<Self>> {
        if level == BpfLog::Off {
            return Ok(None);
        }
        let logger = EbpfLogger::init(ebpf).context("read the kernel half's log")?;
        Ok(Some(Self(logger)))
    }

    /// Writes all messages that have arrived.
    pub fn flush(&mut self) {
        self.0.flush();
    }
}
