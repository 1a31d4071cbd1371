//! The thread that records: takes what others have published, several times a second, and writes it.
//! It may wait for a disk for minutes; nothing waits for it.
//!
//! Not here: how records are written (`super::writer`), and which looks are (`record::pace`).

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags};
use sensor_core::{
    common::clock::{boot_id, monotonic_ns},
    model::event::Event,
    record::{
        codec::encode_look,
        content::{Answer, Content, Life, Missing, Usage},
        pace::{EncodedLook, Pace},
    },
    verdict::policy::Policy,
};
use tracing::info;

use super::{
    changes::{self, Changes},
    clock::RecordClock,
    line_limit::LineLimit,
    usage,
    writer::Writer,
};
use crate::host::{
    cgroup::{mounts::CgroupMounts, stats},
    memory,
};
use crate::publish::{
    answers::{ChangedAnswer, ChangedAnswers},
    control::Shutdown,
    event_log::EventLog,
    looks::{LookReader, TimedLook},
    record::{Figures, RecordFigures},
    sample::PublishedSample,
    usage::PublishedUsage,
    wait::wait_for,
};

/// Time between two rounds.
const INTERVAL: Duration = Duration::from_millis(250);

/// Changes of state in a minute of the log; a scope that flaps has fewer.
const LOGGED_CHANGES: u32 = 20;
/// Answers to balancers in a minute of the record.
const ANSWERS: u32 = 240;
/// Events in a minute of the record, and those of them with their report, of some ten KiB: any process
/// can cause kills, and must not push out the record of everything else.
const EVENTS: u32 = 120;
const REPORTS: u32 = 10;

/// What the thread takes.
#[derive(Debug)]
pub struct Inputs {
    /// Looks of the sensing loop.
    pub looks: LookReader,
    /// The last sample, for the stall clock of cgroups.
    pub sample: PublishedSample,
    /// The last scan of processes.
    pub usage: Arc<PublishedUsage>,
    /// The last events.
    pub events: Arc<EventLog>,
    /// Answers to balancers that changed.
    pub answers: Arc<ChangedAnswers>,
    /// Names of the scopes, the host first.
    pub scopes: Arc<[String]>,
    /// Where cgroups are mounted; `None` without the memory controller.
    pub mounts: Option<CgroupMounts>,
    /// Paths of the cgroups of the scopes, without the host.
    pub cgroups: Vec<String>,
    /// Where figures of the record are published.
    pub figures: Arc<RecordFigures>,
    /// Ends the thread.
    pub shutdown: Arc<Shutdown>,
}

impl Inputs {
    fn scope_memory(&self) -> Vec<Vec<Option<u64>>> {
        let Some(mounts) = &self.mounts else { return Vec::new() };
        let limits = self.cgroups.iter().map(|path| stats::limits(mounts, Path::new(path)));
        limits.map(|limits| usage::scope_memory(limits.as_ref())).collect()
    }
}

/// The rules in force, which a reload may replace.
pub type CurrentPolicy = Box<dyn Fn() -> Arc<Policy> + Send>;

/// Records until shutdown.
#[allow(missing_debug_implementations, reason = "a closure has none")]
pub struct Recorder {
    inputs: Inputs,
    policy: CurrentPolicy,
    /// `None` if nothing is to be recorded: then changes are only logged.
    writer: Option<Writer>,
    clock: RecordClock,
    pace: Pace,
    changes: Changes,
    log: LineLimit,
    /// Any client may ask, from any number of addresses.
    answers: LineLimit,
    events: LineLimit,
    reports: LineLimit,
    /// Whether something was recorded that must not wait.
    is_urgent: bool,
    last_usage: Option<Usage>,
    /// When the last scan that was recorded began: CLOCK_MONOTONIC nanoseconds.
    scan_ns: u64,
    /// The number of the last event that was recorded.
    event: u64,
    /// Looks that were dropped, as far as that is recorded.
    dropped: u64,
}

