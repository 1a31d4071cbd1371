//! The rules of the verdict: which signals are evidence of memory pressure, at which thresholds and
//! why.
//!
//! A rule is met if all of its conditions are; a condition on a signal without a value is not met.
//! No rule uses PSI `some` alone: healthy hosts that fill their page cache have a high `some`. Each
//! rule is evaluated twice. It *fires* at its thresholds and *holds* at relaxed ones, so a value
//! that hovers around a threshold does not make the verdict flap.
//!
//! Not here: how fast state and weight follow the rules ([`super::weight`]).

use std::collections::BTreeMap;

use super::{
    signals::{Signal, Signals, Worse},
    state::Severity,
};

/// A comparison of a signal with a threshold, inclusive.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Condition {
    /// The signal.
    pub signal: Signal,
    /// Met at or above this value; at or below it if lower values of the signal are worse.
    pub threshold: f64,
}

const fn when(signal: Signal, threshold: f64) -> Condition {
    Condition { signal, threshold }
}

/// A rule: conditions that together are evidence of memory pressure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rule {
    /// Name in output, metrics and configuration.
    pub name: &'static str,
    /// Severity while it fires.
    pub level: Severity,
    /// Conditions, all of which must be met.
    pub when: &'static [Condition],
    /// Evaluated only if PSI is not available.
    pub without_psi: bool,
    /// The reason, for operators.
    pub because: &'static str,
}

/// The bit of the rule of this name, for sets of rules. It follows the order of [`RULES`].
pub fn rule_bit(name: &str) -> u64 {
    RULES.iter().position(|rule| rule.name == name).map_or(0, |index| 1 << index)
}

use Signal as S;

/// Memory was short within the last minute: tasks waited for it for at least 30 ms. Waits for a disk
/// alone are no evidence: a program that slept reads its pages again, and users meet none of it.
const SHORT: f64 = 0.0005;

