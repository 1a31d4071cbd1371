//! Why a verdict is what it is: each rule with its numbers and thresholds, and what would change it.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    evaluator::Verdict,
    policy::Policy,
    signals::{Signal, Worse},
    state::{Severity, VerdictState},
};

/// An age that is worth a line.
const OLD_SECONDS: f64 = 2.0;

/// The whole story of one verdict.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// Which scope.
    pub scope: String,
    /// The verdict.
    pub state: VerdictState,
    /// Share of its usual traffic, 0 to 1.
    pub weight: f64,
    /// What balancers are told, if that is something else: a state and a weight from 0 to 1.
    pub reported: Option<(String, f64)>,
    /// How long ago the sample was taken that this is from.
    pub age_seconds: f64,
    /// How long it has been in this state.
    pub for_seconds: f64,
    /// How long it must be calm before it gets better.
    pub recover_after_seconds: f64,
    /// Why nothing can be told, if so.
    pub unknown_reason: Option<String>,
    /// An operator's drain, if one holds.
    pub drained: Option<String>,
    /// Every rule, the worst first.
    pub rules: Vec<RuleNow>,
    /// What no rule looks at now.
    pub other_signals: Vec<SignalNow>,
}

/// A rule, as it stands now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RuleNow {
    /// Its name.
    pub rule: String,
    /// What it leads to.
    pub level: Severity,
    /// Whether it holds.
    pub status: Status,
    /// Why it is evidence.
    pub because: String,
    /// All of these must hold.
    pub conditions: Vec<ConditionNow>,
}

/// How far a rule holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// At its thresholds.
    Fires,
    /// Only at the relaxed ones: it keeps the verdict from getting better, not more.
    Holds,
    /// Not at all.
    Quiet,
    /// PSI is there, and knows better.
    Unused,
}

/// A condition, as it stands now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConditionNow {
    /// What is compared.
    pub signal: String,
    /// Its value; none if it cannot be told.
    pub value: Option<f64>,
    /// `>=` or `<=`.
    pub comparison: String,
    /// What it is compared with.
    pub threshold: f64,
    /// What it must be better than before the rule is quiet again.
    pub quiet_beyond: f64,
    /// Whether it is met.
    pub met: bool,
}

/// A number that no rule looks at.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SignalNow {
    /// Its name.
    pub signal: String,
    /// Its value.
    pub value: f64,
    /// What it is.
    pub about: String,
}

/// Explains a verdict.
pub fn explain(scope: &str, verdict: &Verdict, policy: &Policy, now_ns: u64) -> Explanation {
    let signals = &verdict.signals;
    let rules = policy.rules().map(|(rule, conditions)| {
        let found = verdict.evidence.rules.iter().find(|f| f.rule == rule.name);
        RuleNow {
            rule: rule.name.to_owned(),
            level: rule.level,
            status: match found {
                Some(finding) if finding.fires => Status::Fires,
                Some(_) => Status::Holds,
                None if rule.without_psi && signals.has_psi() => Status::Unused,
                None => Status::Quiet,
            },
            because: rule.because.to_owned(),
            conditions: conditions
                .iter()
                .map(|c| ConditionNow {
                    signal: c.signal.name().to_owned(),
                    value: signals.get(c.signal),
                    comparison: if c.signal.worse() == Worse::Up { ">=" } else { "<=" }.to_owned(),
                    threshold: c.threshold,
                    quiet_beyond: c.relaxed(),
                    met: c.is_met(signals, false),
                })
                .collect(),
        }
    });
    let rules: Vec<_> = rules.collect();
    let looked_at = |name: &str| rules.iter().flat_map(|r| &r.conditions).any(|c| c.signal == name);
    let other_signals = Signal::ALL
        .iter()
        .filter(|s| !looked_at(s.name()))
        .filter_map(|s| {
            let value = signals.get(*s)?;
            Some(SignalNow { signal: s.name().to_owned(), value, about: s.about().to_owned() })
        })
        .collect();
    Explanation {
        scope: scope.to_owned(),
        state: verdict.position.state,
        weight: verdict.position.weight,
        for_seconds: now_ns.saturating_sub(verdict.since_ns) as f64 / 1e9,
        recover_after_seconds: verdict.recover_after.as_secs_f64(),
        reported: None,
        age_seconds: 0.0,
        unknown_reason: None,
        drained: None,
        rules,
        other_signals,
    }
}

impl Explanation {
    /// What would change it, in a sentence.
    fn outlook(&self) -> String {
        let wait = self.recover_after_seconds;
        let of = |status| {
            let names = self.rules.iter().filter(|r| r.status == status).map(|r| r.rule.as_str());
            names.collect::<Vec<_>>().join(", ")
        };
        let holding = [of(Status::Fires), of(Status::Holds)];
        let holding: Vec<_> =
            holding.iter().filter(|s| !s.is_empty()).map(String::as_str).collect();
        match (self.state, holding.is_empty()) {
            (VerdictState::Ready, true) => "no rule speaks against full traffic".to_owned(),
            (VerdictState::Ready, false) => {
                format!("{} is close; it would have to fire first", holding.join(", "))
            }
            (_, false) => {
                format!("it gets better {wait:.0} s after these are quiet: {}", holding.join(", "))
            }
            (VerdictState::Overloaded, true) => {
                format!("all is quiet: traffic again within {wait:.0} s")
            }
            (VerdictState::Degraded, true) => {
                format!("all is quiet: the weight rises, after {wait:.0} s at most")
            }
        }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}: {}, weight {:.0}%, for {}",
            self.scope,
            self.state.label(),
            self.weight * 100.0,
            humantime::format_duration(
                Duration::try_from_secs_f64(self.for_seconds.round()).unwrap_or_default()
            )
        )?;
        if let Some((state, weight)) = &self.reported {
            let percent = weight * 100.0;
            writeln!(f, "balancers are told something else: {state}, weight {percent:.0}%")?;
        }
        if self.age_seconds > OLD_SECONDS {
            writeln!(f, "the sample is {:.1} s old", self.age_seconds)?;
        }
        if let Some(reason) = &self.drained {
            writeln!(f, "drained by an operator: {reason}")?;
        }
        if let Some(why) = &self.unknown_reason {
            writeln!(f, "blind: {why}")?;
        }
        writeln!(f, "{}", self.outlook())?;
        for rule in self.rules.iter().filter(|r| r.status != Status::Unused) {
            let (mark, level) = match rule.status {
                Status::Fires => ("FIRES", rule.level),
                Status::Holds => ("holds", rule.level),
                _ => ("quiet", rule.level),
            };
            let level = if level == Severity::Overloaded { "drains" } else { "takes weight" };
            writeln!(f, "\n{mark}  {} ({level}): {}", rule.rule, rule.because)?;
            for c in &rule.conditions {
                let value = c.value.map_or("unknown".to_owned(), |v| format!("{v:.4}"));
                let met = if c.met { "yes" } else { "no " };
                writeln!(
                    f,
                    "       {met} {:<26} {value:>10} {} {} (quiet beyond {})",
                    c.signal, c.comparison, c.threshold, c.quiet_beyond
                )?;
            }
        }
        if !self.other_signals.is_empty() {
            writeln!(f, "\nno rule looks at:")?;
        }
        for s in &self.other_signals {
            writeln!(f, "           {:<26} {:>10.4}  {}", s.signal, s.value, s.about)?;
        }
        Ok(())
    }
}