impl Recorder {
    /// Records what comes from now on.
    pub fn new(inputs: Inputs, policy: CurrentPolicy, writer: Option<Writer>) -> Self {
        if writer.is_some() {
            inputs.figures.set_on();
        }
        // Those that are kept already are of the daemon before, and recorded.
        let event = inputs.events.events().last().map_or(0, |event| event.seq);
        Self {
            inputs,
            policy,
            writer,
            clock: RecordClock::new(&boot_id()),
            pace: Pace::default(),
            changes: Changes::default(),
            log: LineLimit::new(LOGGED_CHANGES),
            answers: LineLimit::new(ANSWERS),
            events: LineLimit::new(EVENTS),
            reports: LineLimit::new(REPORTS),
            is_urgent: false,
            last_usage: None,
            scan_ns: 0,
            event,
            dropped: 0,
        }
    }

    /// Records until shutdown.
    pub fn run(mut self) {
        let started = Life::Started { pid: std::process::id() };
        self.record_urgent(&Content::Life(started), monotonic_ns());
        while !self.inputs.shutdown.is_requested() {
            self.round();
            let mut shutdown = [PollFd::new(&self.inputs.shutdown, PollFlags::IN)];
            wait_for(&mut shutdown, INTERVAL);
        }
        self.round();
        self.record(&Content::Life(Life::Ended), monotonic_ns());
        if let Some(writer) = &mut self.writer {
            writer.end();
        }
    }

    fn round(&mut self) {
        self.record_scan();
        while let Some(look) = self.inputs.looks.pop() {
            self.look(look);
        }
        self.name_dropped();
        self.record_answers();
        self.record_events();
        if let Some(writer) = &mut self.writer {
            // Once a round: a flood of events must not load the disk.
            if std::mem::take(&mut self.is_urgent) {
                writer.end();
            }
            writer.keep(Instant::now());
        }
        self.publish();
    }

    fn publish(&self) {
        let Some(writer) = &self.writer else { return };
        self.inputs.figures.set(Figures {
            is_writable: writer.is_writable(),
            written_bytes: writer.written.bytes,
            lost_entries: writer.written.lost,
            synced_unix: writer.synced_unix(),
            ..Figures::default()
        });
    }

    fn look(&mut self, look: TimedLook) {
        let TimedLook { at_ns, is_pressed, look } = look;
        for change in self.changes.since_last(&look, &(self.policy)()) {
            if self.log.has_room(at_ns) {
                info!("{}", changes::line(&change, self.last_usage.as_ref()));
            }
            self.record_urgent(&Content::Change(change), at_ns);
        }
        if let Some(more) = self.log.omitted(at_ns) {
            info!("{more} more changes of state were not logged");
        }
        let Some(writer) = &mut self.writer else { return };
        let states = look.scopes.iter().map(|scope| scope.state).collect();
        let Some(bytes) = encode_look(&look, self.clock.at(at_ns)) else { return };
        for record in self.pace.push(EncodedLook { at_ns, states, is_pressed, bytes }) {
            writer.write_encoded(&record, self.clock.at(at_ns));
        }
    }

    fn record_scan(&mut self) {
        let Some(scan) = self.inputs.usage.load() else { return };
        if scan.taken_ns == self.scan_ns {
            return;
        }
        self.scan_ns = scan.taken_ns;
        let sample = self.inputs.sample.load_full();
        let stalls = sample.as_ref().map_or(&[][..], |sample| &sample.snapshot.stall_clock);
        let mut usage = usage::usage(&scan, stalls, memory::usage().as_ref());
        usage.scopes = self.inputs.scope_memory();
        self.last_usage = Some(usage.clone());
        self.record(&Content::Usage(usage), scan.taken_ns);
    }

    fn record_events(&mut self) {
        let events = self.inputs.events.events();
        let new: Vec<Arc<Event>> =
            events.iter().filter(|event| event.seq > self.event).map(Arc::clone).collect();
        let mut missed = self.events.omitted(monotonic_ns()).map_or(0, u64::from);
        for mut event in new {
            missed += event.seq - self.event - 1;
            self.event = event.seq;
            let at_ns = event.monotonic_ns().unwrap_or_else(monotonic_ns);
            if !self.events.has_room(monotonic_ns()) {
                continue;
            }
            if event.report.is_some() && !self.reports.has_room(monotonic_ns()) {
                Arc::make_mut(&mut event).report = None;
            }
            self.record_urgent(&Content::Event(event), at_ns);
        }
        if missed > 0 {
            self.missing([0, 0, missed], "there was a flood of events");
        }
    }

