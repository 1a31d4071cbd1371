//! The verdict in every interface: load balancers, scripts, operators.

use sensor_tests::support::{
    daemon::Daemon,
    scope::{MIB, Scope},
};

use crate::{killed, wait_until};

/// Kills within a second count as one, and a kill is sampled up to an interval later.
const MORE_THAN_A_SECOND: std::time::Duration = std::time::Duration::from_millis(1300);

/// A kill in the scope that counts separately from the next one.
pub(super) fn killed_apart(daemon: &Daemon, scope: &Scope) {
    killed(scope, &["anon", "32"]);
    // Waits for a sample after the kill: on a busy machine that may take longer than the second.
    daemon.metrics().expect("the kill is seen");
    std::thread::sleep(MORE_THAN_A_SECOND);
}

/// A daemon that judges a cgroup by its kills, with the host's rules off.
pub(super) fn judging(scope: &Scope) -> Daemon {
    judging_at("", scope)
}

/// The same on the default ports of an address of this machine.
pub(super) fn judging_at(ip: &str, scope: &Scope) -> Daemon {
    let rules = sensor_core::verdict::policy::RULES.iter();
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

/// A scope with one kill: reduced weight in every interface.
fn assert_degraded(daemon: &Daemon) {
    wait_until("degraded", || daemon.agent_check("web").expect("agent") == "up 50%\n");
    let response = daemon.get("/readyz/web", "").expect("readyz");
    assert_eq!(response.status, 200);
    assert!(response.body.contains("\"state\":\"degraded\""), "{}", response.body);
    assert!(response.body.contains("\"reasons\":[\"oom_kill\""), "{}", response.body);
    assert!(response.head.to_lowercase().contains("x-envoy-degraded: true"), "{}", response.head);
    let strict = daemon.get("/readyz/web?fail_on=degraded", "").expect("readyz");
    assert_eq!(strict.status, 503);
    let (line, code) = daemon.check("web").expect("check");
    assert!(
        line.starts_with("MEMSENSOR WARNING - web is degraded, weight 50% (oom_kill"),
        "{line}"
    );
    assert!(line.contains("| weight=50%;;;0;100 ") && line.contains(" oom_kills_60s=1"), "{line}");
    assert_eq!(code, Some(1));
}

/// A scope with two kills: weight 0 in every interface, but for clients that only fail on a drain.
fn assert_overloaded(daemon: &Daemon) {
    wait_until("overloaded", || daemon.agent_check("web").expect("agent") == "up 0%\n");
    assert_eq!(daemon.agent_check("web?fail_on=drained\n").expect("agent"), "up 100%\n");
    assert_eq!(daemon.get("/readyz/web", "").expect("readyz").status, 503);
    let fallback = daemon.get("/readyz/web?fail_on=drained", "").expect("readyz");
    assert_eq!(fallback.status, 200);
    assert_eq!(daemon.check("web").expect("check").1, Some(2));
    let (text, code) = daemon.ask(&["explain", "--scope", "web"]).expect("explain");
    assert!(text.starts_with("web: overloaded, weight 0%") && code == Some(0), "{text}");
    let has_line = |parts: [&str; 2]| text.lines().any(|l| parts.iter().all(|p| l.contains(p)));
    assert!(has_line(["FIRES", "out_of_memory"]), "{text}");
    assert!(has_line(["5 s after", "out_of_memory"]), "{text}");
}

/// The metrics after two kills: those of the scope changed, those of the host did not.
fn assert_metrics_of_scopes(daemon: &Daemon) {
    let series = daemon.metrics().expect("metrics");
    for (name, expected) in [
        ("memsensor_ready{scope=\"web\"}", 0.0),
        ("memsensor_weight_ratio{scope=\"host\"}", 1.0),
        ("memsensor_state{scope=\"web\",state=\"overloaded\"}", 1.0),
        (
            "memsensor_state_transitions_total\
             {scope=\"web\",from=\"degraded\",to=\"overloaded\"}",
            1.0,
        ),
        ("memsensor_verdict_reason{scope=\"web\",reason=\"out_of_memory\"}", 1.0),
        ("memsensor_memory_total_bytes{scope=\"web\"}", (16 * MIB) as f64),
    ] {
        assert_eq!(series.get(name).copied(), Some(expected), "{name}");
    }
}

#[test]
fn kills_in_a_scope_change_its_verdict_and_not_the_hosts() {
    let scope = Scope::new("judged", 16 * MIB).expect("scope");
    let daemon = judging(&scope);
    assert_eq!(daemon.agent_check("web\n").expect("agent"), "up 100%\n");
    assert_eq!(daemon.check("web").expect("check").1, Some(0));
    killed(&scope, &["anon", "32"]);
    assert_degraded(&daemon);
    // Kills within a second count as one.
    std::thread::sleep(MORE_THAN_A_SECOND);
    killed(&scope, &["anon", "32"]);
    assert_overloaded(&daemon);
    assert_eq!(daemon.get("/readyz", "").expect("readyz").status, 200);
    assert_eq!(daemon.agent_check("host").expect("agent"), "up 100%\n");
    assert_metrics_of_scopes(&daemon);
}

/// Without scopes the agent waits 2 ms for a question, and longer for clients that sent one before.
fn become_known(daemon: &Daemon) {
    assert_eq!(daemon.agent_check("host\n").expect("agent"), "up 100%\n");
}

#[test]
fn an_unknown_fail_on_is_refused() {
    let daemon = Daemon::start("").expect("daemon");
    become_known(&daemon);
    assert_eq!(daemon.get("/readyz?fail_on=nonsense", "").expect("readyz").status, 400);
    assert_eq!(daemon.agent_check("host?fail_on=nonsense\n").expect("agent"), "\n");
}

#[test]
fn requests_for_an_unknown_scope_are_refused_and_counted() {
    let daemon = Daemon::start("").expect("daemon");
    become_known(&daemon);
    assert_eq!(daemon.agent_check("unknown\n").expect("agent"), "\n");
    assert_eq!(daemon.get("/readyz/unknown", "").expect("readyz").status, 404);
    let (line, code) = daemon.check("unknown").expect("check");
    assert!(line.starts_with("MEMSENSOR UNKNOWN - ") && code == Some(3), "{line}");
    let (output, code) = daemon.ask(&["explain", "--scope", "unknown"]).expect("explain");
    assert!(
        output.contains("no scope \"unknown\"; there are: host") && code == Some(1),
        "{output}"
    );
    let series = daemon.metrics().expect("metrics");
    assert_eq!(
        series.get("memsensor_unknown_scope_requests_total"),
        Some(&3.0),
        "explain does not count"
    );
}

#[test]
fn a_scope_without_its_cgroup_is_unknown() {
    let scope = Scope::new("comes", 16 * MIB).expect("scope");
    let daemon = judging(&scope);
    let path = scope.path();
    drop(scope);
    wait_until("unknown", || {
        daemon.get("/readyz/web", "").expect("readyz").body.contains("\"state\":\"unknown\"")
    });
    let answer = daemon.get("/readyz/web", "").expect("readyz");
    assert!(answer.status == 200 && answer.body.contains("No such"), "{}", answer.body);
    let back = Scope::new("comes", 16 * MIB).expect("scope");
    assert_eq!(back.path(), path);
    wait_until("ready", || {
        daemon.get("/readyz/web", "").expect("readyz").body.contains("\"state\":\"ready\"")
    });
}

#[test]
fn a_drain_survives_a_restart_and_ends_after_its_time() {
    let mut daemon = Daemon::start("").expect("daemon");
    let (output, code) =
        daemon.ask(&["drain", "--reason", "kernel update", "--for", "12s"]).expect("drain");
    assert!(code == Some(0), "{output}");
    assert_eq!(daemon.agent_check("").expect("agent"), "up 0%\n");
    let answer = daemon.get("/readyz", "").expect("readyz");
    assert_eq!(answer.status, 503);
    assert!(answer.body.contains("\"reasons\":[\"kernel update\"]"), "{}", answer.body);
    assert_eq!(daemon.check("").expect("check").1, Some(2));
    daemon.restart().expect("restart");
    assert_eq!(daemon.agent_check("").expect("agent"), "up 0%\n", "after a restart");
    wait_until("over", || daemon.agent_check("").expect("agent") == "up 100%\n");
    daemon.ask(&["drain", "--reason", "disk"]).expect("drain");
    assert_eq!(daemon.get("/readyz", "").expect("readyz").status, 503);
    assert_eq!(daemon.ask(&["undrain"]).expect("undrain").0.trim(), "no longer drained");
    assert_eq!(daemon.get("/readyz", "").expect("readyz").status, 200);
    assert_eq!(daemon.ask(&["undrain"]).expect("undrain").0.trim(), "it was not drained");
}

/// A new daemon does not know which clients queried the one before.
#[test]
fn a_drain_waits_for_clients_of_the_daemon_before() {
    let daemon = Daemon::start("").expect("daemon");
    let drain = ["drain", "--reason", "update", "--wait", "1s"];
    let (output, code) = daemon.ask(&drain).expect("drain");
    assert_eq!(code, Some(1), "{output}");
    assert!(
        output.contains("waiting for clients that asked before the daemon was started"),
        "{output}"
    );
    assert!(output.contains("drained, but after 1s no client has asked"), "{output}");
    assert_eq!(daemon.agent_check("").expect("agent"), "up 0%\n", "the drain stays");
    let (output, code) = daemon.ask(&drain).expect("drain");
    assert!(code == Some(0) && output.contains("know of the drain: 127.0.0.1"), "{output}");
}

#[test]
fn check_reports_unknown_without_a_daemon() {
    let mut daemon = Daemon::start("").expect("daemon");
    assert_eq!(daemon.check_on("", "degraded").expect("check").1, Some(0));
    daemon.stop(rustix::process::Signal::TERM).expect("stop");
    let (line, code) = daemon.check("").expect("check");
    assert!(
        line.starts_with("MEMSENSOR UNKNOWN - request readiness from 127.0.0.1:")
            && code == Some(3),
        "{line}"
    );
    assert_eq!(
        daemon.check_on("", "overloaded").expect("check").1,
        Some(2),
        "--fail-on has no UNKNOWN"
    );
}

/// systemd removes the cgroup of a killed service and makes a new one, with counters at 0.
#[test]
fn kills_are_summed_over_recreated_cgroups() {
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
    wait_until("overloaded", || daemon.agent_check("web").expect("agent") == "up 0%\n");
}

/// Neither the removal of the cgroup nor a restart of the daemon makes an overloaded scope ready.
#[test]
fn an_overloaded_scope_stays_so_until_it_is_calm() {
    let scope = Scope::new("overloaded", 16 * MIB).expect("scope");
    let mut daemon = judging(&scope);
    for _ in 0..2 {
        killed_apart(&daemon, &scope);
    }
    let overloaded = |daemon: &Daemon| daemon.agent_check("web").expect("agent") == "up 0%\n";
    wait_until("overloaded", || overloaded(&daemon));
    // The state is saved once per second, and at a regular stop.
    daemon.restart().expect("restart");
    assert!(overloaded(&daemon), "restarted: {}", daemon.log());
    assert!(daemon.log().contains("starts as overloaded"), "{}", daemon.log());
    drop(scope);
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert!(overloaded(&daemon), "removed");
    let answer = daemon.get("/readyz/web", "").expect("readyz");
    assert!(answer.body.contains("\"state\":\"overloaded\"") && answer.body.contains("No such"));
    let before = std::time::Instant::now();
    let _back = Scope::new("overloaded", 16 * MIB).expect("scope");
    wait_until("calm", || !overloaded(&daemon));
    // The time without the cgroup does not count as calm, and the weight rises slowly.
    let calm = before.elapsed();
    assert!(calm >= std::time::Duration::from_secs(5), "after {calm:?}");
    let weight = daemon.agent_check("web").expect("agent");
    let percent = weight.strip_prefix("up ").and_then(|w| w.strip_suffix("%\n"));
    let percent: u32 = percent.and_then(|p| p.parse().ok()).unwrap_or_else(|| panic!("{weight}"));
    assert!((1..100).contains(&percent), "{weight}");
}
