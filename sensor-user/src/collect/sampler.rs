//! The sensing loop: reads the kernel half at a fixed interval and publishes a [`Snapshot`].
//!
//! It depends on nothing that serves: readers take the last published value and cannot hold it up.

use std::{
    collections::BTreeMap,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};
use arc_swap::ArcSwapOption;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use sensor_ebpf::{
    loss::{self, Loss},
    spec::Row,
};
use tracing::{error, info};

use crate::{
    census::{ProcessScanner, ScanPriority},
    config::Config,
    deadlines::LoopLags,
    host::clock::monotonic_ns,
    kernel::{
        load::Coverage,
        read::{ByCause, CgroupReclaim, Cost, InFlight, Reader},
    },
    scopes::Scopes,
    snapshot::{History, Settled, Snapshot},
    verdict::{VerdictState, signals::Signal},
};

/// Where the last snapshot is found; empty until the first.
pub type Published = Arc<ArcSwapOption<Snapshot>>;

/// What our threads have in common.
#[derive(Debug, Clone)]
pub struct Common {
    /// What was measured last.
    pub published: Published,
    /// What is attached.
    pub coverage: Arc<Coverage>,
    /// Whether loops are on time.
    pub deadlines: Arc<LoopLags>,
    /// Ends them.
    pub wake: Arc<Wake>,
}

/// Takes samples; owns the reader, and with it what is attached.
#[allow(missing_debug_implementations, reason = "aya's maps have none")]
pub struct Sampler {
    reader: Option<Reader>,
    common: Common,
    scopes: Scopes,
    history: History,
    /// When the next sample is due.
    due_ns: u64,
    samples: u64,
    cgroups_evicted: u64,
    stall_clock: Arc<[(u64, ByCause)]>,
    stall_clock_ns: Option<u64>,
    reclaim: Arc<[CgroupReclaim]>,
    /// Between samples: when it is calm, and under pressure.
    intervals: [Duration; 2],
    census: ProcessScanner,
}

/// Reading the stall clock of all cgroups takes two system calls for each: not at every sample.
const CGROUPS_EVERY: u64 = 10;

/// A share of time that is pressure enough to look more often.
const PRESSED: f64 = 0.02;

/// The same for I/O, of which a healthy disk has some at any time.
const PRESSED_IO: f64 = 0.1;

/// Ends our threads, the sensing one also while it waits; and has that one look who has the memory.
#[derive(Debug)]
pub struct Wake {
    stop: AtomicBool,
    stop_event: OwnedFd,
    look_event: OwnedFd,
}

impl Wake {
    /// Not yet.
    pub fn new() -> Result<Self> {
        let event =
            || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).context("eventfd");
        Ok(Self { stop: AtomicBool::new(false), stop_event: event()?, look_event: event()? })
    }

    /// Whether it has been ended.
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Waits so long, or until it is ended.
    pub fn wait(&self, time: Duration) {
        let Ok(timeout) = Timespec::try_from(time) else { return };
        // Interrupted: its caller looks once more.
        let _ = poll(&mut [PollFd::new(&self.stop_event, PollFlags::IN)], Some(&timeout));
    }

    /// Ends it.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        rouse(&self.stop_event);
    }

    /// Has the sensing thread look who has the memory, now.
    pub fn look(&self) {
        rouse(&self.look_event);
    }

    /// Whether it was asked to.
    fn takes_look(&self) -> bool {
        rustix::io::read(&self.look_event, &mut [0; 8]).is_ok()
    }
}

fn rouse(event: &OwnedFd) {
    // It can only be full, and then it wakes as well.
    let _ = rustix::io::write(event, &1u64.to_ne_bytes());
}

impl Sampler {
    /// `reader` is `None` on a host where nothing could be loaded: then snapshots have no counts.
    pub fn new(
        config: &Config,
        reader: Option<Reader>,
        census: ProcessScanner,
        scopes: Scopes,
        common: Common,
    ) -> Self {
        Self {
            reader,
            common,
            scopes,
            history: History::new(config.window, config.interval),
            due_ns: monotonic_ns(),
            samples: 0,
            cgroups_evicted: 0,
            stall_clock: Arc::default(),
            stall_clock_ns: None,
            reclaim: Arc::default(),
            intervals: [config.interval, config.pressed_interval.min(config.interval)],
            census,
        }
    }

