//! State and weight of a scope, as load balancers get them.

use serde::{Deserialize, Serialize};

/// What readiness returns for a scope whose stalls cannot be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum OnUnknown {
    /// Full weight: installing a sensor that cannot measure must not take a host out of service.
    Pass,
    /// No traffic.
    Fail,
}

/// State of a scope, for load balancers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReadinessState {
    /// Full weight.
    Ready,
    /// Less weight.
    Degraded,
    /// No new traffic: memory is short.
    Overloaded,
    /// No new traffic: an operator drained the host.
    Drained,
    /// Stalls cannot be measured.
    Unknown,
    /// The last sample is too old: a frozen sensor looks like a frozen host.
    Stale,
    /// There is no sample yet.
    Starting,
}

impl ReadinessState {
    /// All, the best first.
    pub const ALL: [Self; 7] = [
        Self::Ready,
        Self::Degraded,
        Self::Overloaded,
        Self::Drained,
        Self::Unknown,
        Self::Stale,
        Self::Starting,
    ];

    /// Its label, as in JSON.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Degraded => "degraded",
            Self::Overloaded => "overloaded",
            Self::Drained => "drained",
            Self::Unknown => "unknown",
            Self::Stale => "stale",
            Self::Starting => "starting",
        }
    }
}

/// The state from which on a client takes a scope out of service. A balancer without weights may
/// want that sooner, a fallback pool later.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FailOn {
    /// Only an operator's drain: for a fallback pool, which serves with any host that is left.
    Drained,
    /// Every state without weight.
    #[default]
    Overloaded,
    /// Less than full weight too.
    Degraded,
}

impl FailOn {
    /// All, the most tolerant first.
    pub const ALL: [Self; 3] = [Self::Drained, Self::Overloaded, Self::Degraded];

    /// Its word in `?fail_on=` and `--fail-on`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Drained => "drained",
            Self::Overloaded => "overloaded",
            Self::Degraded => "degraded",
        }
    }

    /// From its word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|fail_on| fail_on.label() == word)
    }
}

/// State and weight: all that a balancer needs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TrafficHealth {
    /// State of the scope.
    pub state: ReadinessState,
    /// Share of its usual traffic, 0 to 1.
    pub weight: f64,
}

impl TrafficHealth {
    /// The same for a client that asked with `fail_on`.
    #[must_use]
    pub fn with_fail_on(self, fail_on: FailOn) -> Self {
        let weight = match (fail_on, self.state) {
            (FailOn::Drained, ReadinessState::Drained)
            | (FailOn::Degraded, ReadinessState::Degraded) => 0.0,
            (FailOn::Drained, _) => 1.0,
            (FailOn::Overloaded | FailOn::Degraded, _) => self.weight,
        };
        Self { weight, ..self }
    }

    /// Whether the scope should get any traffic.
    pub fn takes_traffic(self) -> bool {
        self.weight > 0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fail_on_decides_which_states_take_traffic() {
        let percents = |state, weight| {
            let health = TrafficHealth { state, weight };
            let weights = FailOn::ALL.map(|f| health.with_fail_on(f).weight * 100.0);
            weights.map(|percent| format!("{percent:.0}")).join(" ")
        };
        for (state, weight, expected) in [
            (ReadinessState::Ready, 1.0, "100 100 100"),
            (ReadinessState::Degraded, 0.5, "100 50 0"),
            (ReadinessState::Overloaded, 0.0, "100 0 0"),
            (ReadinessState::Stale, 0.0, "100 0 0"),
            (ReadinessState::Unknown, 1.0, "100 100 100"),
            (ReadinessState::Drained, 0.0, "0 0 0"),
        ] {
            assert_eq!(percents(state, weight), expected, "{state:?}");
        }
    }

    #[test]
    fn words_and_json_are_the_same() {
        for fail_on in FailOn::ALL {
            assert_eq!(FailOn::parse(fail_on.label()), Some(fail_on));
            let json = format!("\"{}\"", fail_on.label());
            assert_eq!(serde_json::from_str::<FailOn>(&json).ok(), Some(fail_on));
        }
        for state in ReadinessState::ALL {
            let json = serde_json::to_string(&state).expect("serialises");
            assert_eq!(json, format!("\"{}\"", state.label()));
        }
        assert_eq!(FailOn::parse("draining"), None);
    }
}
