//! The shipped rules in Debian's Prometheus and the shipped configuration in its Alertmanager, with
//! real sensors and real memory pressure: which alerts arrive at a webhook, which do not, and when.
//!
//! Durations are a twentieth of the shipped ones (see [`sensor_tests::support::alerting`]), because
//! the test would take an hour otherwise. Each case is a separate job, because rules compare the
//! hosts of a job.

mod monitoring;
mod webhook;

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use sensor_tests::support::{
    daemon::Daemon,
    scope::{MIB, Scope},
    swap::Swap,
};

use self::{monitoring::Monitoring, webhook::Webhook};
use super::verdict::{judging_at, killed_apart};
use crate::{Running, hog, killed, wait_until};

/// Durations are divided by this.
const FACTOR: u64 = 20;
/// The interval of scrapes and evaluations: a twentieth of ten seconds.
const INTERVAL: &str = "500ms";
/// The longest time until an alert arrives: a `for` of ten minutes, its conditions, and a
/// `group_interval`.
const TIMEOUT: Duration = Duration::from_secs(100);

/// A daemon with a scope for a cgroup, and the shipped rules of the verdict.
fn with_scope(scope: &Scope) -> Daemon {
    let web = format!("[[scope]]\nname = \"web\"\ncgroup = \"{}\"\n", scope.path());
    Daemon::as_shipped(&web).expect("daemon")
}

/// A daemon that is ready, independent of the load on this machine.
fn always_ready() -> Daemon {
    Daemon::start("").expect("daemon")
}

fn send(daemon: &Daemon, signal: Signal) {
    let pid = Pid::from_raw(daemon.pid().cast_signed()).expect("a pid");
    kill_process(pid, signal).expect("send a signal");
}

fn has_state(daemon: &Daemon, state: &str) -> bool {
    let readiness = daemon.get("/readyz/web", "").expect("readyz").body;
    readiness.contains(&format!("\"state\":\"{state}\""))
}

/// The hosts of the cases.
struct Hosts {
    /// Thrashes, then becomes silent.
    dying: Daemon,
    /// All are overloaded.
    fleet: [Daemon; 2],
    /// One overloaded and two ready hosts become silent at the same time.
    outage: [Daemon; 3],
    /// A ready host becomes silent.
    silent: Daemon,
    /// An operator drains it, then it stops.
    drained: Daemon,
    /// Processes in its scope are killed.
    kills: Daemon,
}

impl Hosts {
    fn start(thrashing: &Scope, killed: &Scope) -> Self {
        Self {
            dying: with_scope(thrashing),
            fleet: [with_scope(thrashing), with_scope(thrashing)],
            outage: [with_scope(thrashing), always_ready(), always_ready()],
            silent: always_ready(),
            drained: always_ready(),
            kills: judging_at("", killed),
        }
    }

