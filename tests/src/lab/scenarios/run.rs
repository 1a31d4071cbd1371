//! Runs a scenario and returns its record.

use std::{
    path::Path,
    sync::atomic::{AtomicBool, AtomicU8, Ordering},
    thread::{Scope, ScopedJoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use rustix::mm::MlockAllFlags;
use sensor_core::common::clock::monotonic_ns;

use super::{
    catalogue::{Judged, Scenario},
    harm::{self, Phases},
    probe::{self, Request},
    record::{Course, Record},
    sampler::{self, WATCHED},
    scoring,
    services::{self, Service},
    testbed::{Running, Testbed},
    users,
};
use crate::support::daemon::Daemon;

/// Requests of this time are not counted: the limit has just been set.
const SETTLE: Duration = Duration::from_secs(3);
/// Duration of the calm phase.
const CALM: Duration = Duration::from_secs(6);
/// Sampling continues so long after the load: a late verdict still counts.
const AFTER: Duration = Duration::from_secs(1);
/// And until the weight is back, at most so long.
const BACK: Duration = Duration::from_secs(35);

/// Runs it, with memsensor's own record in a directory, if one is given. Needs root, 4 GiB on disk, and
/// util-linux.
pub fn run(scenario: &Scenario, record: Option<&Path>) -> Result<Record> {
    if scenario.guest {
        stay_in_memory()?;
    }
    let mut testbed = Testbed::new(scenario).context("set up the scenario")?;
    let mut before = testbed.start_before()?;
    for running in &mut before {
        running.ready()?;
    }
    let mut judge = Judge::start(scenario, &testbed)?;
    testbed.set_limits()?;
    let mut control = testbed.probe(true)?;
    control.ready()?;
    let path = testbed.watched().path();
    let daemon = Daemon::as_shipped(&configuration(&path, record))?;

    let name = if scenario.judged() == Judged::Host { "" } else { WATCHED };
    let (stop, weight) = (AtomicBool::new(false), AtomicU8::new(100));
    std::thread::scope(|threads| {
        let stopped = StopOnDrop(&stop);
        let requests = judge.requests(threads, &stop, scenario.service, &testbed)?;
        let control_requests = listen(threads, &mut control)?;
        std::thread::sleep(SETTLE);
        let samples = threads.spawn(|| sampler::sample(&stop, &path, testbed.pressure()));
        let weight_changes = threads.spawn(|| sampler::poll_weight(&stop, &daemon, name, &weight));
        let begin = monotonic_ns();
        std::thread::sleep(CALM);
        let load = monotonic_ns();
        let running = testbed.start_load()?;
        std::thread::sleep(Duration::from_secs(scenario.seconds));
        let phases = Phases { begin, load, end: monotonic_ns() };
        drop(running);
        wait_for_weight(&weight);
        drop(stopped);
        // A probe ends only when it is killed; a real service must answer the last requests.
        drop(control);
        judge.kill_probe();
        let requests = with_unserved(join(requests)?, scenario.service);
        drop(judge);
        let control = with_unserved(join(control_requests)?, Service::Probe);
        let course = Course {
            name: scenario.name.to_owned(),
            machine: machine()?,
            phases,
            harm: harm::judge(&requests, phases),
            control: harm::judge(&control, phases),
            weight_changes: join(weight_changes)??,
        };
        let mut samples = join(samples)??;
        scoring::count_slow(&requests, &course.harm, &mut samples);
        Ok(Record { course, samples })
    })
}

/// The watched cgroup as a scope, and where to record.
fn configuration(path: &str, record: Option<&Path>) -> String {
    let record = record.map_or_else(String::new, |dir| {
        format!("record.directory = \"{}\"\nrecord.max_mib = 4\n", dir.display())
    });
    format!("{record}[[scope]]\nname = \"{WATCHED}\"\ncgroup = \"{path}\"\n")
}

/// The users are in the guest, but they are not what runs short of memory.
fn stay_in_memory() -> Result<()> {
    let flags = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    rustix::mm::mlockall(flags).context("lock the memory of the users")
}

/// A probe that is killed serves nothing after; the clients of a real service go on asking.
fn with_unserved(requests: Vec<Request>, service: Service) -> Vec<Request> {
    match service {
        Service::Probe => harm::with_unserved(requests, probe::PERIOD, monotonic_ns()),
        _ => requests,
    }
}

fn wait_for_weight(weight: &AtomicU8) {
    std::thread::sleep(AFTER);
    let end = Instant::now() + BACK;
    while weight.load(Ordering::Relaxed) < 100 && Instant::now() < end {
        std::thread::sleep(AFTER / 10);
    }
}

/// The service that judges, until it is dropped.
enum Judge {
    Probe(Running),
    Real { _running: services::process::Running },
}

impl Judge {
    fn start(scenario: &Scenario, testbed: &Testbed) -> Result<Self> {
        if scenario.service != Service::Probe {
            return Ok(Self::Real { _running: scenario.service.start(&testbed.place())? });
        }
        let mut probe = testbed.probe(false)?;
        probe.ready()?;
        Ok(Self::Probe(probe))
    }

    /// Ends the probe, if it is one.
    fn kill_probe(&mut self) {
        if let Self::Probe(probe) = self {
            probe.kill();
        }
    }

    /// Its requests, once all of them are known.
    fn requests<'t>(
        &mut self,
        threads: &'t Scope<'t, '_>,
        stop: &'t AtomicBool,
        service: Service,
        testbed: &'t Testbed,
    ) -> Result<ScopedJoinHandle<'t, Vec<Request>>> {
        match self {
            Self::Probe(probe) => listen(threads, probe),
            Self::Real { .. } => {
                Ok(threads.spawn(move || users::ask(stop, &|| service.connect(&testbed.place()))))
            }
        }
    }
}

/// Stops the threads, also after an error.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn join<T>(thread: ScopedJoinHandle<'_, T>) -> Result<T> {
    thread.join().map_err(|_| anyhow!("a thread panicked"))
}

fn listen<'t>(
    threads: &'t Scope<'t, '_>,
    running: &mut Running,
) -> Result<ScopedJoinHandle<'t, Vec<Request>>> {
    let out = running.out.take().context("its output is already read")?;
    Ok(threads.spawn(|| probe::listen(out)))
}

/// Kernel and number of CPUs.
pub fn machine() -> Result<String> {
    // The version, without the vendor's suffix.
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let kernel = release.split('-').next().unwrap_or(&release);
    Ok(format!("Linux {kernel}, {} CPUs", std::thread::available_parallelism()?))
}

/// Time to start the service and the daemon and to make files and swap, in seconds.
const SET_UP: u64 = 5;

/// Estimated duration of a scenario, in seconds.
pub fn duration(scenario: &Scenario) -> u64 {
    (SETTLE + CALM + AFTER).as_secs() + scenario.seconds + SET_UP
}
