//! What commands print of kills and of memory, built from any sources. The first byte selects the
//! reader: `o` an OOM report, `t` the list of `top`, both from structured input.
//!
//! No name may add a line or an escape sequence: the output with harmless names has as many lines.
#![no_main]

use std::{fmt::Write as _, sync::Arc};

use arbitrary::{Arbitrary, Result, Unstructured};
use libfuzzer_sys::{Corpus, fuzz_target};
use sensor_core::{
    common::text::{name, sanitize},
    model::{
        event::{Event, EventKind},
        memory_usage::{CgroupUsage, Growth, MemoryUsage, ProcessUsage},
        oom_report::{CgroupLimits, HostMemoryUsage, StallWindow},
        workload::WorkloadId,
    },
};
use sensor_ebpf::event::COMM;
use sensor_fuzz::assert_printable;
use sensor_user::{
    cli::{
        format::event as show_event,
        top::{
            sort::{By, keep_first},
            tables,
        },
    },
    fuzzing,
    host::kmsg::KmsgKill,
    oom::{
        decode::decode,
        event_reader::add_logged,
        report_builder::{Sources, build},
    },
    serve::admin_protocol::{HostSummary, Top},
};

/// Processes, and cgroups, of one scan.
const MAX_LISTED: usize = 40;
/// Bytes of one part of a path: the kernel half reports paths of 255 bytes.
const MAX_PART: usize = 120;
/// Each of the names above may be printed at ten characters for a byte, and columns are as wide as
/// the longest.
const MAX_OUTPUT: usize = 512 << 10;

fuzz_target!(|data: &[u8]| -> Corpus {
    let Some((reader, content)) = data.split_first() else { return Corpus::Reject };
    let mut bytes = Unstructured::new(content);
    let checked = match reader {
        b'o' => Kill::arbitrary(&mut bytes).map(|kill| check_kill(&kill)),
        b't' => List::arbitrary(&mut bytes).map(|list| check_list(&list)),
        _ => return Corpus::Reject,
    };
    if checked.is_ok() { Corpus::Keep } else { Corpus::Reject }
});

/// Names as the kernel reports them, each used in several places.
#[derive(Debug, Arbitrary)]
struct Names([Vec<u8>; 4]);

impl Names {
    /// As the daemon keeps names of processes.
    fn comm(&self, index: u8) -> String {
        let bytes = &self.0[usize::from(index) % self.0.len()];
        name(&bytes[..bytes.len().min(COMM)])
    }

    /// As the daemon keeps paths of cgroups.
    fn path(&self, index: u8) -> String {
        let part = |index: u8| {
            let bytes = &self.0[usize::from(index & 3)];
            String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_PART)])
        };
        sanitize(&format!("/{}/{}", part(index), part(index >> 2)))
    }
}

/// The same name for the same name, without any character that could be special.
fn harmless(name: &str) -> String {
    let mut text = String::new();
    for c in name.chars() {
        match c {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '/' | '.' | '-' | '_' | ':' | '@' => text.push(c),
            other => _ = write!(text, "={:x}=", u32::from(other)),
        }
    }
    text
}

#[derive(Debug, Clone, Arbitrary)]
struct Process {
    pid: u8,
    name: u8,
    cgroup: Option<u8>,
    score: i32,
    age_seconds: u32,
    is_new: bool,
    sizes: [u64; 3],
    growth: [i64; 3],
}

#[derive(Debug, Clone, Arbitrary)]
struct Cgroup {
    id: u8,
    has_path: bool,
    stall_seconds: f32,
    processes: u32,
    sizes: [u64; 2],
    growth: [i64; 3],
}

/// A scan of processes.
#[derive(Debug, Arbitrary)]
struct Scan {
    taken_ns: u64,
    from_proc: bool,
    calm_seconds_ago: Option<u32>,
    seen: [u32; 2],
    processes: Vec<Process>,
    cgroups: Vec<Cgroup>,
}

/// JSON has no other numbers.
fn finite(number: f32) -> f64 {
    if number.is_finite() { number.into() } else { 0.0 }
}

fn growth([minute_bytes, ten_minutes_bytes, hour_bytes]: [i64; 3]) -> Growth {
    Growth { minute_bytes, ten_minutes_bytes, hour_bytes }
}

