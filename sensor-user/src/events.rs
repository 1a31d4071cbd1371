//! Rare events: decoded from the ring buffer, kept in a bounded log, shown to people and programs.
//!
//! Names in events come from processes, which choose them freely: in JSON they are escaped by
//! serde, for a terminal by [`Printable`].

use std::{
    collections::VecDeque,
    fmt,
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

use sensor_ebpf::event::{self, Tag};
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

use crate::host::clock::wall;

/// Events kept for `memsensor events`, OOM kills and others apart: a flood of others, which any
/// process can cause, must not push out a kill. The oldest of its kind goes first.
const KEEP: usize = 1024;
/// Events that a slow follower may be behind before it misses some.
const BEHIND: usize = 256;

/// A process that takes part in an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Process id, in the host's pid namespace.
    pub pid: u32,
    /// Thread id, in the host's pid namespace.
    pub tid: u32,
    /// Thread name; bytes that are not UTF-8 are replaced.
    pub comm: String,
    /// User id, in the host's user namespace.
    pub uid: u32,
    /// -1000 to 1000.
    pub oom_score_adj: i32,
    /// Id of the cgroup that its memory is charged to.
    pub cgroup_id: u64,
    /// That cgroup's path, if it still exists.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cgroup: Option<String>,
}

/// Memory of a victim when it was killed, in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Memory {
    pub anon_bytes: u64,
    pub file_bytes: u64,
    pub shmem_bytes: u64,
    pub swap_bytes: u64,
    pub page_tables_bytes: u64,
    pub virtual_bytes: u64,
}

/// What the allocation that could not be served asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Context {
    /// It wanted 2^order pages; -1 if it was no allocation but sysrq-f.
    pub order: i32,
    /// GFP flags in hexadecimal; what they mean differs between kernels.
    pub gfp_flags: String,
    /// The kernel's name for what it may use of the machine, hence what ran out: `none` (all of it),
    /// `cpuset`, `memory_policy`, `memcg`; a number where the name is not known.
    pub constraint: String,
}

/// What ran out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// The machine.
    Global,
    /// A memory cgroup.
    Memcg,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum What {
    /// The kernel killed a process.
    OomKill {
        /// What ran out.
        scope: Scope,
        /// Who was killed.
        victim: Process,
        /// Whose allocation set it off.
        trigger: Process,
        /// What the victim had.
        memory: Memory,
        /// What was asked for, where that could be measured.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        context: Option<Context>,
    },
    /// A victim's memory was given back.
    VictimExit {
        /// Its process id.
        pid: u32,
        /// Seconds since it was killed.
        seconds: f64,
    },
    /// A user-space OOM killer sent SIGKILL.
    KillSignal {
        /// Who sent it.
        sender: Process,
        /// Who got it.
        target: Process,
    },
}

/// One event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Counts up from 1 while the daemon runs. What was lost before is in
    /// `memsensor_events_lost_total`.
    pub seq: u64,
    /// RFC 3339, UTC.
    pub time: String,
    /// What happened.
    #[serde(flatten)]
    pub what: What,
}

/// Decodes a record of the ring buffer; `None` if it is of no known kind or size.
pub fn decode(record: &[u8], page_bytes: u64) -> Option<(u64, What)> {
    fn read<T: bytemuck::AnyBitPattern>(record: &[u8]) -> Option<T> {
        bytemuck::try_pod_read_unaligned(record.get(..size_of::<T>())?).ok()
    }
    let tag = read::<u32>(record)?;
    if tag == Tag::OomKill as u32 {
        let e: event::OomKill = read(record)?;
        let bytes = |pages: u64| pages.saturating_mul(page_bytes);
        let what = What::OomKill {
            scope: if e.memcg == 0 { Scope::Global } else { Scope::Memcg },
            victim: process(&e.victim),
            trigger: process(&e.trigger),
            memory: Memory {
                anon_bytes: bytes(e.anon_pages),
                file_bytes: bytes(e.file_pages),
                shmem_bytes: bytes(e.shmem_pages),
                swap_bytes: bytes(e.swap_pages),
                page_tables_bytes: e.pgtables_bytes,
                virtual_bytes: bytes(e.total_vm_pages),
            },
            context: (e.has_context != 0).then(|| Context {
                order: e.order,
                gfp_flags: format!("{:#x}", e.gfp_flags),
                constraint: e.constraint.to_string(),
            }),
        };
        Some((e.time_ns, what))
    } else if tag == Tag::VictimExit as u32 {
        let e: event::VictimExit = read(record)?;
        let seconds = e.time_ns.saturating_sub(e.killed_ns) as f64 / 1e9;
        Some((e.time_ns, What::VictimExit { pid: e.tgid, seconds }))
    } else if tag == Tag::KillSignal as u32 {
        let e: event::KillSignal = read(record)?;
        let what = What::KillSignal { sender: process(&e.sender), target: process(&e.target) };
        Some((e.time_ns, what))
    } else {
        None
    }
}

