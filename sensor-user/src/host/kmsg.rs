//! OOM kills in the kernel log: a second source beside the probes, and the only source of the
//! allocation on a kernel that allows no program at a function.
//!
//! Processes can write to the log too, and can have names that look like lines of the kernel.
//! Records of processes have another facility (Documentation/ABI/testing/dev-kmsg) and are skipped.
//! In a line, names stand before the parsed fields, so the last match counts. The kernel limits how
//! many kills it logs (`oom_rs`, mm/oom_kill.c: ten in five seconds): in a burst, most kills are
//! not in the log.
//!
//! Not here: comparing the log with a probe's event (`oom/report_builder`).

use std::{
    collections::VecDeque,
    fs::{File, OpenOptions},
    io::{ErrorKind, Read as _, Seek as _, SeekFrom},
    os::unix::fs::OpenOptionsExt as _,
};

use anyhow::{Context as _, Result};
use rustix::fs::OFlags;
use tracing::{error, info};

/// The kernel log; each read returns one record.
const PATH: &str = "/dev/kmsg";

/// Longest record in bytes (CONSOLE_EXT_LOG_MAX, include/linux/printk.h).
const MAX_RECORD: usize = 8192;

/// Most records in one read of the log: more than the log holds by default.
const MAX_RECORDS: usize = 20_000;

/// Most kills that are kept until their event arrives.
pub(crate) const KEEP: usize = 32;

/// How long a kill is kept, by the log's own clock: its event may be lost.
const KEEP_NS: u64 = 60_000_000_000;

/// One OOM kill in the log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KmsgKill {
    /// The victim's process id.
    pub pid: u32,
    /// Time in nanoseconds since boot, by the scheduler's clock. It is not adjusted as
    /// CLOCK_MONOTONIC is: over weeks, or over a suspend, the two clocks drift apart without a
    /// bound.
    pub time_ns: u64,
    /// `none`, `cpuset`, `memory_policy`, `memcg`.
    pub constraint: String,
    /// The cgroup that was out of memory, if the line is unambiguous.
    pub memcg: Option<String>,
    /// Numbers of the NUMA nodes that the allocation could use, if the line is unambiguous.
    pub nodes: Option<String>,
    /// The allocation that failed.
    pub allocation: Option<LoggedAllocation>,
}

/// An allocation, as the line `invoked oom-killer` has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedAllocation {
    /// It asked for 2^order pages.
    pub order: i32,
    /// GFP flags in hexadecimal.
    pub gfp_flags: String,
    /// Their names.
    pub gfp_names: Option<String>,
}

/// The open log.
#[derive(Debug)]
pub struct KernelLog {
    file: File,
    record: Box<[u8]>,
    pending: PendingKills,
    is_failing: bool,
}

/// Parsed kills whose events have not arrived.
#[derive(Debug, Default)]
pub(crate) struct PendingKills {
    /// Oldest first.
    pub(crate) kills: VecDeque<KmsgKill>,
    /// That of the last line `invoked oom-killer`.
    allocation: Option<LoggedAllocation>,
}

impl KernelLog {
    /// Opens the log at its end. Needs CAP_SYSLOG if kernel.dmesg_restrict is set; reading needs no
    /// capability.
    pub fn open() -> Result<Self> {
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        let file = OpenOptions::new().read(true).custom_flags(flags).open(PATH);
        let mut file = file.with_context(|| format!("open {PATH}"))?;
        file.seek(SeekFrom::End(0)).with_context(|| format!("seek in {PATH}"))?;
        let (record, pending) = (vec![0; MAX_RECORD].into(), PendingKills::default());
        Ok(Self { file, record, pending, is_failing: false })
    }

    /// Removes and returns the log's entry on the kill of that process. Call it once per event, in
    /// the order of events: the kernel writes the line before the event (oom_kill_process,
    /// mm/oom_kill.c), so the oldest entry with the process id belongs to the event.
    pub fn find(&mut self, pid: u32) -> Option<KmsgKill> {
        self.read_new_records();
        self.pending.take(pid)
    }

