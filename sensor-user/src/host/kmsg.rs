//! What the kernel's log says of OOM kills: a second witness, and the only one of what an allocation asked
//! for where the kernel allows no program at a function.
//!
//! A process can write to the log as well, and choose names that look like the kernel's lines. Its records
//! have another facility (Documentation/ABI/testing/dev-kmsg), so they are not read; and names stand
//! before what is taken from a line, so that the last match counts. The kernel limits how many kills it
//! describes (`oom_rs`, mm/oom_kill.c: ten in five seconds): in a storm most are not in the log.

use std::{
    collections::VecDeque,
    fs::{File, OpenOptions},
    io::{ErrorKind, Read as _, Seek as _, SeekFrom},
    os::unix::fs::OpenOptionsExt as _,
};

use anyhow::{Context as _, Result};
use rustix::fs::OFlags;

/// Where the kernel shows its log, a record at a time.
const PATH: &str = "/dev/kmsg";

/// A record is at most so long (CONSOLE_EXT_LOG_MAX, include/linux/printk.h).
const RECORD: usize = 8192;

/// Records that are read at a time: more than the log holds by default.
const MOST: usize = 20_000;

/// Kills that are remembered until their event asks.
const KEEP: usize = 32;

/// And so long at most, by the log's own clock: an event that was lost never asks.
const KEEP_NS: u64 = 60_000_000_000;

/// One kill as the log has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KmsgKill {
    /// The victim's process id.
    pub pid: u32,
    /// When: nanoseconds since boot by the scheduler's clock. That is not CLOCK_MONOTONIC: nobody keeps it
    /// right, so in weeks, or over a suspend, the two part by any amount.
    pub time_ns: u64,
    /// `none`, `cpuset`, `memory_policy`, `memcg`.
    pub constraint: String,
    /// The cgroup that was out of memory, where the line leaves no doubt.
    pub memcg: Option<String>,
    /// Order and GFP flags (hexadecimal) of the allocation.
    pub asked: Option<(i32, String)>,
}

/// The log, read from now on.
#[derive(Debug)]
pub struct KernelLog {
    file: File,
    record: Box<[u8]>,
    told: Told,
}

/// What was read.
#[derive(Debug, Default)]
struct Told {
    /// Kills that no event has asked for, oldest first.
    kills: VecDeque<KmsgKill>,
    /// What the last call of the OOM killer asked for.
    asked: Option<(i32, String)>,
}

impl KernelLog {
    /// Needs CAP_SYSLOG where kernel.dmesg_restrict is set, and only here.
    pub fn open() -> Result<Self> {
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        let file = OpenOptions::new().read(true).custom_flags(flags).open(PATH);
        let mut file = file.with_context(|| format!("open {PATH}"))?;
        file.seek(SeekFrom::End(0)).with_context(|| format!("seek in {PATH}"))?;
        Ok(Self { file, record: vec![0; RECORD].into(), told: Told::default() })
    }

    /// What the log says of a kill of that process, whose event has just come. Ask in the order of events,
    /// and once: the kernel writes the line before the event (oom_kill_process, mm/oom_kill.c), so it is
    /// there, and of several with one id it is the oldest.
    pub fn find(&mut self, pid: u32) -> Option<KmsgKill> {
        self.catch_up();
        self.told.claim(pid)
    }

    fn catch_up(&mut self) {
        for _ in 0..MOST {
            match self.file.read(&mut self.record) {
                Ok(0) => return,
                Ok(n) => {
                    let record = String::from_utf8_lossy(&self.record[..n]).into_owned();
                    self.told.take_in(&record);
                }
                // Records were overwritten before they were read (EPIPE): on with the oldest.
                Err(e) if matches!(e.kind(), ErrorKind::BrokenPipe | ErrorKind::Interrupted) => {}
                Err(_) => return,
            }
        }
    }
}

impl Told {
    fn take_in(&mut self, record: &str) {
        let Some((time_ns, message)) = parse(record) else { return };
        if let Some(asked) = invoked(message) {
            self.asked = Some(asked);
        } else if let Some(mut kill) = killed(message) {
            // The two lines are printed under one lock (oom_lock).
            (kill.time_ns, kill.asked) = (time_ns, self.asked.take());
            if self.kills.len() == KEEP {
                self.kills.pop_front();
            }
            self.kills.push_back(kill);
        }
        while self.kills.front().is_some_and(|k| time_ns.saturating_sub(k.time_ns) > KEEP_NS) {
            self.kills.pop_front();
        }
    }

    fn claim(&mut self, pid: u32) -> Option<KmsgKill> {
        let at = self.kills.iter().position(|kill| kill.pid == pid)?;
        self.kills.remove(at)
    }
}

