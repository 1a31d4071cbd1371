//! Independent counts of the events that memsensor counts: vmstat, and the kernel's own trace.
//!
//! A trace is read after it has ended. A lost event or a line that cannot be parsed is an error,
//! because the count would be wrong.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context as _, Result, bail, ensure};

/// /proc/vmstat, by name.
pub fn vmstat() -> Result<BTreeMap<String, u64>> {
    let text = fs::read_to_string("/proc/vmstat").context("read /proc/vmstat")?;
    Ok(text
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(name, value)| Some((name.to_owned(), value.trim().parse().ok()?)))
        .collect())
}

const TRACEFS: &str = "/sys/kernel/tracing";

/// tracefs, mounted if necessary and then unmounted again.
#[derive(Debug)]
struct Tracefs {
    ours: bool,
}

impl Tracefs {
    fn mount() -> Result<Self> {
        if Path::new(TRACEFS).join("events").exists() {
            return Ok(Self { ours: false });
        }
        let mounted = Command::new("mount").args(["-t", "tracefs", "nodev", TRACEFS]).status();
        ensure!(mounted.context("start mount")?.success(), "mount tracefs at {TRACEFS}: see above");
        Ok(Self { ours: true })
    }
}

impl Drop for Tracefs {
    fn drop(&mut self) {
        if self.ours {
            let _ = Command::new("umount").args(["-l", TRACEFS]).status();
        }
    }
}

/// Whether the running kernel has this event, `system:event`.
pub fn has_event(event: &str) -> Result<bool> {
    let _tracefs = Tracefs::mount()?;
    Ok(event_dir(Path::new(TRACEFS), event)?.exists())
}

fn event_dir(tracer: &Path, event: &str) -> Result<PathBuf> {
    let (system, name) = event.split_once(':').with_context(|| format!("{event}: no system"))?;
    Ok(tracer.join("events").join(system).join(name))
}

/// Per CPU. An event takes about a hundred bytes, and the longest test has some ten thousand; a
/// guest with two CPUs and 512 MiB can afford it.
const BUFFER_KIB: u32 = 4096;

/// A trace of some events in its own tracing instance.
#[derive(Debug)]
pub struct Trace {
    dir: PathBuf,
    /// Names without their systems.
    events: Vec<String>,
    /// Unmounted after the instance was removed.
    _tracefs: Tracefs,
}

impl Trace {
    /// Starts to trace these events, each `system:event`.
    pub fn start(events: &[&str]) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let tracefs = Tracefs::mount()?;
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("memsensor-test-{}-{n}", std::process::id());
        let dir = Path::new(TRACEFS).join("instances").join(name);
        fs::create_dir(&dir).with_context(|| format!("mkdir {}", dir.display()))?;
        let mut trace = Self { dir, events: Vec::new(), _tracefs: tracefs };
        trace.write("buffer_size_kb", &BUFFER_KIB.to_string())?;
        // CLOCK_MONOTONIC, so that records can be compared with times taken by a test.
        trace.write("trace_clock", "mono")?;
        for event in events {
            let enable = event_dir(&trace.dir, event)?.join("enable");
            fs::write(&enable, "1").with_context(|| format!("write 1 to {}", enable.display()))?;
            trace.events.extend(event.rsplit(':').next().map(str::to_owned));
        }
        Ok(trace)
    }

    /// Stops it and returns the records; an error if an event was lost.
    pub fn stop(self) -> Result<Recorded> {
        self.write("tracing_on", "0")?;
        let text = fs::read(self.dir.join("trace")).context("read the trace")?;
        let records = parse(&String::from_utf8_lossy(&text))?;
        let mut kept = 0;
        for cpu in fs::read_dir(self.dir.join("per_cpu")).context("list the CPUs' buffers")? {
            let stats = cpu?.path().join("stats");
            let text =
                fs::read_to_string(&stats).with_context(|| format!("read {}", stats.display()))?;
            kept += kept_of(&text).with_context(|| stats.display().to_string())?;
        }
        let read = records.len() as u64;
        ensure!(read == kept, "the kernel kept {kept} events, its trace shows {read}");
        Ok(Recorded { events: self.events.clone(), records })
    }

    fn write(&self, file: &str, value: &str) -> Result<()> {
        let path = self.dir.join(file);
        fs::write(&path, value).with_context(|| format!("write {value} to {}", path.display()))
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let _ = self.write("tracing_on", "0");
        let _ = fs::remove_dir(&self.dir);
    }
}