    fn record_answers(&mut self) {
        let mut dropped = self.inputs.answers.take_dropped();
        while let Some(answer) = self.inputs.answers.pop() {
            let ChangedAnswer { at_ns, client, scope, protocol, state, weight } = answer;
            if !self.answers.has_room(at_ns) {
                continue;
            }
            let answer = Answer {
                client: client.to_string(),
                scope: self.inputs.scopes.get(scope).cloned().unwrap_or_default(),
                protocol: protocol.to_owned(),
                state: state.label().to_owned(),
                weight: single(weight),
            };
            self.record(&Content::Answer(answer), at_ns);
        }
        dropped += self.answers.omitted(monotonic_ns()).map_or(0, u64::from);
        if dropped > 0 {
            self.missing([0, 0, dropped], "there were too many changed answers to clients");
        }
    }

    /// Names the looks that the queue had no room for.
    fn name_dropped(&mut self) {
        let dropped = self.inputs.figures.lost_looks();
        let new = dropped - self.dropped;
        self.dropped = dropped;
        if new > 0 {
            self.missing([new, 0, 0], "the disk was too slow for the record");
        }
    }

    fn missing(&mut self, records: [u64; 3], because: &str) {
        let missing = Missing { records, because: because.to_owned() };
        self.record(&Content::Missing(missing), monotonic_ns());
    }

    fn record(&mut self, content: &Content, at_ns: u64) {
        if let Some(writer) = &mut self.writer {
            writer.write(content, self.clock.at(at_ns));
        }
    }

    /// The same; it is on disk at the end of the round.
    fn record_urgent(&mut self, content: &Content, at_ns: u64) {
        self.record(content, at_ns);
        self.is_urgent = true;
    }
}

#[allow(clippy::cast_possible_truncation, reason = "a record needs no more than seven digits")]
const fn single(value: f64) -> f32 {
    value as f32
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use sensor_core::{
        model::{
            event::{EventKind, SentSignal, TaskInfo},
            oom_report::OomReport,
        },
        record::content::Schema,
    };

    use super::{
        super::{archive::Archive, segments::Limits},
        *,
    };
    use crate::publish::looks;

    #[test]
    fn a_flood_of_events_takes_a_bounded_part_of_the_record() {
        let dir = tempfile::tempdir().expect("a directory");
        let limits = Limits { bytes: 0, age: Duration::MAX };
        let writer = Writer::new(dir.path().to_owned(), limits, Schema::default());
        let events = Arc::new(EventLog::new("b"));
        let figures = Arc::default();
        let inputs = Inputs {
            looks: looks::queue(Vec::new(), &figures).1,
            sample: Arc::default(),
            usage: Arc::default(),
            events: Arc::clone(&events),
            answers: Arc::default(),
            scopes: Vec::new().into(),
            mounts: None,
            cgroups: Vec::new(),
            figures,
            shutdown: Arc::new(Shutdown::new().expect("an eventfd")),
        };
        let mut recorder = Recorder::new(inputs, Box::new(Arc::default), Some(writer));
        // A minute that ends within the test has room for as many again.
        let json = serde_json::json!({
            "pid": 1, "tid": 1, "comm": "x", "uid": 0, "oom_score_adj": 0, "cgroup_id": 0
        });
        let task: TaskInfo = serde_json::from_value(json).expect("a task");
        for _ in 0..3 * EVENTS {
            let (sender, target) = (task.clone(), task.clone());
            let kind = EventKind::KillSignal { signal: SentSignal::default(), sender, target };
            events.push(monotonic_ns(), kind, Some(OomReport::default()));
            recorder.record_events();
        }
        recorder.round();
        let (mut count, mut with_report) = (0, 0);
        let losses = Archive::open(dir.path()).expect("opened").read(|entry| {
            if let Content::Event(event) = entry.content {
                count += 1;
                with_report += u32::from(event.report.is_some());
            }
        });
        assert_eq!(losses, []);
        assert!((EVENTS..=2 * EVENTS).contains(&count), "{count}");
        assert!((REPORTS..=2 * REPORTS).contains(&with_report), "{with_report}");
    }
}
