//! From a record of the ring buffer to an event. Pure.

use sensor_ebpf::event::{self, Tag};

use super::{AllocContext, EventKind, OomType, TaskInfo, VictimMemory, name};
use crate::identity::WorkloadId;

/// The beginning of a record as a `T`; `None` if it is shorter.
pub fn record<T: bytemuck::AnyBitPattern>(bytes: &[u8]) -> Option<T> {
    bytemuck::try_pod_read_unaligned(bytes.get(..size_of::<T>())?).ok()
}

/// The id of an event of that boot (a prefix of the kernel's boot id) and time (CLOCK_MONOTONIC
/// nanoseconds).
pub fn id(boot: &str, time_ns: u64) -> String {
    format!("{boot}-{time_ns:x}")
}

/// Decodes a record of the ring buffer of that boot: its time in CLOCK_MONOTONIC nanoseconds, and what it
/// says. `None` if it is of no known kind or size.
pub fn decode(bytes: &[u8], page_bytes: u64, boot: &str) -> Option<(u64, EventKind)> {
    let tag = record::<u32>(bytes)?;
    if tag == Tag::OomKill as u32 {
        let e: event::OomKill = record(bytes)?;
        let of = |pages: u64| pages.saturating_mul(page_bytes);
        let what = EventKind::OomKill {
            oom_type: if e.memcg == 0 { OomType::Global } else { OomType::Memcg },
            victim: process(&e.victim),
            trigger: process(&e.trigger),
            memory: VictimMemory {
                anon_bytes: of(e.sizes.anon_pages),
                file_bytes: of(e.sizes.file_pages),
                shmem_bytes: of(e.sizes.shmem_pages),
                swap_bytes: of(e.sizes.swap_pages),
                page_tables_bytes: e.sizes.pgtables_bytes,
                virtual_bytes: of(e.total_vm_pages),
            },
            context: (e.has_context != 0).then(|| AllocContext {
                order: e.order,
                gfp_flags: format!("{:#x}", e.gfp_flags),
                constraint: e.constraint.to_string(),
                from_log: false,
            }),
            memory_back_seconds: None,
        };
        Some((e.time_ns, what))
    } else if tag == Tag::VictimExit as u32 {
        let e: event::VictimExit = record(bytes)?;
        let seconds = e.time_ns.saturating_sub(e.killed_ns) as f64 / 1e9;
        let what = EventKind::VictimExit { pid: e.tgid, seconds, kill: id(boot, e.killed_ns) };
        Some((e.time_ns, what))
    } else if tag == Tag::KillSignal as u32 {
        let e: event::KillSignal = record(bytes)?;
        let what = EventKind::KillSignal { sender: process(&e.sender), target: process(&e.target) };
        Some((e.time_ns, what))
    } else {
        None
    }
}

pub(super) fn process(task: &event::Task) -> TaskInfo {
    TaskInfo {
        pid: task.tgid,
        tid: task.tid,
        comm: name(&task.comm),
        uid: task.uid,
        oom_score_adj: task.oom_score_adj,
        cgroup_id: task.cgroup,
        cgroup: None,
        workload: WorkloadId::default(),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::events::EventLog;

    pub(in crate::events) fn kill(comm: &[u8]) -> event::OomKill {
        let mut kill: event::OomKill = bytemuck::Zeroable::zeroed();
        kill.tag = Tag::OomKill as u32;
        kill.memcg = 1;
        kill.sizes.anon_pages = 10;
        kill.victim.comm[..comm.len()].copy_from_slice(comm);
        kill
    }

    #[test]
    fn pages_become_bytes() {
        let (_, what) = decode(bytemuck::bytes_of(&kill(b"x")), 4096, "b").expect("decodes");
        let EventKind::OomKill { oom_type, memory, .. } = what else { panic!("{what:?}") };
        assert_eq!((oom_type, memory.anon_bytes), (OomType::Memcg, 40_960));
    }

    #[test]
    fn what_is_not_a_record_is_refused() {
        for record in [&[][..], &[1, 0, 0], &[1, 0, 0, 0, 9], &[99, 0, 0, 0, 0, 0, 0, 0]] {
            assert_eq!(decode(record, 4096, "b"), None);
        }
    }

    proptest! {
        #[test]
        fn hostile_records_are_shown_whole_and_tame(
            tag in 0u32..6,
            rest in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let record = [&tag.to_ne_bytes()[..], &rest].concat();
            if let Some((_, what)) = decode(&record, 4096, "b") {
                let log = EventLog::new("b");
                log.push(0, what, None);
                let event = &log.follow().0[0];
                prop_assert!(!event.to_string().contains(|c: char| c.is_control()));
                prop_assert!(!event.whole().contains(|c: char| c.is_control() && c != '\n'));
            }
        }
    }
}
