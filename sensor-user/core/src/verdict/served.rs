//! The verdict of a host that serves from cgroups with limits of their own: the worst of its own and
//! theirs.
//!
//! Not here: which cgroups these are (the daemon's `cgroups/served`).

use std::sync::Arc;

use super::{evaluator::Verdict, state::VerdictState};

/// Combines the verdicts, sample by sample. Counts the changes of the combined state.
#[derive(Debug, Clone, Default)]
pub struct WorstVerdict {
    last: Option<VerdictState>,
    since_ns: u64,
    transitions: [[u64; 3]; 3],
}

impl WorstVerdict {
    /// The worst of the host's verdict and those of the groups; and the path of the group that it is
    /// of, if it is not the host's own. Of equal ones it is the host's.
    pub fn update<'a>(
        &mut self,
        now_ns: u64,
        own: Verdict,
        groups: impl IntoIterator<Item = (&'a Arc<str>, &'a Verdict)>,
    ) -> (Verdict, Option<Arc<str>>) {
        let is_worse = |a: &Verdict, b: &Verdict| {
            let (a, b) = (a.position, b.position);
            (a.state, -a.weight) > (b.state, -b.weight)
        };
        let worst =
            groups.into_iter().fold(
                None,
                |worst: Option<(&Arc<str>, &Verdict)>, group| match worst {
                    Some((_, verdict)) if !is_worse(group.1, verdict) => worst,
                    None if !is_worse(group.1, &own) => None,
                    _ => Some(group),
                },
            );
        let first = (own.since_ns, own.transitions);
        let (mut verdict, path) = match worst {
            Some((path, verdict)) => (verdict.clone(), Some(Arc::clone(path))),
            None => (own, None),
        };
        let state = verdict.position.state;
        match self.last.replace(state) {
            None => (self.since_ns, self.transitions) = first,
            Some(last) if last != state => {
                self.transitions[last as usize][state as usize] += 1;
                self.since_ns = now_ns;
            }
            Some(_) => {}
        }
        (verdict.since_ns, verdict.transitions) = (self.since_ns, self.transitions);
        (verdict, path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::{evaluator::Evaluator, reading::Reading, weight};

    fn verdict(state: VerdictState, weight: f64) -> Verdict {
        let mut evaluator = Evaluator::new(Arc::default(), weight::Settings::default());
        let mut verdict = evaluator.evaluate(Reading { at_ns: 1, ..Reading::default() });
        (verdict.position.state, verdict.position.weight) = (state, weight);
        verdict
    }

    #[test]
    fn the_worst_verdict_decides() {
        use VerdictState::{Degraded, Overloaded, Ready};
        let paths: [Arc<str>; 2] = ["/a".into(), "/b".into()];
        let mut worst = WorstVerdict::default();
        let mut update = |now_ns, own, groups: [(VerdictState, f64); 2]| {
            let groups = groups.map(|(state, weight)| verdict(state, weight));
            let (verdict, path) =
                worst.update(now_ns, verdict(Ready, own), paths.iter().zip(&groups));
            let transitions: u64 = verdict.transitions.as_flattened().iter().sum();
            let position = verdict.position;
            (
                position.state,
                position.weight,
                path.as_deref().map(str::to_owned),
                transitions,
                verdict.since_ns,
            )
        };
        let calm = (Ready, 1.0);
        assert_eq!(update(1, 1.0, [calm, calm]), (Ready, 1.0, None, 0, 1));
        let of = |path: &str| Some(path.to_owned());
        let half = (Degraded, 0.5);
        assert_eq!(update(2, 1.0, [calm, half]), (Degraded, 0.5, of("/b"), 1, 2));
        let less = (Degraded, 0.2);
        assert_eq!(update(3, 1.0, [less, half]), (Degraded, 0.2, of("/a"), 1, 2));
        assert_eq!(update(4, 1.0, [less, (Overloaded, 0.0)]), (Overloaded, 0.0, of("/b"), 2, 4));
        assert_eq!(update(5, 1.0, [calm, calm]), (Ready, 1.0, None, 3, 5));
    }
}