/// The number of events in a CPU's buffer; an error if some were lost.
fn kept_of(stats: &str) -> Result<u64> {
    let number = |name: &str| {
        let value = stats.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
        let value = value.with_context(|| format!("no `{name}`"))?;
        value.trim().parse::<u64>().with_context(|| format!("`{name}` is{value}"))
    };
    for lost in ["overrun", "commit overrun", "dropped events"] {
        let n = number(lost)?;
        ensure!(n == 0, "{lost}: {n}: the buffer of {BUFFER_KIB} KiB is too small");
    }
    number("entries")
}

/// The records of a trace.
#[derive(Debug)]
pub struct Recorded {
    events: Vec<String>,
    records: Vec<Record>,
}

impl Recorded {
    /// The records of an event, which must have been traced.
    pub fn of(&self, event: &str) -> Result<impl Iterator<Item = &Record>> {
        ensure!(self.events.iter().any(|e| e == event), "{event} was not traced");
        Ok(self.records.iter().filter(move |r| r.event == event))
    }

    /// The number of records of an event.
    pub fn count(&self, event: &str) -> Result<u64> {
        Ok(self.of(event)?.count() as u64)
    }

    /// The sum of a field that every record of the event has.
    pub fn sum(&self, event: &str, field: &str) -> Result<i64> {
        self.of(event)?.map(|record| record.number(field)).sum()
    }
}

/// One event as the kernel printed it.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Name of the current task; `None` where the kernel printed `<...>`.
    pub comm: Option<String>,
    /// Thread id of that task.
    pub tid: u32,
    /// CLOCK_MONOTONIC, seconds.
    pub seconds: f64,
    /// Name of the event, without its system.
    pub event: String,
    /// Its `name=value` words. Other words, and the rest of a value after a blank, are left out.
    pub fields: BTreeMap<String, String>,
}

impl Record {
    /// A field that is a number, decimal or with `0x`.
    pub fn number(&self, field: &str) -> Result<i64> {
        let value = self.fields.get(field);
        let value = value.with_context(|| format!("{} has no {field}", self.event))?;
        let number = match value.strip_prefix("0x") {
            Some(hex) => i64::from_str_radix(hex, 16),
            None => value.parse(),
        };
        number.with_context(|| format!("{}: {field}={value}", self.event))
    }
}

/// Every record of a trace.
fn parse(trace: &str) -> Result<Vec<Record>> {
    // Records are indented, so a task name cannot look like a comment.
    let lines = trace.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(parse_line).collect()
}

