//! The verdict as balancers, scripts and operators meet it.

use sensor_tests::support::{
    daemon::Daemon,
    scope::{MIB, Scope},
};

use crate::{killed, wait_until};

/// Kills within a second are one. Each is seen up to a sample later.
const MORE_THAN_A_SECOND: std::time::Duration = std::time::Duration::from_millis(1300);

/// A kill in the scope that the daemon tells from the next one.
pub(super) fn killed_apart(daemon: &Daemon, scope: &Scope) {
    killed(scope, &["anon", "32"]);
    // Of a sample that was begun after it: on a busy machine that may take longer than the second.
    daemon.metrics().expect("the kill is seen");
    std::thread::sleep(MORE_THAN_A_SECOND);
}

/// A daemon that judges a cgroup, and the host by nothing.
pub(super) fn judging(scope: &Scope) -> Daemon {
    judging_at("", scope)
}

/// The same at the usual ports of an address of this machine.
pub(super) fn judging_at(ip: &str, scope: &Scope) -> Daemon {
    let rules = sensor_user::verdict::policy::RULES.iter();
    let off = rules
        .filter(|r| !["oom_kill", "out_of_memory"].contains(&r.name))
        .map(|r| format!("rules.{}.enabled = false\n", r.name));
    let config = format!(
        "{}[verdict]\nfall_per_second = 1.0\n[[scope]]\nname = \"web\"\ncgroup = \"{}\"\n",
        off.collect::<String>(),
        scope.path()
    );
    let daemon = if ip.is_empty() { Daemon::judging(&config) } else { Daemon::at(ip, &config) };
    daemon.expect("daemon")
}

#[test]
fn a_scope_is_drained_by_its_own_kills_and_the_host_is_not() {
    let scope = Scope::new("judged", 16 * MIB).expect("scope");
    let daemon = judging(&scope);
    assert_eq!(daemon.agent_check("web\n").expect("agent"), "up 100%\n");
    assert_eq!(daemon.check("web").expect("check").1, Some(0));

    killed(&scope, &["anon", "32"]);
    wait_until("degraded", || daemon.agent_check("web").expect("agent") == "up 50%\n");
    let answer = daemon.get("/readyz/web", "").expect("readyz");
    assert_eq!(answer.status, 200);
    assert!(answer.body.contains("\"state\":\"degraded\""), "{}", answer.body);
    assert!(answer.body.contains("\"reasons\":[\"oom_kill\""), "{}", answer.body);
    assert!(answer.head.to_lowercase().contains("x-envoy-degraded: true"), "{}", answer.head);
    let strict = daemon.get("/readyz/web?fail_on=degraded", "").expect("readyz");
    assert_eq!(strict.status, 503);
    assert_eq!(daemon.get("/readyz/web?fail_on=nonsense", "").expect("readyz").status, 400);
    let (line, code) = daemon.check("web").expect("check");
    assert!(
        line.starts_with("MEMSENSOR WARNING - web is degraded, weight 50% (oom_kill"),
        "{line}"
    );
    assert!(line.contains("| weight=50%;;;0;100 ") && line.contains(" oom_kills_60s=1"), "{line}");
    assert_eq!(code, Some(1));

    // Kills within a second are one.
    std::thread::sleep(MORE_THAN_A_SECOND);
    killed(&scope, &["anon", "32"]);
    wait_until("drained", || daemon.agent_check("web").expect("agent") == "up 0%\n");
    assert_eq!(daemon.agent_check("web?fail_on=maintenance\n").expect("agent"), "up 100%\n");
    assert_eq!(daemon.agent_check("web?fail_on=nonsense\n").expect("agent"), "\n");
    assert_eq!(daemon.get("/readyz/web", "").expect("readyz").status, 503);
    let last_resort = daemon.get("/readyz/web?fail_on=maintenance", "").expect("readyz");
    assert_eq!(last_resort.status, 200);
    assert_eq!(daemon.check("web").expect("check").1, Some(2));
    let (why, code) = daemon.ask(&["explain", "--scope", "web"]).expect("explain");
    assert!(why.starts_with("web: draining, weight 0%") && code == Some(0), "{why}");
    assert!(why.contains("FIRES  out_of_memory (drains)"), "{why}");
    assert!(why.contains("it gets better 10 s after these are quiet: out_of_memory"), "{why}");

    // The host has nothing to do with it.
    assert_eq!(daemon.get("/readyz", "").expect("readyz").status, 200);
    assert_eq!(daemon.agent_check("host").expect("agent"), "up 100%\n");
    let series = daemon.metrics().expect("metrics");
    let value = |name: &str| series.get(name).copied();
    assert_eq!(value("memsensor_ready{scope=\"web\"}"), Some(0.0));
    assert_eq!(value("memsensor_weight_ratio{scope=\"host\"}"), Some(1.0));
    assert_eq!(value("memsensor_state{scope=\"web\",state=\"draining\"}"), Some(1.0));
    let moved =
        "memsensor_state_transitions_total{scope=\"web\",from=\"degraded\",to=\"draining\"}";
    assert_eq!(value(moved), Some(1.0));
    let reason = "memsensor_verdict_reason{scope=\"web\",reason=\"out_of_memory\"}";
    assert_eq!(value(reason), Some(1.0));
    assert_eq!(value("memsensor_memory_total_bytes{scope=\"web\"}"), Some((16 * MIB) as f64));
}