    /// Logs the first failure and the end of a run of failures.
    fn log_change(&mut self, failure: Option<&std::io::Error>) {
        match failure {
            Some(e) if !self.is_failing => {
                error!("OOM reports lack the kernel's log: read {PATH}: {e}");
            }
            None if self.is_failing => info!("{PATH} can be read again"),
            _ => {}
        }
        self.is_failing = failure.is_some();
    }

    fn read_new_records(&mut self) {
        for _ in 0..MAX_RECORDS {
            match self.file.read(&mut self.record) {
                Ok(0) => return,
                Ok(n) => {
                    let record = String::from_utf8_lossy(&self.record[..n]).into_owned();
                    self.pending.add(&record);
                }
                // EPIPE: records were overwritten before they were read. The next read returns the
                // oldest.
                Err(e) if matches!(e.kind(), ErrorKind::BrokenPipe | ErrorKind::Interrupted) => {}
                Err(e) => {
                    return self.log_change(Some(&e).filter(|e| e.kind() != ErrorKind::WouldBlock));
                }
            }
        }
    }
}

impl PendingKills {
    /// Parses a record.
    pub(crate) fn add(&mut self, record: &str) {
        let Some((time_ns, message)) = parse_record(record) else { return };
        if let Some(allocation) = parse_invoked(message) {
            self.allocation = Some(allocation);
        } else if let Some(mut kill) = parse_kill(message) {
            // The kernel prints both lines under one lock (oom_lock).
            (kill.time_ns, kill.allocation) = (time_ns, self.allocation.take());
            if self.kills.len() == KEEP {
                self.kills.pop_front();
            }
            self.kills.push_back(kill);
        }
        while self.kills.front().is_some_and(|k| time_ns.saturating_sub(k.time_ns) > KEEP_NS) {
            self.kills.pop_front();
        }
    }

    pub(crate) fn take(&mut self, pid: u32) -> Option<KmsgKill> {
        let at = self.kills.iter().position(|kill| kill.pid == pid)?;
        self.kills.remove(at)
    }
}

/// Time and message of a record `PRIORITY,SEQUENCE,MICROSECONDS,FLAGS;MESSAGE`, if the kernel wrote
/// it.
fn parse_record(record: &str) -> Option<(u64, &str)> {
    let (prefix, rest) = record.split_once(';')?;
    let mut fields = prefix.split(',');
    let priority: u32 = fields.next()?.parse().ok()?;
    let micros: u64 = fields.nth(1)?.parse().ok()?;
    // The lower three bits are the level, the others the facility; 0 is the kernel.
    (priority >> 3 == 0).then_some((micros.saturating_mul(1000), rest.lines().next()?))
}

/// Order and flags of `COMM invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0,
/// oom_score_adj=0`.
fn parse_invoked(message: &str) -> Option<LoggedAllocation> {
    let (_, rest) = message.rsplit_once(" invoked oom-killer: gfp_mask=")?;
    let (mask, rest) = rest.split_once(", order=")?;
    let (gfp_flags, names) = mask.split_once('(').unwrap_or((mask, ""));
    gfp_flags.strip_prefix("0x")?.bytes().all(|b| b.is_ascii_hexdigit()).then_some(())?;
    let is_name = |b: u8| b.is_ascii_alphanumeric() || b"_|".contains(&b);
    let names = names.strip_suffix(')').filter(|names| names.bytes().all(is_name));
    let order = rest.split(',').next()?.parse().ok()?;
    let gfp_names = names.filter(|names| !names.is_empty()).map(str::to_owned);
    Some(LoggedAllocation { order, gfp_flags: gfp_flags.to_owned(), gfp_names })
}

/// The cgroup of `...,cpuset=NAME,mems_allowed=0,oom_memcg=PATH,task_memcg=PATH,task=COMM`. The
/// only name before it is that of a cpuset, which has no slash; the names after it may contain
/// anything.
fn parse_oom_memcg(rest: &str) -> Option<String> {
    let (before, rest) = rest.split_once(",oom_memcg=/")?;
    let (memcg, task) = rest.split_once(",task_memcg=")?;
    // A path may contain the separator between the two paths.
    let ambiguous = before.contains(",task_memcg=") || task.contains(",task_memcg=");
    (!ambiguous).then(|| format!("/{}", unescape(memcg)))
}

