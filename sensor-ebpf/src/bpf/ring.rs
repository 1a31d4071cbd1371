//! The ring buffer for rare events.

use aya_ebpf::{macros::map, maps::RingBuf};

use super::count::lost;
use crate::loss::Loss;

/// About 1,100 OOM kills before user space has to have read one.
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(256 * 1024, 0);

/// Sends one event, or counts it as lost.
#[inline(always)]
pub(crate) fn send<T: Copy + 'static>(event: T) {
    match EVENTS.reserve::<T>(0) {
        Some(mut entry) => {
            entry.write(event);
            entry.submit(0);
        }
        None => lost(Loss::RingFull),
    }
}
