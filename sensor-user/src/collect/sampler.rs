//! The sensing loop: takes a sample at a fixed interval, or when the kernel reports pressure.
//!
//! It depends on nothing that serves: readers load the last published value and cannot delay it. It
//! opens no files and scans no processes (`scan_loop`).

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwapOption;
use rustix::event::{PollFd, PollFlags};
use sensor_core::{
    common::{clock::monotonic_ns, counter::nanos},
    model::{
        coverage::Coverage,
        snapshot::{Sample, Snapshot},
    },
};

use super::{
    counts::{CountReader, Counts},
    history::{RowHistory, SettledRows},
    pressed::is_pressed,
    scopes::{self, Scopes},
    settings::Settings,
};
use crate::{
    kernel::read::Reader,
    publish::{
        control::Shutdown, looks::LookWriter, loop_lag::LoopLags, sample::PublishedSample,
        wait::wait_for,
    },
};

/// Time to the next sample while new files of a scope are on their way.
const PENDING_INTERVAL: Duration = Duration::from_millis(50);

/// Settings of the sensing loop that a reload replaces.
#[derive(Debug, Clone)]
pub struct Replaced {
    /// Rules and weights of all scopes.
    pub evaluation: scopes::Settings,
    /// Time between two samples under pressure.
    pub pressed_interval: Duration,
}

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
    /// Settings that a reload has replaced, until the next sample takes them.
    pub replaced: Arc<ArcSwapOption<Replaced>>,
}

/// Takes samples.
#[allow(missing_debug_implementations, reason = "aya's maps have none")]
pub struct Sampler {
    /// `None` on a host where nothing could be loaded: then snapshots have no counts.
    reader: Option<Reader>,
    scopes: Scopes,
    shared: Shared,
    looks: LookWriter,
    counts: CountReader,
    history: RowHistory,
    interval: Duration,
    pressed_interval: Duration,
    /// When the next sample is due: CLOCK_MONOTONIC nanoseconds.
    due_ns: u64,
}

impl Sampler {
    /// Takes no sample yet.
    pub fn new(
        settings: &Settings,
        reader: Option<Reader>,
        scopes: Scopes,
        shared: Shared,
        looks: LookWriter,
    ) -> Self {
        let Settings { interval, pressed_interval, window, .. } = *settings;
        Self {
            reader,
            scopes,
            shared,
            looks,
            counts: CountReader::default(),
            history: RowHistory::new(window, interval),
            interval,
            pressed_interval: pressed_interval.min(interval),
            due_ns: monotonic_ns(),
        }
    }

    /// Takes samples until shutdown.
    pub fn run(mut self) {
        while !self.shared.shutdown.is_requested() {
            let pressed = self.sample();
            self.wait(pressed);
        }
    }

    /// Takes one sample, evaluates it and publishes it. Returns whether there is pressure.
    fn sample(&mut self) -> bool {
        if let Some(replaced) = self.shared.replaced.swap(None) {
            self.scopes.replace_settings(&replaced.evaluation);
            self.pressed_interval = replaced.pressed_interval.min(self.interval);
        }
        let without_psi = self.scopes.ids_without_psi();
        let counts = self.counts.read(self.reader.as_ref(), &without_psi);
        let pressed = self.publish(counts);
        let now = monotonic_ns();
        self.shared.lags.sense.tick(now, self.due_ns);
        self.due_ns = now.saturating_add(nanos(self.interval(pressed)));
        pressed
    }

    /// Evaluates the counts with the host's files, and publishes both. Returns whether there is
    /// pressure.
    fn publish(&mut self, mut counts: Counts) -> bool {
        let scope_stalls = std::mem::take(&mut counts.scope_stalls);
        let snapshot = self.snapshot(counts);
        let (scopes, vmstat_kills) =
            self.scopes.evaluate(&snapshot, &scope_stalls, &self.shared.coverage);
        let pressed = scopes.iter().any(is_pressed);
        let sample = Arc::new(Sample { snapshot, scopes, vmstat_kills });
        self.shared.published.store(Some(Arc::clone(&sample)));
        self.looks.push(&sample, pressed);
        pressed
    }

    fn interval(&self, pressed: bool) -> Duration {
        let interval = if pressed { self.pressed_interval } else { self.interval };
        if self.scopes.is_pending() { interval.min(PENDING_INTERVAL) } else { interval }
    }

