//! What happened in an incident, in order, to a tenth of a second.

use sensor_core::{
    model::event::{Event, EventKind, OomType},
    record::content::{Answer, Content, Life},
    verdict::state::VerdictState,
};
use serde::Serialize;

use super::{
    causes::{Cause, Loss},
    incident::{Incident, SECOND, looks},
    text::Text,
};
use crate::history::{timeline::Timeline, times};

/// More lines of one kind are counted, not listed.
const MOST_OF_A_KIND: usize = 20;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Moment {
    /// When: nanoseconds since 1970.
    #[serde(rename = "time", serialize_with = "times::serialize")]
    pub at: i64,
    /// What.
    pub what: Text,
    #[serde(skip)]
    kind: u8,
}

fn moment(at: i64, kind: u8, what: Text) -> Moment {
    Moment { at, what, kind }
}

/// Everything between the begin of the first cause and the end of the incident.
pub fn moments(
    timeline: &Timeline,
    incident: &Incident,
    loss: &Loss,
    causes: &[Cause],
) -> Vec<Moment> {
    let begin = causes.iter().take(3).filter_map(|cause| cause.since).min();
    let from = begin.unwrap_or(incident.begin).min(incident.begin).min(loss.first_stall);
    let mut all = Vec::new();
    for cause in causes.iter().take(3) {
        let Some(since) = cause.since else { continue };
        let verb = if cause.is_new { "was started" } else { "began to grow" };
        let who = if cause.process.is_empty() { &cause.name } else { &cause.process };
        let what = Text::name(who).and(format!(" {verb}")).join(if cause.process.is_empty() {
            Text::default()
        } else {
            Text::words(" in ").and_name(&cause.name)
        });
        all.push(moment(since, 0, what));
    }
    if loss.first_stall < incident.begin {
        all.push(moment(loss.first_stall, 0, Text::words("tasks began to wait for memory")));
    }
    for (silent_from, to) in &incident.silences {
        let seconds = (to - silent_from) / SECOND;
        let text = format!("the record is silent from here on, for {seconds} s");
        all.push(moment(*silent_from, 0, Text::words(text)));
    }
    let mut boot = None;
    for entry in &timeline.entries {
        let at = entry.time.wall_ns;
        let is_new_boot = boot.replace(entry.time.boot).is_some_and(|b| b != entry.time.boot);
        if !(from..=incident.end).contains(&at) {
            continue;
        }
        if is_new_boot {
            all.push(moment(at, 1, Text::words("the host was booted")));
        }
        all.extend(of_content(at, &entry.content));
    }
    let within = |at: i64| (incident.begin..=incident.end).contains(&at);
    let lost_weight =
        looks(&timeline.entries, &incident.scope).any(|(at, look)| within(at) && look.weight < 1.0);
    if incident.is_over && lost_weight {
        let what = Text::name(&incident.scope).and(" has all of its weight again");
        all.push(moment(incident.end, 1, what));
    }
    all.sort_by_key(|moment| moment.at);
    limited(all)
}

fn of_content(at: i64, content: &Content) -> Option<Moment> {
    let (kind, what) = match content {
        Content::Change(change) => {
            let names: Vec<_> = change.rules.iter().map(|rule| rule.rule.as_str()).collect();
            let percent = change.weight * 100.0;
            let (from, to) = (change.from.label(), change.to.label());
            let text = format!(": {from} -> {to}, weight {percent:.0} %");
            let text = Text::name(&change.scope).and(text);
            let rules = if names.is_empty() { String::new() } else { names.join(", ") };
            let has_rules = !rules.is_empty() && change.to > VerdictState::Ready;
            (2, if has_rules { text.and(" by ").and_name(&rules) } else { text })
        }
        Content::Event(event) => (3, of_event(event)?),
        Content::Answer(Answer { client, scope, state, weight, protocol }) => {
            let percent = weight * 100.0;
            let text = Text::words("the client ").and_name(client).and(" was answered for ");
            let text = text.and_name(scope).and(" by ").and_name(protocol).and(": ");
            (4, text.and_name(state).and(format!(", weight {percent:.0} %")))
        }
        Content::Life(Life::Started { pid }) => {
            (5, Text::words(format!("memsensor started (process {pid})")))
        }
        Content::Life(Life::Ended) => (5, Text::words("memsensor ended")),
        Content::Missing(missing) => {
            let [looks, scans, others] = missing.records;
            let text = format!("missing: {looks} looks, {scans} scans, {others} others: ");
            (6, Text::words(text).and_name(&missing.because))
        }
        Content::Look(_) | Content::Usage(_) | Content::Schema(_) => return None,
    };
    Some(moment(at, kind, what))
}

fn of_event(event: &Event) -> Option<Text> {
    Some(match &event.kind {
        EventKind::OomKill { oom_type, victim, .. } => {
            let whose = match oom_type {
                OomType::Global => "the OOM killer ended ",
                OomType::Memcg => "the OOM killer ended, at a limit, ",
            };
            let text = Text::words(whose).and_name(&victim.comm).and(format!(" ({})", victim.pid));
            match &victim.cgroup {
                Some(path) => text.and(" in ").and_name(path),
                None => text,
            }
        }
        EventKind::KillSignal { signal, sender, target } => Text::name(&sender.comm)
            .and(format!(" sent {} to ", signal.label()))
            .and_name(&target.comm)
            .and(format!(" ({})", target.pid)),
        EventKind::Operator { command, uid, detail, .. } => {
            Text::words(format!("an operator (uid {uid}): {command:?}: ").to_lowercase())
                .and_name(detail)
        }
        EventKind::VictimExit { .. } => return None,
    })
}

/// At most so many of each kind; the others are counted at the last one.
fn limited(all: Vec<Moment>) -> Vec<Moment> {
    let mut counts = [0_usize; 7];
    let mut kept: Vec<Moment> = Vec::new();
    for moment in all {
        let count = &mut counts[usize::from(moment.kind)];
        *count += 1;
        if *count <= MOST_OF_A_KIND {
            kept.push(moment);
        }
    }
    for (kind, count) in (0..).zip(counts) {
        let more = count.saturating_sub(MOST_OF_A_KIND);
        if let Some(last) = kept.iter_mut().rev().find(|m| m.kind == kind && more > 0) {
            last.what = last.what.clone().and(format!(" (and {more} more of this kind)"));
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::{super::incident::tests::kill, *};

    #[test]
    fn a_flood_of_one_kind_is_counted() {
        let entries = (0..30).map(|second| kill(second, &format!("b-{second}")));
        let moments = entries.filter_map(|entry| of_content(entry.time.wall_ns, &entry.content));
        let kept = limited(moments.chain([moment(i64::MAX, 5, Text::words("end"))]).collect());
        assert_eq!(kept.len(), 21);
        let last = kept[19].what.plain();
        assert_eq!(last, "x sent SIGKILL to x (1) (and 10 more of this kind)");
    }
}
