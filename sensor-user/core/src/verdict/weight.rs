//! Hysteresis: how fast the answer may follow the evidence. Down at once, back slowly, and the more
//! slowly the more often it had to turn round.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use super::state::{Severity, VerdictState};
use crate::common::counter::nanos;

/// How fast state and weight follow the rules.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Weight of a degraded scope. Range: above 0, at most 1. A host that is slightly too small can
    /// serve about half of its traffic. Lower it if degraded hosts still become overloaded.
    pub degraded_weight: f64,
    /// How much the weight of a degraded scope falls in a second. Range: above 0, at most 1. At
    /// 0.25 the weight takes two seconds from 1 to 0.5, so that caches and connection pools of the
    /// other hosts can follow. The weight of an overloaded scope is 0 at once.
    pub fall_per_second: f64,
    /// How much the weight rises in a second. Range: above 0, at most 1. At 0.05 the weight takes
    /// twenty seconds from 0 to 1: evicted memory must be read again while the load grows. Lower it
    /// for services that warm up slowly.
    pub rise_per_second: f64,
    /// Time without evidence of pressure after which an overloaded scope gets traffic again and a
    /// degraded scope gets more. Raise it if hosts return too soon and are overloaded again.
    #[serde(with = "humantime_serde")]
    #[cfg_attr(feature = "schema", schemars(with = "String", extend("format" = "duration")))]
    pub recover_after: Duration,
    /// Highest waiting time: each relapse doubles `recover_after`, up to this. Range: at least
    /// `recover_after`. Lower it if a host that relapsed several times must return sooner.
    #[serde(with = "humantime_serde")]
    #[cfg_attr(feature = "schema", schemars(with = "String", extend("format" = "duration")))]
    pub recover_after_max: Duration,
    /// Time after the end of an overload within which another one is a relapse. Set it to `0s` to
    /// wait `recover_after` every time.
    #[serde(with = "humantime_serde")]
    #[cfg_attr(feature = "schema", schemars(with = "String", extend("format" = "duration")))]
    pub relapse_within: Duration,
}

impl Settings {
    /// An error if a weight or a time is out of range.
    pub fn check(&self) -> Result<()> {
        let Self { degraded_weight, fall_per_second, rise_per_second, .. } = *self;
        for (key, value) in [
            ("degraded_weight", degraded_weight),
            ("fall_per_second", fall_per_second),
            ("rise_per_second", rise_per_second),
        ] {
            let valid = value > 0.0 && value <= 1.0;
            ensure!(valid, "verdict.{key}: {value} is not above 0 and at most 1");
        }
        ensure!(
            self.recover_after_max >= self.recover_after,
            "verdict.recover_after_max is less than recover_after"
        );
        Ok(())
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            degraded_weight: 0.5,
            fall_per_second: 0.25,
            rise_per_second: 0.05,
            recover_after: Duration::from_secs(10),
            recover_after_max: Duration::from_mins(5),
            relapse_within: Duration::from_mins(10),
        }
    }
}

/// The weight that a drained scope begins with when it gets traffic again.
const FIRST_WEIGHT: f64 = 0.05;

/// Where a scope stands, and how it came there: what is to outlive a restart of the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ScopeState {
    /// The state.
    pub state: VerdictState,
    /// The share of its usual traffic that the scope should get: 0 to 1.
    pub weight: f64,
    /// When the last drain ended: CLOCK_MONOTONIC nanoseconds.
    pub overloaded_until_ns: Option<u64>,
    /// Drains so far that came soon after the one before.
    pub relapses: u32,
}

impl Default for ScopeState {
    /// Ready, at full weight: a fresh daemon must not take weight from a fleet.
    fn default() -> Self {
        Self { state: VerdictState::Ready, weight: 1.0, overloaded_until_ns: None, relapses: 0 }
    }
}

impl ScopeState {
    /// Whether the weight fits the state.
    pub fn is_sound(&self) -> bool {
        (0.0..=1.0).contains(&self.weight)
            && match self.state {
                VerdictState::Ready => self.weight >= 1.0,
                VerdictState::Degraded => self.weight > 0.0,
                VerdictState::Overloaded => self.weight <= 0.0,
            }
    }
}

/// A position, and how it changes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WeightController {
    settings: Settings,
    at: ScopeState,
    last_ns: Option<u64>,
    /// Since when nothing has spoken for this state or a worse one.
    better_since_ns: Option<u64>,
}