fn process(task: &event::Task) -> Process {
    Process {
        pid: task.tgid,
        tid: task.tid,
        comm: name(&task.comm),
        uid: task.uid,
        oom_score_adj: task.oom_score_adj,
        cgroup_id: task.cgroup,
        cgroup: None,
    }
}

/// The kernel's name of a task, [`tame`].
pub fn name(comm: &[u8; event::COMM]) -> String {
    let end = comm.iter().position(|b| *b == 0).unwrap_or(comm.len());
    tame(&String::from_utf8_lossy(&comm[..end]))
}

/// A name without the control characters that JSON does not escape (DEL and C1).
pub fn tame(name: &str) -> String {
    let tamed =
        |c: char| if c.is_control() && c > '\x1f' { char::REPLACEMENT_CHARACTER } else { c };
    name.chars().map(tamed).collect()
}

impl What {
    /// The processes in it, to be completed with what user space knows.
    pub fn processes_mut(&mut self) -> Vec<&mut Process> {
        match self {
            Self::OomKill { victim, trigger, .. } => vec![victim, trigger],
            Self::KillSignal { sender, target } => vec![sender, target],
            Self::VictimExit { .. } => Vec::new(),
        }
    }

    /// Replaces the number of a constraint by the kernel's name for it.
    pub fn name_constraint(&mut self, names: &[Option<String>]) {
        if let Self::OomKill { context: Some(context), .. } = self
            && let Ok(i) = context.constraint.parse::<usize>()
            && let Some(Some(name)) = names.get(i)
        {
            context.constraint.clone_from(name);
        }
    }
}

/// The last events, and whoever follows new ones.
#[derive(Debug)]
pub struct Log {
    kept: Mutex<Kept>,
    followers: broadcast::Sender<Event>,
}

#[derive(Debug, Default)]
struct Kept {
    seq: u64,
    oom: VecDeque<Event>,
    others: VecDeque<Event>,
}

impl Default for Log {
    fn default() -> Self {
        Self { kept: Mutex::default(), followers: broadcast::channel(BEHIND).0 }
    }
}

impl Log {
    /// Adds an event of `time_ns` (CLOCK_MONOTONIC).
    pub fn push(&self, time_ns: u64, now_ns: u64, what: What) {
        let time = wall(time_ns, now_ns, SystemTime::now());
        let time = humantime::format_rfc3339_millis(time).to_string();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.seq += 1;
        let event = Event { seq: kept.seq, time, what };
        let queue = match event.what {
            What::OomKill { .. } | What::VictimExit { .. } => &mut kept.oom,
            What::KillSignal { .. } => &mut kept.others,
        };
        if queue.len() == KEEP {
            queue.pop_front();
        }
        queue.push_back(event.clone());
        // Nobody following is no error.
        let _ = self.followers.send(event);
    }

    /// The kept events, and a feed of those after them, without a gap between.
    pub fn follow(&self) -> (Vec<Event>, broadcast::Receiver<Event>) {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let mut events: Vec<_> = kept.oom.iter().chain(&kept.others).cloned().collect();
        events.sort_by_key(|event| event.seq);
        (events, self.followers.subscribe())
    }
}

