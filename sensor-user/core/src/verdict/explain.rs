//! Explains a verdict: each rule with its values and thresholds, and what would change the state.
//!
//! Not here: what load balancers get; the daemon fills that in.

use std::{fmt, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use crate::common::text::{Printable, Sentence};

use super::{
    evaluator::Verdict,
    policy::{Condition, Policy, Rule},
    signals::{Signal, Signals, Worse},
    state::{Severity, VerdictState},
};

/// The age of a sample is printed if it is above this.
const OLD_SECONDS: f64 = 2.0;

/// One verdict with the evidence for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// Name of the scope.
    pub scope: String,
    /// State of the verdict.
    pub state: VerdictState,
    /// Share of its usual traffic, 0 to 1.
    pub weight: f64,
    /// State and weight (0 to 1) that load balancers get, if their state differs from `state`.
    pub reported: Option<(String, f64)>,
    /// Age of the sample.
    pub age_seconds: f64,
    /// How long the scope has been in this state.
    pub for_seconds: f64,
    /// How long no rule may hold before the state improves.
    pub recover_after_seconds: f64,
    /// Path of the cgroup whose verdict it is: one that the host serves from.
    pub decided_by: Option<String>,
    /// The cgroup whose limit stalls tasks most, if the host's verdict does not include it.
    pub uncounted: Option<UncountedLimit>,
    /// Why stalls cannot be measured, if so.
    pub unknown_reason: Option<String>,
    /// The reason of an operator's drain, if the host is drained.
    pub drained: Option<String>,
    /// All rules, the worst first.
    pub rules: Vec<RuleNow>,
    /// Signals that no rule uses.
    pub other_signals: Vec<SignalNow>,
}

/// A cgroup that stalls at its own limit and is not a part of the host's verdict.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UncountedLimit {
    /// Path of the cgroup.
    pub cgroup: Arc<str>,
    /// Tasks in limit reclaim, average over the last seconds.
    pub stalled_tasks: f64,
}

impl fmt::Display for UncountedLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (cgroup, stalled_tasks) = (Printable(&self.cgroup), self.stalled_tasks);
        write!(
            f,
            "the cgroup {cgroup} stalls at its own limit ({stalled_tasks:.2} tasks on average): not \
             counted for the host; add it to `serves`, or make it a scope, if users meet it"
        )
    }
}

/// A rule with its present status.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RuleNow {
    /// Name of the rule.
    pub rule: String,
    /// Its severity.
    pub level: Severity,
    /// Whether it fires or holds.
    pub status: Status,
    /// The reason for it.
    pub because: String,
    /// Its conditions, all of which must be met.
    pub conditions: Vec<ConditionNow>,
}

/// Status of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// All conditions are met.
    Fires,
    /// All are met at the relaxed thresholds only: the state does not improve, nor get worse.
    Holds,
    /// It neither fires nor holds.
    Quiet,
    /// It is not evaluated, because PSI is available.
    Unused,
}

impl Status {
    const fn mark(self) -> &'static str {
        match self {
            Self::Fires => "FIRES",
            Self::Holds => "holds",
            Self::Quiet | Self::Unused => "quiet",
        }
    }
}

/// A condition with the present value of its signal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConditionNow {
    /// Name of the signal.
    pub signal: String,
    /// Its value; `None` if it could not be measured.
    pub value: Option<f64>,
    /// `>=` or `<=`.
    pub comparison: String,
    /// The threshold.
    pub threshold: f64,
    /// The relaxed threshold: a rule that fired is quiet only beyond it.
    pub quiet_beyond: f64,
    /// Whether it is met.
    pub met: bool,
}

/// A signal that no rule uses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SignalNow {
    /// Its name.
    pub signal: String,
    /// Its value.
    pub value: f64,
    /// Its description.
    pub about: String,
}

/// Explains a verdict.
pub fn explain(scope: &str, verdict: &Verdict, policy: &Policy, now_ns: u64) -> Explanation {
    let rules = policy.rules().map(|(rule, conditions)| RuleNow::new(rule, conditions, verdict));
    let rules: Vec<_> = rules.collect();
    Explanation {
        scope: scope.to_owned(),
        state: verdict.position.state,
        weight: verdict.position.weight,
        for_seconds: now_ns.saturating_sub(verdict.since_ns) as f64 / 1e9,
        recover_after_seconds: verdict.recover_after.as_secs_f64(),
        reported: None,
        age_seconds: 0.0,
        decided_by: None,
        uncounted: None,
        unknown_reason: None,
        drained: None,
        other_signals: other_signals(&rules, &verdict.signals),
        rules,
    }
}

impl RuleNow {
    fn new(rule: &Rule, conditions: &[Condition], verdict: &Verdict) -> Self {
        let signals = &verdict.signals;
        let result = verdict.evidence.rules.iter().find(|result| result.rule == rule.name);
        let status = match result {
            Some(result) if result.fires => Status::Fires,
            Some(_) => Status::Holds,
            None if rule.without_psi && signals.has_psi() => Status::Unused,
            None => Status::Quiet,
        };
        Self {
            rule: rule.name.to_owned(),
            level: rule.level,
            status,
            because: rule.because.to_owned(),
            conditions: conditions.iter().map(|c| ConditionNow::new(c, signals)).collect(),
        }
    }
}

