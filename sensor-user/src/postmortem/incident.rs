//! Finds the incident in a record: when it began and ended, and which scope it was about.

use sensor_core::{
    model::event::EventKind,
    record::content::{Content, Life, ScopeLook},
    verdict::{scope::HOST, state::VerdictState},
};

use crate::{history::timeline::Timeline, recorder::archive::Entry};

/// Nanoseconds of a second.
pub const SECOND: i64 = 1_000_000_000;
/// Troubles that are closer to each other are one incident.
const APART: i64 = 300 * SECOND;
/// A calm host records every ten seconds: this is a silence.
const SILENCE: i64 = 30 * SECOND;
/// What was before the incident is looked at for so long.
const LEAD_IN: i64 = 1800 * SECOND;

/// An incident. Times are nanoseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incident {
    /// The scope that lost the most weight first; the host if none did.
    pub scope: String,
    /// What was before is looked at from here on.
    pub lead_in: i64,
    /// The first trouble.
    pub begin: i64,
    /// The end of the last trouble.
    pub end: i64,
    /// Whether the record goes on after it.
    pub is_over: bool,
    /// Times without any record: from, to.
    pub silences: Vec<(i64, i64)>,
}

/// Which incident is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted<'a> {
    /// The last one.
    Last,
    /// Everything in the record as one.
    Whole,
    /// The one with the event of this id.
    Event(&'a str),
}

/// Finds an incident; `None` if there is none.
pub fn find(timeline: &Timeline, wanted: Wanted<'_>) -> Option<Incident> {
    let last_entry = timeline.entries.last()?.time.wall_ns;
    let silences = silences(&timeline.entries);
    let mut troubles = troubles(&timeline.entries);
    troubles.extend(&silences);
    troubles.sort_unstable();
    let groups = grouped(&troubles);
    let (begin, end) = match wanted {
        Wanted::Last => *groups.last()?,
        Wanted::Whole => (groups.first()?.0, groups.last()?.1),
        Wanted::Event(id) => {
            let at = timeline.entries.iter().find_map(|entry| match &entry.content {
                Content::Event(event) if event.id == id => Some(entry.time.wall_ns),
                _ => None,
            })?;
            *groups.iter().find(|(begin, end)| (*begin..=*end).contains(&at))?
        }
    };
    let lead_in = begin.saturating_sub(LEAD_IN);
    let first = timeline.entries.first()?.time.wall_ns;
    let silences = silences.into_iter().filter(|(from, to)| *to >= begin && *from <= end);
    Some(Incident {
        scope: scope(&timeline.entries, begin, end),
        lead_in: lead_in.max(first),
        begin,
        end,
        is_over: end < last_entry,
        silences: silences.collect(),
    })
}

/// The looks of a scope, with their times.
pub fn looks<'a>(
    entries: &'a [Entry],
    scope: &'a str,
) -> impl DoubleEndedIterator<Item = (i64, &'a ScopeLook)> {
    entries.iter().filter_map(move |entry| match &entry.content {
        Content::Look(look) => {
            let found = look.scopes.iter().find(|look| look.scope == scope)?;
            Some((entry.time.wall_ns, found))
        }
        _ => None,
    })
}

/// Times with less than all weight, and kills.
fn troubles(entries: &[Entry]) -> Vec<(i64, i64)> {
    let mut all: Vec<(i64, i64)> = Vec::new();
    let mut since: Option<i64> = None;
    for entry in entries {
        let at = entry.time.wall_ns;
        match &entry.content {
            Content::Look(look) => {
                let is_short = |scope: &ScopeLook| scope.state > Some(VerdictState::Ready);
                if look.scopes.iter().any(is_short) {
                    all.push((since.unwrap_or(at).min(at), at));
                    since = Some(at);
                } else if let Some(from) = since.take() {
                    all.push((from.min(at), at));
                }
            }
            Content::Event(event) if is_kill(&event.kind) => all.push((at, at)),
            _ => {}
        }
    }
    all
}

/// Whether something killed a process.
pub const fn is_kill(kind: &EventKind) -> bool {
    matches!(kind, EventKind::OomKill { .. } | EventKind::KillSignal { .. })
}

/// Times without any record, but for those after an end in order.
fn silences(entries: &[Entry]) -> Vec<(i64, i64)> {
    let pairs = entries.iter().zip(entries.iter().skip(1));
    let silent = pairs.filter(|(before, after)| {
        let has_ended = matches!(before.content, Content::Life(Life::Ended));
        !has_ended && gap(before, after) > SILENCE
    });
    silent.map(|(before, after)| (before.time.wall_ns, after.time.wall_ns)).collect()
}

/// Nanoseconds between two entries; within a boot by the clock that cannot be set.
fn gap(before: &Entry, after: &Entry) -> i64 {
    if before.time.boot == after.time.boot {
        let gap = after.time.boottime_ns.saturating_sub(before.time.boottime_ns);
        return i64::try_from(gap).unwrap_or(i64::MAX);
    }
    after.time.wall_ns.saturating_sub(before.time.wall_ns)
}

