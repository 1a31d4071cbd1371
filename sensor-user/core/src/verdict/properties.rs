//! Properties that the verdict has for any signals and any course of events.

use proptest::prelude::*;

use super::{
    policy::Policy,
    signals::{Signal, Signals, Worse},
    state::{Severity, VerdictState},
    weight::{ScopeState, Settings, WeightController},
};

const SECOND: u64 = 1_000_000_000;

fn severity() -> impl Strategy<Value = Severity> {
    (0..3u8).prop_map(|level| match level {
        0 => Severity::Calm,
        1 => Severity::Degraded,
        _ => Severity::Overloaded,
    })
}

/// The same results of the rules for a number of steps.
#[derive(Debug, Clone, Copy)]
struct Phase {
    fires: Severity,
    holds: Severity,
    steps: u32,
    step_ns: u64,
}

/// Phases of one step up to `max_steps`. A course of phases reaches states that independent steps
/// do not: those after a wait for recovery, which takes five seconds in which no rule holds.
fn phase(max_steps: u32, step_ns: std::ops::Range<u64>) -> impl Strategy<Value = Phase> {
    let parts = (severity(), severity(), 1..=max_steps, step_ns);
    parts.prop_map(|(fires, holds, steps, step_ns)| Phase { fires, holds, steps, step_ns })
}

fn signals() -> impl Strategy<Value = Signals> {
    prop::collection::vec(prop::option::of(0.0..1.0f64), Signal::ALL.len()).prop_map(|values| {
        let mut signals = Signals::default();
        for (signal, value) in Signal::ALL.iter().zip(values) {
            signals.set(*signal, value.map(|v| v * scale(*signal)));
        }
        signals
    })
}

/// Scales values of 0 to 1 to the range of a signal's thresholds.
fn scale(signal: Signal) -> f64 {
    match signal {
        Signal::Exhaustion | Signal::Filled | Signal::SwapIns10s => 100.0,
        Signal::NoProgress | Signal::Priority => 16.0,
        Signal::OomKills60s | Signal::Stalled1s | Signal::Stalled10s => 3.0,
        Signal::Refaults1s | Signal::Refaults10s | Signal::Lost10s => 1500.0,
        _ => 1.0,
    }
}

/// Runs a phase from `now_ns` on; calls `check` after each step.
fn run(
    controller: &mut WeightController,
    now_ns: &mut u64,
    phase: Phase,
    mut check: impl FnMut(&WeightController, u64) -> Result<(), TestCaseError>,
) -> Result<(), TestCaseError> {
    for _ in 0..phase.steps {
        *now_ns += phase.step_ns;
        controller.step(*now_ns, phase.fires, phase.holds);
        check(controller, *now_ns)?;
    }
    Ok(())
}

proptest! {
    #[test]
    fn a_worse_signal_never_gives_a_better_verdict(
        signals in signals(),
        index in 0..Signal::ALL.len(),
        by in 0.0..2.0f64,
        phases in prop::collection::vec(phase(15, SECOND..SECOND + 1), 0..6),
    ) {
        let signal = Signal::ALL[index];
        let mut worse = signals;
        let change = by * scale(signal);
        worse.set(signal, signals.get(signal).map(|value| match signal.worse() {
            Worse::Up => value + change,
            Worse::Down => value - change,
        }));
        let policy = Policy::default();
        let (results, worse) = (policy.evaluate(&signals), policy.evaluate(&worse));
        prop_assert!(worse.fires >= results.fires && worse.holds >= results.holds);
        // After any course of events, worse results do not give a better state or weight.
        let mut controller = WeightController::new(Settings::default());
        let mut now_ns = 0;
        for phase in phases {
            run(&mut controller, &mut now_ns, phase, |_, _| Ok(()))?;
        }
        let step = |results: &super::policy::RuleResults| {
            let mut controller = controller;
            controller.step(now_ns + SECOND, results.fires, results.holds);
            controller.current()
        };
        let (current, worse) = (step(&results), step(&worse));
        let is_no_better = worse.state >= current.state && worse.weight <= current.weight;
        prop_assert!(is_no_better, "{current:?} {worse:?}");
    }

    #[test]
    fn a_calm_scope_always_becomes_ready(
        // More relapses than the phases can cause.
        relapses in 0u32..=5,
        phases in prop::collection::vec(phase(20, 0..5 * SECOND), 0..20)
    ) {
        let mut controller = WeightController::new(Settings::default());
        let overloaded_until_ns = (relapses > 0).then_some(0);
        let (state, weight) = (VerdictState::Overloaded, 0.0);
        controller.resume(ScopeState { state, weight, overloaded_until_ns, relapses });
        let mut now_ns = 0;
        for phase in phases {
            run(&mut controller, &mut now_ns, phase, |_, _| Ok(()))?;
        }
        // It waits once for traffic and once at half weight; then the weight rises.
        let longest = 2 * Settings::default().recover_after_max.as_secs() + 60;
        for _ in 0..longest {
            now_ns += SECOND;
            controller.step(now_ns, Severity::Calm, Severity::Calm);
        }
        let current = controller.current();
        prop_assert_eq!((current.state, current.weight), (VerdictState::Ready, 1.0));
    }

    #[test]
    fn weights_fit_states_and_overloads_are_rare(
        phases in prop::collection::vec(phase(60, 1..SECOND), 1..100)
    ) {
        let mut controller = WeightController::new(Settings::default());
        let (mut now_ns, mut overloads) = (0, 0u64);
        let mut previous = VerdictState::Ready;
        for phase in phases {
            run(&mut controller, &mut now_ns, phase, |controller, now_ns| {
                let current = controller.current();
                prop_assert!(current.is_sound(), "{current:?}");
                let is_overloaded = current.state == VerdictState::Overloaded;
                overloads += u64::from(is_overloaded && previous != VerdictState::Overloaded);
                previous = current.state;
                // Between overloads it waits for 5, 10, 20 ... seconds. Later the wait has
                // reached its limit, or a calm time has reset it.
                let seconds = now_ns / SECOND;
                let first = Settings::default().recover_after.as_secs();
                let most = 1 + u64::from((seconds / first + 1).ilog2());
                prop_assert!(overloads <= most || seconds >= 600, "{overloads} in {seconds} s");
                Ok(())
            })?;
        }
    }
}