#[test]
fn a_scope_that_there_is_not_changes_nothing_and_is_counted() {
    let daemon = Daemon::start("").expect("daemon");
    assert_eq!(daemon.agent_check("nobody\n").expect("agent"), "\n");
    assert_eq!(daemon.get("/readyz/nobody", "").expect("readyz").status, 404);
    let (line, code) = daemon.check("nobody").expect("check");
    assert!(line.starts_with("MEMSENSOR UNKNOWN - ") && code == Some(3), "{line}");
    let (said, code) = daemon.ask(&["explain", "--scope", "nobody"]).expect("explain");
    assert!(said.contains("no scope \"nobody\"; there are: host") && code == Some(1), "{said}");
    let series = daemon.metrics().expect("metrics");
    assert_eq!(
        series.get("memsensor_unknown_scope_requests_total"),
        Some(&3.0),
        "explain is local"
    );
}

#[test]
fn a_scope_whose_group_is_gone_is_blind_until_it_is_back() {
    let scope = Scope::new("comes", 16 * MIB).expect("scope");
    let daemon = judging(&scope);
    let path = scope.path();
    drop(scope);
    wait_until("blind", || {
        daemon.get("/readyz/web", "").expect("readyz").body.contains("\"state\":\"blind\"")
    });
    let answer = daemon.get("/readyz/web", "").expect("readyz");
    assert!(answer.status == 200 && answer.body.contains("No such"), "{}", answer.body);
    let back = Scope::new("comes", 16 * MIB).expect("scope");
    assert_eq!(back.path(), path);
    wait_until("back", || {
        daemon.get("/readyz/web", "").expect("readyz").body.contains("\"state\":\"ready\"")
    });
}

#[test]
fn an_operator_s_drain_holds_over_a_restart_and_ends_by_itself() {
    let mut daemon = Daemon::start("").expect("daemon");
    let (said, code) =
        daemon.ask(&["drain", "--reason", "kernel update", "--for", "12s"]).expect("drain");
    assert!(code == Some(0), "{said}");
    assert_eq!(daemon.agent_check("").expect("agent"), "up 0%\n");
    let answer = daemon.get("/readyz", "").expect("readyz");
    assert_eq!(answer.status, 503);
    assert!(answer.body.contains("\"reasons\":[\"kernel update\"]"), "{}", answer.body);
    assert_eq!(daemon.check("").expect("check").1, Some(2));
    daemon.restart().expect("restart");
    assert_eq!(daemon.agent_check("").expect("agent"), "up 0%\n", "it outlives a restart");
    wait_until("over", || daemon.agent_check("").expect("agent") == "up 100%\n");
    daemon.ask(&["drain", "--reason", "disk"]).expect("drain");
    assert_eq!(daemon.get("/readyz", "").expect("readyz").status, 503);
    assert_eq!(daemon.ask(&["undrain"]).expect("undrain").0.trim(), "no longer drained");
    assert_eq!(daemon.get("/readyz", "").expect("readyz").status, 200);
    assert_eq!(daemon.ask(&["undrain"]).expect("undrain").0.trim(), "it was not drained");
}