/// Time and message of a record `PRIORITY,SEQUENCE,MICROSECONDS,FLAGS;MESSAGE`, if the kernel wrote it.
fn parse(record: &str) -> Option<(u64, &str)> {
    let (prefix, rest) = record.split_once(';')?;
    let mut fields = prefix.split(',');
    let priority: u32 = fields.next()?.parse().ok()?;
    let micros: u64 = fields.nth(1)?.parse().ok()?;
    // The lower three bits are the level, the others the facility: 0 is the kernel.
    (priority >> 3 == 0).then_some((micros.saturating_mul(1000), rest.lines().next()?))
}

/// Order and flags of `COMM invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0`.
fn invoked(message: &str) -> Option<(i32, String)> {
    let (_, rest) = message.rsplit_once(" invoked oom-killer: gfp_mask=")?;
    let flags = rest.split(['(', ',']).next()?;
    flags.strip_prefix("0x")?.bytes().all(|b| b.is_ascii_hexdigit()).then_some(())?;
    let order = rest.split_once(", order=")?.1.split(',').next()?.parse().ok()?;
    Some((order, flags.to_owned()))
}

/// The cgroup of `...,cpuset=NAME,mems_allowed=0,oom_memcg=PATH,task_memcg=PATH,task=COMM`. What stands before
/// it is one name, in which there is no slash; what comes behind may hold anything.
fn constrained(rest: &str) -> Option<String> {
    let (before, rest) = rest.split_once(",oom_memcg=/")?;
    let (memcg, task) = rest.split_once(",task_memcg=")?;
    // A path may hold what separates it from the next.
    let doubt = before.contains(",task_memcg=") || task.contains(",task_memcg=");
    (!doubt).then(|| format!("/{}", plain(memcg)))
}