    /// Takes one sample, judges it and publishes it. Returns whether there is pressure.
    pub fn sample(&mut self) -> Result<bool> {
        let asked = self.common.wake.takes_look();
        if asked || self.samples == 0 {
            // Only these looks come before the verdict. The first: somebody may ask as soon as we answer.
            // After a kill: its record is waiting.
            self.census.look(self.reader.as_mut(), monotonic_ns(), ScanPriority::Now);
        }
        let mut snapshot = self.look()?;
        snapshot.scopes = self.scopes.judge(&snapshot, &self.common.coverage);
        let pressed = snapshot.scopes.iter().any(|judged| {
            let signal = |s| judged.verdict.signals.get(s).is_some_and(|v| v >= PRESSED);
            judged.verdict.position.state != VerdictState::Ready
                || signal(Signal::Some1s)
                || signal(Signal::Stalled1s)
                || judged.verdict.signals.get(Signal::IoFull1s).is_some_and(|v| v >= PRESSED_IO)
        });
        self.common.published.store(Some(Arc::new(snapshot)));
        let now = monotonic_ns();
        self.common.deadlines.sense.turned(now, self.due_ns);
        let interval = self.intervals[usize::from(pressed)].as_nanos();
        self.due_ns = now.saturating_add(u64::try_from(interval).unwrap_or(u64::MAX));
        // The verdict does not wait for it.
        let when = if pressed { ScanPriority::Pressed } else { ScanPriority::Calm };
        self.census.look(self.reader.as_mut(), now, when);
        Ok(pressed)
    }

    /// What the kernel half counted, not yet judged.
    fn look(&mut self) -> Result<Snapshot> {
        self.samples += 1;
        let Some(reader) = &self.reader else {
            return Ok(self.settled(monotonic_ns(), Vec::new(), InFlight::default(), Vec::new()));
        };
        // Rows before slots: see History::settle.
        let mut rows = reader.rows()?;
        // Before the slots are read: one that is seen active was so at this time, or began later.
        // Afterwards, a stall could have ended long since, and would count until then.
        let taken_ns = monotonic_ns();
        let slots = reader.slots()?;
        if self.samples % CGROUPS_EVERY == 1 {
            let gone = |added: usize, there: usize| {
                rows[loss::ROW as usize][added].saturating_sub(there as u64)
            };
            let (clock, remembered) = reader.stall_clock(&slots, taken_ns)?;
            self.stall_clock = clock.into();
            self.stall_clock_ns = Some(taken_ns);
            self.reclaim = reader.reclaim()?.into();
            self.cgroups_evicted = gone(loss::CGROUPS_ADDED, remembered)
                + gone(loss::HISTOGRAMS_ADDED, self.reclaim.len());
        }
        let losses = &mut rows[loss::ROW as usize];
        losses[Loss::CgroupEvicted as usize] = self.cgroups_evicted;
        let skipped = reader.recursion_misses();
        losses[Loss::Recursion as usize] = skipped.unwrap_or_default();
        let costs = reader.costs();
        let inside = InFlight::of(&slots, taken_ns);
        let stalls = reader.stalls_of(&self.scopes.without_psi(), &slots, taken_ns);
        let tells_skipped = skipped.is_some();
        Ok(Snapshot { tells_skipped, stalls, ..self.settled(taken_ns, rows, inside, costs) })
    }

    fn settled(
        &mut self,
        taken_ns: u64,
        rows: Vec<Row>,
        inside: InFlight,
        costs: Vec<Cost>,
    ) -> Snapshot {
        let Settled { rows, window_start, recent_start } =
            self.history.settle(taken_ns, rows, &inside);
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let taken_unix = since.unwrap_or_default().as_secs_f64();
        Snapshot {
            taken_ns,
            taken_unix,
            rows,
            window_start,
            recent_start,
            tells_skipped: false,
            inside,
            costs,
            stalls: BTreeMap::new(),
            stall_clock: Arc::clone(&self.stall_clock),
            stall_clock_ns: self.stall_clock_ns,
            reclaim: Arc::clone(&self.reclaim),
            scopes: Vec::new(),
            who: self.census.last(),
        }
    }

    /// Samples until it is told to stop. A failed sample is logged once per run of failures and
    /// leaves the last snapshot to go stale, which readiness then says.
    pub fn run(mut self) {
        let mut failing = false;
        while !self.common.wake.is_stopped() {
            let mut pressed = false;
            match self.sample() {
                Ok(now) => {
                    pressed = now;
                    if failing {
                        info!("sampling works again");
                    }
                    failing = false;
                }
                Err(e) if !failing => {
                    error!("sampling fails, what is served goes stale: {e:#}");
                    failing = true;
                }
                Err(_) => {}
            }
            self.wait(pressed);
        }
    }

    /// Waits for the next sample, or for pressure.
    fn wait(&self, pressed: bool) {
        let interval = self.intervals[usize::from(pressed)];
        // While there is pressure, the triggers say nothing new.
        let triggers = if pressed { &[] } else { self.scopes.triggers() };
        let Ok(timeout) = Timespec::try_from(interval) else { return };
        let Wake { stop_event, look_event, .. } = &*self.common.wake;
        let ours = [stop_event, look_event].map(|event| PollFd::new(event, PollFlags::IN));
        let triggers = triggers.iter().map(|file| PollFd::new(file, PollFlags::PRI));
        let mut all: Vec<_> = ours.into_iter().chain(triggers).collect();
        // Interrupted: one sample more.
        let _ = poll(&mut all, Some(&timeout));
    }
}