/// A daemon that was just started does not know who asked the one before.
#[test]
fn a_drain_waits_for_who_asked_before_a_restart() {
    let daemon = Daemon::start("").expect("daemon");
    let drain = ["drain", "--reason", "update", "--wait", "1s"];
    let (said, code) = daemon.ask(&drain).expect("drain");
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("waiting for whoever asked before the daemon was started"), "{said}");
    assert!(said.contains("drained, but after 1s nobody has asked"), "{said}");
    assert_eq!(daemon.agent_check("").expect("agent"), "up 0%\n", "the drain stays");
    let (said, code) = daemon.ask(&drain).expect("drain");
    assert!(code == Some(0) && said.contains("told: 127.0.0.1"), "{said}");
}

#[test]
fn a_daemon_that_does_not_answer_is_unknown_to_check() {
    let mut daemon = Daemon::start("").expect("daemon");
    assert_eq!(daemon.check_on("", "degraded").expect("check").1, Some(0));
    daemon.stop(rustix::process::Signal::TERM).expect("stop");
    let (line, code) = daemon.check("").expect("check");
    assert!(line.starts_with("MEMSENSOR UNKNOWN - ask 127.0.0.1:") && code == Some(3), "{line}");
    assert_eq!(daemon.check_on("", "draining").expect("check").1, Some(2), "keepalived: not fit");
}

/// systemd removes the group of a service that was killed, and makes it anew, with counters at 0.
#[test]
fn kills_are_summed_over_the_lives_of_a_group() {
    let scope = Scope::new("anew", 16 * MIB).expect("scope");
    let daemon = judging(&scope);
    let path = scope.path();
    killed(&scope, &["anon", "32"]);
    drop(scope);
    let scope = Scope::new("anew", 16 * MIB).expect("scope");
    assert_eq!(scope.path(), path);
    wait_until("degraded", || daemon.agent_check("web").expect("agent") == "up 50%\n");
    std::thread::sleep(MORE_THAN_A_SECOND);
    killed(&scope, &["anon", "32"]);
    drop(scope);
    let _again = Scope::new("anew", 16 * MIB).expect("scope");
    wait_until("drained", || daemon.agent_check("web").expect("agent") == "up 0%\n");
}

/// A group that is drained and goes away is not healthy for that, nor for a restart of the daemon.
#[test]
fn a_drained_scope_stays_drained_until_it_was_seen_calm() {
    let scope = Scope::new("drained", 16 * MIB).expect("scope");
    let mut daemon = judging(&scope);
    for _ in 0..2 {
        killed_apart(&daemon, &scope);
    }
    let drained = |daemon: &Daemon| daemon.agent_check("web").expect("agent") == "up 0%\n";
    wait_until("drained", || drained(&daemon));
    // The keeper looks once a second; a daemon that is stopped in order keeps the last.
    daemon.restart().expect("restart");
    assert!(drained(&daemon), "restarted: {}", daemon.log());
    assert!(daemon.log().contains("goes on from draining"), "{}", daemon.log());
    drop(scope);
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert!(drained(&daemon), "gone");
    let answer = daemon.get("/readyz/web", "").expect("readyz");
    assert!(answer.body.contains("\"state\":\"draining\"") && answer.body.contains("No such"));
    let before = std::time::Instant::now();
    let _back = Scope::new("drained", 16 * MIB).expect("scope");
    wait_until("seen calm", || !drained(&daemon));
    // What it was not there for does not count, and the climb begins low, wherever it is met.
    let calm = before.elapsed();
    assert!(calm >= std::time::Duration::from_secs(10), "after {calm:?}");
    let weight = daemon.agent_check("web").expect("agent");
    let percent = weight.strip_prefix("up ").and_then(|w| w.strip_suffix("%\n"));
    let percent: u32 = percent.and_then(|p| p.parse().ok()).unwrap_or_else(|| panic!("{weight}"));
    assert!((1..100).contains(&percent), "{weight}");
}