/// A name without the log's escapes: `\xHH` for what is not printable ASCII, and for a backslash
/// (msg_add_ext_text, kernel/printk/printk.c). Only of a field: a name may hold what separates fields.
fn plain(escaped: &str) -> String {
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

/// The kill of `oom-kill:constraint=CONSTRAINT_MEMCG,...,task=hog,pid=7,uid=0`.
fn killed(message: &str) -> Option<KmsgKill> {
    let rest = message.strip_prefix("oom-kill:constraint=CONSTRAINT_")?;
    let (constraint, rest) = rest.split_once(',')?;
    let (rest, _) = rest.rsplit_once(",uid=")?;
    let (rest, pid) = rest.rsplit_once(",pid=")?;
    // Of any other kill the kernel names none (constrained_alloc, mm/oom_kill.c).
    let memcg = (constraint == "MEMCG").then(|| constrained(rest)).flatten();
    Some(KmsgKill {
        pid: pid.parse().ok()?,
        constraint: constraint.to_lowercase(),
        memcg,
        ..KmsgKill::default()
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const INVOKED: &str =
        "hog invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=2, oom_score_adj=-5";
    const KILLED: &str = "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,\
                          oom_memcg=/a,task_memcg=/a/b,task=hog,pid=23988,uid=0";

    #[test]
    fn only_the_kernel_s_own_records_count() {
        assert_eq!(
            parse("6,13988,4903632643,-;x y\n SUBSYSTEM=z\n"),
            Some((4_903_632_643_000, "x y"))
        );
        assert_eq!(parse("4,1,2,-,caller=T1;x"), Some((2000, "x")));
        // As a process writes it: facility 1, user.
        assert_eq!(parse("12,1,2,-;oom-kill:"), None);
        for junk in ["", ";", "6;x", "x,1,2,-;y", "6,1,z,-;y", "6,1,2,-;"] {
            assert_eq!(parse(junk), None, "{junk}");
        }
    }

    #[test]
    fn the_kernel_s_lines_are_understood() {
        assert_eq!(invoked(INVOKED), Some((2, "0xcc0".to_owned())));
        let kill = killed(KILLED).expect("a kill");
        assert_eq!(
            (kill.pid, &*kill.constraint, kill.memcg.as_deref()),
            (23988, "memcg", Some("/a"))
        );
        let global = "oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,\
                      global_oom,task_memcg=/a,task=hog,pid=7,uid=0";
        let kill = killed(global).expect("a kill");
        assert_eq!((kill.pid, &*kill.constraint, kill.memcg), (7, "none", None));
        assert_eq!((invoked(KILLED), killed(INVOKED)), (None, None));
    }

    /// Whoever chooses a name for a process or a cgroup chooses what stands in the line.
    #[test]
    fn names_that_look_like_the_line_change_nothing_of_it() {
        let comm = KILLED.replace("task=hog", "task=,pid=1,uid=0");
        let kill = killed(&comm).expect("a kill");
        assert_eq!((kill.pid, kill.memcg.as_deref()), (23988, Some("/a")));
        let path =
            KILLED.replace("task_memcg=/a/b", "task_memcg=/a/b,task_memcg=/x,task=y,pid=1,uid=2");
        let kill = killed(&path).expect("a kill");
        assert_eq!((kill.pid, kill.memcg), (23988, None), "left in doubt");
        let cpuset = KILLED.replace("cpuset=/", "cpuset=x,oom_memcg=y");
        assert_eq!(killed(&cpuset).expect("a kill").memcg.as_deref(), Some("/a"));
        let comm = INVOKED.replace("hog", "x invoked oom-killer: gfp_mask=0x1(), order=9,");
        assert_eq!(invoked(&comm), Some((2, "0xcc0".to_owned())));
    }

    #[test]
    fn names_are_as_they_were_before_the_log_escaped_them() {
        let of = |path: &str| {
            killed(&KILLED.replace("oom_memcg=/a", &format!("oom_memcg={path}")))
                .and_then(|k| k.memcg)
        };
        for (path, wanted) in [
            (
                "/system.slice/system-php\\x5cx2dfpm.slice/php-fpm@8.service",
                "/system.slice/system-php\\x2dfpm.slice/php-fpm@8.service",
            ),
            ("/caf\\xc3\\xa9\\x0a", "/caf\u{e9}\n"),
            ("/\\xff\\xc3", "/\u{fffd}\u{fffd}"),
            // Of a name, not of the log's.
            ("/a\\x5cx2ctask_memcg=/b", "/a\\x2ctask_memcg=/b"),
            // As the log never has them.
            ("/\\x+1\\xg0\\y\\x2", "/\\x+1\\xg0\\y\\x2"),
            ("/\u{e9}", "/\u{e9}"),
        ] {
            assert_eq!(of(path).as_deref(), Some(wanted), "{path}");
        }
        // Fields are told apart before.
        let forged = KILLED.replace("task_memcg=/a/b", "task_memcg=/a/b\\x2ctask_memcg=/z");
        assert_eq!(killed(&forged).and_then(|k| k.memcg).as_deref(), Some("/a"));
    }

    /// The kernel names the cgroup that was out of memory before that of the victim, and only if there is one.
    #[test]
    fn the_victim_s_cgroup_does_not_say_what_was_out_of_memory() {
        let named = "/a,oom_memcg=/y,task_memcg=/z";
        for (constraint, oom, memcg) in [
            ("NONE", "global_oom", None),
            ("CPUSET", "global_oom", None),
            ("MEMCG", "oom_memcg=(name too long)", None),
            ("MEMCG", "oom_memcg=/r", Some("/r")),
        ] {
            let line = |task: &str| {
                format!(
                    "oom-kill:constraint=CONSTRAINT_{constraint},nodemask=(null),cpuset=/,mems_allowed=0,\
                     {oom},task_memcg={task},task=hog,pid=7,uid=0"
                )
            };
            let of = |task| killed(&line(task)).expect("a kill").memcg;
            assert_eq!(of(named).as_deref(), None, "{oom}");
            assert_eq!(of("/a,oom_memcg=/y").as_deref(), memcg, "{oom}");
        }
    }

    #[test]
    fn a_kill_is_found_by_its_event_whatever_the_clock_says() {
        let kill = |pid: u32| KILLED.replace("pid=23988", &format!("pid={pid}"));
        let mut told = Told::default();
        // The log's clock is days from any other, and only compared with itself.
        for (seconds, message) in
            [(900_000, INVOKED), (900_000, &kill(7)), (900_001, &kill(8)), (900_002, &kill(7))]
        {
            told.take_in(&format!("6,1,{},-;{message}", seconds * 1_000_000_u64));
        }
        let mut claim =
            |pid| told.claim(pid).map(|k| (k.time_ns / 1_000_000_000, k.asked.is_some()));
        assert_eq!(claim(9), None);
        assert_eq!(claim(7), Some((900_000, true)), "the id's first kill");
        assert_eq!(claim(7), Some((900_002, false)), "its second");
        assert_eq!(claim(7), None, "each once");
        // That of 8 was lost: it is not the next one's that has the id.
        told.take_in("6,1,900062000000,-;anything");
        assert_eq!(told.claim(8), None);
    }

    #[test]
    fn what_nobody_asks_for_is_bounded() {
        let mut told = Told::default();
        for pid in 0..100 {
            told.take_in(&format!(
                "6,1,5,-;{}",
                KILLED.replace("pid=23988", &format!("pid={pid}"))
            ));
        }
        assert_eq!(
            (told.kills.len(), told.claim(67), told.claim(68).is_some()),
            (KEEP, None, true)
        );
    }

    proptest! {
        #[test]
        fn no_record_is_too_much(record in "\\PC{0,200}", message in "(oom-kill:constraint=CONSTRAINT_|.{0,5} invoked oom-killer: gfp_mask=)\\PC{0,100}") {
            parse(&record);
            invoked(&message);
            killed(&message);
            plain(&message);
        }

        #[test]
        fn every_name_comes_through_the_log(name in "\\PC{0,40}") {
            // As the kernel writes it.
            let shown = |byte: u8| match byte {
                b'\\' | ..b' ' | 127.. => format!("\\x{byte:02x}"),
                _ => char::from(byte).to_string(),
            };
            prop_assert_eq!(plain(&name.bytes().map(shown).collect::<String>()), name);
        }
    }
}
