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

/// Lowest weights of the host and of the scope `web` while the group thrashes.
fn lowest_weights(scope: &Scope, mut start: impl FnMut() -> Child) -> (f64, f64) {
    let config = format!("[[scope]]\nname = \"web\"\ncgroup = \"{}\"\n", scope.path());
    let daemon = Daemon::as_shipped(&config).expect("daemon");
    let mut lowest = (1.0_f64, 1.0_f64);
    let begun = Instant::now();
    let mut load = start();
    while begun.elapsed() < THRASHES {
        if load.try_wait().expect("wait").is_some() {
            load = start();
        }
        for (name, weight) in [(HOST, &mut lowest.0), ("web", &mut lowest.1)] {
            let body = daemon.get(&format!("/readyz/{name}"), "").expect("readyz").body;
            let value: serde_json::Value = serde_json::from_str(&body).expect("JSON");
            *weight = weight.min(value["weight"].as_f64().expect("a weight"));
        }
        sleep(Duration::from_millis(100));
    }
    load.kill().expect("kill");
    load.wait().expect("wait");
    let metrics = daemon.metrics().expect("metrics");
    let (text, _) = daemon.ask(&["explain"]).expect("explain");
    assert!(!text.contains("add it to `serves`"), "a scope is counted: {text}");
    let of_limits = metrics.get("memsensor_limit_stall_seconds_total").copied();
    assert!(of_limits > Some(0.1), "the stalls are reported as those of limits: {of_limits:?}");
    lowest
}

#[test]
fn a_group_that_swaps_at_its_limit_is_no_shortage_of_the_host() {
    let _swap = Swap::new(256).expect("swap");
    let scope = Scope::with_swap("own-limit-swap", 64 * MIB).expect("scope");
    let (host, web) =
        lowest_weights(&scope, || hog(&scope, &["anon", "96", "loop", "60"]).spawn().expect("hog"));
    assert!(web < 1.0, "the group itself is short of memory");
    assert!(host > 0.99, "the host lost weight: {host}");
}

#[test]
fn a_group_that_rereads_at_its_limit_is_no_shortage_of_the_host() {
    let disk = Swap::new(16).expect("a directory on disk");
    let path = disk.dir().join("file");
    cold(&path, 160).expect("a file that is not in the page cache");
    let scope = Scope::new("own-limit-file", 64 * MIB).expect("scope");
    let (host, _) = lowest_weights(&scope, || {
        let path = path.to_str().expect("UTF-8");
        hog(&scope, &["file", path, "160", "1000000"]).stdout(Stdio::null()).spawn().expect("hog")
    });
    assert!(host > 0.99, "the host lost weight: {host}");
}

/// It is started again every three seconds, and swaps each time.
#[test]
fn a_group_that_crashes_in_a_loop_is_no_shortage_of_the_host() {
    let _swap = Swap::new(256).expect("swap");
    let scope = Scope::with_swap("own-limit-crash", 60 * MIB).expect("scope");
    let (host, _) =
        lowest_weights(&scope, || hog(&scope, &["anon", "120", "loop", "3"]).spawn().expect("hog"));
    assert!(host > 0.99, "the host lost weight: {host}");
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