    fn snapshot(&mut self, counts: Counts) -> Snapshot {
        let Counts { taken_ns, rows, in_flight, costs, reports_skipped, clocks, unread, .. } =
            counts;
        let SettledRows { rows, window_start, recent_start } = if unread.counters {
            self.history.last()
        } else {
            self.history.settle(taken_ns, rows, &in_flight)
        };
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
            stall_clock: clocks.stalls,
            stall_clock_ns: clocks.read_ns,
            reclaim: clocks.reclaim,
            unread,
        }
    }

    /// Waits for the next sample, for pressure or for shutdown.
    fn wait(&self, pressed: bool) {
        // While there is pressure, the triggers add nothing.
        let triggers = if pressed { &[] } else { self.scopes.triggers() };
        let shutdown = PollFd::new(&self.shared.shutdown, PollFlags::IN);
        let triggers = triggers.iter().map(|file| PollFd::new(file, PollFlags::PRI));
        let mut all: Vec<_> = std::iter::once(shutdown).chain(triggers).collect();
        // If interrupted, the next sample comes early.
        wait_for(&mut all, self.interval(pressed));
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, path::Path};

    use sensor_core::{
        model::{
            coverage::{AttachState, ProbeState},
            snapshot::UnreadMaps,
        },
        verdict::{scope::HOST, state::VerdictState, weight},
    };
    use sensor_ebpf::probes;

    use super::{
        super::{counts::tests::FakeMaps, scopes},
        *,
    };
    use crate::publish::{looks, loop_lag};

    /// All probes are attached.
    fn coverage() -> Coverage {
        let probe = |probe: &&'static sensor_ebpf::spec::Probe| ProbeState {
            name: probe.name,
            state: AttachState::Attached,
            reason: String::new(),
            programs: Vec::new(),
        };
        let probes = probes::ALL.iter().map(probe).collect();
        Coverage { probes, ..Coverage::none("") }
    }

    fn write_psi(root: &Path, full_us: u64) {
        let dir = root.join("proc/pressure");
        std::fs::create_dir_all(&dir).expect("mkdir");
        let line = |kind| format!("{kind} avg10=0.00 avg60=0.00 avg300=0.00 total={full_us}\n");
        std::fs::write(dir.join("memory"), line("some") + &line("full")).expect("write");
    }

    fn sampler(root: &Path) -> Sampler {
        let settings = Settings {
            interval: Duration::from_secs(1),
            pressed_interval: Duration::from_millis(100),
            window: Duration::from_secs(30),
            stale_after: Duration::from_secs(5),
        };
        let scopes = scopes::Settings {
            policy: Arc::default(),
            weight: weight::Settings::default(),
            max_gap: settings.stale_after,
            scopes: Vec::new(),
        };
        write_psi(root, 0);
        let scopes = Scopes::open(&scopes, root, Arc::default()).expect("scopes");
        let coverage = Arc::new(coverage());
        let shared = Shared {
            published: Arc::default(),
            coverage,
            lags: Arc::new(LoopLags::new(settings.interval, loop_lag::WATCHDOG, 0)),
            shutdown: Arc::new(Shutdown::new().expect("an eventfd")),
            replaced: Arc::default(),
        };
        let (looks, _) = looks::queue(vec![HOST.to_owned()], &Arc::default());
        Sampler::new(&settings, None, scopes, shared, looks)
    }

    #[test]
    fn psi_gives_the_verdict_while_maps_cannot_be_read() {
        let root = tempfile::tempdir().expect("a directory");
        let mut sampler = sampler(root.path());
        let (mut counts, published) = (CountReader::default(), sampler.shared.published.clone());
        let mut sample = |second: u64, word, is_unread, full_us| {
            write_psi(root.path(), full_us);
            let fails = UnreadMaps { counters: is_unread, cgroups: is_unread };
            let counts = counts.read(Some(&FakeMaps { word, fails }), &BTreeSet::new());
            sampler.publish(Counts { taken_ns: second * 1_000_000_000, ..counts });
            let sample = published.load_full().expect("published");
            assert_eq!(sample.snapshot.taken_ns, second * 1_000_000_000, "it is not stale");
            assert_eq!(sample.snapshot.unread.counters, is_unread);
            let row = sample.snapshot.rows.first().map(|row| row[0]);
            let host = &sample.scopes[0];
            assert_eq!(host.reading.stall_ns.is_none(), is_unread, "an old clock looks calm");
            assert_eq!(host.unknown_reason, None);
            (row, host.verdict.position.state)
        };
        assert_eq!(sample(1, 1, true, 0), (None, VerdictState::Ready), "before any counts");
        assert_eq!(sample(2, 5, false, 0), (Some(5), VerdictState::Ready));
        let states: Vec<_> = (3..30)
            .map(|second| sample(second, 6, true, (second - 2) * 900_000))
            .map(|(row, state)| {
                assert_eq!(row, Some(5), "a counter keeps its last value");
                state
            })
            .collect();
        assert_eq!(states.last(), Some(&VerdictState::Overloaded), "{states:?}");
        let calm: Vec<_> = (30..300).map(|second| sample(second, 30, false, 24_300_000)).collect();
        assert_eq!(calm.first(), Some(&(Some(30), VerdictState::Overloaded)));
        assert_eq!(calm.last(), Some(&(Some(30), VerdictState::Ready)));
    }
}
