//! The rules: what is evidence of harm, with every threshold and the reason for it beside it.
//!
//! A rule holds if all of its conditions do; a condition on a signal that cannot be told does not
//! hold. No rule rests on PSI `some` alone: healthy hosts that fill their page cache show plenty of it.
//! Each rule is evaluated twice: it *fires* at its thresholds, and *holds on* at relaxed ones until
//! the signals are clearly better, so that a value that hovers about a threshold does not flap.

use std::collections::BTreeMap;

use super::{
    signals::{Signal, Signals, Worse},
    state::Severity,
};

/// A comparison of a signal with a threshold, inclusive.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Condition {
    /// What is compared.
    pub signal: Signal,
    /// With what: at least this much, or at most if less is worse.
    pub threshold: f64,
}

const fn when(signal: Signal, threshold: f64) -> Condition {
    Condition { signal, threshold }
}

/// Evidence of harm.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rule {
    /// Its label.
    pub name: &'static str,
    /// How bad it is.
    pub level: Severity,
    /// All of these must hold.
    pub when: &'static [Condition],
    /// Only where PSI cannot be read.
    pub without_psi: bool,
    /// Why it is evidence.
    pub because: &'static str,
}

use Signal as S;

/// The rules, the worst first.
pub const RULES: &[Rule] = &[
    Rule {
        name: "stalled",
        level: Severity::Overloaded,
        when: &[when(S::Full10s, 0.25)],
        without_psi: false,
        because: "for a quarter of ten seconds nobody got anything done: a request meets that",
    },
    Rule {
        name: "choking",
        level: Severity::Overloaded,
        when: &[when(S::Full1s, 0.5), when(S::Full10s, 0.08)],
        without_psi: false,
        because: "half of the last second was lost, and not only that one: do not wait for ten",
    },
    Rule {
        name: "thrashing",
        level: Severity::Overloaded,
        when: &[when(S::Full1s, 0.2), when(S::Full10s, 0.08), when(S::Refault10s, 0.02)],
        without_psi: false,
        because: "what is evicted is needed again at once: the working set no longer fits",
    },
    Rule {
        name: "overflowing",
        level: Severity::Overloaded,
        when: &[
            when(S::Filled, 5.0),
            when(S::Available, 0.02),
            when(S::Refault1s, 0.005),
            when(S::Full1s, 0.02),
        ],
        without_psi: false,
        because: "memory has just filled up, what was evicted for it comes back, and tasks wait already: \
                  it gets worse with each second",
    },
    Rule {
        name: "swapping",
        level: Severity::Overloaded,
        when: &[
            when(S::IoFull1s, 0.5),
            when(S::IoFull10s, 0.1),
            when(S::Refaults10s, 50.0),
            when(S::Available, 0.1),
        ],
        without_psi: false,
        because: "nothing is left, and everybody waits for the disk while pages come back from swap: PSI of \
                  memory counts only part of these waits (mm/page_io.c: those of the working set)",
    },
    Rule {
        name: "rereading",
        level: Severity::Overloaded,
        when: &[when(S::IoFull10s, 0.2), when(S::Refault10s, 0.0015), when(S::Unused, 0.05)],
        without_psi: false,
        because: "nobody gets anything done for waiting for the disk, and what is read was evicted; PSI of \
                  memory counts few waits for a slow swap",
    },
    Rule {
        name: "out_of_memory",
        level: Severity::Overloaded,
        when: &[when(S::OomKills60s, 2.0)],
        without_psi: false,
        because: "the second kill in a minute: the first did not help",
    },
    Rule {
        name: "no_progress",
        level: Severity::Overloaded,
        when: &[when(S::NoProgress, 4.0), when(S::Some1s, 0.2)],
        without_psi: false,
        because: "allocations go round and round without freeing anything: an OOM kill is next",
    },
    Rule {
        name: "running_out",
        level: Severity::Overloaded,
        when: &[when(S::Exhaustion, 10.0), when(S::Some10s, 0.1), when(S::Available, 0.1)],
        without_psi: false,
        because: "memory and swap are gone in seconds, and tasks wait for them already",
    },
    Rule {
        name: "stall_clock",
        level: Severity::Overloaded,
        when: &[when(S::Stalled1s, 1.0), when(S::Stalled10s, 0.5)],
        without_psi: true,
        because: "without PSI: on average a task is inside reclaim all the time",
    },
    Rule {
        name: "stall_clock_thrashing",
        level: Severity::Overloaded,
        when: &[when(S::Stalled10s, 0.1), when(S::Refault10s, 0.03)],
        without_psi: true,
        because: "without PSI: memory is read again half a minute after it was evicted; the waits for \
                  that are not in the stall clock",
    },
    Rule {
        name: "stall_clock_scarce",
        level: Severity::Overloaded,
        when: &[when(S::Stalled10s, 0.2), when(S::Available, 0.05)],
        without_psi: true,
        because: "without PSI: next to nothing is left, and tasks look for it; the waits for a slow swap \
                  are not in the stall clock",
    },
    Rule {
        name: "pressed",
        level: Severity::Degraded,
        when: &[when(S::Full10s, 0.1)],
        without_psi: false,
        because: "a tenth of the time nobody got anything done: less traffic may be enough",
    },
    Rule {
        name: "refaulting",
        level: Severity::Degraded,
        when: &[when(S::Refault10s, 0.01), when(S::Full10s, 0.04)],
        without_psi: false,
        because: "the working set begins not to fit, and tasks wait for it",
    },
    Rule {
        name: "swapping_back",
        level: Severity::Degraded,
        when: &[when(S::IoFull10s, 0.1), when(S::SwapIns10s, 50.0)],
        without_psi: false,
        because: "pages come back from a slow swap, and requests wait for them",
    },
    Rule {
        name: "rereading_begins",
        level: Severity::Degraded,
        when: &[when(S::IoFull10s, 0.05), when(S::Refault10s, 0.002)],
        without_psi: false,
        because: "the disk is waited for, and what is read was evicted; first reads alone do not refault",
    },
    Rule {
        name: "hard_reclaim",
        level: Severity::Degraded,
        when: &[when(S::ScanEfficiency10s, 0.1), when(S::Some10s, 0.2)],
        without_psi: false,
        because: "reclaim looks at ten pages to free one, and tasks wait for it",
    },
    Rule {
        name: "oom_kill",
        level: Severity::Degraded,
        when: &[when(S::OomKills60s, 1.0)],
        without_psi: false,
        because: "something was killed for memory in the last minute: it may have been the service",
    },
    Rule {
        name: "filling",
        level: Severity::Degraded,
        when: &[when(S::Filled, 5.0), when(S::Available, 0.15)],
        without_psi: false,
        because: "in five seconds whatever is allocated must be evicted for; seeing it and halving the \
                  weight takes four",
    },
    Rule {
        name: "exhaustion",
        level: Severity::Degraded,
        when: &[when(S::Exhaustion, 30.0), when(S::Available, 0.1)],
        without_psi: false,
        because: "memory and swap are gone in half a minute if this goes on",
    },
    Rule {
        name: "stall_clock_rising",
        level: Severity::Degraded,
        when: &[when(S::Stalled10s, 0.2)],
        without_psi: true,
        because: "without PSI: a fifth of a task's time goes into reclaim",
    },
];

