//! The ring buffer of rare events.

use aya_ebpf::{macros::map, maps::RingBuf};

use super::{count::Counters, lost::lost};
use crate::loss::Loss;

/// Room for about 1,100 OOM kills that user space has not read yet.
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(256 * 1024, 0);

/// Sends an event of a probe about process `tgid`, or counts it as lost.
#[inline(always)]
pub(crate) fn send<S: Counters, T: Copy + 'static>(event: T, tgid: u32) {
    let Some(mut entry) = EVENTS.reserve::<T>(0) else {
        lost!(S, Loss::RingFull, "event about process", tgid);
        return;
    };
    entry.write(event);
    entry.submit(0);
}
