//! Changes of state between looks: as records, and as lines of the daemon's log. Pure.

use std::fmt::Write as _;

use sensor_core::{
    record::content::{Change, Look, RuleNumbers, ScopeLook, Usage},
    verdict::{
        policy::{Policy, rule_bit},
        signals::Signal,
        state::VerdictState,
    },
};

/// The states that scopes had in the last look.
#[derive(Debug, Default)]
pub struct Changes {
    last: Vec<Option<VerdictState>>,
}

impl Changes {
    /// The changes since the last look. A scope that could not be measured keeps its state.
    pub fn since_last(&mut self, look: &Look, policy: &Policy) -> Vec<Change> {
        self.last.resize(look.scopes.len(), None);
        let scopes = look.scopes.iter().zip(&mut self.last);
        let changes = scopes.filter_map(|(scope, last)| {
            let to = scope.state?;
            let from = last.replace(to)?;
            (from != to).then(|| change(scope, from, to, policy))
        });
        changes.collect()
    }
}

fn change(scope: &ScopeLook, from: VerdictState, to: VerdictState, policy: &Policy) -> Change {
    let rules = policy.rules().filter(|(rule, _)| scope.fires & rule_bit(rule.name) != 0);
    let numbers = rules.map(|(rule, conditions)| {
        let number = |condition: &sensor_core::verdict::policy::Condition| {
            let index = Signal::ALL.iter().position(|signal| *signal == condition.signal)?;
            let value = scope.signals.get(index).copied().flatten()?;
            Some((condition.signal.name().to_owned(), value, single(condition.threshold)))
        };
        RuleNumbers {
            rule: rule.name.to_owned(),
            numbers: conditions.iter().filter_map(number).collect(),
        }
    });
    Change { scope: scope.scope.clone(), from, to, weight: scope.weight, rules: numbers.collect() }
}

#[allow(clippy::cast_possible_truncation, reason = "a record needs no more than seven digits")]
const fn single(value: f64) -> f32 {
    value as f32
}

/// The line of the log: state, weight, rules with their numbers, who grows fastest. Names come from
/// processes; the log escapes them.
pub fn line(change: &Change, usage: Option<&Usage>) -> String {
    let percent = change.weight * 100.0;
    let mut line = format!(
        "{}: {} -> {}, weight {percent:.0}%",
        change.scope,
        change.from.label(),
        change.to.label()
    );
    for (n, rule) in change.rules.iter().enumerate() {
        let _ = write!(line, "{} {}", if n == 0 { ";" } else { "," }, rule.rule);
        let numbers = rule.numbers.iter();
        let numbers: Vec<_> = numbers
            .map(|(signal, value, threshold)| format!("{signal} {value:.3} of {threshold}"))
            .collect();
        let _ = write!(line, " ({})", numbers.join(", "));
    }
    let Some(usage) = usage else { return line };
    let grows = usage.processes.iter().max_by_key(|p| p.growth_bytes);
    if let Some(process) = grows.filter(|p| p.growth_bytes > 0) {
        let (comm, pid, mib) = (&process.comm, process.pid, process.growth_bytes >> 20);
        let seconds = process.growth_seconds;
        let _ = write!(line, "; grows fastest: {comm:?} ({pid}), {mib} MiB in {seconds} s");
    }
    let grows = usage.cgroups.iter().max_by_key(|c| c.growth_bytes);
    if let Some(cgroup) = grows.filter(|c| c.growth_bytes > 0) {
        let _ = write!(line, ", {:?} {} MiB", cgroup.path, cgroup.growth_bytes >> 20);
    }
    line
}

#[cfg(test)]
mod tests {
    use sensor_core::record::content::{CgroupSize, ProcessSize};

    use super::*;

    fn look(state: Option<VerdictState>, fires: &[&str]) -> Look {
        let policy = Policy::default();
        let bits = policy.rules().filter(|(rule, _)| fires.contains(&rule.name));
        let fires = bits.map(|(rule, _)| rule_bit(rule.name)).fold(0, |all, bit| all | bit);
        let scope = ScopeLook {
            scope: "host".into(),
            state,
            weight: 0.0,
            fires,
            signals: vec![Some(0.3); Signal::ALL.len()],
            ..ScopeLook::default()
        };
        Look { scopes: vec![scope], ..Look::default() }
    }

    #[test]
    fn a_change_has_the_rules_that_fire_with_their_numbers() {
        use VerdictState::{Overloaded, Ready};
        let (mut changes, policy) = (Changes::default(), Policy::default());
        let mut since = |state, fires: &[&str]| changes.since_last(&look(state, fires), &policy);
        assert_eq!(since(Some(Ready), &[]), [], "the first look");
        assert_eq!(since(Some(Ready), &["stalled"]), []);
        let changes = since(Some(Overloaded), &["stalled"]);
        let [change] = &changes[..] else { panic!("{changes:?}") };
        assert_eq!((change.from, change.to), (Ready, Overloaded));
        let numbers = vec![("full_share_10s".to_owned(), 0.3, 0.25)];
        assert_eq!(change.rules, [RuleNumbers { rule: "stalled".into(), numbers }]);
        assert_eq!(since(None, &[]), [], "not measured");
        assert_eq!(since(Some(Overloaded), &[]), []);
        assert_eq!(since(Some(Ready), &[]).len(), 1);
    }

    #[test]
    fn a_line_names_what_an_operator_needs() {
        let mut changes = Changes::default();
        changes.since_last(&look(Some(VerdictState::Ready), &[]), &Policy::default());
        let next = look(Some(VerdictState::Overloaded), &["stalled", "pressed"]);
        let change = changes.since_last(&next, &Policy::default()).remove(0);
        let expected = "host: ready -> overloaded, weight 0%; stalled (full_share_10s 0.300 of \
                        0.25), pressed (full_share_10s 0.300 of 0.1)";
        assert_eq!(line(&change, None), expected);
        let process = ProcessSize {
            pid: 7,
            comm: "agent".into(),
            growth_bytes: 100 << 20,
            growth_seconds: 20,
            ..ProcessSize::default()
        };
        let path = "/system.slice/agent.service".to_owned();
        let cgroup = CgroupSize { path, growth_bytes: 100 << 20, ..CgroupSize::default() };
        let usage = Usage { processes: vec![process], cgroups: vec![cgroup], ..Usage::default() };
        let expected = format!(
            "{expected}; grows fastest: \"agent\" (7), 100 MiB in 20 s, \
             \"/system.slice/agent.service\" 100 MiB"
        );
        assert_eq!(line(&change, Some(&usage)), expected);
    }
}
