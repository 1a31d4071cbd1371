//! The sensing loop: takes a sample at a fixed interval, or when the kernel reports pressure.
//!
//! It depends on nothing that serves: readers load the last published value and cannot delay it.
//! Scans of processes come after the verdict, never before it.

use std::{
    collections::BTreeMap,
    os::fd::AsFd as _,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Result;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sensor_core::{
    common::{clock::monotonic_ns, counter::nanos},
    model::{
        counters::{ByCause, CgroupReclaim, InFlight, ProgramCost},
        coverage::Coverage,
        snapshot::{Sample, Snapshot},
    },
    verdict::{scope::ScopeVerdict, signals::Signal, state::VerdictState},
};
use sensor_ebpf::{
    loss::{self, Loss},
    spec::Row,
};
use tracing::{error, info};

use super::{
    history::{RowHistory, SettledRows},
    scopes::Scopes,
    settings::Settings,
};
use crate::{
    kernel::read::Reader,
    publish::{
        control::{RescanRequest, Shutdown},
        loop_lag::LoopLags,
        sample::PublishedSample,
    },
    usage::scanner::{ProcessScanner, ScanPriority},
};

/// Samples per reading of the stall clocks of all cgroups, which takes two system calls for each.
const SAMPLES_PER_CLOCK: u64 = 10;

/// Samples per search for OOM victims whose exits were missed.
const SAMPLES_PER_VICTIMS: u64 = 600;

/// Share of time stalled from which on samples are more frequent.
const PRESSED: f64 = 0.02;

/// The same for I/O: a healthy disk always has some.
const PRESSED_IO: f64 = 0.1;

/// Data that the sampler shares with other threads.
#[derive(Debug, Clone)]
pub struct Shared {
    /// Where samples are published.
    pub published: PublishedSample,
    /// Which probes are attached.
    pub coverage: Arc<Coverage>,
    /// Lag of this loop.
    pub lags: Arc<LoopLags>,
    /// Ends the loop.
    pub shutdown: Arc<Shutdown>,
    /// Requests for a scan of processes.
    pub rescan: Arc<RescanRequest>,
}

/// Takes samples; owns the reader, and with it the attached programs.
#[allow(missing_debug_implementations, reason = "aya's maps have none")]
pub struct Sampler {
    /// `None` on a host where nothing could be loaded: then snapshots have no counts.
    reader: Option<Reader>,
    scopes: Scopes,
    scanner: ProcessScanner,
    shared: Shared,
    history: RowHistory,
    clocks: CgroupClocks,
    interval: Duration,
    pressed_interval: Duration,
    /// When the next sample is due: CLOCK_MONOTONIC nanoseconds.
    due_ns: u64,
    samples: u64,
}

/// Clocks that are read only every few samples.
#[derive(Debug, Default)]
struct CgroupClocks {
    stalls: Arc<[(u64, ByCause)]>,
    reclaim: Arc<[CgroupReclaim]>,
    /// Time of the reading: CLOCK_MONOTONIC nanoseconds.
    read_ns: Option<u64>,
    /// Entries that the kernel half has evicted so far.
    evicted: u64,
}

/// The counts of one sample.
#[derive(Debug, Default)]
struct Counts {
    rows: Vec<Row>,
    in_flight: InFlight,
    costs: Vec<ProgramCost>,
    reports_skipped: bool,
    /// Stall clocks of scopes without PSI, by cgroup id.
    scope_stalls: BTreeMap<u64, u64>,
}

impl Sampler {
    /// Takes no sample yet.
    pub fn new(
        settings: &Settings,
        reader: Option<Reader>,
        scopes: Scopes,
        scanner: ProcessScanner,
        shared: Shared,
    ) -> Self {
        let Settings { interval, pressed_interval, window, .. } = *settings;
        Self {
            reader,
            scopes,
            scanner,
            shared,
            history: RowHistory::new(window, interval),
            clocks: CgroupClocks::default(),
            interval,
            pressed_interval: pressed_interval.min(interval),
            due_ns: monotonic_ns(),
            samples: 0,
        }
    }

    /// Takes samples until shutdown. A failure is logged once per run of failures; the last sample
    /// then becomes stale, which readiness reports.
    pub fn run(mut self) {
        // A client may ask for processes as soon as the first sample is published.
        self.scanner.scan(self.reader.as_mut(), monotonic_ns(), ScanPriority::Requested);
        let mut failing = false;
        while !self.shared.shutdown.is_requested() {
            let mut pressed = false;
            match self.sample() {
                Ok(is_pressed) => {
                    pressed = is_pressed;
                    if failing {
                        info!("sampling works again");
                    }
                    failing = false;
                }
                Err(e) if !failing => {
                    error!("sampling fails, published data becomes stale: {e:#}");
                    failing = true;
                }
                Err(_) => {}
            }
            self.wait(pressed);
        }
    }

    /// Takes one sample, evaluates it, publishes it, then scans processes if that is due. Returns
    /// whether there is pressure.
    fn sample(&mut self) -> Result<bool> {
        let (taken_ns, counts) = self.count()?;
        let scope_stalls = counts.scope_stalls.clone();
        let snapshot = self.snapshot(taken_ns, counts);
        let scopes = self.scopes.evaluate(&snapshot, &scope_stalls, &self.shared.coverage);
        let pressed = scopes.iter().any(is_pressed);
        self.shared.published.store(Some(Arc::new(Sample { snapshot, scopes })));
        let now = monotonic_ns();
        self.shared.lags.sense.tick(now, self.due_ns);
        self.due_ns = now.saturating_add(nanos(self.interval(pressed)));
        let priority = if self.shared.rescan.take() {
            ScanPriority::Requested
        } else if pressed {
            ScanPriority::Pressed
        } else {
            ScanPriority::Calm
        };
        self.scanner.scan(self.reader.as_mut(), now, priority);
        Ok(pressed)
    }

    fn interval(&self, pressed: bool) -> Duration {
        if pressed { self.pressed_interval } else { self.interval }
    }

    /// Reads the kernel half, and when that was.
    fn count(&mut self) -> Result<(u64, Counts)> {
        self.samples += 1;
        let Some(reader) = &mut self.reader else { return Ok((monotonic_ns(), Counts::default())) };
        // Rows before slots: see RowHistory::settle.
        let mut rows = reader.rows()?;
        // Read before the slots: a task in a slot was in flight at this time, or entered later.
        // With a time read afterwards, a stall that has ended in the meantime would count until
        // then.
        let taken_ns = monotonic_ns();
        let slots = reader.slots(taken_ns)?;
        if self.samples % SAMPLES_PER_VICTIMS == 1 {
            reader.drop_old_victims(taken_ns);
        }
        if self.samples % SAMPLES_PER_CLOCK == 1 {
            let losses = &rows[loss::ROW as usize];
            let evicted =
                |added: usize, present: usize| losses[added].saturating_sub(present as u64);
            let (stalls, present) = reader.stall_clock(&slots, taken_ns)?;
            let reclaim: Arc<[_]> = reader.reclaim()?.into();
            let evicted = evicted(loss::CGROUPS_ADDED, present)
                + evicted(loss::HISTOGRAMS_ADDED, reclaim.len());
            let stalls = stalls.into();
            self.clocks = CgroupClocks { stalls, reclaim, read_ns: Some(taken_ns), evicted };
        }
        let losses = &mut rows[loss::ROW as usize];
        losses[Loss::CgroupEvicted as usize] = self.clocks.evicted;
        let skipped = reader.recursion_misses();
        losses[Loss::Recursion as usize] = skipped.unwrap_or_default();
        let counts = Counts {
            rows,
            in_flight: InFlight::of(&slots, taken_ns),
            costs: reader.costs(),
            reports_skipped: skipped.is_some(),
            scope_stalls: reader.stalls_of(&self.scopes.ids_without_psi(), &slots, taken_ns),
        };
        Ok((taken_ns, counts))
    }

    fn snapshot(&mut self, taken_ns: u64, counts: Counts) -> Snapshot {
        let Counts { rows, in_flight, costs, reports_skipped, .. } = counts;
        let SettledRows { rows, window_start, recent_start } =
            self.history.settle(taken_ns, rows, &in_flight);
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
        Snapshot {
            taken_ns,
            taken_unix: since_epoch.unwrap_or_default().as_secs_f64(),
            rows,
            window_start,
            recent_start,
            reports_skipped,
            in_flight,
            costs,
            stall_clock: Arc::clone(&self.clocks.stalls),
            stall_clock_ns: self.clocks.read_ns,
            reclaim: Arc::clone(&self.clocks.reclaim),
        }
    }

    /// Waits for the next sample, for pressure, for a request or for shutdown.
    fn wait(&self, pressed: bool) {
        // While there is pressure, the triggers add nothing.
        let triggers = if pressed { &[] } else { self.scopes.triggers() };
        let Ok(timeout) = Timespec::try_from(self.interval(pressed)) else { return };
        let Shared { shutdown, rescan, .. } = &self.shared;
        let events = [shutdown.as_fd(), rescan.as_fd()];
        let events = events.iter().map(|event| PollFd::new(event, PollFlags::IN));
        let triggers = triggers.iter().map(|file| PollFd::new(file, PollFlags::PRI));
        let mut all: Vec<_> = events.chain(triggers).collect();
        // If interrupted, the next sample comes early.
        let _ = poll(&mut all, Some(&timeout));
    }
}

/// Whether a scope is under pressure, so that samples are more frequent.
fn is_pressed(scope: &ScopeVerdict) -> bool {
    let signals = &scope.verdict.signals;
    let reaches = |signal, threshold| signals.get(signal).is_some_and(|v| v >= threshold);
    scope.verdict.position.state != VerdictState::Ready
        || reaches(Signal::Some1s, PRESSED)
        || reaches(Signal::Stalled1s, PRESSED)
        || reaches(Signal::IoFull1s, PRESSED_IO)
}
