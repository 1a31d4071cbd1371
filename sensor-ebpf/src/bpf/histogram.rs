//! Duration of reclaim per cgroup: a histogram for each kind, only if the configuration asks for
//! it.
//!
//! The stall clock (`super::stall`) is charged when a slot is given to another task, which is
//! rare; a histogram is touched at every end. So it is behind a switch in frozen read-only data:
//! while it is off the verifier removes the code.

use aya_ebpf::{Global, macros::map, maps::LruHashMap};

use super::{
    count::{self, Counters},
    lost::lost,
};
use crate::{
    hist::{self, Log2Seconds},
    inflight::Slot,
    loss::{self, Loss},
    stall_kind::Kind,
};

/// 1 if the configuration asks for them.
#[unsafe(no_mangle)]
static CGROUP_HISTOGRAMS: Global<u32> = Global::new(0);

/// By cgroup id and [`Kind`]. While they are off, user space gives the map its smallest size.
#[map]
static RECLAIM: LruHashMap<[u64; 2], Log2Seconds> = LruHashMap::with_max_entries(2048, 0);

/// Counts a reclaim of this kind by the slot's owner that took `ns`.
#[inline(always)]
pub(crate) fn observe<S: Counters>(kind: Kind, slot: &Slot, ns: u64) {
    if CGROUP_HISTOGRAMS.load() == 0 {
        return;
    }
    let key = [slot.aux, kind as u64];
    if RECLAIM.get_ptr_mut(key).is_none() {
        // BPF_NOEXIST (1): if another CPU was faster, its histogram is used.
        let made = RECLAIM.insert(key, Log2Seconds::EMPTY, 1);
        if made.is_ok() {
            count::add(loss::HISTOGRAMS_ADDED);
        }
    }
    let Some(histogram) = RECLAIM.get_ptr_mut(key) else {
        lost!(S, Loss::CgroupsFull, "cgroup", slot.aux);
        return;
    };
    let i = hist::bucket(ns);
    if i > hist::BOUNDS {
        return;
    }
    // SAFETY: the map value is a Log2Seconds, `repr(C)` and made of u64; `i` is one of its buckets.
    // Any task of the cgroup may be adding to it, on any CPU.
    unsafe {
        count::add_atomic(&raw mut (*histogram).sum_ns, ns);
        count::add_atomic((&raw mut (*histogram).buckets).cast::<u64>().add(i), 1);
    }
}
