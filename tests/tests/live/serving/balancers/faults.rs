//! What every load balancer does while memsensor is absent, frozen, stale, or flooded by one address:
//! on one host and on both. The web servers work, so no request may fail.
//!
//! All balancers are in front of the same two hosts, so each fault is made once. Not here: overload
//! (the other files of this folder).

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::JoinHandle,
};

use rustix::process::{Pid, Signal, kill_process};
use sensor_tests::support::scope::program;

use super::{
    Balancer, HOSTS, Host, envoy, haproxy::HaProxy, keepalived::Pair, kubernetes::Pods,
    nginx::Nginx, traefik,
};
use crate::{
    serving::{
        frozen::{Freezer, thread},
        limits::flood,
    },
    wait_until,
};

/// Silent connections that a flood holds to each port: more than all places.
const HELD: usize = 150;

/// What is wrong with memsensor on a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// One address holds all the connections that it can.
    Flooded,
    /// It answers, but its samples are too old.
    Stale,
    /// The kernel accepts connections, and nothing answers.
    Frozen,
    /// Nothing listens.
    Absent,
}

/// The hosts that get traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Traffic {
    Both,
    First,
    Second,
    /// Only Kubernetes, until the next probes.
    Neither,
}

/// A load balancer in front of both hosts.
pub(super) trait Front {
    fn name(&self) -> &'static str;

    /// The hosts that get traffic now. Panics if a request fails.
    fn traffic(&self) -> Traffic;

    /// Whether it knows that both hosts are fit. `true` where that is visible in the traffic; the last
    /// resort of HAProxy sends traffic to both, too.
    fn has_recovered(&self) -> bool {
        true
    }

    /// Called when a fault begins or grows.
    fn forget_polls(&self) {}

    /// Whether it has polled the host since, with or without an answer. `true` where that is visible in
    /// the traffic.
    fn has_polled(&self, _host: usize, _answered: bool) -> bool {
        true
    }
}

/// Balancers that treat a host without an answer as unhealthy: they have only one check.
const NO_ANSWER_IS_UNHEALTHY: [&str; 2] = ["Envoy", "Traefik"];

/// Traffic with the fault on the first `faulty` hosts.
fn expected(front: &str, fault: Fault, faulty: usize) -> Traffic {
    let usual = if front == "keepalived" { Traffic::First } else { Traffic::Both };
    let takes_out = match fault {
        Fault::Flooded => false,
        Fault::Stale => true,
        Fault::Frozen | Fault::Absent => NO_ANSWER_IS_UNHEALTHY.contains(&front),
    };
    match (front, fault) {
        // The last resort returns the first pod; the other one is then not needed.
        ("Kubernetes", Fault::Stale) if faulty == HOSTS => Traffic::First,
        _ if takes_out && (1..HOSTS).contains(&faulty) => Traffic::Second,
        _ => usual,
    }
}

/// Makes and ends faults.
struct Faults<'a> {
    hosts: &'a mut [Host; HOSTS],
    freezers: [&'a Freezer; HOSTS],
    floods: Vec<Flood>,
}

impl Faults<'_> {
    fn make(&mut self, fault: Fault, host: usize) {
        let daemon = &self.hosts[host].daemon;
        match fault {
            Fault::Flooded => self.floods.push(Flood::start(&self.hosts[host])),
            Fault::Stale => self.freezers[host].freeze(&thread(daemon, "sense")),
            Fault::Frozen => signal(&self.hosts[host], Signal::STOP),
            Fault::Absent => self.hosts[host].stop_memsensor(),
        }
    }

    fn end(&mut self, fault: Fault) {
        self.floods.clear();
        for (host, freezer) in self.hosts.iter().zip(self.freezers) {
            match fault {
                Fault::Stale => freezer.thaw(),
                Fault::Frozen => signal(host, Signal::CONT),
                Fault::Flooded | Fault::Absent => {}
            }
        }
    }
}

fn signal(host: &Host, signal: Signal) {
    let pid = Pid::from_raw(host.daemon.pid().cast_signed()).expect("a pid");
    kill_process(pid, signal).expect("a signal");
}

