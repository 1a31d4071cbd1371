//! What would have caught an incident earlier: each rule of the verdict over the record, as it is and
//! at half of its thresholds, and what a limit on the culprit would have meant.

use sensor_core::{
    record::content::{Schema, ScopeLook},
    verdict::{
        policy::{Condition, Policy},
        signals::Worse,
    },
};
use serde::Serialize;

use super::{
    growth::Track,
    incident::{Incident, SECOND, looks},
};
use crate::history::timeline::Timeline;

/// Part of the thresholds that is tried.
const PART: f64 = 0.5;
/// Looks that are so much apart are two alarms.
const ALARM_APART: i64 = 60 * SECOND;

/// When a rule fired, or would have fired.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RuleTimes {
    /// Name of the rule.
    pub rule: &'static str,
    /// Seconds before the scope lost weight, as it is; negative after it. `None` if it never fired.
    pub fired_ahead: Option<f64>,
    /// The same at half of its thresholds.
    pub half_ahead: Option<f64>,
    /// Alarms at half of its thresholds before the incident, in the record that was read.
    pub half_false: usize,
}

/// Rules over the looks of the incident's scope; those that never fire are left out.
pub fn rules(timeline: &Timeline, incident: &Incident, policy: &Policy) -> Vec<RuleTimes> {
    let all: Vec<_> = looks(&timeline.entries, &incident.scope).collect();
    let lost = all.iter().find(|(at, look)| *at >= incident.lead_in && look.weight < 1.0);
    let Some(lost) = lost.map(|(at, _)| *at) else { return Vec::new() };
    let ahead = |at: i64| (lost - at) as f64 / SECOND as f64;
    let times = policy.rules().map(|(rule, conditions)| {
        let index = timeline.schema.rules.iter().position(|name| name == rule.name);
        let bit = index.and_then(|index| 1_u64.checked_shl(u32::try_from(index).ok()?));
        let within = |at: i64| (incident.lead_in..=incident.end).contains(&at);
        let fires = |look: &ScopeLook| bit.is_some_and(|bit| look.fires & bit != 0);
        let half = |look: &ScopeLook| is_met(look, conditions, &timeline.schema, PART);
        let first = all.iter().find(|(at, look)| within(*at) && fires(look));
        let would = all.iter().find(|(at, look)| within(*at) && half(look));
        let before = all.iter().filter(|(at, look)| *at < incident.lead_in && half(look));
        RuleTimes {
            rule: rule.name,
            fired_ahead: first.map(|(at, _)| ahead(*at)),
            half_ahead: would.map(|(at, _)| ahead(*at)),
            half_false: alarms(before.map(|(at, _)| *at)),
        }
    });
    let mut times: Vec<_> =
        times.filter(|rule| rule.fired_ahead.is_some() || rule.half_ahead.is_some()).collect();
    let by_time = |rule: &RuleTimes| rule.fired_ahead.unwrap_or(f64::NEG_INFINITY);
    times.sort_by(|a, b| by_time(b).total_cmp(&by_time(a)));
    times
}

/// Whether all conditions are met at this part of their thresholds.
fn is_met(look: &ScopeLook, conditions: &[Condition], schema: &Schema, part: f64) -> bool {
    conditions.iter().all(|condition| {
        let name = condition.signal.name();
        let index = schema.signals.iter().position(|signal| signal == name);
        let value = index.and_then(|index| look.signals.get(index).copied().flatten());
        value.is_some_and(|value| match condition.signal.worse() {
            Worse::Up => f64::from(value) >= condition.threshold * part,
            Worse::Down => f64::from(value) <= condition.threshold / part,
        })
    })
}

fn alarms(times: impl Iterator<Item = i64>) -> usize {
    let (mut count, mut last) = (0, i64::MIN);
    for at in times {
        if last == i64::MIN || at.saturating_sub(last) > ALARM_APART {
            count += 1;
        }
        last = at;
    }
    count
}

/// What a limit on the culprit would have meant.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Limit {
    /// `MemoryMax=` in bytes.
    pub bytes: u64,
    /// Its size before, in bytes.
    pub before: u64,
    /// Seconds before the incident at which it would have been reached; negative after it.
    pub reached_ahead: f64,
}

/// Twice its size before, in steps of 64 MiB; for something new a quarter of its peak. `None` if it would
/// not have been reached.
pub fn limit(track: &Track, incident: &Incident) -> Option<Limit> {
    const STEP: u64 = 64 << 20;
    let grown = track.grown(incident.lead_in, incident.end)?;
    let wanted = if grown.base == 0 { grown.peak / 4 } else { grown.base * 2 };
    let bytes = wanted.max(1).next_multiple_of(STEP);
    let within = track.points.iter().filter(|(at, _)| *at >= incident.lead_in);
    let (at, _) = within.copied().find(|(_, size)| *size >= bytes)?;
    let reached_ahead = (incident.begin - at) as f64 / SECOND as f64;
    Some(Limit { bytes, before: grown.base, reached_ahead })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alarms_that_are_close_are_one() {
        let seconds = [0, 10, 65, 200, 210, 1000].map(|second| second * SECOND);
        assert_eq!(alarms(seconds.into_iter()), 3);
        assert_eq!(alarms([].into_iter()), 0);
    }
}
