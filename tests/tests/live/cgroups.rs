//! Cgroups that have metrics of their own, and hosts that have more of them than anybody looks at.

use std::{
    collections::BTreeMap,
    fs,
    process::{Child, Stdio},
};

use sensor_tests::{
    daemon::Daemon,
    scope::{MIB, Scope},
};

use crate::{as_kill, hog, is_kill, killed, wait_for_line};

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

/// Ten thousand groups, and processes in more of them than have metrics.
#[test]
fn ten_thousand_cgroups_are_bounded() {
    const GROUPS: usize = 10_000;
    const INHABITED: usize = 60;
    const MOST: usize = 40;
    struct Many(Scope, Vec<Child>);
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
    let mut many = Many(Scope::new("many", 512 * MIB).expect("scope"), Vec::new());
    let group = |at: usize| many.0.memory().join(format!("g{at}"));
    for at in 0..GROUPS / 2 {
        fs::create_dir(group(at)).expect("mkdir");
    }
    let daemon = Daemon::start(&format!("[cgroups]\nmost = {MOST}\n")).expect("daemon");
    let before = daemon.metrics().expect("metrics");
    // The second half while it runs: it learns them from the kernel.
    for at in GROUPS / 2..GROUPS {
        fs::create_dir(group(at)).expect("mkdir");
    }
    let inhabited: Vec<_> = (0..INHABITED).map(|i| group(i * (GROUPS / INHABITED))).collect();
    for group in inhabited {
        let mut child = hog(&many.0, &["anon", "1", "hold"]);
        let mut child = child.stdout(Stdio::piped()).spawn().expect("start hog");
        // It has entered the group above by then.
        wait_for_line(&mut child);
        fs::write(group.join("cgroup.procs"), child.id().to_string()).expect("enter");
        many.1.push(child);
    }
    crate::wait_until("all have their names", || {
        let all = daemon.metrics().expect("metrics");
        let told = all["memsensor_cgroups_omitted"] + MOST as f64;
        told >= INHABITED as f64
    });
    let shown = by_cgroup(&daemon, "memsensor_cgroup_memory_bytes");
    assert_eq!(shown.len(), MOST, "{shown:?}");
    let after = daemon.metrics().expect("metrics");
    let made = after["memsensor_cgroups_created_total"] - before["memsensor_cgroups_created_total"];
    assert!(made >= (GROUPS / 2) as f64, "{made}");
    assert!(
        after.len() < before.len() + 10 * MOST,
        "{} series, {} before",
        after.len(),
        before.len()
    );
    // One of them, by name, from a walk or from the kernel's word.
    for at in [1, GROUPS - 1] {
        let path = format!("{}/g{at}", many.0.path());
        let dir = many.0.memory().join(format!("g{at}"));
        let limit = if many.0.is_v1() { "memory.limit_in_bytes" } else { "memory.max" };
        if !dir.join(limit).exists() {
            let control = many.0.memory().join("cgroup.subtree_control");
            fs::write(control, "+memory").expect("let groups have limits");
        }
        fs::write(dir.join(limit), (8 * MIB).to_string()).expect("limit");
        let enter = format!("echo $$ > '{}/cgroup.procs' && exec \"$@\"", dir.display());
        let hog = sensor_tests::scope::program("hog").expect("hog");
        let status = std::process::Command::new("sh")
            .args(["-c", &enter, "sh"])
            .arg(hog)
            .args(["--adj", "1000", "anon", "600"])
            .stderr(Stdio::null())
            .status()
            .expect("hog");
        assert!(!status.success(), "not killed: {status}");
        crate::wait_until("the kill is told by name", || {
            let events = daemon.events().expect("events");
            let kills = events.iter().filter(|e| is_kill(&e.what));
            kills.map(|e| as_kill(&e.what).1).any(|v| v.cgroup.as_deref() == Some(path.as_str()))
        });
    }
}
