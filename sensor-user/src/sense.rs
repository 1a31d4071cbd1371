//! The sensing loop: reads the kernel half at a fixed interval and publishes a [`Snapshot`].
//!
//! It depends on nothing that serves: readers take the last published value and cannot hold it up.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Result;
use arc_swap::ArcSwapOption;
use sensor_ebpf::loss::{self, Loss};
use tracing::{error, info};

use crate::{
    host::clock::monotonic_ns,
    kernel::read::{Inside, Reader},
    snapshot::{History, Snapshot},
};

/// Where the last snapshot is found; empty until the first.
pub type Published = Arc<ArcSwapOption<Snapshot>>;

/// Takes samples; owns the reader, and with it what is attached.
#[allow(missing_debug_implementations, reason = "aya's maps have none")]
pub struct Sampler {
    reader: Option<Reader>,
    history: History,
    published: Published,
    samples: u64,
    cgroups_evicted: u64,
}

/// Counting the cgroups of the stall clock takes two system calls for each: not at every sample.
const CGROUPS_EVERY: u64 = 10;

impl Sampler {
    /// `reader` is `None` on a host where nothing could be loaded: then snapshots are empty.
    pub fn new(reader: Option<Reader>, window: Duration, published: Published) -> Self {
        Self { reader, history: History::new(window), published, samples: 0, cgroups_evicted: 0 }
    }

    /// Takes one sample and publishes it.
    pub fn sample(&mut self) -> Result<()> {
        let Some(reader) = &self.reader else {
            let taken_ns = monotonic_ns();
            let (rows, window_start) =
                self.history.settle(taken_ns, Vec::new(), &Inside::default());
            self.publish(taken_ns, rows, window_start, Inside::default(), Vec::new());
            return Ok(());
        };
        // Rows before slots: see History::settle.
        let mut rows = reader.rows()?;
        if self.samples.is_multiple_of(CGROUPS_EVERY) {
            let added = rows[loss::ROW as usize][loss::CGROUPS_ADDED];
            self.cgroups_evicted = added.saturating_sub(reader.cgroups());
        }
        self.samples += 1;
        let losses = &mut rows[loss::ROW as usize];
        losses[Loss::CgroupEvicted as usize] = self.cgroups_evicted;
        losses[Loss::Recursion as usize] = reader.recursion_misses();
        // Before the slots are read: one that is seen active was so at this time, or began later.
        // Afterwards, a stall could have ended long since, and would count until then.
        let taken_ns = monotonic_ns();
        let slots = reader.slots()?;
        let costs = reader.costs();
        let inside = Inside::of(&slots, taken_ns);
        let (rows, window_start) = self.history.settle(taken_ns, rows, &inside);
        self.publish(taken_ns, rows, window_start, inside, costs);
        Ok(())
    }

    fn publish(
        &self,
        taken_ns: u64,
        rows: Arc<Vec<sensor_ebpf::spec::Row>>,
        window_start: Arc<Vec<sensor_ebpf::spec::Row>>,
        inside: Inside,
        costs: Vec<crate::kernel::read::Cost>,
    ) {
        let taken_unix =
            SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        self.published.store(Some(Arc::new(Snapshot {
            taken_ns,
            taken_unix,
            rows,
            window_start,
            inside,
            costs,
        })));
    }

    /// Samples until `stop` is set. A failed sample is logged once per run of failures and leaves
    /// the last snapshot to go stale, which readiness then says.
    pub fn run(mut self, interval: Duration, stop: &AtomicBool) {
        let mut failing = false;
        while !stop.load(Ordering::Relaxed) {
            match self.sample() {
                Ok(()) if failing => {
                    info!("sampling works again");
                    failing = false;
                }
                Err(e) if !failing => {
                    error!("sampling fails, what is served goes stale: {e:#}");
                    failing = true;
                }
                _ => {}
            }
            std::thread::park_timeout(interval);
        }
    }
}
