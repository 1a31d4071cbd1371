//! Special guests: booted without PSI, or with many CPUs.

use std::{
    fs,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use sensor_tests::support::{
    counts::vmstat,
    daemon::{Daemon, delta},
    scope::{MIB, Scope, program},
};

use super::{enter, host::coverage, kill_on, note};

#[test]
fn psi_is_not_needed() {
    enter();
    assert!(!Path::new("/proc/pressure").exists(), "the guest has PSI");
    let attached = coverage().into_iter().filter(|p| p["state"] == "attached").count();
    assert!(attached >= 8, "only {attached} probes");
    let daemon = Daemon::start("").expect("daemon");
    let stalls = |series: &std::collections::BTreeMap<String, f64>| {
        series.keys().filter(|s| s.starts_with("memsensor_stall_seconds_total")).count()
    };
    assert!(stalls(&daemon.metrics().expect("metrics")) >= 3, "the stall clock is missing");
}

/// Without PSI a cgroup is judged by the stall clock.
#[test]
fn psi_is_not_needed_for_a_scope() {
    enter();
    let scope = Scope::with_swap("web", 48 * MIB).expect("scope");
    let config = format!("[[scope]]\nname = \"web\"\ncgroup = \"{}\"\n", scope.path());
    let daemon = Daemon::judging(&config).expect("daemon");
    let started = Instant::now();
    let mut hog = scope.command(program("hog").expect("hog"));
    let mut hog =
        hog.args(["anon", "72", "loop", "40"]).stdout(Stdio::null()).spawn().expect("hog");
    while daemon.agent_check("web").expect("agent") != "up 0%\n" {
        let explanation = daemon.ask(&["explain", "--scope", "web"]).expect("explain").0;
        assert!(hog.try_wait().expect("wait").is_none(), "never overloaded: {explanation}");
        std::thread::sleep(Duration::from_millis(200));
    }
    let seconds = started.elapsed().as_secs_f64();
    let body = daemon.get("/readyz/web", "").expect("readyz").body;
    assert!(body.contains("\"measured_by\":\"stall_clock\""), "{body}");
    note(&format!("overloaded after {seconds:.1} s: {}", body.trim()));
    let _ = hog.kill();
    let _ = hog.wait();
}

/// A kill on each of 32 CPUs: the counters of all CPUs are summed.
#[test]
fn cpus_are_all_in_the_sums() {
    const CPUS: u32 = 32;
    enter();
    let possible = fs::read_to_string("/sys/devices/system/cpu/possible").expect("possible");
    assert_eq!(possible.trim(), format!("0-{}", CPUS - 1));
    let daemon = Daemon::start("").expect("daemon");
    let scope = Scope::new("cpus", 16 * MIB).expect("scope");
    let (before, kernel) = (daemon.metrics().expect("metrics"), vmstat().expect("vmstat"));
    for cpu in 0..CPUS {
        kill_on(&scope, cpu);
    }
    let after = daemon.metrics().expect("metrics");
    let kills = vmstat().expect("vmstat")["oom_kill"] - kernel["oom_kill"];
    let memcg = "memsensor_oom_kills_total{type=\"memcg\"}";
    assert_eq!(delta(&before, &after, memcg).expect("kills"), kills as f64);
    assert_eq!(kills, u64::from(CPUS));
}