impl ConditionNow {
    fn new(condition: &Condition, signals: &Signals) -> Self {
        let signal = condition.signal;
        Self {
            signal: signal.name().to_owned(),
            value: signals.get(signal),
            comparison: if signal.worse() == Worse::Up { ">=" } else { "<=" }.to_owned(),
            threshold: condition.threshold,
            quiet_beyond: condition.relaxed(),
            met: condition.is_met(signals, false),
        }
    }
}

fn other_signals(rules: &[RuleNow], signals: &Signals) -> Vec<SignalNow> {
    let is_used = |name: &str| rules.iter().flat_map(|r| &r.conditions).any(|c| c.signal == name);
    let unused = Signal::ALL.iter().filter(|signal| !is_used(signal.name()));
    unused
        .filter_map(|signal| {
            let (name, about) = (signal.name().to_owned(), signal.about().to_owned());
            Some(SignalNow { signal: name, value: signals.get(*signal)?, about })
        })
        .collect()
}

impl Explanation {
    /// What would change the state, in one sentence.
    fn outlook(&self) -> String {
        if self.unknown_reason.is_some() && self.state != VerdictState::Ready {
            return "the state is kept: it improves only after it was measured as calm".to_owned();
        }
        let wait = self.recover_after_seconds;
        let active = [Status::Fires, Status::Holds].iter().flat_map(|status| {
            self.rules.iter().filter(|r| r.status == *status).map(|r| r.rule.as_str())
        });
        let active = active.collect::<Vec<_>>().join(", ");
        match (self.state, active.is_empty()) {
            (VerdictState::Ready, true) => "no rule fires or holds".to_owned(),
            (VerdictState::Ready, false) => format!("no rule fires; close to firing: {active}"),
            (VerdictState::Degraded | VerdictState::Overloaded, false) => {
                format!("the state improves {wait:.0} s after these rules are quiet: {active}")
            }
            (VerdictState::Overloaded, true) => {
                format!("no rule fires or holds: traffic resumes within {wait:.0} s")
            }
            (VerdictState::Degraded, true) => {
                format!("no rule fires or holds: the weight rises within {wait:.0} s")
            }
        }
    }

    fn write_header(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (state, percent) = (self.state.label(), self.weight * 100.0);
        let duration = Duration::try_from_secs_f64(self.for_seconds.round()).unwrap_or_default();
        let duration = humantime::format_duration(duration);
        let scope = Sentence(&self.scope);
        writeln!(f, "{scope}: {state}, weight {percent:.0}%, for {duration}")?;
        if let Some((state, weight)) = &self.reported {
            let (state, percent) = (Sentence(state), weight * 100.0);
            writeln!(f, "load balancers get another state: {state}, weight {percent:.0}%")?;
        }
        if self.age_seconds > OLD_SECONDS {
            writeln!(f, "the sample is {:.1} s old", self.age_seconds)?;
        }
        if let Some(path) = &self.decided_by {
            let path = Printable(path);
            writeln!(f, "decided by the cgroup {path}, which the host serves from")?;
        }
        if let Some(uncounted) = &self.uncounted {
            writeln!(f, "{uncounted}")?;
        }
        if let Some(reason) = &self.drained {
            writeln!(f, "drained by an operator: {}", Sentence(reason))?;
        }
        if let Some(reason) = &self.unknown_reason {
            writeln!(f, "stalls cannot be measured: {}", Sentence(reason))?;
        }
        writeln!(f, "{}", Sentence(&self.outlook()))
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_header(f)?;
        for rule in self.rules.iter().filter(|r| r.status != Status::Unused) {
            write!(f, "\n{rule}")?;
        }
        if !self.other_signals.is_empty() {
            writeln!(f, "\nsignals that no rule uses:")?;
        }
        for s in &self.other_signals {
            let (name, about) = (Sentence(&s.signal).to_string(), Sentence(&s.about));
            writeln!(f, "           {name:<26} {:>10.4}  {about}", s.value)?;
        }
        Ok(())
    }
}

impl fmt::Display for RuleNow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let effect = if self.level == Severity::Overloaded { "no traffic" } else { "less weight" };
        let (rule, because) = (Sentence(&self.rule), Sentence(&self.because));
        writeln!(f, "{}  {rule} ({effect}): {because}", self.status.mark())?;
        self.conditions.iter().try_for_each(|condition| writeln!(f, "{condition}"))
    }
}

