//! Hysteresis: how fast state and weight follow the rules. They get worse at once and improve
//! slowly, and each relapse makes recovery slower.
//!
//! Not here: the rules ([`super::policy`]).

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
    /// How much the weight rises in a second. Range: above 0, at most 1. At 0.1 the weight takes
    /// ten seconds from 0 to 1: evicted memory must be read again while the load grows. Lower it
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
    /// Returns an error if a weight or a duration is out of range.
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
            rise_per_second: 0.1,
            recover_after: Duration::from_secs(5),
            recover_after_max: Duration::from_mins(5),
            relapse_within: Duration::from_mins(10),
        }
    }
}

/// Weight of an overloaded scope when it gets traffic again.
const RECOVERY_WEIGHT: f64 = 0.05;

/// State and weight of a scope, with the history that decides how fast it recovers. The daemon
/// saves it over a restart.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ScopeState {
    /// The state.
    pub state: VerdictState,
    /// The share of its usual traffic that the scope should get: 0 to 1.
    pub weight: f64,
    /// When its last overload ended: CLOCK_MONOTONIC nanoseconds.
    pub overloaded_until_ns: Option<u64>,
    /// How often in a row it was overloaded again within [`Settings::relapse_within`].
    pub relapses: u32,
}

impl Default for ScopeState {
    /// Ready, at full weight: a daemon that starts must not take traffic from its host.
    fn default() -> Self {
        Self { state: VerdictState::Ready, weight: 1.0, overloaded_until_ns: None, relapses: 0 }
    }
}

impl ScopeState {
    /// Whether the weight is valid for the state.
    pub fn is_sound(&self) -> bool {
        (0.0..=1.0).contains(&self.weight)
            && match self.state {
                VerdictState::Ready => self.weight >= 1.0,
                VerdictState::Degraded => self.weight > 0.0,
                VerdictState::Overloaded => self.weight <= 0.0,
            }
    }
}

/// Moves state and weight of a scope as its rules fire, hold and become quiet.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WeightController {
    settings: Settings,
    current: ScopeState,
    last_step_ns: Option<u64>,
    /// Since when no rule has held the scope in its state; `None` if one did in the last step.
    calm_since_ns: Option<u64>,
}

impl WeightController {
    /// Follows the rules at another pace from the next step on.
    pub(super) fn replace_settings(&mut self, settings: Settings) {
        self.settings = settings;
    }

    /// Starts ready, at full weight.
    pub fn new(settings: Settings) -> Self {
        let current = ScopeState::default();
        Self { settings, current, last_step_ns: None, calm_since_ns: None }
    }

    /// Continues with a saved state.
    pub fn resume(&mut self, saved: ScopeState) {
        self.current = saved;
    }

    /// The present state and weight.
    pub fn current(&self) -> ScopeState {
        self.current
    }

    /// Keeps the state over a time without readings; the wait for recovery starts again.
    pub fn pause(&mut self) {
        self.calm_since_ns = None;
        self.last_step_ns = None;
    }

    /// How long no rule may hold before the state improves, relapses included.
    pub fn recover_after(&self) -> Duration {
        let factor = 1u32.checked_shl(self.current.relapses).unwrap_or(u32::MAX);
        let wait = self.settings.recover_after.saturating_mul(factor);
        wait.min(self.settings.recover_after_max.max(self.settings.recover_after))
    }

    /// Follows the rules: the highest severity that fires, and the highest that fires or holds.
    pub fn step(&mut self, now_ns: u64, fires: Severity, holds: Severity) {
        let elapsed = self.last_step_ns.map_or(0, |last| now_ns.saturating_sub(last)) as f64 / 1e9;
        self.last_step_ns = Some(self.last_step_ns.unwrap_or(0).max(now_ns));
        let holds = holds.max(fires);
        if fires == Severity::Overloaded {
            self.overload(now_ns);
            return;
        }
        let waited = self.has_waited(now_ns, holds);
        let degraded_weight = self.settings.degraded_weight;
        match self.current.state {
            VerdictState::Ready if fires >= Severity::Degraded => {
                self.current.state = VerdictState::Degraded;
                self.move_weight_to(degraded_weight, elapsed);
            }
            VerdictState::Overloaded if waited => {
                self.current.overloaded_until_ns = Some(now_ns);
                self.calm_since_ns = None;
                self.current.state = VerdictState::Degraded;
                self.current.weight = RECOVERY_WEIGHT;
            }
            // A rule that fires lowers the weight and never raises it: a scope that recovers while
            // its pages are still in a slow swap device keeps its weight.
            VerdictState::Degraded if fires >= Severity::Degraded => {
                self.move_weight_to(degraded_weight.min(self.current.weight), elapsed);
            }
            // A rule that only holds never lowers the weight, and lets it rise to the degraded one.
            VerdictState::Degraded if holds >= Severity::Degraded => {
                self.move_weight_to(degraded_weight.max(self.current.weight), elapsed);
            }
            // After an overload the weight rises while the scope is calm; a scope that was only
            // degraded waits first.
            VerdictState::Degraded if waited || self.is_recovering() => {
                self.move_weight_to(1.0, elapsed);
                if self.current.weight >= 1.0 {
                    self.current.state = VerdictState::Ready;
                    self.calm_since_ns = None;
                }
            }
            VerdictState::Ready | VerdictState::Overloaded | VerdictState::Degraded => {}
        }
    }

    /// Whether no rule has held the scope in its state for long enough.
    fn has_waited(&mut self, now_ns: u64, holds: Severity) -> bool {
        let is_held = match self.current.state {
            VerdictState::Overloaded => holds == Severity::Overloaded,
            VerdictState::Ready | VerdictState::Degraded => holds >= Severity::Degraded,
        };
        if is_held {
            self.calm_since_ns = None;
            return false;
        }
        let calm_since_ns = *self.calm_since_ns.get_or_insert(now_ns);
        now_ns.saturating_sub(calm_since_ns) >= nanos(self.recover_after())
    }

    fn overload(&mut self, now_ns: u64) {
        self.calm_since_ns = None;
        self.current.weight = 0.0;
        if self.current.state == VerdictState::Overloaded {
            return;
        }
        self.current.state = VerdictState::Overloaded;
        let within_ns = nanos(self.settings.relapse_within);
        let ended_ns = self.current.overloaded_until_ns;
        let is_relapse = ended_ns.is_some_and(|ns| now_ns.saturating_sub(ns) < within_ns);
        self.current.relapses =
            if is_relapse { self.current.relapses.saturating_add(1) } else { 0 };
    }

    fn is_recovering(&self) -> bool {
        self.current.overloaded_until_ns.is_some()
            && self.current.weight < self.settings.degraded_weight
    }

    fn move_weight_to(&mut self, target: f64, seconds: f64) {
        let (fall, rise) = (self.settings.fall_per_second, self.settings.rise_per_second);
        let change = (target - self.current.weight).clamp(-fall * seconds, rise * seconds);
        self.current.weight = (self.current.weight + change).clamp(0.0, 1.0);
    }
}