/// Decodes the log's escapes: `\xHH` for a byte that is not printable ASCII, and for a backslash
/// (msg_add_ext_text, kernel/printk/printk.c). Call it for one field: a name may contain
/// separators.
fn unescape(escaped: &str) -> String {
    let mut bytes = Vec::with_capacity(escaped.len());
    let mut rest = escaped.as_bytes();
    while let [first, ..] = rest {
        let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
        let code = match rest {
            [b'\\', b'x', high, low, ..] => digit(*high).zip(digit(*low)),
            _ => None,
        };
        bytes.push(code.map_or(*first, |(high, low)| (high << 4) | low));
        rest = rest.get(if code.is_some() { 4 } else { 1 }..).unwrap_or_default();
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Parses `oom-kill:constraint=CONSTRAINT_MEMCG,...,task=hog,pid=7,uid=0`.
fn parse_kill(message: &str) -> Option<KmsgKill> {
    let rest = message.strip_prefix("oom-kill:constraint=CONSTRAINT_")?;
    let (constraint, rest) = rest.split_once(',')?;
    let (rest, _) = rest.rsplit_once(",uid=")?;
    let (rest, pid) = rest.rsplit_once(",pid=")?;
    let nodes = parse_nodes(rest);
    // Only with this constraint does the kernel name a cgroup (constrained_alloc, mm/oom_kill.c).
    let memcg = (constraint == "MEMCG").then(|| parse_oom_memcg(rest)).flatten();
    Some(KmsgKill {
        pid: pid.parse().ok()?,
        constraint: constraint.to_lowercase(),
        memcg,
        nodes,
        ..KmsgKill::default()
    })
}

/// The nodes of `nodemask=NODES,cpuset=NAME,mems_allowed=NODES,...`: those of the allocation, or else
/// of its cpuset. The first field is before all names. The second one may also be part of a name.
fn parse_nodes(rest: &str) -> Option<String> {
    let (nodemask, rest) = rest.strip_prefix("nodemask=")?.split_once(",cpuset=")?;
    let nodes = if nodemask == "(null)" {
        let (_, rest) = rest.split_once(",mems_allowed=")?;
        if rest.contains(",mems_allowed=") {
            return None;
        }
        let end = rest.find(|c: char| c.is_ascii_lowercase())?;
        rest[..end].trim_end_matches(',')
    } else {
        nodemask
    };
    let is_list =
        !nodes.is_empty() && nodes.bytes().all(|b| b.is_ascii_digit() || b"-,".contains(&b));
    is_list.then(|| nodes.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const INVOKED: &str =
        "hog invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=2, oom_score_adj=-5";
    const KILL: &str = "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,\
                        mems_allowed=0,oom_memcg=/a,task_memcg=/a/b,task=hog,pid=23988,uid=0";

    /// Messages that begin like the kernel's.
    const MESSAGES: &str =
        "(oom-kill:constraint=CONSTRAINT_|.{0,5} invoked oom-killer: gfp_mask=)\\PC{0,99}";

    /// A line on the kill of a process.
    fn line(pid: u32) -> String {
        KILL.replace("pid=23988", &format!("pid={pid}"))
    }

    #[test]
    fn only_records_of_the_kernel_count() {
        assert_eq!(
            parse_record("6,13988,4903632643,-;x y\n SUBSYSTEM=z\n"),
            Some((4_903_632_643_000, "x y"))
        );
        assert_eq!(parse_record("4,1,2,-,caller=T1;x"), Some((2000, "x")));
        // A record of a process has facility 1 (user).
        assert_eq!(parse_record("12,1,2,-;oom-kill:"), None);
        for junk in ["", ";", "6;x", "x,1,2,-;y", "6,1,z,-;y", "6,1,2,-;"] {
            assert_eq!(parse_record(junk), None, "{junk}");
        }
    }

    #[test]
    fn lines_of_the_kernel_are_parsed() {
        let allocation = LoggedAllocation {
            order: 2,
            gfp_flags: "0xcc0".to_owned(),
            gfp_names: Some("GFP_KERNEL".to_owned()),
        };
        assert_eq!(parse_invoked(INVOKED), Some(allocation));
        let kill = parse_kill(KILL).expect("a kill");
        assert_eq!(
            (kill.pid, &*kill.constraint, kill.memcg.as_deref()),
            (23988, "memcg", Some("/a"))
        );
        let global = "oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,\
                      global_oom,task_memcg=/a,task=hog,pid=7,uid=0";
        let kill = parse_kill(global).expect("a kill");
        assert_eq!((kill.pid, &*kill.constraint, kill.memcg), (7, "none", None));
        assert_eq!((parse_invoked(KILL), parse_kill(INVOKED)), (None, None));
    }

    #[test]
    fn nodes_and_the_names_of_flags_are_taken_only_if_they_are_unambiguous() {
        let nodes = |from: &str, to: &str| {
            assert!(KILL.contains(from), "{from}");
            parse_kill(&KILL.replace(from, to)).expect("a kill").nodes
        };
        let mems = "mems_allowed=0";
        for (from, to, expected) in [
            (mems, mems, Some("0")),
            (mems, "mems_allowed=0-1,3", Some("0-1,3")),
            ("nodemask=(null)", "nodemask=1,4-5", Some("1,4-5")),
            ("nodemask=(null)", "nodemask=", None),
            ("nodemask=(null)", "nodemask=x", None),
            ("cpuset=/", "cpuset=a,mems_allowed=7", None),
            ("task_memcg=/a/b", "task_memcg=/a,mems_allowed=7", None),
            (mems, "mems_allowed=", None),
        ] {
            assert_eq!(nodes(from, to).as_deref(), expected, "{to}");
        }
        let names = |to: &str| {
            parse_invoked(&INVOKED.replace("(GFP_KERNEL)", to)).expect("an allocation").gfp_names
        };
        for (names_in_log, expected) in [
            ("(GFP_KERNEL|__GFP_ZERO|0x8000)", Some("GFP_KERNEL|__GFP_ZERO|0x8000")),
            ("()", None),
            ("", None),
            ("(GFP KERNEL)", None),
        ] {
            assert_eq!(names(names_in_log).as_deref(), expected, "{names_in_log}");
        }
    }

    /// A user can choose the names of processes and cgroups in a line.
    #[test]
    fn a_forged_name_changes_no_other_field() {
        let comm = KILL.replace("task=hog", "task=,pid=1,uid=0");
        let kill = parse_kill(&comm).expect("a kill");
        assert_eq!((kill.pid, kill.memcg.as_deref()), (23988, Some("/a")));
        let path =
            KILL.replace("task_memcg=/a/b", "task_memcg=/a/b,task_memcg=/x,task=y,pid=1,uid=2");
        let kill = parse_kill(&path).expect("a kill");
        assert_eq!((kill.pid, kill.memcg), (23988, None), "ambiguous");
        let cpuset = KILL.replace("cpuset=/", "cpuset=x,oom_memcg=y");
        assert_eq!(parse_kill(&cpuset).expect("a kill").memcg.as_deref(), Some("/a"));
        let comm = INVOKED.replace("hog", "x invoked oom-killer: gfp_mask=0x1(), order=9,");
        let allocation = parse_invoked(&comm).expect("an allocation");
        assert_eq!((allocation.order, &*allocation.gfp_flags), (2, "0xcc0"));
    }

    #[test]
    fn escaped_names_are_decoded() {
        let memcg = |path: &str| {
            let line = KILL.replace("oom_memcg=/a", &format!("oom_memcg={path}"));
            parse_kill(&line).and_then(|kill| kill.memcg)
        };
        for (path, expected) in [
            (
                "/system.slice/system-php\\x5cx2dfpm.slice/php-fpm@8.service",
                "/system.slice/system-php\\x2dfpm.slice/php-fpm@8.service",
            ),
            ("/caf\\xc3\\xa9\\x0a", "/caf\u{e9}\n"),
            ("/\\xff\\xc3", "/\u{fffd}\u{fffd}"),
            // An escaped backslash belongs to the name.
            ("/a\\x5cx2ctask_memcg=/b", "/a\\x2ctask_memcg=/b"),
            // Sequences that the kernel never writes.
            ("/\\x+1\\xg0\\y\\x2", "/\\x+1\\xg0\\y\\x2"),
            ("/\u{e9}", "/\u{e9}"),
        ] {
            assert_eq!(memcg(path).as_deref(), Some(expected), "{path}");
        }
        // Fields are separated before they are decoded.
        let forged = KILL.replace("task_memcg=/a/b", "task_memcg=/a/b\\x2ctask_memcg=/z");
        assert_eq!(parse_kill(&forged).and_then(|kill| kill.memcg).as_deref(), Some("/a"));
    }

    /// The kernel writes `oom_memcg` before `task_memcg`, and only if a cgroup was out of memory.
    #[test]
    fn the_victim_s_path_does_not_replace_the_oom_cgroup() {
        let forged = "/a,oom_memcg=/y,task_memcg=/z";
        for (constraint, oom, memcg) in [
            ("NONE", "global_oom", None),
            ("CPUSET", "global_oom", None),
            ("MEMCG", "oom_memcg=(name too long)", None),
            ("MEMCG", "oom_memcg=/r", Some("/r")),
        ] {
            let line = |task: &str| {
                format!(
                    "oom-kill:constraint=CONSTRAINT_{constraint},nodemask=(null),cpuset=/,\
                     mems_allowed=0,{oom},task_memcg={task},task=hog,pid=7,uid=0"
                )
            };
            let found = |task| parse_kill(&line(task)).expect("a kill").memcg;
            assert_eq!(found(forged).as_deref(), None, "{oom}");
            assert_eq!(found("/a,oom_memcg=/y").as_deref(), memcg, "{oom}");
        }
    }

    #[test]
    fn a_kill_is_found_by_process_id_in_order() {
        let mut pending = PendingKills::default();
        // The log's clock may be days apart from others; it is compared only with itself.
        for (seconds, message) in
            [(900_000, INVOKED), (900_000, &line(7)), (900_001, &line(8)), (900_002, &line(7))]
        {
            pending.add(&format!("6,1,{},-;{message}", seconds * 1_000_000_u64));
        }
        let mut take = |pid| {
            let kill = pending.take(pid)?;
            Some((kill.time_ns / 1_000_000_000, kill.allocation.is_some()))
        };
        assert_eq!(take(9), None);
        assert_eq!(take(7), Some((900_000, true)), "the first kill of this id");
        assert_eq!(take(7), Some((900_002, false)), "the second");
        assert_eq!(take(7), None, "each is returned once");
        // The event of 8 was lost: a minute later its kill is dropped, because the id may be
        // reused.
        pending.add("6,1,900062000000,-;anything");
        assert_eq!(pending.take(8), None);
    }

    #[test]
    fn pending_kills_are_bounded() {
        let mut pending = PendingKills::default();
        for pid in 0..100 {
            pending.add(&format!("6,1,5,-;{}", line(pid)));
        }
        let len = pending.kills.len();
        assert_eq!((len, pending.take(67), pending.take(68).is_some()), (KEEP, None, true));
    }

    proptest! {
        #[test]
        fn no_record_causes_a_panic(
            record in "\\PC{0,200}",
            message in MESSAGES,
        ) {
            parse_record(&record);
            parse_invoked(&message);
            parse_kill(&message);
            unescape(&message);
        }

        #[test]
        fn every_name_is_decoded(name in "\\PC{0,40}") {
            // The kernel's encoding.
            let escape = |byte: u8| match byte {
                b'\\' | ..b' ' | 127.. => format!("\\x{byte:02x}"),
                _ => char::from(byte).to_string(),
            };
            prop_assert_eq!(unescape(&name.bytes().map(escape).collect::<String>()), name);
        }
    }
}
