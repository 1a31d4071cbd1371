//! The last events, for whoever asks later, and a feed of new ones.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use tokio::sync::broadcast;

use super::{Event, EventKind, OomType, id};
use crate::{
    circumstances::OomReport,
    host::clock::{monotonic_ns, wall},
};

/// Events kept, OOM kills and others apart: a flood of others, which any process can cause, must not
/// push out a kill. The oldest of its kind goes first.
const KEEP: usize = 1024;

/// Of so many of each kind the report are kept: some five KiB each.
pub const WHOLE: usize = 128;

/// Events that a slow follower may be behind before it misses some.
const BEHIND: usize = 256;

/// The last events, and whoever follows new ones.
#[derive(Debug)]
pub struct EventLog {
    /// Of which boot our events are: a prefix of its id.
    boot: String,
    kept: Mutex<Kept>,
    followers: broadcast::Sender<Arc<Event>>,
}

#[derive(Debug, Default)]
struct Kept {
    seq: u64,
    oom: VecDeque<Arc<Event>>,
    others: VecDeque<Arc<Event>>,
    last_kills: [Option<(String, SystemTime)>; 2],
}

impl EventLog {
    /// An empty one of this boot, of whose id a few digits are enough.
    pub fn new(boot_id: &str) -> Self {
        let boot = boot_id.chars().filter(char::is_ascii_hexdigit).take(8).collect();
        Self { boot, kept: Mutex::default(), followers: broadcast::channel(BEHIND).0 }
    }

    /// What the ids of our events begin with.
    pub fn boot(&self) -> &str {
        &self.boot
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an event of `time_ns` (CLOCK_MONOTONIC).
    pub fn push(&self, time_ns: u64, what: EventKind, report: Option<OomReport>) {
        // One now by both clocks: an event may have waited for what is known of it.
        let time = wall(time_ns, monotonic_ns(), SystemTime::now());
        let id = id(&self.boot, time_ns);
        let mut kept = self.kept();
        kept.seq += 1;
        match &what {
            EventKind::OomKill { oom_type, .. } => {
                kept.last_kills[*oom_type as usize] = Some((id.clone(), time));
            }
            EventKind::VictimExit { kill, seconds, .. } => kept.join(kill, *seconds),
            EventKind::KillSignal { .. } => {}
        }
        let time = humantime::format_rfc3339_millis(time).to_string();
        let report = report.map(Arc::new);
        let event = Arc::new(Event { id, seq: kept.seq, time, what, report });
        let queue = match event.what {
            EventKind::OomKill { .. } | EventKind::VictimExit { .. } => &mut kept.oom,
            EventKind::KillSignal { .. } => &mut kept.others,
        };
        if queue.len() == KEEP {
            queue.pop_front();
        }
        queue.push_back(Arc::clone(&event));
        // The one before had its turn when it was the oldest but so many.
        if let Some(old) = queue.len().checked_sub(WHOLE + 1).and_then(|at| queue.get_mut(at))
            && old.report.is_some()
        {
            Arc::make_mut(old).report = None;
        }
        // Nobody following is no error.
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

    /// Id and time of the last OOM kill of that scope.
    pub fn last_kill(&self, scope: OomType) -> Option<(String, SystemTime)> {
        self.kept().last_kills[scope as usize].clone()
    }
}

impl Kept {
    /// Tells a kill how long its victim took.
    fn join(&mut self, kill: &str, took: f64) {
        let found = self.oom.iter_mut().rev().find(|event| event.id == kill);
        if let Some(event) = found
            && let EventKind::OomKill { memory_back_seconds, .. } = &mut Arc::make_mut(event).what
        {
            *memory_back_seconds = Some(took);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytemuck::Zeroable as _;
    use sensor_ebpf::event::{self, Tag};

    use super::{
        super::decode::{decode, process},
        *,
    };

    fn exit(pid: u32, killed_ns: u64) -> EventKind {
        EventKind::VictimExit { pid, seconds: 0.5, kill: id("b", killed_ns) }
    }

    fn kill(pid: u32) -> EventKind {
        let mut kill = event::OomKill { tag: Tag::OomKill as u32, ..event::OomKill::zeroed() };
        kill.victim.tgid = pid;
        decode(bytemuck::bytes_of(&kill), 4096, "b").expect("decodes").1
    }

    #[test]
    fn the_log_is_bounded_and_followed_without_a_gap() {
        let log = EventLog::new("");
        for pid in 0..2000 {
            log.push(0, exit(pid, 0), None);
        }
        let (kept, _) = log.follow();
        assert_eq!((kept.len(), kept[0].seq, kept[KEEP - 1].seq), (KEEP, 977, 2000));
        let process = process(&bytemuck::Zeroable::zeroed());
        for _ in 0..2000 {
            let (sender, target) = (process.clone(), process.clone());
            log.push(0, EventKind::KillSignal { sender, target }, None);
        }
        let (kept, _) = log.follow();
        assert_eq!((kept.len(), kept[0].seq), (2 * KEEP, 977), "a flood pushes out no OOM kill");
        let (_, mut feed) = log.follow();
        log.push(0, exit(1, 0), None);
        assert_eq!(feed.try_recv().expect("one more").seq, 4001);
    }

    #[test]
    fn an_exit_is_told_to_its_own_kill() {
        let log = EventLog::new("b");
        // The same process id twice, as when it is used again.
        log.push(100, kill(7), None);
        log.push(200, kill(7), None);
        log.push(300, exit(7, 100), None);
        let back = |id: &str| {
            let kept = log.follow().0;
            let kill = kept.iter().find(|event| event.id == id).expect("kept");
            let EventKind::OomKill { memory_back_seconds, .. } = kill.what else {
                panic!("{kill:?}")
            };
            memory_back_seconds
        };
        assert_eq!((back("b-64"), back("b-c8")), (Some(0.5), None));
        let (last, _) = log.last_kill(OomType::Global).expect("one");
        assert_eq!((last.as_str(), log.last_kill(OomType::Memcg)), ("b-c8", None));
    }

    #[test]
    fn an_event_has_its_own_time_however_late_it_is_told() {
        let log = EventLog::new("b");
        let (time_ns, time) = (monotonic_ns(), SystemTime::now());
        // As for a fresh look at processes.
        std::thread::sleep(Duration::from_millis(300));
        log.push(time_ns, kill(7), None);
        let (_, told) = log.last_kill(OomType::Global).expect("one");
        let off = told.duration_since(time).unwrap_or_else(|e| e.duration());
        assert!(off < Duration::from_millis(150), "{off:?}");
    }

    #[test]
    fn only_the_latest_are_whole() {
        let log = EventLog::new("b");
        for pid in 0..300 {
            log.push(pid.into(), kill(pid), Some(OomReport::default()));
        }
        let (kept, _) = log.follow();
        let whole: Vec<_> = kept.iter().map(|event| event.report.is_some()).collect();
        assert!(whole[300 - WHOLE..].iter().all(|w| *w) && !whole[..300 - WHOLE].contains(&true));
    }
}