/// By how much a signal must be better than its threshold before its rule no longer holds on.
const RELIEF: f64 = 0.5;

/// The rules with an operator's changes.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    rules: Vec<(Rule, Vec<Condition>)>,
}

/// Changes, by rule.
pub type Changes = BTreeMap<String, Change>;

/// What is changed of a rule.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct Change {
    /// Whether the rule counts: it does, unless this is false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Thresholds by signal.
    #[serde(flatten)]
    pub thresholds: BTreeMap<String, f64>,
}

impl Default for Policy {
    fn default() -> Self {
        Self { rules: RULES.iter().map(|r| (*r, r.when.to_vec())).collect() }
    }
}

impl Policy {
    /// The rules with changes. An unknown rule, or a signal that the rule does not look at, is an
    /// error that says what there is.
    pub fn new(changes: &Changes) -> Result<Self, String> {
        let mut policy = Self::default();
        for (name, change) in changes {
            let Some(at) = policy.rules.iter().position(|(r, _)| r.name == name) else {
                let known: Vec<_> = RULES.iter().map(|r| r.name).collect();
                return Err(format!("no rule {name:?}; there are: {}", known.join(", ")));
            };
            for (signal, threshold) in &change.thresholds {
                let conditions = &mut policy.rules[at].1;
                let known: Vec<_> = conditions.iter().map(|c| c.signal.name()).collect();
                let Some(condition) = conditions.iter_mut().find(|c| c.signal.name() == signal)
                else {
                    return Err(format!(
                        "{name}: it does not look at {signal:?}, but at: {}",
                        known.join(", ")
                    ));
                };
                if !threshold.is_finite() || *threshold < 0.0 {
                    return Err(format!("{name}.{signal}: {threshold} is not a threshold"));
                }
                condition.threshold = *threshold;
            }
            if change.enabled == Some(false) {
                policy.rules.remove(at);
            }
        }
        Ok(policy)
    }

    /// What speaks against full traffic.
    pub fn evaluate(&self, signals: &Signals) -> RuleResults {
        let has_psi = signals.has_psi();
        let mut evidence = RuleResults::default();
        for (rule, conditions) in &self.rules {
            if rule.without_psi && has_psi {
                continue;
            }
            let all = |relief: bool| conditions.iter().all(|c| c.is_met(signals, relief));
            let fires = all(false);
            if fires || all(true) {
                evidence.holds = evidence.holds.max(rule.level);
                if fires {
                    evidence.fires = evidence.fires.max(rule.level);
                }
                evidence.rules.push(RuleResult { rule: rule.name, level: rule.level, fires });
            }
        }
        evidence
    }

    /// The rules in force with their conditions.
    pub fn rules(&self) -> impl Iterator<Item = (&Rule, &[Condition])> {
        self.rules.iter().map(|(rule, conditions)| (rule, conditions.as_slice()))
    }
}

impl Condition {
    /// Whether it is met; `relief` asks for less.
    pub fn is_met(&self, signals: &Signals, relief: bool) -> bool {
        let threshold = if relief { self.relaxed() } else { self.threshold };
        signals.get(self.signal).is_some_and(|value| match self.signal.worse() {
            Worse::Up => value >= threshold,
            Worse::Down => value <= threshold,
        })
    }

    /// The threshold that a value must be better than before the rule no longer holds on.
    pub fn relaxed(&self) -> f64 {
        match self.signal.worse() {
            // A count of one must be gone.
            Worse::Up => self.threshold * RELIEF,
            Worse::Down => self.threshold / RELIEF,
        }
    }
}

/// What speaks against full traffic now.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RuleResults {
    /// The worst level of the rules that fire.
    pub fires: Severity,
    /// The worst of those that fire or hold on.
    pub holds: Severity,
    /// The rules that fire or hold on.
    pub rules: Vec<RuleResult>,
}

/// A rule that speaks against full traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RuleResult {
    /// Its name.
    pub rule: &'static str,
    /// Its level.
    pub level: Severity,
    /// At its thresholds, or only at the relaxed ones.
    pub fires: bool,
}