impl fmt::Display for ConditionNow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let met = if self.met { "yes" } else { "no " };
        let value = self.value.map_or("unknown".to_owned(), |value| format!("{value:.4}"));
        let Self { threshold, quiet_beyond, .. } = self;
        let side = if self.comparison == ">=" { "below" } else { "above" };
        let signal = Sentence(&self.signal).to_string();
        let comparison = Sentence(&self.comparison);
        write!(
            f,
            "       {met} {signal:<26} {value:>10} {comparison} {threshold} \
             (quiet {side} {quiet_beyond})"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::weight::ScopeState;

    const SECOND: u64 = 1_000_000_000;

    /// A scope without PSI, 12 s after it entered the state.
    fn explanation(state: VerdictState, weight: f64, signals: &[(Signal, f64)]) -> Explanation {
        let policy = Policy::default();
        let mut now = Signals::default();
        for (signal, value) in signals {
            now.set(*signal, Some(*value));
        }
        let verdict = Verdict {
            position: ScopeState { state, weight, ..ScopeState::default() },
            since_ns: SECOND,
            evidence: policy.evaluate(&now),
            signals: now,
            recover_after: Duration::from_secs(10),
            transitions: [[0; 3]; 3],
        };
        explain("web", &verdict, &policy, 13 * SECOND)
    }

    #[test]
    fn the_text_lists_rules_with_values_and_thresholds() {
        let signals = [(Signal::OomKills60s, 1.0), (Signal::Full60s, 0.125)];
        let mut explanation = explanation(VerdictState::Overloaded, 0.0, &signals);
        explanation.reported = Some(("stale".to_owned(), 0.0));
        explanation.age_seconds = 2.5;
        explanation.drained = Some("kernel update".to_owned());
        explanation.unknown_reason = Some("no PSI".to_owned());
        let text = explanation.to_string();
        let header = "\
            web: overloaded, weight 0%, for 12s\n\
            load balancers get another state: stale, weight 0%\n\
            the sample is 2.5 s old\n\
            drained by an operator: kernel update\n\
            stalls cannot be measured: no PSI\n\
            the state is kept: it improves only after it was measured as calm\n\n";
        assert!(text.starts_with(header), "{text}");
        for lines in [
            "\nholds  out_of_memory (no traffic): this is the second OOM kill within a minute: \
             the first one did not free enough memory\n       \
             no  oom_kills_60s                  1.0000 >= 2 (quiet below 1)\n",
            "\nFIRES  oom_kill (less weight): ",
            "\n       yes oom_kills_60s                  1.0000 >= 1 (quiet below 0.5)\n",
            "\nquiet  stall_clock (no traffic): ",
            "\n       no  available_ratio               unknown <= 0.02 (quiet above 0.04)\n",
            "\n\nsignals that no rule uses:\n           \
             full_share_60s                 0.1250  share of",
        ] {
            assert!(text.contains(lines), "{lines} in\n{text}");
        }
    }

    #[test]
    fn no_escape_sequence_reaches_a_terminal() {
        let signals = [(Signal::OomKills60s, 1.0), (Signal::Full60s, 0.125)];
        let mut explanation = explanation(VerdictState::Overloaded, 0.0, &signals);
        let lines = explanation.to_string().lines().count();
        let name = || "a\u{1b}[2J\n\u{9b}\u{2028}".to_owned();
        explanation.scope = name();
        explanation.reported = Some((name(), 0.0));
        (explanation.drained, explanation.unknown_reason) = (Some(name()), Some(name()));
        let rule = &mut explanation.rules[0];
        (rule.rule, rule.because) = (name(), name());
        (rule.conditions[0].signal, rule.conditions[0].comparison) = (name(), name());
        let other = &mut explanation.other_signals[0];
        (other.signal, other.about) = (name(), name());
        let text = explanation.to_string();
        assert_eq!(text.matches("a\\u{1b}[2J\\n\\u{9b}\\u{2028}").count(), 10, "{text}");
        assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{text:?}");
        // `reported`, `drained` and `unknown_reason` have a line each.
        assert_eq!(text.lines().count(), lines + 3, "{text}");
    }

    #[test]
    fn the_outlook_depends_on_state_and_rules() {
        let holding = [(Signal::OomKills60s, 0.5)];
        for (state, signals, expected) in [
            (VerdictState::Ready, &[][..], "no rule fires or holds"),
            (VerdictState::Ready, &holding, "no rule fires; close to firing: oom_kill"),
            (
                VerdictState::Degraded,
                &holding,
                "the state improves 10 s after these rules are quiet: oom_kill",
            ),
            (VerdictState::Degraded, &[], "no rule fires or holds: the weight rises within 10 s"),
            (VerdictState::Overloaded, &[], "no rule fires or holds: traffic resumes within 10 s"),
        ] {
            assert_eq!(explanation(state, 0.5, signals).outlook(), expected);
        }
    }

    #[test]
    fn rules_for_hosts_without_psi_are_not_listed_with_psi() {
        let explanation = explanation(VerdictState::Ready, 1.0, &[(Signal::Full1s, 0.0)]);
        let text = explanation.to_string();
        assert!(text.contains("stalled (no traffic)") && !text.contains("stall_clock"), "{text}");
    }
}
