//! Cgroups that have metrics of their own, and hosts that have more of them than anybody looks at.

use std::{
    collections::BTreeMap,
    fs,
    ops::Range,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

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
fn what_happens_in_a_cgroup_is_told_of_it() {
    let daemon = Daemon::start("").expect("daemon");
    let scope = Scope::new("told.service", 32 * MIB).expect("scope");
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
    crate::wait_until("the kill is told of its cgroup", || {
        by_cgroup(&daemon, "memsensor_cgroup_oom_kills_total").contains_key(&path)
    });
    let kills = by_cgroup(&daemon, "memsensor_cgroup_oom_kills_total");
    assert_eq!((kills.get(&path), kills.get(&other)), (Some(&1.0), None), "{kills:?}");
    let limits = by_cgroup(&daemon, "memsensor_cgroup_memory_limit_bytes");
    assert_eq!(limits.get(&path), Some(&((32 * MIB) as f64)));
    let memory = by_cgroup(&daemon, "memsensor_cgroup_memory_bytes");
    assert!(memory[&path] >= (4 * MIB) as f64 && memory[&path] <= (32 * MIB) as f64, "{memory:?}");
    let hits = by_cgroup(&daemon, "memsensor_cgroup_limit_hits_total");
    // v1's limit of memory and swap together, which the scope has, counts no hits on every kernel (6.18).
    assert!(scope.is_v1() || hits[&path] >= 1.0, "{hits:?}");
    assert!(!hits.contains_key(&other), "{hits:?}");
    let mut stalls = BTreeMap::new();
    crate::wait_until("its stalls are told", || {
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

/// The kernel half charges a task's stalls to its cgroup when its slot goes to another. One that goes on
/// and on must be seen all the same.
#[test]
fn a_task_that_does_not_end_is_told_of_its_cgroup() {
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
    crate::wait_until("its stalls are told", || stalled() > 0.0);
    let first = stalled();
    crate::wait_until("its stalls go on", || stalled() > first);
    assert_eq!(reader.try_wait().expect("wait"), None, "it reads on");
    reader.kill().expect("kill");
    reader.wait().expect("wait");
    fs::remove_file(&file).expect("remove the file");
    // Not twice, now that they are charged: no more than the host has in all.
    let all = daemon.metrics().expect("metrics");
    let of_host: f64 = sum(&all, "memsensor_stall_seconds_total");
    assert!(stalled() <= of_host, "{} of {of_host}", stalled());
}

#[test]
fn how_long_reclaim_took_is_told_of_a_cgroup_that_asks_for_it() {
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
    // Cgroups are looked at less often than the host, so a scrape may have one of them only, or less of them.
    crate::wait_until("its reclaim is told, and adds up to the host's", || {
        all = daemon.metrics().expect("metrics");
        let told = |part: &str| {
            let of = |cgroup| all.get(&series(cgroup, part)).copied();
            let own = of(&*scope.path()).zip(of("other")).map(|(own, others)| own + others);
            own.zip(all.get(&format!("memsensor_memcg_reclaim_seconds_{part}")).copied())
        };
        // The same events as the host's, which are the two groups' and nobody else's.
        println!("{:?} {:?}", told("count"), told("sum"));
        told("count").is_some_and(|(own, host)| own == host)
            && told("sum").is_some_and(|(own, host)| (own - host).abs() < 1e-6)
    });
    let value = |series: &str| all.get(series).copied().unwrap_or_else(|| panic!("no {series}"));
    let [own, others] = [&*scope.path(), "other"].map(|c| value(&series(c, "count")));
    assert!(own > 0.0 && others > 0.0, "{own} {others}");
    assert!(!all.contains_key(&series(&other.path(), "count")), "it did not ask");
    let worst =
        value(&format!("{name}_bucket{{le=\"+Inf\",cgroup=\"{}\",kind=\"memcg\"}}", scope.path()));
    assert_eq!(worst, own);
}

/// Nobody tells of a new group where the probe is off, nor of one whose path is too long for a record.
#[test]
fn a_group_that_nobody_told_of_is_found() {
    let daemons = [
        Daemon::start("[probes]\ndisabled = [\"cgroups\"]\n").expect("daemon"),
        Daemon::start("").expect("daemon"),
    ];
    let scope = Scope::new("found", 64 * MIB).expect("scope");
    let long = scope.child(&format!("{}.service", "long-".repeat(45))).expect("a group below");
    assert!(long.path().len() > 255, "{}", long.path());
    let mut child = hog(&long, &["anon", "4", "hold"]);
    let mut child = child.stdout(Stdio::piped()).spawn().expect("start hog");
    wait_for_line(&mut child);
    for daemon in &daemons {
        crate::wait_until("it has its name", || {
            by_cgroup(daemon, "memsensor_cgroup_memory_bytes").contains_key(&long.path())
        });
        crate::wait_until("at the next look people see it too", || {
            daemon.ask(&["top", "--once", "--json"]).expect("top").0.contains(&long.path())
        });
    }
    child.kill().expect("kill");
    child.wait().expect("wait");
}

/// Removes what is in a scope when it goes.
struct Many(Scope, Vec<Child>);

impl Many {
    fn new() -> Self {
        let many = Self(Scope::new("many", 512 * MIB).expect("scope"), Vec::new());
        if !many.0.is_v1() {
            let control = many.0.memory().join("cgroup.subtree_control");
            fs::write(control, "+memory").expect("let groups have limits");
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

/// Ten thousand groups, and processes in more of them than have metrics. A machine that has no room for
/// as many makes a thousand.
#[test]
fn ten_thousand_cgroups_are_bounded() {
    const INHABITED: usize = 60;
    const MOST: usize = 40;
    let meminfo = <procfs::Meminfo as procfs::Current>::current().expect("meminfo");
    let groups = if meminfo.mem_total >= 4 << 30 { 10_000 } else { 1000 };
    let mut many = Many::new();
    many.make(0..groups / 2);
    let daemon = Daemon::start(&format!("[cgroups]\nmost = {MOST}\n")).expect("daemon");
    let before = daemon.metrics().expect("metrics");
    // The second half while it runs: it learns them from the kernel.
    many.make(groups / 2..groups);
    for i in 0..INHABITED {
        let mut child = many.start(i * (groups / INHABITED), &["anon", "1", "hold"]);
        wait_for_line(&mut child);
        many.1.push(child);
    }
    crate::wait_until("all have their names", || {
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
    // One of each half, by name: from a walk, and from the kernel's word or a walk after it was too much.
    for at in [1, groups - 1] {
        let limit = if many.0.is_v1() { "memory.limit_in_bytes" } else { "memory.max" };
        fs::write(many.group(at).join(limit), (8 * MIB).to_string()).expect("limit");
        let status = many.start(at, &["--adj", "1000", "anon", "600"]).wait().expect("wait");
        assert!(!status.success(), "not killed: {status}");
        let path = format!("{}/g{at}", many.0.path());
        crate::wait_until("the kill is told by name", || {
            let events = daemon.events().expect("events");
            let kills = events.iter().filter(|e| is_kill(&e.what));
            kills.map(|e| as_kill(&e.what).1).any(|v| v.cgroup.as_deref() == Some(path.as_str()))
        });
    }
}