    fn jobs(&self) -> [(&'static str, Vec<&Daemon>); 6] {
        [
            ("memsensor-dying", vec![&self.dying]),
            ("memsensor-fleet", self.fleet.iter().collect()),
            ("memsensor-outage", self.outage.iter().collect()),
            ("memsensor-silent", vec![&self.silent]),
            ("memsensor-drained", vec![&self.drained]),
            ("memsensor-kills", vec![&self.kills]),
        ]
    }
}

#[test]
fn expected_alerts_arrive_at_the_webhook_and_no_others() {
    let swap = Swap::new(256).expect("swap");
    let scope = Scope::with_swap("alerting", 64 * MIB).expect("scope");
    let small = Scope::new("alerting-kills", 16 * MIB).expect("scope");
    let mut hosts = Hosts::start(&scope, &small);
    let webhook = Webhook::start();
    let mut monitoring = Monitoring::start(&hosts.jobs(), &webhook);

    let start = Instant::now();
    let mut thrash = become_silent_or_thrash(&mut hosts, &scope, &webhook, &monitoring);
    let first_kill = become_unrecoverable(&hosts, &small, &webhook, &mut thrash);
    assert_inhibited(&webhook, start);

    // The records survive a restart of Prometheus that takes longer than the lookback of a query.
    // Alertmanager meanwhile drops alerts one by one and may send one that a dropped alert had
    // inhibited, so notifications from before the restart do not count.
    monitoring.restart_prometheus(Duration::from_secs(300 / FACTOR + 2));
    let restarted = Instant::now();
    kill_again(&hosts, &small, &webhook, &monitoring, first_kill);
    webhook.wait_for("MemsensorHostUnrecoverable", "memsensor-dying", restarted);
    let resumed = Instant::now();
    send(&hosts.dying, Signal::CONT);
    webhook.wait_for_end("MemsensorHostUnrecoverable", "memsensor-dying", resumed);
    assert_inhibited(&webhook, restarted);
    println!("all in {:.0} s", start.elapsed().as_secs_f64());

    drop((monitoring, thrash, scope, small));
    drop(swap);
}

/// Asserts that these alerts have not been sent since then.
fn assert_inhibited(webhook: &Webhook, since: Instant) {
    let never = |alert, job| webhook.has_none(alert, &format!("memsensor-{job}"), since);
    for job in ["fleet", "outage", "silent", "drained", "kills"] {
        never("MemsensorHostUnrecoverable", job);
    }
    never("MemsensorSilent", "drained");
    // Inhibited by other alerts.
    never("MemsensorSilent", "dying");
    never("MemsensorHostOverloaded", "fleet");
    never("MemsensorThrashingWithoutKill", "fleet");
}

/// The cases without a kill. Returns the thrashing process.
fn become_silent_or_thrash(
    hosts: &mut Hosts,
    scope: &Scope,
    webhook: &Webhook,
    monitoring: &Monitoring,
) -> Running {
    // Silence without memory pressure: one host is stopped, another was drained before.
    hosts.drained.ask(&["drain", "--reason", "kernel update"]).expect("drain");
    monitoring.wait_for("instance:memsensor:drained{job=\"memsensor-drained\"}", 1);
    hosts.drained.stop(Signal::TERM).expect("stop");
    send(&hosts.silent, Signal::STOP);
    let stopped = Instant::now();

    // A working set larger than the limit. Nothing is killed, because there is enough swap.
    let pressure = Instant::now();
    let thrash = Running(hog(scope, &["anon", "100", "loop", "600"]).spawn().expect("hog"));
    wait_until("overloaded", || has_state(&hosts.dying, "overloaded"));
    println!("overloaded after {:.1} s", pressure.elapsed().as_secs_f64());
    // A network outage: one overloaded and two ready hosts become silent at the same time.
    wait_until("overloaded before the outage", || has_state(&hosts.outage[0], "overloaded"));
    monitoring.wait_for("sum(instance:memsensor:unfit{job=\"memsensor-outage\"})", 1);
    let outage = Instant::now();
    for daemon in &hosts.outage {
        send(daemon, Signal::STOP);
    }

    webhook.wait_for("MemsensorSilent", "memsensor-silent", stopped);
    webhook.wait_for("MemsensorHostOverloaded", "memsensor-dying", pressure);
    webhook.wait_for("MemsensorFleetPressure", "memsensor-fleet", pressure);
    webhook.wait_for("MemsensorFleetSilent", "memsensor-outage", outage);
    monitoring.wait_for("sum(instance:memsensor:cut_off{job=\"memsensor-outage\"})", 3);
    let thrashes = webhook.wait_for("MemsensorThrashingWithoutKill", "memsensor-dying", pressure);
    assert_eq!((thrashes.receiver.as_str(), thrashes.labels["scope"].as_str()), ("/page", "web"));
    // In Prometheus the alerts of the fleet's hosts fire; Alertmanager inhibits them.
    let firing = "count(ALERTS{job=\"memsensor-fleet\",scope=\"web\",alertstate=\"firing\",\
                 alertname=~\"MemsensorHostOverloaded|MemsensorThrashingWithoutKill\"})";
    monitoring.wait_for(firing, 4);
    thrash
}

/// A thrashing host becomes silent, and a process on another host is killed. Returns the time of
/// the kill.
fn become_unrecoverable(
    hosts: &Hosts,
    small: &Scope,
    webhook: &Webhook,
    thrash: &mut Running,
) -> Instant {
    let stopped = Instant::now();
    send(&hosts.dying, Signal::STOP);
    let _ = thrash.0.kill();
    killed(small, &["anon", "32"]);
    let first_kill = Instant::now();
    let notice = webhook.wait_for("MemsensorCgroupOomKill", "memsensor-kills", first_kill);
    assert_eq!(notice.labels["cgroup"], small.path());
    let page = webhook.wait_for("MemsensorHostUnrecoverable", "memsensor-dying", stopped);
    assert_eq!(page.receiver, "/page");
    first_kill
}

/// More kills, more than five minutes after the first: 15 seconds here.
fn kill_again(
    hosts: &Hosts,
    small: &Scope,
    webhook: &Webhook,
    monitoring: &Monitoring,
    first_kill: Instant,
) {
    assert!(first_kill.elapsed() > Duration::from_secs(300 / FACTOR));
    monitoring.wait_for("count(instance:memsensor:silent{job=\"memsensor-kills\"} == 0)", 1);
    killed_apart(&hosts.kills, small);
    // The alert counts scrapes with kills, and cgroups are collected every five seconds.
    let path = small.path();
    let cgroup = format!("{{job=\"memsensor-kills\",cgroup=\"{path}\"}}");
    monitoring.wait_for(&format!("count(memsensor_cgroup_oom_kills_total{cgroup} == 2)"), 1);
    killed(small, &["anon", "32"]);
    let last_kill = Instant::now();
    webhook.wait_for("MemsensorOomKillsRepeated", "memsensor-kills", last_kill);
    webhook.wait_for("MemsensorHostOverloaded", "memsensor-kills", last_kill);
}