impl Scan {
    fn usage(&self, names: &Names, shown: fn(&str) -> String) -> MemoryUsage {
        let path = |index: u8| Some(shown(&names.path(index)).into());
        let process = |p: &Process| ProcessUsage {
            pid: p.pid.into(),
            comm: shown(&names.comm(p.name)),
            cgroup: p.cgroup.unwrap_or_default().into(),
            cgroup_path: p.cgroup.and_then(path),
            oom_score_adj: p.score,
            age_seconds: p.age_seconds,
            is_new: p.is_new,
            own_bytes: p.sizes[0],
            swap_bytes: p.sizes[1],
            file_bytes: p.sizes[2],
            growth: growth(p.growth),
            ..ProcessUsage::default()
        };
        let cgroup = |c: &Cgroup| CgroupUsage {
            cgroup: c.id.into(),
            cgroup_path: c.has_path.then(|| path(c.id)).flatten(),
            workload: WorkloadId::default(),
            stall_seconds: finite(c.stall_seconds),
            processes: c.processes,
            own_bytes: c.sizes[0],
            swap_bytes: c.sizes[1],
            growth: growth(c.growth),
        };
        MemoryUsage {
            taken_ns: self.taken_ns,
            usage_from_proc: self.from_proc,
            calm_seconds_ago: self.calm_seconds_ago,
            seen: self.seen[0],
            cgroups_seen: self.seen[1],
            processes: self.processes.iter().take(MAX_LISTED).map(process).collect(),
            cgroups: self.cgroups.iter().take(MAX_LISTED).map(cgroup).collect(),
            sums: Vec::new(),
        }
    }
}

/// A limit of the victim's cgroup, or of one above it.
#[derive(Debug, Clone, Arbitrary)]
struct Limits {
    path: u8,
    sizes: [Option<u64>; 6],
    kills: Option<u64>,
    oomd: Option<u64>,
}

impl Limits {
    fn of(&self, names: &Names, shown: fn(&str) -> String) -> CgroupLimits {
        CgroupLimits {
            path: shown(&names.path(self.path)),
            current_bytes: self.sizes[0],
            max_bytes: self.sizes[1],
            high_bytes: self.sizes[2],
            swap_bytes: self.sizes[3],
            shmem_bytes: self.sizes[4],
            swap_max_bytes: self.sizes[5],
            oom_kills: self.kills,
            oomd_ooms: self.oomd,
            ..CgroupLimits::default()
        }
    }
}

/// An event, and all that its report is made of.
#[derive(Debug)]
struct Kill {
    record: Vec<u8>,
    /// Cgroups of the two tasks.
    tasks: [Option<u8>; 2],
    names: Names,
    /// Records of the kernel log, separated by NUL.
    log: Vec<u8>,
    scan: Option<Scan>,
    limits: Vec<Limits>,
    stalled: Option<[f32; 4]>,
    host_memory: Option<[Option<u64>; 4]>,
}

impl<'a> Arbitrary<'a> for Kill {
    fn arbitrary(bytes: &mut Unstructured<'a>) -> Result<Self> {
        let len = if bytes.arbitrary()? { 160 } else { 104 };
        Ok(Self {
            record: bytes.bytes(len)?.to_vec(),
            tasks: bytes.arbitrary()?,
            names: bytes.arbitrary()?,
            log: bytes.arbitrary()?,
            scan: bytes.arbitrary()?,
            limits: bytes.arbitrary()?,
            stalled: bytes.arbitrary()?,
            host_memory: bytes.arbitrary()?,
        })
    }
}

impl Kill {
    /// The event with its report, as the daemon's thread for events makes it.
    fn event(&self, shown: fn(&str) -> String) -> Option<Event> {
        let (time_ns, mut kind) = decode(&self.record, 4096, "b")?;
        let constraints = ["none", "cpuset", "memory_policy", "memcg"];
        kind.name_constraint(&constraints.map(|name| Some(name.to_owned())));
        for (task, index) in kind.tasks_mut().into_iter().zip(self.tasks) {
            task.comm = shown(&task.comm);
            task.cgroup = index.map(|index| shown(&self.names.path(index)).into());
            task.workload = task.cgroup.as_deref().map(WorkloadId::of).unwrap_or_default();
        }
        let logged = self.logged(&mut kind, shown);
        let usage = self.scan.as_ref().map(|scan| scan.usage(&self.names, shown));
        let sources = Sources {
            time_ns,
            cgroups: self.limits.iter().take(32).map(|l| l.of(&self.names, shown)).collect(),
            logged: logged.as_ref(),
            usage: usage.as_ref(),
            stalled: self.stalled.map(|seconds| {
                let [within_seconds, some, full, stall] = seconds.map(finite);
                StallWindow {
                    within_seconds,
                    some_seconds: Some(some),
                    full_seconds: Some(full),
                    stall_seconds: Some(stall),
                }
            }),
            host_memory: self.host_memory.map(|sizes| HostMemoryUsage {
                total_bytes: sizes[0],
                available_bytes: sizes[1],
                anon_bytes: sizes[2],
                swap_free_bytes: sizes[3],
                ..HostMemoryUsage::default()
            }),
        };
        let report = Some(Arc::new(build(&kind, sources)));
        Some(Event { id: "b-1".into(), seq: 1, time: String::new(), kind, report })
    }

