//! Looks by steps of time: the worst of each step, so that a short stall shows at any step. A step
//! without a look is a gap.

use sensor_core::{
    record::content::{Content, Look, ScopeLook},
    verdict::{
        signals::{Signal, Worse},
        state::VerdictState,
    },
};

use super::timeline::Timeline;
use crate::recorder::archive::Entry;

/// One scope in one step.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// Begin of the step: nanoseconds since 1970.
    pub wall_ns: i64,
    /// Looks in the step; 0 is a gap.
    pub looks: u32,
    /// The worst state.
    pub state: Option<VerdictState>,
    /// The lowest weight: 0 to 1.
    pub weight: Option<f32>,
    /// The rules that fired, by bit.
    pub fires: u64,
    /// The worst value of each signal.
    pub signals: Vec<Option<f32>>,
    /// Memory that the scope may use.
    pub total_bytes: Option<u64>,
    /// The least that was available.
    pub available_bytes: Option<u64>,
    /// The least free swap.
    pub swap_free_bytes: Option<u64>,
}

impl Point {
    /// A step without a look.
    pub(super) const fn gap(wall_ns: i64) -> Self {
        Self {
            wall_ns,
            looks: 0,
            state: None,
            weight: None,
            fires: 0,
            signals: Vec::new(),
            total_bytes: None,
            available_bytes: None,
            swap_free_bytes: None,
        }
    }

    fn add(&mut self, look: &ScopeLook, worse: &[Worse]) {
        self.looks += 1;
        self.state = self.state.max(look.state);
        self.weight = Some(self.weight.map_or(look.weight, |weight| weight.min(look.weight)));
        self.fires |= look.fires;
        self.signals.resize(self.signals.len().max(look.signals.len()), None);
        for (n, (mine, other)) in self.signals.iter_mut().zip(&look.signals).enumerate() {
            let is_down = worse.get(n) == Some(&Worse::Down);
            *mine = match (*mine, *other) {
                (Some(mine), Some(other)) if is_down => Some(mine.min(other)),
                (Some(mine), Some(other)) => Some(mine.max(other)),
                (mine, other) => mine.or(other),
            };
        }
        let least = |mine: Option<u64>, other: Option<u64>| match (mine, other) {
            (Some(mine), Some(other)) => Some(mine.min(other)),
            (mine, other) => mine.or(other),
        };
        self.total_bytes = look.total_bytes.or(self.total_bytes);
        self.available_bytes = least(self.available_bytes, look.available_bytes);
        self.swap_free_bytes = least(self.swap_free_bytes, look.swap_free_bytes);
    }
}

/// A scope's steps.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// Name of the scope.
    pub scope: String,
    /// Its steps, in order.
    pub points: Vec<Point>,
}

/// Most steps of a series; a longer time needs longer steps.
pub const MAX_STEPS: i64 = 100_000;
/// Most scopes: the host and those that a configuration may have.
const MAX_SCOPES: usize = 33;

/// The series of all scopes, with steps of so many nanoseconds, from the first look to the last. None
/// if there are more than [`MAX_STEPS`].
pub fn series(timeline: &Timeline, step_ns: i64) -> Option<Vec<Series>> {
    let looks = || timeline.entries.iter().filter_map(look);
    let first = looks().map(|(at, _)| at).min().unwrap_or(0);
    let last = looks().map(|(at, _)| at).max().unwrap_or(0);
    let begin = first.saturating_sub(first.rem_euclid(step_ns));
    // The clock of a damaged or foreign record may say anything.
    let steps = last.checked_sub(begin)? / step_ns + 1;
    if steps > MAX_STEPS {
        return None;
    }
    let worse: Vec<_> = timeline.schema.signals.iter().map(|name| direction(name)).collect();
    let mut all: Vec<Series> = Vec::new();
    for (at, look) in looks() {
        for scope in look.scopes.iter().filter(|scope| is_plain(&scope.scope)) {
            let known = all.iter().position(|series| series.scope == scope.scope);
            if known.is_none() && all.len() == MAX_SCOPES {
                continue;
            }
            let index = known.unwrap_or_else(|| {
                let points = (0..steps).map(|n| Point::gap(begin + n * step_ns)).collect();
                all.push(Series { scope: scope.scope.clone(), points });
                all.len() - 1
            });
            let step = usize::try_from((at - begin) / step_ns).ok();
            if let Some(point) = step.and_then(|step| all[index].points.get_mut(step)) {
                point.add(scope, &worse);
            }
        }
    }
    Some(all)
}