/// The rules, the worst first.
pub const RULES: &[Rule] = &[
    Rule {
        name: "stalled",
        level: Severity::Overloaded,
        when: &[when(S::Full10s, 0.25)],
        without_psi: false,
        because: "all tasks were stalled for a quarter of the last ten seconds, so requests are \
                  delayed too",
    },
    Rule {
        name: "choking",
        level: Severity::Overloaded,
        when: &[when(S::Full1s, 0.5), when(S::Full10s, 0.08)],
        without_psi: false,
        because: "all tasks were stalled for half of the last second, and for 0.8 s of the last \
                  ten: the rules of ten seconds alone would react too late",
    },
    Rule {
        name: "thrashing",
        level: Severity::Overloaded,
        when: &[when(S::Full1s, 0.2), when(S::Full10s, 0.08), when(S::Refaults10s, 600.0)],
        without_psi: false,
        because: "pages are read again right after their eviction: the working set no longer fits \
                  in memory",
    },
    Rule {
        name: "overflowing",
        level: Severity::Overloaded,
        when: &[
            when(S::Filled, 5.0),
            when(S::Available, 0.02),
            when(S::Refaults1s, 160.0),
            when(S::Full1s, 0.02),
        ],
        without_psi: false,
        because: "memory has just filled up, evicted pages are read again, and tasks already wait \
                  for them: the stalls grow with each second",
    },
    Rule {
        name: "swapping",
        level: Severity::Overloaded,
        when: &[when(S::SwapWait1s, 0.3), when(S::SwapWait10s, 0.05), when(S::Some60s, SHORT)],
        without_psi: false,
        because: "some task waited for the disk to read pages from swap in a third of the last second, \
                  and tasks waited for memory: not only a program that wakes up reads its pages. PSI \
                  memory includes few of the waits for a disk (mm/page_io.c: those for pages of the \
                  working set)",
    },
    Rule {
        name: "rereading",
        level: Severity::Overloaded,
        when: &[when(S::RereadWait1s, 0.3), when(S::RereadWait10s, 0.05), when(S::Unused, 0.05)],
        without_psi: false,
        because: "some task waited for the disk to read lost pages of files again in a third of the last \
                  second; PSI memory includes few of these waits",
    },
    Rule {
        name: "out_of_memory",
        level: Severity::Overloaded,
        when: &[when(S::OomKills60s, 2.0)],
        without_psi: false,
        because: "this is the second OOM kill within a minute: the first one did not free enough \
                  memory",
    },
    Rule {
        name: "no_progress",
        level: Severity::Overloaded,
        when: &[when(S::NoProgress, 4.0), when(S::Some1s, 0.2)],
        without_psi: false,
        because: "allocations retry reclaim without freeing any page: an OOM kill is next",
    },
    Rule {
        name: "running_out",
        level: Severity::Overloaded,
        when: &[when(S::Exhaustion, 10.0), when(S::Some10s, 0.1), when(S::Available, 0.1)],
        without_psi: false,
        because: "memory and swap will be exhausted within seconds, and tasks already wait for \
                  memory",
    },
    Rule {
        name: "stall_clock",
        level: Severity::Overloaded,
        when: &[when(S::Stalled1s, 1.0), when(S::Stalled10s, 0.5)],
        without_psi: true,
        because: "without PSI: on average, at least one task was in reclaim during the whole last \
                  second",
    },
    Rule {
        name: "stall_clock_thrashing",
        level: Severity::Overloaded,
        when: &[when(S::Stalled10s, 0.1), when(S::Lost10s, 900.0)],
        without_psi: true,
        because: "without PSI: pages are read again half a minute after their eviction; the stall \
                  clock does not include the waits for these reads",
    },
    Rule {
        name: "stall_clock_scarce",
        level: Severity::Overloaded,
        when: &[when(S::Stalled10s, 0.2), when(S::Available, 0.05)],
        without_psi: true,
        because: "without PSI: almost no memory is left, and tasks are in reclaim; the stall clock \
                  does not include the waits for a slow swap device",
    },
    Rule {
        name: "pressed",
        level: Severity::Degraded,
        when: &[when(S::Full10s, 0.1)],
        without_psi: false,
        because: "all tasks were stalled for a tenth of the last ten seconds: less traffic may be \
                  enough",
    },
    Rule {
        name: "refaulting",
        level: Severity::Degraded,
        when: &[when(S::Refaults10s, 300.0), when(S::Full10s, 0.04)],
        without_psi: false,
        because: "the working set begins to exceed memory, and tasks wait for evicted pages",
    },
    Rule {
        name: "oom_kill",
        level: Severity::Degraded,
        when: &[when(S::OomKills60s, 1.0)],
        without_psi: false,
        because: "an OOM kill happened in the last minute: the victim may have been the service",
    },
    Rule {
        name: "filling",
        level: Severity::Degraded,
        when: &[when(S::Filled, 5.0), when(S::Available, 0.15)],
        without_psi: false,
        because: "in five seconds no memory will be available without eviction; detecting this and \
                  halving the weight takes four seconds",
    },
    Rule {
        name: "stall_clock_rising",
        level: Severity::Degraded,
        when: &[when(S::Stalled10s, 0.2)],
        without_psi: true,
        because: "without PSI: tasks spent two of the last ten seconds in reclaim (sum over all \
                  tasks)",
    },
];

/// The relaxed threshold, at which a rule still holds, is this share of the threshold where higher
/// values are worse. Where lower values are worse, the threshold is divided by it.
const RELAXATION: f64 = 0.5;

/// The rules with an operator's changes.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    rules: Vec<(Rule, Vec<Condition>)>,
}

/// Changes by name of the rule.
pub type Changes = BTreeMap<String, Change>;

/// An operator's change to one rule.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct Change {
    /// `false` removes the rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Thresholds by signal.
    #[serde(flatten)]
    pub thresholds: BTreeMap<String, f64>,
}