    /// The kill in the kernel's log; adds its allocation to the event.
    fn logged(&self, kind: &mut EventKind, shown: fn(&str) -> String) -> Option<KmsgKill> {
        let EventKind::OomKill { victim, context, .. } = kind else { return None };
        let log = String::from_utf8_lossy(&self.log);
        let kills = fuzzing::kernel_log(log.split('\0'));
        // A line that is cut short has any process id.
        let mut logged = kills.into_iter().next()?;
        victim.pid = logged.pid;
        logged.memcg = logged.memcg.map(|path| shown(&path));
        add_logged(context, &logged);
        Some(logged)
    }
}

fn check_kill(kill: &Kill) {
    let Some(event) = kill.event(str::to_owned) else { return };
    let plain = kill.event(harmless).expect("the same record");
    let json = serde_json::to_string(&event).expect("an event becomes JSON");
    assert_printable(&json);
    assert!(!json.contains('\n') && json.len() < MAX_OUTPUT, "{} bytes", json.len());
    serde_json::from_str::<Event>(&json).expect("a client can read the JSON");
    assert_single_line(&show_event::line(&event));
    assert_same_lines(&show_event::report(&event), &show_event::report(&plain));
    let report = event.report.expect("a kill has a report");
    let sizes = [report.largest.len(), report.top_growers.len(), report.growing_cgroups.len()];
    assert!(sizes[0] <= 10 && sizes[1] <= 5 && sizes[2] <= 5, "{sizes:?}");
    assert!(report.contradictions.len() <= 8, "{:?}", report.contradictions);
    assert!(report.top_growers.iter().all(|process| process.growth.ten_minutes_bytes > 0));
    if let Some(oom_cgroup) = &report.oom_cgroup {
        let inside = |path: &Option<Arc<str>>| {
            path.as_deref().is_some_and(|path| path.starts_with(oom_cgroup.as_str()))
        };
        assert!(report.largest.iter().all(|process| inside(&process.cgroup_path)));
        assert!(report.growing_cgroups.iter().all(|cgroup| inside(&cgroup.cgroup_path)));
    }
}

/// An answer of the daemon, and a terminal.
#[derive(Debug, Arbitrary)]
struct List {
    size: [u8; 2],
    keys: [u8; 3],
    rows: u8,
    by: u8,
    names: Names,
    scan: Scan,
    signals: [Option<f32>; 5],
    weight: f32,
    seen_seconds_ago: f32,
    clock: Option<f32>,
    error: Option<String>,
}

impl List {
    fn top(&self, shown: fn(&str) -> String) -> Top {
        let signals = ["some_share_1s", "some_share_10s", "full_share_1s", "full_share_10s", "x"];
        let signals = signals.into_iter().zip(self.signals);
        let signals = signals.filter_map(|(name, value)| Some((name.to_owned(), finite(value?))));
        Top {
            host: HostSummary {
                state: shown(&self.names.comm(0)),
                weight: finite(self.weight),
                signals: signals.collect(),
            },
            seen_seconds_ago: finite(self.seen_seconds_ago),
            stall_clock_seconds: self.clock.map(finite),
            usage: self.scan.usage(&self.names, shown),
        }
    }
}

fn check_list(list: &List) {
    let by = [By::Memory, By::Minute, By::TenMinutes, By::Hour, By::Stall];
    let by = by[usize::from(list.by) % by.len()];
    let text = |shown| {
        let mut top = list.top(shown);
        keep_first(&mut top, list.rows.into(), by);
        assert!(top.usage.processes.len() <= usize::from(list.rows));
        tables::text(&top)
    };
    assert_same_lines(&text(str::to_owned), &text(harmless));
    // A large terminal takes long.
    let [width, height] = list.size.map(u16::from);
    let size = [width % 128 + 1, height % 16 + 1];
    let keys = list.keys.map(fuzzing::key);
    let mut top = list.top(str::to_owned);
    for row in fuzzing::top_screens(&mut top, keys, size, list.error.as_deref()) {
        assert_single_line(&row);
    }
}

fn assert_single_line(text: &str) {
    assert_printable(text);
    assert!(!text.contains('\n'), "a name adds a line to {text:?}");
}

/// The text is safe to print, and has the lines of the text with harmless names.
fn assert_same_lines(text: &str, plain: &str) {
    assert_printable(text);
    assert_eq!(text.lines().count(), plain.lines().count(), "a name adds a line to {text:?}");
    assert!(text.len() < MAX_OUTPUT, "{} bytes", text.len());
}
