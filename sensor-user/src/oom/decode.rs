//! Decodes records of the ring buffer of events. Pure.

use sensor_ebpf::event::{self, Tag};

use sensor_core::{
    common::{bytes, text::name},
    model::{
        event::{AllocContext, EventKind, OomType, SentSignal, TaskInfo, VictimMemory, event_id},
        workload::WorkloadId,
    },
};

/// Number of the signal.
const SIGTERM: u32 = 15;

/// Decodes a record: its time in CLOCK_MONOTONIC nanoseconds, and the event. `boot` is the prefix
/// of event ids. `None` if the record is of unknown kind or size.
pub fn decode(record: &[u8], page_bytes: u64, boot: &str) -> Option<(u64, EventKind)> {
    let tag = bytes::decode::<u32>(record)?;
    if tag == Tag::OomKill as u32 {
        let e: event::OomKill = bytes::decode(record)?;
        let bytes_of = |pages: u64| pages.saturating_mul(page_bytes);
        let kind = EventKind::OomKill {
            oom_type: if e.memcg == 0 { OomType::Global } else { OomType::Memcg },
            victim: task(&e.victim),
            trigger: task(&e.trigger),
            memory: VictimMemory {
                anon_bytes: bytes_of(e.sizes.anon_pages),
                file_bytes: bytes_of(e.sizes.file_pages),
                shmem_bytes: bytes_of(e.sizes.shmem_pages),
                swap_bytes: bytes_of(e.sizes.swap_pages),
                page_tables_bytes: e.sizes.pgtables_bytes,
                virtual_bytes: bytes_of(e.total_vm_pages),
            },
            context: (e.has_context != 0).then(|| AllocContext {
                order: e.order,
                gfp_flags: format!("{:#x}", e.gfp_flags),
                gfp_names: None,
                constraint: e.constraint.to_string(),
                nodes: None,
                from_log: false,
            }),
            oom_group: None,
            memory_back_seconds: None,
        };
        Some((e.time_ns, kind))
    } else if tag == Tag::VictimExit as u32 {
        let e: event::VictimExit = bytes::decode(record)?;
        let seconds = e.time_ns.saturating_sub(e.killed_ns) as f64 / 1e9;
        let kind =
            EventKind::VictimExit { pid: e.tgid, seconds, kill: event_id(boot, e.killed_ns) };
        Some((e.time_ns, kind))
    } else if tag == Tag::KillSignal as u32 {
        let e: event::KillSignal = bytes::decode(record)?;
        let signal = if e.signal == SIGTERM { SentSignal::Sigterm } else { SentSignal::Sigkill };
        let (sender, target) = (task(&e.sender), task(&e.target));
        let kind = EventKind::KillSignal { signal, sender, target };
        Some((e.time_ns, kind))
    } else {
        None
    }
}

/// When the last reclaim of the trigger of an OOM kill ended, by its record; 0 if none is known.
pub fn reclaim_ended_ns(record: &[u8]) -> u64 {
    let is_kill = bytes::decode::<u32>(record) == Some(Tag::OomKill as u32);
    let kill: Option<event::OomKill> = is_kill.then(|| bytes::decode(record)).flatten();
    kill.map_or(0, |kill| kill.reclaim_ended_ns)
}

fn task(task: &event::Task) -> TaskInfo {
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn pages_become_bytes() {
        let mut kill: event::OomKill = bytemuck::Zeroable::zeroed();
        (kill.tag, kill.memcg, kill.sizes.anon_pages) = (Tag::OomKill as u32, 1, 10);
        let (_, kind) = decode(bytemuck::bytes_of(&kill), 4096, "b").expect("decodes");
        let EventKind::OomKill { oom_type, memory, .. } = kind else { panic!("{kind:?}") };
        assert_eq!((oom_type, memory.anon_bytes), (OomType::Memcg, 40_960));
    }

    #[test]
    fn an_unknown_kind_or_size_is_refused() {
        for record in [&[][..], &[1, 0, 0], &[1, 0, 0, 0, 9], &[99, 0, 0, 0, 0, 0, 0, 0]] {
            assert_eq!(decode(record, 4096, "b"), None);
        }
    }

    proptest! {
        /// JSON may escape C0 controls itself; DEL, C1 and line separators must be replaced.
        #[test]
        fn names_of_hostile_records_are_sanitized(
            tag in 0u32..6,
            rest in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let record = [&tag.to_ne_bytes()[..], &rest].concat();
            if let Some((_, mut kind)) = decode(&record, 4096, "b") {
                let json = serde_json::to_string(&kind).expect("serialises");
                prop_assert!(!json.contains(|c: char| c.is_control()), "{json:?}");
                for task in kind.tasks_mut() {
                    let dirty =
                        |c: char| matches!(c, '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}');
                    prop_assert!(!task.comm.contains(dirty), "{:?}", task.comm);
                }
            }
        }
    }
}