impl Default for Policy {
    fn default() -> Self {
        Self { rules: RULES.iter().map(|rule| (*rule, rule.when.to_vec())).collect() }
    }
}

impl Policy {
    /// Applies changes to the rules. An unknown rule, or a signal that the rule does not use, is an
    /// error that lists the valid names.
    pub fn new(changes: &Changes) -> Result<Self, String> {
        let mut policy = Self::default();
        for (name, change) in changes {
            let Some(index) = policy.rules.iter().position(|(rule, _)| rule.name == name) else {
                let names: Vec<_> = RULES.iter().map(|rule| rule.name).collect();
                return Err(format!("no rule {name:?}; there are: {}", names.join(", ")));
            };
            for (signal, threshold) in &change.thresholds {
                set_threshold(name, &mut policy.rules[index].1, signal, *threshold)?;
            }
            if change.enabled == Some(false) {
                policy.rules.remove(index);
            }
        }
        Ok(policy)
    }

    /// Evaluates all rules.
    pub fn evaluate(&self, signals: &Signals) -> RuleResults {
        let has_psi = signals.has_psi();
        let mut results = RuleResults::default();
        for (rule, conditions) in &self.rules {
            if rule.without_psi && has_psi {
                continue;
            }
            let all_met = |relaxed| conditions.iter().all(|c| c.is_met(signals, relaxed));
            let fires = all_met(false);
            if fires || all_met(true) {
                results.holds = results.holds.max(rule.level);
                if fires {
                    results.fires = results.fires.max(rule.level);
                }
                results.rules.push(RuleResult { rule: rule.name, level: rule.level, fires });
            }
        }
        results
    }

    /// The rules that are enabled, with their conditions.
    pub fn rules(&self) -> impl Iterator<Item = (&Rule, &[Condition])> {
        self.rules.iter().map(|(rule, conditions)| (rule, conditions.as_slice()))
    }
}

fn set_threshold(
    rule: &str,
    conditions: &mut [Condition],
    signal: &str,
    threshold: f64,
) -> Result<(), String> {
    let names: Vec<_> = conditions.iter().map(|c| c.signal.name()).collect();
    let Some(index) = names.iter().position(|name| *name == signal) else {
        return Err(format!("rule {rule} has no signal {signal:?}; it has: {}", names.join(", ")));
    };
    if !threshold.is_finite() || threshold < 0.0 {
        return Err(format!("{rule}.{signal}: {threshold} is not a finite number of at least 0"));
    }
    conditions[index].threshold = threshold;
    Ok(())
}

impl Condition {
    /// Whether the signal reaches the threshold, or the [relaxed](Self::relaxed) one.
    pub fn is_met(&self, signals: &Signals, relaxed: bool) -> bool {
        let threshold = if relaxed { self.relaxed() } else { self.threshold };
        signals.get(self.signal).is_some_and(|value| match self.signal.worse() {
            Worse::Up => value >= threshold,
            Worse::Down => value <= threshold,
        })
    }

    /// The relaxed threshold: a rule that fired holds until a signal is better than this. For
    /// `oom_kill` that means no kill in the window.
    pub fn relaxed(&self) -> f64 {
        match self.signal.worse() {
            Worse::Up => self.threshold * RELAXATION,
            Worse::Down => self.threshold / RELAXATION,
        }
    }
}

/// The result of evaluating all rules.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RuleResults {
    /// The highest severity of the rules that fire.
    pub fires: Severity,
    /// The highest severity of the rules that fire or hold.
    pub holds: Severity,
    /// The rules that fire or hold.
    pub rules: Vec<RuleResult>,
}

/// A rule that fires or holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RuleResult {
    /// Name of the rule.
    pub rule: &'static str,
    /// Its severity.
    pub level: Severity,
    /// Whether it fires; otherwise it only holds.
    pub fires: bool,
}