fn look(entry: &Entry) -> Option<(i64, &Look)> {
    match &entry.content {
        Content::Look(look) => Some((entry.time.wall_ns, look)),
        _ => None,
    }
}

/// Whether it may be the name of a scope; memsensor writes no others.
fn is_plain(scope: &str) -> bool {
    let is_allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    !scope.is_empty() && scope.bytes().all(is_allowed)
}

/// The direction in which a signal is worse; a signal of another version counts as worse upwards.
fn direction(name: &str) -> Worse {
    let known = Signal::ALL.iter().find(|signal| signal.name() == name);
    known.map_or(Worse::Up, |signal| signal.worse())
}

#[cfg(test)]
mod tests {
    use sensor_core::record::{content::Schema, frame::RecordTime};

    use super::*;

    const SECOND: i64 = 1_000_000_000;

    fn entry(second: i64, state: VerdictState, weight: f32, full: f32, available: u64) -> Entry {
        let scope = ScopeLook {
            scope: "host".into(),
            state: Some(state),
            weight,
            signals: vec![Some(full), Some(weight)],
            available_bytes: Some(available),
            ..ScopeLook::default()
        };
        let time = RecordTime { wall_ns: second * SECOND, ..RecordTime::default() };
        Entry { time, content: Content::Look(Look { scopes: vec![scope], ..Look::default() }) }
    }

    fn timeline(entries: Vec<Entry>) -> Timeline {
        let signals = vec!["full_share_1s".to_owned(), "available_ratio".to_owned()];
        Timeline { entries, schema: Schema { signals, ..Schema::default() }, losses: Vec::new() }
    }

    #[test]
    fn a_step_has_the_worst_of_its_looks_and_gaps_stay() {
        use VerdictState::{Overloaded, Ready};
        let timeline = timeline(vec![
            entry(12, Ready, 1.0, 0.1, 500),
            entry(15, Overloaded, 0.0, 0.9, 100),
            entry(19, Ready, 0.5, 0.2, 300),
            entry(41, Ready, 1.0, 0.0, 700),
        ]);
        let all = series(&timeline, 10 * SECOND).expect("few steps");
        let [host] = &all[..] else { panic!("{all:?}") };
        let points: Vec<_> = host
            .points
            .iter()
            .map(|p| (p.wall_ns / SECOND, p.looks, p.state, p.available_bytes))
            .collect();
        assert_eq!(
            points,
            [
                (10, 3, Some(Overloaded), Some(100)),
                (20, 0, None, None),
                (30, 0, None, None),
                (40, 1, Some(Ready), Some(700)),
            ]
        );
        assert_eq!(host.points[0].signals, [Some(0.9), Some(0.0)], "available is worse downwards");
        assert_eq!(host.points[0].weight, Some(0.0));
    }

    #[test]
    fn too_many_steps_are_refused_and_none_are_fine() {
        let far = timeline(vec![
            entry(0, VerdictState::Ready, 1.0, 0.0, 1),
            entry(MAX_STEPS + 1, VerdictState::Ready, 1.0, 0.0, 1),
        ]);
        assert_eq!(series(&far, SECOND), None);
        assert_eq!(series(&timeline(Vec::new()), SECOND), Some(Vec::new()));
    }
}