/// A flood of both ports of a host, from one address, until dropped.
struct Flood {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Flood {
    fn start(host: &Host) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let start = |to: &_| {
            let (to, stop) = (*to, Arc::clone(&stop));
            std::thread::spawn(move || flood(to, HELD, &stop))
        };
        let threads = host.daemon.listening.iter().map(start).collect();
        Self { stop, threads }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// A `memsensor` that records whether each `check` got an answer.
pub(super) struct RecordedChecks {
    dir: PathBuf,
}

impl RecordedChecks {
    pub(super) fn new(dir: &Path) -> Self {
        use std::os::unix::fs::PermissionsExt as _;
        let checks = Self { dir: dir.to_owned() };
        let memsensor = program("memsensor").expect("memsensor");
        let script = format!(
            "#!/bin/sh\nanswer=$('{}' \"$@\")\ncode=$?\ncase $answer in\n\
             '' | *UNKNOWN*) echo \"$* unanswered\" ;;\n*) echo \"$* answered\" ;;\nesac >>'{}'\n\
             [ -z \"$answer\" ] || echo \"$answer\"\nexit $code\n",
            memsensor.display(),
            checks.log().display(),
        );
        std::fs::write(checks.program(), script).expect("write");
        let executable = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(checks.program(), executable).expect("chmod");
        checks.forget();
        checks
    }

    pub(super) fn program(&self) -> PathBuf {
        self.dir.join("memsensor")
    }

    fn log(&self) -> PathBuf {
        self.dir.join("checks")
    }

    pub(super) fn forget(&self) {
        std::fs::write(self.log(), "").expect("write");
    }

    /// Whether there were three checks of the host since, all with or all without an answer.
    pub(super) fn has_polled(&self, host: usize, answered: bool) -> bool {
        let log = std::fs::read_to_string(self.log()).expect("the checks");
        let end = if answered { " answered" } else { " unanswered" };
        let url = format!("http://127.2.0.{}:9817 ", 11 + host);
        log.lines().filter(|line| line.contains(&url) && line.ends_with(end)).count() >= 3
    }
}

/// The hosts that got requests; none may fail.
pub(super) fn traffic_through(balancer: &Balancer) -> Traffic {
    let (first, failed) = balancer.send(20);
    assert!(failed == 0, "{failed} of 20 requests failed: {}", balancer.log());
    match first {
        0 => Traffic::Second,
        20 => Traffic::First,
        _ => Traffic::Both,
    }
}

fn wait_for(fronts: &[Box<dyn Front>], moment: &str, expected: impl Fn(&str) -> Traffic) {
    for front in fronts {
        let (name, mut last) = (front.name(), None);
        let expected = expected(name);
        let condition = format!("{name}, {moment}: {expected:?}");
        wait_until(&condition, || {
            let traffic = front.traffic();
            if last.replace(traffic) != Some(traffic) {
                println!("{name}, {moment}: {traffic:?}");
            }
            traffic == expected
        });
    }
}

#[test]
fn balancers_always_serve_whatever_happens_to_memsensor() {
    let mut hosts = Host::both();
    // Dropped in reverse order: the first one may own the mount.
    let freezer = Freezer::new(&hosts[0].daemon);
    let freezers = [&freezer, &Freezer::new(&hosts[1].daemon)];
    let fronts: [Box<dyn Front>; 6] = [
        Box::new(Pair::start()),
        Box::new(HaProxy::start("web")),
        Box::new(envoy::Envoy::start()),
        Box::new(traefik::Traefik::start()),
        Box::new(Nginx::start()),
        Box::new(Pods::new()),
    ];
    let mut faults = Faults { hosts: &mut hosts, freezers, floods: Vec::new() };
    for fault in [Fault::Flooded, Fault::Frozen, Fault::Stale, Fault::Absent] {
        let usual = |front: &str| expected(front, fault, 0);
        wait_for(&fronts, "before", usual);
        for front in &fronts {
            wait_until(&format!("{} knows both", front.name()), || front.has_recovered());
        }
        for host in 0..HOSTS {
            let moment = format!("{fault:?} on {} of {HOSTS}", host + 1);
            for front in &fronts {
                front.forget_polls();
            }
            faults.make(fault, host);
            let answers = matches!(fault, Fault::Flooded | Fault::Stale);
            for front in &fronts {
                let condition = format!("{}, {moment}: polls", front.name());
                wait_until(&condition, || front.has_polled(host, answers));
            }
            wait_for(&fronts, &moment, |front| expected(front, fault, host + 1));
        }
        if fault == Fault::Flooded {
            // Without keepalived, which takes fifteen seconds to move an address and back.
            follow_a_drain(&faults.hosts[0], &fronts[1..]);
        }
        faults.end(fault);
    }
}

/// Under a flood, balancers still see a change.
fn follow_a_drain(host: &Host, fronts: &[Box<dyn Front>]) {
    let (output, code) = host.daemon.ask(&["drain", "--reason", "update"]).expect("drain");
    assert_eq!(code, Some(0), "{output}");
    wait_for(fronts, "drained in a flood", |_| Traffic::Second);
    host.daemon.ask(&["undrain"]).expect("undrain");
    wait_for(fronts, "after a drain in a flood", |front| expected(front, Fault::Flooded, 2));
}
