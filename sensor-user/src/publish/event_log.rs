//! The last events, for later requests, and a feed of new ones. Bounded.
//!
//! Servers read an immutable list, which is replaced when an event is added: they neither lock, sort
//! nor copy.

use std::{
    ops::Deref,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use arc_swap::ArcSwap;
use sensor_core::{
    common::clock::{monotonic_ns, wall},
    model::{
        event::{Event, EventKind, OomType, event_id},
        oom_report::OomReport,
    },
};
use tokio::sync::broadcast;

use super::event_queue::{EventQueue, Owner, owner};

/// Events kept of each kind: OOM kills of the machine, those of cgroups, both with the exits of
/// their victims, signals, and commands of operators. A flood of one kind, which any process can
/// cause, must not push out another.
const KEEP: [usize; 4] = [512, 512, 1024, 128];

/// Events of each kind that keep their report: some five KiB each.
const KEEP_REPORTS: [usize; 4] = [64, 64, 128, 0];

/// Index of the queue of signals, behind those by [`OomType`].
const SIGNALS: usize = OomType::ALL.len();
/// Index of the queue of operators' commands.
const OPERATORS: usize = SIGNALS + 1;

/// Events that a slow follower may be behind before it misses some.
const MAX_LAG: usize = 256;

/// The last events, and a feed of new ones.
#[derive(Debug)]
pub struct EventLog {
    /// The boot that events are of: a prefix of its id.
    boot: String,
    /// Locked only by threads that add events.
    queues: Mutex<Queues>,
    kept: ArcSwap<KeptEvents>,
    followers: broadcast::Sender<Arc<Event>>,
}

/// Id and time of the last kill, by [`OomType`].
type LastKills = [Option<(String, SystemTime)>; OomType::ALL.len()];

/// The events that were kept at one moment, oldest first.
#[derive(Debug, Default)]
pub struct KeptEvents {
    events: Vec<Arc<Event>>,
    last_kills: LastKills,
}

impl KeptEvents {
    /// Id and time of the last OOM kill of that type.
    pub fn last_kill(&self, oom_type: OomType) -> Option<&(String, SystemTime)> {
        self.last_kills[oom_type as usize].as_ref()
    }
}

impl Deref for KeptEvents {
    type Target = [Arc<Event>];

    fn deref(&self) -> &Self::Target {
        &self.events
    }
}

/// New events, as a client that follows them receives them.
#[derive(Debug)]
pub struct Feed {
    receiver: broadcast::Receiver<Arc<Event>>,
    /// Events up to this number are in the list that the client has.
    after: u64,
}

impl Feed {
    /// The next event, or the number of those that were missed.
    pub async fn recv(&mut self) -> Result<Arc<Event>, broadcast::error::RecvError> {
        loop {
            let event = self.receiver.recv().await?;
            if event.seq > self.after {
                return Ok(event);
            }
        }
    }
}

#[derive(Debug)]
struct Queues {
    seq: u64,
    /// Kills by [`OomType`], signals, and operators' commands.
    by_kind: [EventQueue; KEEP.len()],
    last_kills: LastKills,
}

impl EventLog {
    /// An empty log for this boot; a few digits of its id are enough.
    pub fn new(boot_id: &str) -> Self {
        let boot = boot_id.chars().filter(char::is_ascii_hexdigit).take(8).collect();
        let (queues, followers) = (Mutex::new(Queues::new()), broadcast::channel(MAX_LAG).0);
        Self { boot, queues, kept: ArcSwap::default(), followers }
    }

    /// The prefix of the ids of events.
    pub fn boot(&self) -> &str {
        &self.boot
    }

    /// Begins with events of this boot that an earlier daemon had, oldest first. They are no exemplars
    /// of counters, which begin at 0.
    pub fn restore(&self, earlier: Vec<Arc<Event>>) {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        for mut event in earlier {
            queues.seq += 1;
            Arc::make_mut(&mut event).seq = queues.seq;
            let (queue, owner) = queues.place(&event.kind);
            queues.by_kind[queue].push(owner, event);
        }
        self.kept.store(Arc::new(queues.kept()));
    }

    /// Adds an event of `time_ns` (CLOCK_MONOTONIC).
    pub fn push(&self, time_ns: u64, kind: EventKind, report: Option<OomReport>) {
        // Both clocks are read now: the event may have waited for its report.
        self.push_at(time_ns, wall(time_ns, monotonic_ns(), SystemTime::now()), kind, report);
    }

    fn push_at(&self, time_ns: u64, time: SystemTime, kind: EventKind, report: Option<OomReport>) {
        let id = event_id(&self.boot, time_ns);
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        queues.seq += 1;
        if let EventKind::OomKill { oom_type, .. } = &kind {
            queues.last_kills[*oom_type as usize] = Some((id.clone(), time));
        }
        let (queue, owner) = queues.place(&kind);
        let time = humantime::format_rfc3339_millis(time).to_string();
        let event =
            Arc::new(Event { id, seq: queues.seq, time, kind, report: report.map(Arc::new) });
        queues.by_kind[queue].push(owner, Arc::clone(&event));
        self.kept.store(Arc::new(queues.kept()));
        // Last: see `follow`. An error means that there are no followers.
        let _ = self.followers.send(event);
    }

    /// The kept events, and a feed of those after them, without a gap between.
    pub fn follow(&self) -> (Arc<KeptEvents>, Feed) {
        // In this order: an event that is added meanwhile is in both, and the feed skips it.
        let receiver = self.followers.subscribe();
        let kept = self.events();
        let after = kept.last().map_or(0, |event| event.seq);
        (kept, Feed { receiver, after })
    }

    /// The kept events. Takes no lock.
    pub fn events(&self) -> Arc<KeptEvents> {
        self.kept.load_full()
    }
}

impl Queues {
    fn new() -> Self {
        let by_kind = std::array::from_fn(|i| EventQueue::new(KEEP[i], KEEP_REPORTS[i]));
        Self { seq: 0, by_kind, last_kills: Default::default() }
    }

    fn kept(&self) -> KeptEvents {
        let mut events: Vec<_> = self.by_kind.iter().flat_map(EventQueue::iter).cloned().collect();
        // Sorted runs.
        events.sort_by_key(|event| event.seq);
        KeptEvents { events, last_kills: self.last_kills.clone() }
    }

    /// The queue and the owner of a new event. Adds an exit to its kill: how long the memory of the
    /// victim took to be freed.
    fn place(&mut self, kind: &EventKind) -> (usize, Owner) {
        let owner = owner(kind).unwrap_or_else(|| "".into());
        match kind {
            EventKind::OomKill { oom_type, .. } => (*oom_type as usize, owner),
            EventKind::KillSignal { .. } => (SIGNALS, owner),
            EventKind::Operator { .. } => (OPERATORS, owner),
            EventKind::VictimExit { kill, seconds: freed_after, .. } => {
                for (queue, events) in self.by_kind.iter_mut().enumerate() {
                    let Some((owner, event)) = events.find_mut(kill) else { continue };
                    let owner = Arc::clone(owner);
                    if let EventKind::OomKill { memory_back_seconds: seconds, .. } =
                        &mut Arc::make_mut(event).kind
                    {
                        *seconds = Some(*freed_after);
                    }
                    return (queue, owner);
                }
                // Its kill was pushed out.
                (OomType::Memcg as usize, owner)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use proptest::prelude::*;
    use sensor_core::model::{
        event::{SentSignal, TaskInfo, VictimMemory},
        workload::WorkloadId,
    };

    use super::*;

    fn task(pid: u32) -> TaskInfo {
        TaskInfo {
            pid,
            tid: pid,
            comm: "php".into(),
            uid: 0,
            oom_score_adj: 0,
            cgroup_id: 0,
            cgroup: None,
            workload: WorkloadId::default(),
        }
    }

    fn exit(pid: u32, killed_ns: u64) -> EventKind {
        EventKind::VictimExit { pid, seconds: 0.5, kill: event_id("b", killed_ns) }
    }

    fn kill(pid: u32) -> EventKind {
        kill_of(OomType::Global, task(pid))
    }

    fn kill_of(oom_type: OomType, victim: TaskInfo) -> EventKind {
        let pid = victim.pid;
        EventKind::OomKill {
            oom_type,
            victim,
            trigger: task(pid),
            memory: VictimMemory {
                anon_bytes: 0,
                file_bytes: 0,
                shmem_bytes: 0,
                swap_bytes: 0,
                page_tables_bytes: 0,
                virtual_bytes: 0,
            },
            context: None,
            oom_group: None,
            memory_back_seconds: None,
        }
    }

    fn signal() -> EventKind {
        EventKind::KillSignal { signal: SentSignal::default(), sender: task(1), target: task(2) }
    }

    #[test]
    fn the_log_is_bounded_and_followed_without_a_gap() {
        let log = EventLog::new("");
        for pid in 0..2000 {
            log.push(0, kill(pid), None);
        }
        let kept = log.events();
        assert_eq!((kept.len(), kept[0].seq, kept[511].seq), (512, 1489, 2000));
        for _ in 0..2000 {
            log.push(0, signal(), None);
            log.push(0, exit(1, 7), None);
            log.push(0, kill_of(OomType::Memcg, task(1)), None);
        }
        let kept = log.events();
        assert_eq!((kept.len(), kept[0].seq), (2048, 1489), "a flood pushes out no other kind");
        let (_, mut feed) = log.follow();
        log.push(0, exit(1, 0), None);
        assert_eq!(feed.receiver.try_recv().expect("one more").seq, 8001);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn a_cgroup_loses_only_what_exceeds_its_share(
            pushes in prop::collection::vec((0u64..4, any::<bool>(), any::<bool>()), 1..1500),
            loops in 0usize..1000,
        ) {
            let log = EventLog::new("");
            let mut pushed = [0usize; 4];
            // Cgroup 0 is killed in a loop at the end.
            let pushes = pushes.into_iter().chain((0..loops).map(|_| (0, true, true)));
            for (n, (cgroup, is_kill, has_report)) in (1u64..).zip(pushes) {
                let victim = TaskInfo { cgroup_id: cgroup, ..task(1) };
                let report = has_report.then(OomReport::default);
                if is_kill {
                    log.push(n, kill_of(OomType::Memcg, victim), report);
                    pushed[usize::try_from(cgroup).expect("small")] += 1;
                } else {
                    log.push(n, signal(), report);
                }
            }
            let events = log.events();
            let is_kill = |event: &&Arc<Event>| matches!(event.kind, EventKind::OomKill { .. });
            let kills: Vec<_> = events.iter().filter(is_kill).collect();
            let total: usize = pushed.iter().sum();
            prop_assert_eq!(kills.len(), total.min(KEEP[1]));
            let reports = kills.iter().filter(|kill| kill.report.is_some()).count();
            prop_assert!(reports <= KEEP_REPORTS[1]);
            prop_assert!(events.iter().map(|event| event.seq).is_sorted_by(|a, b| a < b));
            for (cgroup, pushed) in (0u64..).zip(pushed) {
                let of_cgroup = |event: &&&Arc<Event>| matches!(
                    &event.kind, EventKind::OomKill { victim, .. } if victim.cgroup_id == cgroup
                );
                let kept = kills.iter().filter(of_cgroup).count();
                prop_assert!(kept >= pushed.min(KEEP[1] / 4), "{cgroup}: {kept} of {pushed}");
            }
        }
    }

    #[test]
    fn an_exit_is_added_to_its_own_kill() {
        let log = EventLog::new("b");
        // The same process id twice, as when it is reused.
        log.push(100, kill(7), None);
        log.push(200, kill(7), None);
        log.push(300, exit(7, 100), None);
        let seconds = |id: &str| {
            let kept = log.events();
            let kill = kept.iter().find(|event| event.id == id).expect("kept");
            let EventKind::OomKill { memory_back_seconds, .. } = kill.kind else {
                panic!("{kill:?}")
            };
            memory_back_seconds
        };
        assert_eq!((seconds("b-64"), seconds("b-c8")), (Some(0.5), None));
        let kept = log.events();
        let (last, _) = kept.last_kill(OomType::Global).expect("one");
        assert_eq!((last.as_str(), kept.last_kill(OomType::Memcg)), ("b-c8", None));
    }

    #[test]
    fn readers_do_not_wait_while_an_event_is_added() {
        let log = EventLog::new("");
        log.push(0, kill(1), None);
        let _adding = log.queues.lock().expect("not locked");
        assert_eq!(log.events().len(), 1);
        assert_eq!(log.follow().0.len(), 1);
        assert!(log.events().last_kill(OomType::Global).is_some());
    }

    #[tokio::test]
    async fn a_follower_receives_each_event_once() {
        const EVENTS: u64 = 200;
        let log = Arc::new(EventLog::new(""));
        let adding = std::thread::spawn({
            let log = Arc::clone(&log);
            move || (0..EVENTS).for_each(|_| log.push(0, signal(), None))
        });
        let mut feeds = Vec::new();
        while !adding.is_finished() {
            feeds.push(log.follow());
        }
        adding.join().expect("no panic");
        feeds.push(log.follow());
        for (kept, mut feed) in feeds {
            let mut seen: Vec<_> = kept.iter().map(|event| event.seq).collect();
            while seen.len() < usize::try_from(EVENTS).expect("few") {
                seen.push(feed.recv().await.expect("not behind").seq);
            }
            assert!(seen.iter().copied().eq(1..=EVENTS), "{seen:?}");
        }
    }

    #[test]
    fn an_event_has_the_time_at_which_it_happened() {
        // It was pushed 300 ms after it happened, when the report was ready.
        let (now_ns, now) = (5_000_000_000, UNIX_EPOCH + Duration::from_secs(100));
        let happened_ns = now_ns - 300_000_000;
        let log = EventLog::new("b");
        log.push_at(happened_ns, wall(happened_ns, now_ns, now), kill(7), None);
        assert_eq!(log.events()[0].time, "1970-01-01T00:01:39.700Z");
    }

    #[test]
    fn a_clock_that_is_not_set_ends_no_thread() {
        let log = EventLog::new("b");
        let year = Duration::from_hours(24 * 365);
        for (now, text) in [
            (UNIX_EPOCH - year, "1970-01-01T00:00:00.000Z"),
            (UNIX_EPOCH + Duration::from_millis(100), "1970-01-01T00:00:00.000Z"),
            (UNIX_EPOCH + year * 9000, "9999-12-31T23:59:59.000Z"),
        ] {
            log.push_at(1, wall(1, 300_000_000, now), kill(7), None);
            assert_eq!(log.events().last().expect("one").time, text);
            let kept = log.events();
            let (_, time) = kept.last_kill(OomType::Global).expect("one");
            assert!(*time >= UNIX_EPOCH, "an exemplar needs a time after 1970");
        }
    }

    #[test]
    fn only_the_latest_keep_their_report() {
        let log = EventLog::new("b");
        for pid in 0..300 {
            log.push(pid.into(), kill(pid), Some(OomReport::default()));
        }
        let has_report: Vec<_> = log.events().iter().map(|event| event.report.is_some()).collect();
        let (old, latest) = has_report.split_at(300 - KEEP_REPORTS[OomType::Global as usize]);
        assert!(latest.iter().all(|has| *has) && !old.contains(&true));
    }
}