/// `            comm-123     [000] d..1.  12.345678: event: name=value ...`
fn parse_line(line: &str) -> Result<Record> {
    // A task name may contain any of the separators, but is too short to contain all of them.
    let found = line.match_indices(" [").find_map(|(at, _)| {
        let (comm, tid) = line[..at].trim().rsplit_once('-')?;
        let (cpu, rest) = line[at + 2..].split_once("] ")?;
        let (flags, rest) = rest.split_once(' ')?;
        let (time, rest) = rest.split_once(": ")?;
        let (event, fields) = rest.split_once(':')?;
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let is_time = |c: char| c.is_ascii_digit() || c == '.';
        let matches = cpu.parse::<u32>().is_ok()
            && !flags.is_empty()
            && time.contains('.')
            && time.trim_start().chars().all(is_time)
            && event.chars().all(is_name);
        matches.then_some((comm, tid.parse().ok()?, time.trim().parse().ok()?, event, fields))
    });
    let Some((comm, tid, seconds, event, fields)) = found else { bail!("cannot parse {line:?}") };
    let fields = fields.split_whitespace().filter_map(|word| word.split_once('='));
    let fields = fields.map(|(name, value)| (name, value.trim_end_matches(',')));
    Ok(Record {
        comm: (comm != "<...>").then(|| comm.to_owned()),
        tid,
        seconds,
        event: event.to_owned(),
        fields: fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Heads of a trace, of 5.10 and of 7.3.
    const HEADS: [&str; 2] = [
        "# tracer: nop\n\
         #\n\
         # entries-in-buffer/entries-written: 1/1   #P:2\n\
         #\n\
         #                                _-----=> irqs-off\n\
         #                               / _----=> need-resched\n\
         #                              | / _---=> hardirq/softirq\n\
         #                              || / _--=> preempt-depth\n\
         #                              ||| /     delay\n\
         #           TASK-PID     CPU#  ||||   TIMESTAMP  FUNCTION\n\
         #              | |         |   ||||      |         |\n",
        "# tracer: nop\n\
         #\n\
         # entries-in-buffer/entries-written: 1/1   #P:2\n\
         #\n\
         #                                _-----=> irqs-off/BH-disabled\n\
         #                               / _----=> need-resched\n\
         #                              | / _---=> hardirq/softirq\n\
         #                              || / _--=> preempt-depth\n\
         #                              ||| / _-=> migrate-disable\n\
         #                              |||| /     delay\n\
         #           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION\n\
         #              | |         |   |||||     |         |\n",
    ];

    type Row =
        (&'static str, &'static str, u32, &'static str, &'static [(&'static str, &'static str)]);

    /// A line, with its task name and id, event and fields.
    const LINES: [Row; 13] = [
        // 5.10
        (
            "            tail-133     [001] .N..     2.415900: mm_vmscan_memcg_reclaim_begin: \
             order=0 gfp_flags=GFP_HIGHUSER_MOVABLE",
            "tail",
            133,
            "mm_vmscan_memcg_reclaim_begin",
            &[("order", "0"), ("gfp_flags", "GFP_HIGHUSER_MOVABLE")],
        ),
        (
            "            tail-133     [001] ....     2.417724: mm_vmscan_memcg_reclaim_end: \
             nr_reclaimed=32",
            "tail",
            133,
            "mm_vmscan_memcg_reclaim_end",
            &[("nr_reclaimed", "32")],
        ),
        (
            "             hog-4711    [000] d..1   812.002134: mm_vmscan_lru_shrink_inactive: \
             nid=0 nr_scanned=32 nr_reclaimed=1 nr_dirty=0 nr_writeback=0 nr_congested=0 \
             nr_immediate=0 nr_activate_anon=0 nr_activate_file=31 nr_ref_keep=0 \
             nr_unmap_fail=0 priority=5 flags=RECLAIM_WB_FILE|RECLAIM_WB_ASYNC",
            "hog",
            4711,
            "mm_vmscan_lru_shrink_inactive",
            &[
                ("nid", "0"),
                ("nr_scanned", "32"),
                ("nr_reclaimed", "1"),
                ("nr_activate_file", "31"),
                ("priority", "5"),
                ("flags", "RECLAIM_WB_FILE|RECLAIM_WB_ASYNC"),
            ],
        ),
        // The old form, then the one with nine fields.
        (
            "             hog-128     [001] ....     2.429601: mark_victim: pid=133",
            "hog",
            128,
            "mark_victim",
            &[("pid", "133")],
        ),
        (
            "            tail-133     [001] ....     2.429601: mark_victim: pid=133 comm=tail \
             total-vm=18384kB anon-rss=16264kB file-rss:4kB shmem-rss:1344kB uid=0 \
             pgtables=68kB oom_score_adj=-999",
            "tail",
            133,
            "mark_victim",
            &[("pid", "133"), ("comm", "tail"), ("total-vm", "18384kB"), ("oom_score_adj", "-999")],
        ),
        (
            "              sh-128     [001] ....     2.238519: mm_compaction_end: \
             zone_start=0x1 migrate_pfn=0xe00 free_pfn=0xe00 zone_end=0x1000, mode=sync \
             status=complete",
            "sh",
            128,
            "mm_compaction_end",
            &[
                ("zone_start", "0x1"),
                ("zone_end", "0x1000"),
                ("mode", "sync"),
                ("status", "complete"),
            ],
        ),
        // 7.3, outside and inside an interrupt.
        (
            "            tail-137     [001] .....     2.855717: mm_vmscan_memcg_reclaim_end: \
             nr_reclaimed=0 pid=137 memcg_id=28 ",
            "tail",
            137,
            "mm_vmscan_memcg_reclaim_end",
            &[("nr_reclaimed", "0"), ("pid", "137"), ("memcg_id", "28")],
        ),
        (
            "            tail-137     [001] d.h1. 11699.549206: mm_vmscan_memcg_reclaim_end: \
             nr_reclaimed=7 pid=137 memcg_id=28 (in-irq)",
            "tail",
            137,
            "mm_vmscan_memcg_reclaim_end",
            &[("nr_reclaimed", "7"), ("memcg_id", "28")],
        ),
        // Names of tasks: dashes, blanks, brackets, a slash and a number, a comment's sign.
        (
            "     kworker/0:1-ev-8       [000] .....     1.000001: mm_compaction_end: \
             status=complete",
            "kworker/0:1-ev",
            8,
            "mm_compaction_end",
            &[("status", "complete")],
        ),
        (
            "   Web Content-2-1234567 [128] ..... 123456.000001: mark_victim: pid=5",
            "Web Content-2",
            1_234_567,
            "mark_victim",
            &[("pid", "5")],
        ),
        (
            "  x-1 [000] d..1-77      [003] ..... 11699.549206: mark_victim: pid=5",
            "x-1 [000] d..1",
            77,
            "mark_victim",
            &[("pid", "5")],
        ),
        (
            " [1] a: b: 3.4:-99      [000] .N...     0.100000: mark_victim: pid=5",
            "[1] a: b: 3.4:",
            99,
            "mark_victim",
            &[("pid", "5")],
        ),
        // A value that looks like a record.
        (
            "       # tracer:-12      [000] .....     0.100000: mark_victim: pid=5 comm=a-1 \
             [000] d..1. 1.0: x: y=1",
            "# tracer:",
            12,
            "mark_victim",
            &[("pid", "5"), ("comm", "a-1"), ("y", "1")],
        ),
    ];

    #[test]
    fn lines_of_old_and_new_kernels_are_parsed() {
        for (line, comm, tid, event, fields) in LINES {
            for head in HEADS {
                let records = parse(&format!("{head}{line}\n")).expect(line);
                let [record] = &records[..] else { panic!("{line}: {records:?}") };
                assert_eq!(record.comm.as_deref(), Some(comm), "{line}");
                assert_eq!((record.tid, record.event.as_str()), (tid, event), "{line}");
                for (name, value) in fields {
                    assert_eq!(
                        record.fields.get(*name).map(String::as_str),
                        Some(*value),
                        "{line}"
                    );
                }
                assert!(!record.fields.keys().any(|n| n.contains(':')), "{line}: {record:?}");
            }
        }
    }

    #[test]
    fn an_unknown_task_name_is_none() {
        let line =
            "           <...>-20356   [001] ..... 11699.601007: sched_process_exec: pid=20356";
        let record = parse_line(line).expect("a record");
        assert_eq!((record.comm, record.tid), (None, 20356));
    }

    #[test]
    fn a_line_that_is_no_record_is_an_error() {
        for line in [
            "CPU:1 [LOST 5 EVENTS]",
            "            tail-133     [001] ....     2.41",
            "            tail-133     [001] ....     soon: mark_victim: pid=1",
            "            tail-x       [001] ....     2.417724: mark_victim: pid=1",
            "            tail-133     [one] ....     2.417724: mark_victim: pid=1",
            "            tail-133     [001] ....     2.417724: no event: pid=1",
        ] {
            let error = parse(&format!("{}{line}\n", HEADS[1])).expect_err(line);
            assert!(error.to_string().contains("cannot parse"), "{line}: {error:#}");
        }
        assert_eq!(parse(HEADS[0]).expect("empty"), []);
    }

    #[test]
    fn counts_and_sums_use_one_event_and_one_field() {
        let line =
            |event: &str, fields: &str| format!("  a b-1  [000] ..... 1.0: {event}: {fields}\n");
        let text = line("end", "nr_reclaimed=32 pfn=0x10,")
            + &line("other", "nr_reclaimed=1000")
            + &line("end", "nr_reclaimed=-2 pfn=0xff,");
        let events = ["end", "other", "never"].map(str::to_owned).to_vec();
        let recorded = Recorded { events, records: parse(&text).expect("parses") };
        assert_eq!(recorded.count("end").expect("count"), 2);
        assert_eq!(recorded.sum("end", "nr_reclaimed").expect("sum"), 30);
        assert_eq!(recorded.sum("end", "pfn").expect("sum"), 271);
        assert_eq!(recorded.count("never").expect("count"), 0);
        let error = recorded.count("ende").expect_err("not traced");
        assert_eq!(error.to_string(), "ende was not traced");
        let error = recorded.sum("other", "pfn").expect_err("no such field");
        assert_eq!(error.to_string(), "other has no pfn");
    }

    #[test]
    fn a_buffer_with_lost_events_is_an_error() {
        let stats = "entries: 73\noverrun: 0\ncommit overrun: 0\nbytes: 1596\n\
                     oldest event ts:     2.238519\nnow ts:     2.531503\n\
                     dropped events: 0\nread events: 0\n";
        assert_eq!(kept_of(stats).expect("nothing lost"), 73);
        for lost in ["\noverrun: ", "\ncommit overrun: ", "\ndropped events: "] {
            let stats = stats.replace(&format!("{lost}0\n"), &format!("{lost}3\n"));
            let error = kept_of(&stats).expect_err(lost).to_string();
            assert!(error.starts_with(lost.trim_start()) && error.contains('3'), "{error}");
        }
        assert_eq!(kept_of("entries: 1\n").expect_err("cut").to_string(), "no `overrun`");
    }
}