impl WeightController {
    /// Ready, at full weight.
    pub fn new(settings: Settings) -> Self {
        Self { settings, at: ScopeState::default(), last_ns: None, better_since_ns: None }
    }

    /// Goes on from a position.
    pub fn resume(&mut self, at: ScopeState) {
        self.at = at;
    }

    /// Where it stands.
    pub fn position(&self) -> ScopeState {
        self.at
    }

    /// Nothing can be told now: it stays where it is, and must be seen to be calm anew.
    pub fn pause(&mut self) {
        self.better_since_ns = None;
        self.last_ns = None;
    }

    /// How long the present wait is.
    pub fn recover_after(&self) -> Duration {
        let factor = 1u32.checked_shl(self.at.relapses).unwrap_or(u32::MAX);
        let wait = self.settings.recover_after.saturating_mul(factor);
        wait.min(self.settings.recover_after_max.max(self.settings.recover_after))
    }

    /// Follows the evidence: what fires now, and what fires or holds on.
    pub fn step(&mut self, now_ns: u64, fires: Severity, holds: Severity) {
        let elapsed = self.last_ns.map_or(0, |last| now_ns.saturating_sub(last)) as f64 / 1e9;
        self.last_ns = Some(self.last_ns.unwrap_or(0).max(now_ns));
        let holds = holds.max(fires);
        if fires == Severity::Overloaded {
            self.drain(now_ns);
            return;
        }
        let stays = match self.at.state {
            VerdictState::Overloaded => holds == Severity::Overloaded,
            VerdictState::Ready | VerdictState::Degraded => holds >= Severity::Degraded,
        };
        let since = *self.better_since_ns.get_or_insert(now_ns);
        if stays {
            self.better_since_ns = None;
        }
        let waited = !stays && now_ns.saturating_sub(since) >= self.wait_ns();
        let half = self.settings.degraded_weight;
        match self.at.state {
            VerdictState::Ready if fires >= Severity::Degraded => {
                self.at.state = VerdictState::Degraded;
                self.towards(half, elapsed);
            }
            VerdictState::Overloaded if waited => {
                self.at.overloaded_until_ns = Some(now_ns);
                self.better_since_ns = None;
                self.at.state = VerdictState::Degraded;
                self.at.weight = FIRST_WEIGHT;
            }
            // What fires takes weight, and gives none: a scope that comes back while its pages are still
            // in a slow swap waits where it is.
            VerdictState::Degraded if fires >= Severity::Degraded => {
                self.towards(half.min(self.at.weight), elapsed);
            }
            // What only holds on takes nothing more; and is no worse than what gives half.
            VerdictState::Degraded if holds >= Severity::Degraded => {
                self.towards(half.max(self.at.weight), elapsed);
            }
            // A scope that comes back from draining climbs while it is calm; one that never left
            // waits first.
            VerdictState::Degraded if waited || self.is_coming_back() => {
                self.towards(1.0, elapsed);
                if self.at.weight >= 1.0 {
                    self.at.state = VerdictState::Ready;
                    self.better_since_ns = None;
                }
            }
            VerdictState::Ready | VerdictState::Overloaded | VerdictState::Degraded => {}
        }
    }

    fn drain(&mut self, now_ns: u64) {
        self.better_since_ns = None;
        self.at.weight = 0.0;
        if self.at.state == VerdictState::Overloaded {
            return;
        }
        self.at.state = VerdictState::Overloaded;
        let within = nanos(self.settings.relapse_within);
        let soon = self.at.overloaded_until_ns.is_some_and(|t| now_ns.saturating_sub(t) < within);
        self.at.relapses = if soon { self.at.relapses.saturating_add(1) } else { 0 };
    }

    fn is_coming_back(&self) -> bool {
        self.at.overloaded_until_ns.is_some() && self.at.weight < self.settings.degraded_weight
    }

    fn wait_ns(&self) -> u64 {
        nanos(self.recover_after())
    }

    fn towards(&mut self, target: f64, seconds: f64) {
        let (fall, rise) = (self.settings.fall_per_second, self.settings.rise_per_second);
        let change = (target - self.at.weight).clamp(-fall * seconds, rise * seconds);
        self.at.weight = (self.at.weight + change).clamp(0.0, 1.0);
    }
}
