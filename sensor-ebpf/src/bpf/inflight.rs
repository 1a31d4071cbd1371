//! The map of in-flight tasks. The algorithm on it is [`crate::inflight`].

use aya_ebpf::{macros::map, maps::Array};

use crate::inflight::{Bucket, CHUNKS, Chunk, place};

#[map]
static INFLIGHT: Array<Chunk> = Array::with_max_entries(CHUNKS as u32, 0);

/// The bucket of a thread.
#[inline(always)]
pub(crate) fn bucket(tid: u32) -> Option<&'static mut Bucket> {
    let (chunk, i) = place(tid);
    let chunk = INFLIGHT.get_ptr_mut(chunk)?;
    // SAFETY: the map value is a Chunk. Other CPUs may write other slots of the bucket; the
    // algorithm allows for that (see crate::inflight), and every bit pattern is a valid Slot.
    let chunk = unsafe { &mut *chunk };
    chunk.0.get_mut(i)
}
