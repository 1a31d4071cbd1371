//! Metrics of cgroups, and hosts with more cgroups than are exported.

use std::{
    collections::BTreeMap,
    fs,
    ops::Range,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use procfs::process::Process;

use sensor_tests::support::{
    daemon::{Daemon, delta},
    scope::{MIB, Scope, program},
};

use crate::{as_kill, hog, is_kill, killed, sum, wait_for_line};

/// The series of a metric by its `cgroup` label.
fn by_cgroup(daemon: &Daemon, metric: &str) -> BTreeMap<String, f64> {
    let of = |series: &str| {
        let labels = series.strip_prefix(metric)?.strip_prefix("{cgroup=\"")?;
        Some(labels.split_once('"')?.0.to_owned())
    };
    let all = daemon.metrics().expect("metrics");
    all.iter().filter_map(|(series, value)| Some((of(series)?, *value))).collect()
}

#[test]
fn a_cgroup_has_metrics_of_its_own_events() {
    let daemon = Daemon::start("").expect("daemon");
    let scope = Scope::new("busy.service", 32 * MIB).expect("scope");
    let quiet = Scope::new("quiet.service", 32 * MIB).expect("scope");
    let hold = |scope: &Scope, mib: &str| {
        let mut child = hog(scope, &["anon", mib, "hold"]);
        let mut child = child.stdout(Stdio::piped()).spawn().expect("start hog");
        wait_for_line(&mut child);
        child
    };
    let children = [hold(&scope, "4"), hold(&quiet, "4")];
    killed(&scope, &["--adj", "1000", "anon", "64"]);
    let (path, other) = (scope.path(), quiet.path());
    crate::wait_until("the kill is counted for its cgroup", || {
        by_cgroup(&daemon, "memsensor_cgroup_oom_kills_total").contains_key(&path)
    });
    let kills = by_cgroup(&daemon, "memsensor_cgroup_oom_kills_total");
    assert_eq!((kills.get(&path), kills.get(&other)), (Some(&1.0), None), "{kills:?}");
    let limits = by_cgroup(&daemon, "memsensor_cgroup_memory_limit_bytes");
    assert_eq!(limits.get(&path), Some(&((32 * MIB) as f64)));
    let memory = by_cgroup(&daemon, "memsensor_cgroup_memory_bytes");
    assert!(memory[&path] >= (4 * MIB) as f64 && memory[&path] <= (32 * MIB) as f64, "{memory:?}");
    let hits = by_cgroup(&daemon, "memsensor_cgroup_limit_hits_total");
    // The scope's v1 limit of memory plus swap counts no hits on some kernels (6.18).
    assert!(scope.is_v1() || hits[&path] >= 1.0, "{hits:?}");
    assert!(!hits.contains_key(&other), "{hits:?}");
    let mut stalls = BTreeMap::new();
    crate::wait_until("its stalls are counted", || {
        stalls = by_cgroup(&daemon, "memsensor_cgroup_stall_seconds_total");
        stalls.contains_key(&path)
    });
    assert!(stalls[&path] > 0.0 && !stalls.contains_key(&other), "{stalls:?}");
    let all = daemon.metrics().expect("metrics");
    let unit = path.trim_start_matches('/');
    assert_eq!(all[&format!("memsensor_cgroup_info{{cgroup=\"{path}\",unit=\"{unit}\"}}")], 1.0);
    for mut child in children {
        child.kill().expect("kill");
        child.wait().expect("wait");
    }
}

/// The BPF side adds a task's stalls to its cgroup when its slot is reused. A task that runs on
/// must be counted too.
#[test]
fn stalls_of_a_running_task_count_for_its_cgroup() {
    let daemon = Daemon::start("").expect("daemon");
    let scope = Scope::new("endless.service", 192 * MIB).expect("scope");
    let file = std::env::temp_dir().join(format!("memsensor-test-endless-{}", std::process::id()));
    let path = file.to_str().expect("UTF-8");
    let written = hog(&scope, &["file", path, "96", "0"]).status().expect("hog");
    assert!(written.success(), "{written}: write {path}");
    scope.set_limit(24 * MIB).expect("lower the limit");
    let mut reader = hog(&scope, &["file", path, "96", "1000000"]).spawn().expect("hog");
    let stalled = || {
        let stalls = by_cgroup(&daemon, "memsensor_cgroup_stall_seconds_total");
        stalls.get(&scope.path()).copied().unwrap_or_default()
    };
    crate::wait_until("its stalls are counted", || stalled() > 0.0);
    let first = stalled();
    crate::wait_until("its stalls increase", || stalled() > first);
    assert_eq!(reader.try_wait().expect("wait"), None, "the reader has ended");
    reader.kill().expect("kill");
    reader.wait().expect("wait");
    fs::remove_file(&file).expect("remove the file");
    // Not counted twice: at most the total of the host.
    let all = daemon.metrics().expect("metrics");
    let of_host: f64 = sum(&all, "memsensor_stall_seconds_total");
    assert!(stalled() <= of_host, "{} of {of_host}", stalled());
}

#[test]
fn reclaim_histograms_exist_only_for_selected_cgroups() {
    let scope = Scope::new("histogram.service", 32 * MIB).expect("scope");
    let other = Scope::new("plain.service", 32 * MIB).expect("scope");
    let config = format!("[cgroups]\nhistograms = [\"{}\"]\n", scope.path());
    let daemon = Daemon::start(&config).expect("daemon");
    for scope in [&scope, &other] {
        killed(scope, &["--adj", "1000", "anon", "64"]);
    }
    let name = "memsensor_cgroup_reclaim_seconds";
    let series =
        |cgroup: &str, part: &str| format!("{name}_{part}{{cgroup=\"{cgroup}\",kind=\"memcg\"}}");
    let mut all = BTreeMap::new();
    // Cgroups are sampled less often than the host, so a scrape may lack some of them.
    crate::wait_until("its reclaim is exported, and the sum is that of the host", || {
        all = daemon.metrics().expect("metrics");
        let own_and_host = |part: &str| {
            let of = |cgroup| all.get(&series(cgroup, part)).copied();
            let own = of(&*scope.path()).zip(of("other")).map(|(own, others)| own + others);
            own.zip(all.get(&format!("memsensor_memcg_reclaim_seconds_{part}")).copied())
        };
        // Only the two cgroups reclaim, so their sum is that of the host.
        println!("{:?} {:?}", own_and_host("count"), own_and_host("sum"));
        own_and_host("count").is_some_and(|(own, host)| own == host)
            && own_and_host("sum").is_some_and(|(own, host)| (own - host).abs() < 1e-6)
    });
    let value = |series: &str| all.get(series).copied().unwrap_or_else(|| panic!("no {series}"));
    let [own, others] = [&*scope.path(), "other"].map(|c| value(&series(c, "count")));
    assert!(own > 0.0 && others > 0.0, "{own} {others}");
    assert!(!all.contains_key(&series(&other.path(), "count")), "it is not selected");
    let all_reclaims =
        value(&format!("{name}_bucket{{le=\"+Inf\",cgroup=\"{}\",kind=\"memcg\"}}", scope.path()));
    assert_eq!(all_reclaims, own);
}

/// There is no event of a new cgroup where the probe is off, or where its path is too long for a
/// record.
#[test]
fn a_cgroup_without_an_event_is_found_by_a_walk() {
    let daemons = [
        Daemon::start("[probes]\ndisabled = [\"cgroups\"]\n").expect("daemon"),
        Daemon::start("").expect("daemon"),
    ];
    let scope = Scope::new("found", 64 * MIB).expect("scope");
    let long = scope.child(&format!("{}.service", "long-".repeat(45))).expect("a child group");
    assert!(long.path().len() > 255, "{}", long.path());
    let mut child = hog(&long, &["anon", "4", "hold"]);
    let mut child = child.stdout(Stdio::piped()).spawn().expect("start hog");
    wait_for_line(&mut child);
    for daemon in &daemons {
        crate::wait_until("it has metrics", || {
            by_cgroup(daemon, "memsensor_cgroup_memory_bytes").contains_key(&long.path())
        });
        crate::wait_until("top shows it", || {
            daemon
                .ask(&["top", "--once", "--json", "-n", "500"])
                .expect("top")
                .0
                .contains(&long.path())
        });
    }
    child.kill().expect("kill");
    child.wait().expect("wait");
}

/// Many cgroups in a scope, removed on drop.
struct Many(Scope, Vec<Child>);

impl Many {
    fn new() -> Self {
        let many = Self(Scope::new("many", 512 * MIB).expect("scope"), Vec::new());
        if !many.0.is_v1() {
            let control = many.0.memory().join("cgroup.subtree_control");
            fs::write(control, "+memory").expect("enable the memory controller");
        }
        many
    }

    fn group(&self, at: usize) -> PathBuf {
        self.0.memory().join(format!("g{at}"))
    }

    fn make(&self, groups: Range<usize>) {
        for at in groups {
            fs::create_dir(self.group(at)).expect("mkdir");
        }
    }

    fn start(&self, at: usize, args: &[&str]) -> Child {
        let enter = format!("echo $$ > '{}/cgroup.procs' && exec \"$@\"", self.group(at).display());
        let mut child = Command::new("sh");
        child.args(["-c", &enter, "sh"]).arg(program("hog").expect("hog")).args(args);
        child.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("start hog")
    }
}

impl Drop for Many {
    fn drop(&mut self) {
        for child in &mut self.1 {
            let _ = child.kill();
            let _ = child.wait();
        }
        for entry in fs::read_dir(self.0.memory()).into_iter().flatten().flatten() {
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// Ten thousand cgroups; a thousand on a small machine, where more would take all of its memory.
fn many_for_this_machine() -> usize {
    let meminfo = <procfs::Meminfo as procfs::Current>::current().expect("meminfo");
    if meminfo.mem_total >= 4 << 30 { 10_000 } else { 1000 }
}

/// There are processes in more cgroups than are exported.
#[test]
fn metrics_of_ten_thousand_cgroups_are_bounded() {
    const INHABITED: usize = 60;
    const MOST: usize = 40;
    let groups = many_for_this_machine();
    let mut many = Many::new();
    many.make(0..groups / 2);
    let daemon = Daemon::start(&format!("[cgroups]\nmost = {MOST}\n")).expect("daemon");
    let before = daemon.metrics().expect("metrics");
    // The second half while it runs: it learns them from events.
    many.make(groups / 2..groups);
    for i in 0..INHABITED {
        let mut child = many.start(i * (groups / INHABITED), &["anon", "1", "hold"]);
        wait_for_line(&mut child);
        many.1.push(child);
    }
    crate::wait_until("all are known", || {
        let all = daemon.metrics().expect("metrics");
        all["memsensor_cgroups_omitted"] + MOST as f64 >= INHABITED as f64
    });
    let shown = by_cgroup(&daemon, "memsensor_cgroup_memory_bytes");
    assert_eq!(shown.len(), MOST, "{shown:?}");
    let after = daemon.metrics().expect("metrics");
    let made = delta(&before, &after, "memsensor_cgroups_created_total").expect("series");
    assert!(made >= (groups / 2) as f64, "{made}");
    let (few, many_series) = (before.len(), after.len());
    assert!(many_series < few + 10 * MOST, "{many_series} series, {few} before");
    // One of each half: known from a walk, and from events or a walk after lost events.
    for at in [1, groups - 1] {
        let limit = if many.0.is_v1() { "memory.limit_in_bytes" } else { "memory.max" };
        fs::write(many.group(at).join(limit), (8 * MIB).to_string()).expect("limit");
        let path = format!("{}/g{at}", many.0.path());
        // A kill does not wait for the next walk, which may have to pause for some seconds.
        crate::wait_until("a kill there has its path", || {
            let hog = many.start(at, &["--adj", "1000", "anon", "600"]).wait().expect("wait");
            assert!(!hog.success(), "not killed: {hog}");
            std::thread::sleep(Duration::from_millis(500));
            let events = daemon.events().expect("events");
            let kills = events.iter().filter(|e| is_kill(&e.kind));
            kills.map(|e| as_kill(&e.kind).1).any(|v| v.cgroup.as_deref() == Some(path.as_str()))
        });
    }
}

/// CPU time of the thread with that name, and resident memory of the process in MiB.
fn cost(daemon: &Daemon, thread: &str) -> (Duration, f64) {
    let process = Process::new(daemon.pid().cast_signed()).expect("process");
    let tasks = process.tasks().expect("tasks").flatten().map(|task| task.stat().expect("stat"));
    let ticks: u64 =
        tasks.filter(|stat| stat.comm == thread).map(|stat| stat.utime + stat.stime).sum();
    let resident = process.statm().expect("statm").resident * procfs::page_size();
    let seconds = ticks as f64 / procfs::ticks_per_second() as f64;
    (Duration::from_secs_f64(seconds), resident as f64 / MIB as f64)
}

/// Creates and removes this many cgroups with long names, as fast as it can; returns its time.
fn churn(many: &Many, count: u32) -> Duration {
    let begun = Instant::now();
    for n in 0..count {
        let group = many.0.memory().join(format!("{n:0200}"));
        fs::create_dir(&group).expect("mkdir");
        fs::remove_dir(&group).expect("rmdir");
    }
    begun.elapsed()
}

/// Any user who may create cgroups could otherwise keep the real-time thread busy and fill locked
/// memory.
#[test]
fn a_flood_of_new_cgroups_costs_the_event_thread_little() {
    const FLOOD: u32 = 20_000;
    let many = Many::new();
    many.make(0..many_for_this_machine());
    let daemon = Daemon::start("").expect("daemon");
    // The first walk, and one that the first lost records cause.
    churn(&many, FLOOD / 5);
    std::thread::sleep(Duration::from_secs(2));
    let before = daemon.metrics().expect("metrics");
    let (cpu_before, resident_before) = cost(&daemon, "events");
    let time = churn(&many, FLOOD);
    let (cpu, resident) = cost(&daemon, "events");
    let after = daemon.metrics().expect("metrics");
    let lost = "memsensor_events_lost_total{reason=\"cgroup_names_full\"}";
    let lost = delta(&before, &after, lost).expect("series");
    let (cpu, grown) = (cpu.saturating_sub(cpu_before), resident - resident_before);
    println!("{FLOOD} cgroups, {lost} records lost: {cpu:?} of {time:?}, {grown} MiB more");
    assert!(cpu < time / 5, "{cpu:?} of {time:?}");
    assert!(grown < 4.0, "{grown} MiB");
    // The daemon knows new cgroups all the same, once it has emptied the ring.
    std::thread::sleep(Duration::from_secs(1));
    let scope = Scope::new("after-the-flood.service", 16 * MIB).expect("scope");
    killed(&scope, &["anon", "32"]);
    let path = scope.path();
    crate::wait_until("the kill has its path", || {
        let events = daemon.events().expect("events");
        let kills = events.iter().filter(|event| is_kill(&event.kind));
        kills.map(|kill| as_kill(&kill.kind).1).any(|v| v.cgroup.as_deref() == Some(path.as_str()))
    });
}

/// A service fills the room for paths with cgroups of its own, as any user with a delegated one may.
#[test]
fn a_service_that_starts_after_a_flood_of_another_has_a_name() {
    // Two MiB in paths of 1,000 bytes, and some more.
    const FLOOD: usize = 2300;
    if many_for_this_machine() < FLOOD {
        println!("not on a small machine: {FLOOD} cgroups would take all of its memory");
        return;
    }
    let daemon = Daemon::start("").expect("daemon");
    let flooded = Scope::new("flood.service", 512 * MIB).expect("scope");
    let deep = Tree(flooded.memory().join("x".repeat(250)));
    let below = deep.0.join("y".repeat(250)).join("z".repeat(250));
    fs::create_dir_all(&below).expect("mkdir");
    for at in 0..FLOOD {
        fs::create_dir(below.join(format!("{at:0200}"))).expect("mkdir");
    }
    crate::wait_until("the flood has no more room", || {
        let series = daemon.metrics().expect("metrics");
        series["memsensor_dropped_cgroup_paths_total"] > 0.0
    });
    let later = Scope::new("later.service", 16 * MIB).expect("scope");
    let victim = killed(&later, &["anon", "32"]);
    let kills = daemon.wait_for_events(1, is_kill).expect("the kill");
    let kill = kills.iter().find(|kill| as_kill(&kill.kind).1.pid == victim).expect("its kill");
    assert_eq!(as_kill(&kill.kind).1.cgroup.as_deref(), Some(later.path().as_str()));
}

/// Cgroups that are removed on drop, the deepest first.
struct Tree(PathBuf);

impl Drop for Tree {
    fn drop(&mut self) {
        remove_groups(&self.0);
    }
}

fn remove_groups(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_groups(&entry.path());
        }
    }
    let _ = fs::remove_dir(group);
}
