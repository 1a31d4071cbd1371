//! Cgroups at their own limits on a host with memory to spare: the host's verdict is that of the
//! host, and the scope's that of the scope. A host that serves from such a cgroup has the worst of
//! both.

use std::{
    process::{Child, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use sensor_core::verdict::scope::HOST;
use sensor_tests::support::{
    daemon::Daemon,
    scope::{MIB, Scope},
    swap::{Swap, cold},
};

use crate::{hog, wait_until};

/// How long a group thrashes: longer than the window of ten seconds of the rules.
const THRASHES: Duration = Duration::from_secs(16);

/// Three groups at a time: one swaps, one reads a file again and again, and one is too large and is
/// started again every three seconds.
#[test]
fn groups_at_their_own_limits_are_no_shortage_of_the_host() {
    let disk = Swap::new(768).expect("swap");
    let path = disk.dir().join("file");
    cold(&path, 160).expect("a file that is not in the page cache");
    let path = path.to_str().expect("UTF-8");
    let loads: [(&str, &[&str]); 3] = [
        ("swaps", &["anon", "96", "loop", "60"]),
        ("rereads", &["file", path, "160", "1000000"]),
        ("crashes", &["anon", "120", "loop", "3"]),
    ];
    let scope = |(name, _)| Scope::with_swap(&format!("own-limit-{name}"), 64 * MIB);
    let scopes = loads.map(|load| scope(load).expect("scope"));
    let config = format!("[[scope]]\nname = \"web\"\ncgroup = \"{}\"\n", scopes[0].path());
    let daemon = Daemon::as_shipped(&config).expect("daemon");
    let start = |i: usize| -> Child {
        hog(&scopes[i], loads[i].1).stdout(Stdio::null()).spawn().expect("hog")
    };
    let mut running = [0, 1, 2].map(start);
    let (mut host, mut web) = (1.0_f64, 1.0_f64);
    let begun = Instant::now();
    while begun.elapsed() < THRASHES {
        for (i, load) in running.iter_mut().enumerate() {
            if load.try_wait().expect("wait").is_some() {
                *load = start(i);
            }
        }
        for (name, lowest) in [(HOST, &mut host), ("web", &mut web)] {
            let body = daemon.get(&format!("/readyz/{name}"), "").expect("readyz").body;
            let value: serde_json::Value = serde_json::from_str(&body).expect("JSON");
            *lowest = lowest.min(value["weight"].as_f64().expect("a weight"));
        }
        sleep(Duration::from_millis(100));
    }
    let (explained, _) = daemon.ask(&["explain"]).expect("explain");
    for load in &mut running {
        load.kill().expect("kill");
        load.wait().expect("wait");
    }
    assert!(host > 0.99, "the host lost weight: {host}: {explained}");
    assert!(web < 1.0, "the group itself is short of memory");
    let counted = format!("the cgroup \"{}\" stalls at its own limit", scopes[0].path());
    assert!(!explained.contains(&counted), "a scope is counted: {explained}");
    let metrics = daemon.metrics().expect("metrics");
    let of_limits = metrics.get("memsensor_limit_stall_seconds_total").copied();
    assert!(of_limits > Some(0.1), "the stalls are reported as those of limits: {of_limits:?}");
}

/// Waits until the host lost all weight because of the group that thrashes.
fn assert_decides(serves: &str, scope: &Scope) {
    let daemon = Daemon::as_shipped(&format!("serves = [\"{serves}\"]\n")).expect("daemon");
    let mut load = hog(scope, &["anon", "96", "loop", "60"]).spawn().expect("hog");
    let readiness = || -> serde_json::Value {
        serde_json::from_str(&daemon.get("/readyz", "").expect("readyz").body).expect("JSON")
    };
    wait_until("the host is overloaded", || readiness()["state"] == "overloaded");
    assert_eq!(readiness()["decided_by"], scope.path(), "{serves}");
    let (text, _) = daemon.ask(&["explain"]).expect("explain");
    let line = format!("decided by the cgroup \"{}\", which the host serves from", scope.path());
    assert!(text.contains(&line), "{text}");
    load.kill().expect("kill");
    load.wait().expect("wait");
}

#[test]
fn a_group_that_the_host_serves_from_decides() {
    let _swap = Swap::new(256).expect("swap");
    let scope = Scope::with_swap("served", 64 * MIB).expect("scope");
    assert_decides(&scope.path(), &scope);
    let pattern = scope.path().replace("-served", "-ser*");
    assert_decides(&pattern, &scope);
}

#[test]
fn explain_names_a_group_that_is_not_counted() {
    let _swap = Swap::new(256).expect("swap");
    let scope = Scope::with_swap("uncounted", 64 * MIB).expect("scope");
    let daemon = Daemon::as_shipped("").expect("daemon");
    let mut load = hog(&scope, &["anon", "96", "loop", "60"]).spawn().expect("hog");
    let line = format!("the cgroup \"{}\" stalls at its own limit (", scope.path());
    wait_until("explain names it", || daemon.ask(&["explain"]).expect("explain").0.contains(&line));
    let logged = daemon.log();
    assert!(logged.contains("stalls at its own limit"), "{logged}");
    load.kill().expect("kill");
    load.wait().expect("wait");
}

/// In a system container the root of the cgroups that memsensor sees is the container's own, with its
/// limit.
#[test]
fn a_container_that_memsensor_runs_in_counts_if_it_is_served() {
    let _swap = Swap::new(256).expect("swap");
    let scope = Scope::with_swap("container", 192 * MIB).expect("scope");
    let enter: Vec<_> = scope
        .groups()
        .iter()
        .map(|group| format!("echo $$ >'{}/cgroup.procs'", group.display()))
        .collect();
    let memory = scope.memory().parent().expect("a parent").display();
    let unified = scope.unified().parent().expect("a parent").display();
    let mount = if scope.is_v1() {
        format!(
            "umount {memory} {unified} && mount -t cgroup -o memory none {memory} && \
             mount -t cgroup2 none {unified}"
        )
    } else {
        format!("umount -l {unified} && mount -t cgroup2 none {unified}")
    };
    let script = format!(
        "{} && exec unshare --cgroup --mount sh -c '{mount} && exec \"$@\"' sh \"$@\"",
        enter.join(" && ")
    );
    let start = |name: &str, config: &str| {
        let dir = std::env::temp_dir().join(format!("memsensor-{name}-{}", std::process::id()));
        Daemon::in_directory(&dir, &["sh", "-c", &script, "sh"], config).expect("daemon")
    };
    let hint = "has a limit of 192 MiB, as in a container";
    assert!(start("unserved", "").log().contains(hint));
    let daemon = start("served", "serves = [\"/\"]\n");
    assert!(!daemon.log().contains(hint), "{}", daemon.log());
    let mut load = hog(&scope, &["anon", "240", "loop", "60"]).spawn().expect("hog");
    let readiness = || -> serde_json::Value {
        serde_json::from_str(&daemon.get("/readyz", "").expect("readyz").body).expect("JSON")
    };
    wait_until("the host is overloaded", || readiness()["state"] == "overloaded");
    assert_eq!(readiness()["decided_by"], "/");
    load.kill().expect("kill");
    load.wait().expect("wait");
}