/// A name for a terminal: control characters and the like are shown, not sent.
struct Printable<'a>(&'a str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_debug())
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} (uid {}, cgroup ", self.pid, Printable(&self.comm), self.uid)?;
        match &self.cgroup {
            Some(path) => write!(f, "{})", Printable(path)),
            None => write!(f, "id {})", self.cgroup_id),
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}  ", self.time)?;
        match &self.what {
            What::OomKill { scope, victim, trigger, memory, context } => {
                let scope = match scope {
                    Scope::Global => "global",
                    Scope::Memcg => "memcg",
                };
                let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
                write!(
                    f,
                    "OOM kill ({scope}): {victim}, anon {:.1} MiB, file {:.1} MiB, shmem {:.1} MiB, \
                     swap {:.1} MiB, oom_score_adj {}; triggered by {trigger}",
                    mib(memory.anon_bytes),
                    mib(memory.file_bytes),
                    mib(memory.shmem_bytes),
                    mib(memory.swap_bytes),
                    victim.oom_score_adj,
                )?;
                match context {
                    Some(Context { order, gfp_flags, constraint }) => {
                        write!(f, ", order {order}, gfp {gfp_flags}, constraint {constraint}")
                    }
                    None => Ok(()),
                }
            }
            What::VictimExit { pid, seconds } => {
                write!(f, "OOM victim {pid} gave its memory back after {seconds:.3} s")
            }
            What::KillSignal { sender, target } => {
                write!(f, "SIGKILL by {sender} to {target}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn kill(comm: &[u8]) -> event::OomKill {
        let mut kill: event::OomKill = bytemuck::Zeroable::zeroed();
        kill.tag = Tag::OomKill as u32;
        kill.memcg = 1;
        kill.anon_pages = 10;
        kill.victim.comm[..comm.len()].copy_from_slice(comm);
        kill
    }

    #[test]
    fn pages_become_bytes() {
        let (_, what) = decode(bytemuck::bytes_of(&kill(b"x")), 4096).expect("decodes");
        let What::OomKill { scope, memory, .. } = what else { panic!("{what:?}") };
        assert_eq!((scope, memory.anon_bytes), (Scope::Memcg, 40_960));
    }

    #[test]
    fn what_was_asked_for_is_told_only_where_it_was_measured() {
        let event = |kill: &event::OomKill| {
            let (_, mut what) = decode(bytemuck::bytes_of(kill), 4096).expect("decodes");
            what.name_constraint(&[Some("none".into()), None, None, Some("memcg".into())]);
            Event { seq: 1, time: String::new(), what }
        };
        let json = |kill: &event::OomKill| serde_json::to_value(event(kill)).expect("serialises");
        let mut kill = kill(b"x");
        assert_eq!(json(&kill).get("context"), None);
        assert!(!event(&kill).to_string().contains("order"));
        (kill.has_context, kill.order, kill.gfp_flags, kill.constraint) = (1, -1, 0x10_0cca, 3);
        let context =
            serde_json::json!({ "order": -1, "gfp_flags": "0x100cca", "constraint": "memcg" });
        assert_eq!(json(&kill)["context"], context);
        let said = event(&kill).to_string();
        assert!(said.ends_with(", order -1, gfp 0x100cca, constraint memcg"), "{said}");
        kill.constraint = 7;
        assert_eq!(json(&kill)["context"]["constraint"], "7", "a name that BTF does not have");
    }

    #[test]
    fn no_escape_sequence_reaches_a_terminal() {
        let hostile = kill(b"\x1b[2J\"\n\\\xff\xc2\x9b31m");
        let (_, what) = decode(bytemuck::bytes_of(&hostile), 4096).expect("decodes");
        let event = Event { seq: 1, time: String::new(), what };
        let shown = event.to_string();
        assert!(!shown.contains(|c: char| c.is_control()), "{shown:?}");
        let json = serde_json::to_string(&event).expect("serialises");
        assert!(!json.contains(|c: char| c.is_control()), "{json:?}");
        assert_eq!(serde_json::from_str::<Event>(&json).expect("parses"), event);
    }

    #[test]
    fn what_is_not_a_record_is_refused() {
        for record in [&[][..], &[1, 0, 0], &[1, 0, 0, 0, 9], &[99, 0, 0, 0, 0, 0, 0, 0]] {
            assert_eq!(decode(record, 4096), None);
        }
    }

    proptest! {
        #[test]
        fn hostile_records_never_panic(record in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Some((_, what)) = decode(&record, 4096) {
                let event = Event { seq: 1, time: String::new(), what };
                prop_assert!(!event.to_string().contains(|c: char| c.is_control()));
            }
        }
    }

    #[test]
    fn the_log_is_bounded_and_followed_without_a_gap() {
        let log = Log::default();
        let exit = |pid| What::VictimExit { pid, seconds: 0.0 };
        for pid in 0..2000 {
            log.push(0, 0, exit(pid));
        }
        let (kept, _) = log.follow();
        assert_eq!((kept.len(), kept[0].seq, kept[KEEP - 1].seq), (KEEP, 977, 2000));
        let process = process(&bytemuck::Zeroable::zeroed());
        for _ in 0..2000 {
            let (sender, target) = (process.clone(), process.clone());
            log.push(0, 0, What::KillSignal { sender, target });
        }
        let (kept, _) = log.follow();
        assert_eq!((kept.len(), kept[0].seq), (2 * KEEP, 977), "a flood pushes out no OOM kill");
        let (_, mut feed) = log.follow();
        log.push(0, 0, exit(1));
        assert_eq!(feed.try_recv().expect("one more").seq, 4001);
    }
}
