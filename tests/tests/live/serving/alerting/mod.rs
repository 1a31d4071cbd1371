//! The shipped rules in Debian's Prometheus and the shipped configuration in its Alertmanager, over real
//! sensors and real pressure: which alerts arrive at a webhook, which do not, and when.
//!
//! Durations are a twentieth of the shipped ones (see [`sensor_tests::support::alerting`]), or this would take an
//! hour. Each case is a job of its own, because rules compare the hosts of a job with each other.

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

/// How many times faster than shipped.
const FACTOR: u64 = 20;
/// Of scrapes and evaluations: a twentieth of ten seconds.
const STEP: &str = "500ms";
/// The longest that an alert may take here: `for` of ten minutes, what leads to it, and a turn of a group.
const PATIENCE: Duration = Duration::from_secs(100);

/// Judges a cgroup by the rules as they are shipped.
fn watching(scope: &Scope) -> Daemon {
    let web = format!("[[scope]]\nname = \"web\"\ncgroup = \"{}\"\n", scope.path());
    Daemon::as_shipped(&web).expect("daemon")
}

/// One that is fit, whatever happens on this machine.
fn fit() -> Daemon {
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

/// The hosts, each with a part of its own.
struct Hosts {
    dying: Daemon,
    fleet: [Daemon; 2],
    cut: [Daemon; 3],
    quiet: Daemon,
    planned: Daemon,
    kills: Daemon,
}

impl Hosts {
    fn start(thrashing: &Scope, killed: &Scope) -> Self {
        Self {
            dying: watching(thrashing),
            fleet: [watching(thrashing), watching(thrashing)],
            cut: [watching(thrashing), fit(), fit()],
            quiet: fit(),
            planned: fit(),
            kills: judging_at("", killed),
        }
    }

    fn jobs(&self) -> [(&'static str, Vec<&Daemon>); 6] {
        [
            ("memsensor-dying", vec![&self.dying]),
            ("memsensor-fleet", self.fleet.iter().collect()),
            ("memsensor-cut", self.cut.iter().collect()),
            ("memsensor-quiet", vec![&self.quiet]),
            ("memsensor-planned", vec![&self.planned]),
            ("memsensor-kills", vec![&self.kills]),
        ]
    }
}

#[test]
fn the_right_alerts_arrive_at_the_webhook_and_no_others() {
    let swap = Swap::new(256).expect("swap");
    let scope = Scope::with_swap("alerting", 64 * MIB).expect("scope");
    let small = Scope::new("alerting-kills", 16 * MIB).expect("scope");
    let mut hosts = Hosts::start(&scope, &small);
    let webhook = Webhook::start();
    let mut monitoring = Monitoring::start(&hosts.jobs(), &webhook);

    let begun = Instant::now();
    let mut thrash = fall_silent_or_thrash(&mut hosts, &scope, &webhook, &monitoring);
    let first = die_of_it(&hosts, &small, &webhook, &mut thrash);
    kept_back(&webhook, begun);

    // What is remembered of it outlives a Prometheus that is away for longer than a query looks back.
    // Alertmanager forgets meanwhile, one alert before the other, and says what the first had kept back: what
    // is said then does not count.
    monitoring.restart_prometheus(Duration::from_secs(300 / FACTOR + 2));
    let back = Instant::now();
    be_killed_again(&hosts, &small, &webhook, &monitoring, first);
    webhook.wait_for("MemsensorHostUnrecoverable", "memsensor-dying", back);
    let mended = Instant::now();
    send(&hosts.dying, Signal::CONT);
    webhook.wait_for_end("MemsensorHostUnrecoverable", "memsensor-dying", mended);
    kept_back(&webhook, back);
    println!("all in {:.0} s", begun.elapsed().as_secs_f64());

    drop((monitoring, thrash, scope, small));
    drop(swap);
}

/// What must not have been said since then.
fn kept_back(webhook: &Webhook, since: Instant) {
    let never = |alert, job| webhook.has_none(alert, &format!("memsensor-{job}"), since);
    for job in ["fleet", "cut", "quiet", "planned", "kills"] {
        never("MemsensorHostUnrecoverable", job);
    }
    never("MemsensorSilent", "planned");
    // Alertmanager keeps back what another alert says already.
    never("MemsensorSilent", "dying");
    never("MemsensorHostOverloaded", "fleet");
    never("MemsensorThrashingWithoutKill", "fleet");
}

/// All that comes before a kill, for a kill excuses thrash; returns what thrashes.
fn fall_silent_or_thrash(
    hosts: &mut Hosts,
    scope: &Scope,
    webhook: &Webhook,
    monitoring: &Monitoring,
) -> Running {
    // Silence without pressure: one just stops, another was drained before.
    hosts.planned.ask(&["drain", "--reason", "kernel update"]).expect("drain");
    monitoring.wait_for("instance:memsensor:drained{job=\"memsensor-planned\"}", 1);
    hosts.planned.stop(Signal::TERM).expect("stop");
    send(&hosts.quiet, Signal::STOP);
    let stopped = Instant::now();

    // More is used than there is, and nothing is killed: the swap is fast.
    let pressure = Instant::now();
    let thrash = Running(hog(scope, &["anon", "100", "loop", "600"]).spawn().expect("hog"));
    wait_until("overloaded", || has_state(&hosts.dying, "overloaded"));
    println!("overloaded after {:.1} s", pressure.elapsed().as_secs_f64());
    // A cut of the network, as Prometheus sees one: all three at once, of which one is overloaded.
    wait_until("the cut one too", || has_state(&hosts.cut[0], "overloaded"));
    monitoring.wait_for("sum(instance:memsensor:unfit{job=\"memsensor-cut\"})", 1);
    let at_cut = Instant::now();
    for daemon in &hosts.cut {
        send(daemon, Signal::STOP);
    }

    webhook.wait_for("MemsensorSilent", "memsensor-quiet", stopped);
    webhook.wait_for("MemsensorHostOverloaded", "memsensor-dying", pressure);
    webhook.wait_for("MemsensorFleetPressure", "memsensor-fleet", pressure);
    webhook.wait_for("MemsensorFleetSilent", "memsensor-cut", at_cut);
    monitoring.wait_for("sum(instance:memsensor:cut_off{job=\"memsensor-cut\"})", 3);
    let thrashes = webhook.wait_for("MemsensorThrashingWithoutKill", "memsensor-dying", pressure);
    assert_eq!((thrashes.receiver.as_str(), thrashes.labels["scope"].as_str()), ("/page", "web"));
    // To Prometheus the fleet's hosts drain and thrash as well.
    let fires = "count(ALERTS{job=\"memsensor-fleet\",scope=\"web\",alertstate=\"firing\",\
                 alertname=~\"MemsensorHostOverloaded|MemsensorThrashingWithoutKill\"})";
    monitoring.wait_for(fires, 4);
    thrash
}

/// A host that thrashes dies; of another a process is killed. Returns when that was.
fn die_of_it(hosts: &Hosts, small: &Scope, webhook: &Webhook, thrash: &mut Running) -> Instant {
    let died = Instant::now();
    send(&hosts.dying, Signal::STOP);
    let _ = thrash.0.kill();
    killed(small, &["anon", "32"]);
    let first = Instant::now();
    let notice = webhook.wait_for("MemsensorCgroupOomKill", "memsensor-kills", first);
    assert_eq!(notice.labels["cgroup"], small.path());
    let gone = webhook.wait_for("MemsensorHostUnrecoverable", "memsensor-dying", died);
    assert_eq!(gone.receiver, "/page");
    first
}

/// Again, and five minutes after the first: fifteen seconds here.
fn be_killed_again(
    hosts: &Hosts,
    small: &Scope,
    webhook: &Webhook,
    monitoring: &Monitoring,
    first: Instant,
) {
    assert!(first.elapsed() > Duration::from_secs(300 / FACTOR));
    monitoring.wait_for("count(instance:memsensor:silent{job=\"memsensor-kills\"} == 0)", 1);
    killed_apart(&hosts.kills, small);
    killed(small, &["anon", "32"]);
    let again = Instant::now();
    webhook.wait_for("MemsensorOomKillsRepeated", "memsensor-kills", again);
    webhook.wait_for("MemsensorHostOverloaded", "memsensor-kills", again);
}