fn grouped(troubles: &[(i64, i64)]) -> Vec<(i64, i64)> {
    let mut groups: Vec<(i64, i64)> = Vec::new();
    for (from, to) in troubles {
        match groups.last_mut() {
            Some(last) if from.saturating_sub(last.1) < APART => last.1 = last.1.max(*to),
            _ => groups.push((*from, *to)),
        }
    }
    groups
}

/// The scope that lost the most weight, the earlier one of equals, the host if none did.
fn scope(entries: &[Entry], begin: i64, end: i64) -> String {
    let mut least: Option<(f32, &str)> = None;
    for entry in entries.iter().filter(|e| (begin..=end).contains(&e.time.wall_ns)) {
        let Content::Look(look) = &entry.content else { continue };
        for scope in look.scopes.iter().filter(|scope| scope.state > Some(VerdictState::Ready)) {
            if least.is_none_or(|(weight, _)| scope.weight < weight) {
                least = Some((scope.weight, &scope.scope));
            }
        }
    }
    least.map_or_else(|| HOST.to_owned(), |(_, scope)| scope.to_owned())
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use sensor_core::{
        model::event::{Event, SentSignal, TaskInfo},
        record::{content::Look, frame::RecordTime},
    };

    use super::*;

    /// 2026-11-28 03:00 UTC, in seconds since 1970.
    pub(in crate::postmortem) const BASE: i64 = 1_795_834_800;

    /// An entry at a second of boot 1 after [`BASE`].
    pub(in crate::postmortem) fn entry(second: i64, content: Content) -> Entry {
        let time = RecordTime {
            boot: [1; 16],
            boottime_ns: (second * SECOND).unsigned_abs(),
            wall_ns: (BASE + second) * SECOND,
        };
        Entry { time, content }
    }

    pub(in crate::postmortem) fn look(second: i64, scopes: &[(&str, f32)]) -> Entry {
        let scope = |(name, weight): &(&str, f32)| ScopeLook {
            scope: (*name).to_owned(),
            state: Some(match weight {
                0.0 => VerdictState::Overloaded,
                1.0 => VerdictState::Ready,
                _ => VerdictState::Degraded,
            }),
            weight: *weight,
            ..ScopeLook::default()
        };
        let scopes = scopes.iter().map(scope).collect();
        entry(second, Content::Look(Look { scopes, ..Look::default() }))
    }

    pub(in crate::postmortem) fn kill(second: i64, id: &str) -> Entry {
        let json = serde_json::json!({
            "pid": 1, "tid": 1, "comm": "x", "uid": 0, "oom_score_adj": 0, "cgroup_id": 0
        });
        let task: TaskInfo = serde_json::from_value(json).expect("a task");
        let kind = EventKind::KillSignal {
            signal: SentSignal::default(),
            sender: task.clone(),
            target: task,
        };
        let event = Event { id: id.into(), seq: 1, time: String::new(), kind, report: None };
        entry(second, Content::Event(Arc::new(event)))
    }

    fn seconds(incident: &Incident) -> (i64, i64) {
        (incident.begin / SECOND - BASE, incident.end / SECOND - BASE)
    }

    #[test]
    fn incidents_are_apart_and_the_last_is_found() {
        let mut entries = Vec::new();
        for second in (0..2000).step_by(10) {
            let web = if (500..530).contains(&second) { 0.5 } else { 1.0 };
            let host = if (1500..1600).contains(&second) { 0.0 } else { 1.0 };
            entries.push(look(second, &[(HOST, host), ("web", web)]));
        }
        entries.push(kill(1401, "b-1"));
        entries.sort_by_key(|entry| entry.time.wall_ns);
        let timeline = Timeline { entries, ..Timeline::default() };
        let last = find(&timeline, Wanted::Last).expect("one");
        assert_eq!((seconds(&last), last.scope.as_str(), last.is_over), ((1401, 1600), HOST, true));
        assert_eq!(find(&timeline, Wanted::Event("b-1")), Some(last));
        assert_eq!(find(&timeline, Wanted::Event("b-2")), None);
        let whole = find(&timeline, Wanted::Whole).expect("all");
        assert_eq!(seconds(&whole), (500, 1600));
        let calm = Timeline { entries: timeline.entries[..20].to_vec(), ..Timeline::default() };
        assert_eq!(find(&calm, Wanted::Last), None);
    }

    #[test]
    fn a_silence_is_an_incident_and_an_end_in_order_is_not() {
        let life = |second, life| entry(second, Content::Life(life));
        let entries = vec![
            look(0, &[(HOST, 1.0)]),
            life(5, Life::Ended),
            life(100, Life::Started { pid: 1 }),
            look(101, &[(HOST, 1.0)]),
            look(400, &[(HOST, 1.0)]),
            look(410, &[(HOST, 1.0)]),
        ];
        let timeline = Timeline { entries, ..Timeline::default() };
        let incident = find(&timeline, Wanted::Last).expect("the silence");
        assert_eq!(seconds(&incident), (101, 400));
        assert_eq!(incident.silences.len(), 1);
    }
}
