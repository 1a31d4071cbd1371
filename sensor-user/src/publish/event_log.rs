//! The last events, for clients that ask later, and a feed of new ones. Bounded.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use sensor_core::{
    common::clock::{monotonic_ns, wall},
    model::{
        event::{Event, EventKind, OomType, event_id},
        oom_report::OomReport,
    },
};
use tokio::sync::broadcast;

/// Events kept, of OOM kills and of others apart: a flood of others, which any process can cause,
/// must not push out a kill. The oldest of a kind goes first.
const KEEP: usize = 1024;

/// The latest events of each kind that keep their report: some five KiB each.
pub const KEEP_REPORTS: usize = 128;

/// Events that a slow follower may be behind before it misses some.
const MAX_LAG: usize = 256;

/// The last events, and a feed of new ones.
#[derive(Debug)]
pub struct EventLog {
    /// The boot that events are of: a prefix of its id.
    boot: String,
    kept: Mutex<KeptEvents>,
    followers: broadcast::Sender<Arc<Event>>,
}

#[derive(Debug, Default)]
struct KeptEvents {
    seq: u64,
    oom: VecDeque<Arc<Event>>,
    others: VecDeque<Arc<Event>>,
    /// Id and time of the last kill, by [`OomType`].
    last_kills: [Option<(String, SystemTime)>; OomType::ALL.len()],
}

impl EventLog {
    /// An empty log for this boot; a few digits of its id are enough.
    pub fn new(boot_id: &str) -> Self {
        let boot = boot_id.chars().filter(char::is_ascii_hexdigit).take(8).collect();
        Self { boot, kept: Mutex::default(), followers: broadcast::channel(MAX_LAG).0 }
    }

    /// The prefix of the ids of events.
    pub fn boot(&self) -> &str {
        &self.boot
    }

    fn kept(&self) -> MutexGuard<'_, KeptEvents> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an event of `time_ns` (CLOCK_MONOTONIC).
    pub fn push(&self, time_ns: u64, kind: EventKind, report: Option<OomReport>) {
        // Both clocks are read now: the event may have waited for its report.
        self.push_at(time_ns, wall(time_ns, monotonic_ns(), SystemTime::now()), kind, report);
    }

    fn push_at(&self, time_ns: u64, time: SystemTime, kind: EventKind, report: Option<OomReport>) {
        let id = event_id(&self.boot, time_ns);
        let mut kept = self.kept();
        kept.seq += 1;
        match &kind {
            EventKind::OomKill { oom_type, .. } => {
                kept.last_kills[*oom_type as usize] = Some((id.clone(), time));
            }
            EventKind::VictimExit { kill, seconds, .. } => kept.add_exit(kill, *seconds),
            EventKind::KillSignal { .. } => {}
        }
        let time = humantime::format_rfc3339_millis(time).to_string();
        let event = Arc::new(Event { id, seq: kept.seq, time, kind, report: report.map(Arc::new) });
        kept.push(Arc::clone(&event));
        // An error means that there are no followers.
        let _ = self.followers.send(event);
    }

    /// The kept events, and a feed of those after them, without a gap between.
    pub fn follow(&self) -> (Vec<Arc<Event>>, broadcast::Receiver<Arc<Event>>) {
        let kept = self.kept();
        let mut events: Vec<_> = kept.oom.iter().chain(&kept.others).cloned().collect();
        let feed = self.followers.subscribe();
        drop(kept);
        events.sort_by_key(|event| event.seq);
        (events, feed)
    }

    /// The kept events, oldest first.
    pub fn events(&self) -> Vec<Arc<Event>> {
        self.follow().0
    }

    /// Id and time of the last OOM kill of that type.
    pub fn last_kill(&self, oom_type: OomType) -> Option<(String, SystemTime)> {
        self.kept().last_kills[oom_type as usize].clone()
    }
}

impl KeptEvents {
    fn push(&mut self, event: Arc<Event>) {
        let queue = match event.kind {
            EventKind::OomKill { .. } | EventKind::VictimExit { .. } => &mut self.oom,
            EventKind::KillSignal { .. } => &mut self.others,
        };
        if queue.len() == KEEP {
            queue.pop_front();
        }
        queue.push_back(event);
        // One event per push becomes too old to keep its report.
        if let Some(old) = queue.len().checked_sub(KEEP_REPORTS + 1).and_then(|i| queue.get_mut(i))
            && old.report.is_some()
        {
            Arc::make_mut(old).report = None;
        }
    }

    /// Adds to a kill how long its victim's memory took to be freed.
    fn add_exit(&mut self, kill: &str, seconds: f64) {
        let event = self.oom.iter_mut().rev().find(|event| event.id == kill);
        if let Some(event) = event
            && let EventKind::OomKill { memory_back_seconds, .. } = &mut Arc::make_mut(event).kind
        {
            *memory_back_seconds = Some(seconds);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

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
        EventKind::OomKill {
            oom_type: OomType::Global,
            victim: task(pid),
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
            memory_back_seconds: None,
        }
    }

    #[test]
    fn the_log_is_bounded_and_followed_without_a_gap() {
        let log = EventLog::new("");
        for pid in 0..2000 {
            log.push(0, exit(pid, 0), None);
        }
        let kept = log.events();
        assert_eq!((kept.len(), kept[0].seq, kept[KEEP - 1].seq), (KEEP, 977, 2000));
        for _ in 0..2000 {
            let (sender, target) = (task(1), task(2));
            let signal = SentSignal::default();
            log.push(0, EventKind::KillSignal { signal, sender, target }, None);
        }
        let kept = log.events();
        assert_eq!((kept.len(), kept[0].seq), (2 * KEEP, 977), "a flood pushes out no OOM kill");
        let (_, mut feed) = log.follow();
        log.push(0, exit(1, 0), None);
        assert_eq!(feed.try_recv().expect("one more").seq, 4001);
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
        let (last, _) = log.last_kill(OomType::Global).expect("one");
        assert_eq!((last.as_str(), log.last_kill(OomType::Memcg)), ("b-c8", None));
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
    fn only_the_latest_keep_their_report() {
        let log = EventLog::new("b");
        for pid in 0..300 {
            log.push(pid.into(), kill(pid), Some(OomReport::default()));
        }
        let has_report: Vec<_> = log.events().iter().map(|event| event.report.is_some()).collect();
        let (old, latest) = has_report.split_at(300 - KEEP_REPORTS);
        assert!(latest.iter().all(|has| *has) && !old.contains(&true));
    }
}
