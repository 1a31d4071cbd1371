//! Properties that must hold whatever is measured, and whole courses of events.

use std::sync::Arc;

use proptest::prelude::*;

use super::{
    evaluator::Evaluator,
    policy::{Change, Changes, Policy, RULES},
    reading::Reading,
    signals::{ReadingHistory, Signal, Signals, Worse},
    state::{Severity, VerdictState},
    weight::{ScopeState, Settings, WeightController},
};

const SECOND: u64 = 1_000_000_000;
const GIB: u64 = 1 << 30;

/// What happens to a host in a second.
#[derive(Debug, Clone, Copy)]
struct Second {
    full_percent: u64,
    available: u64,
    refaulted: u64,
    kills: u64,
}

const CALM: Second = Second { full_percent: 0, available: GIB / 2, refaulted: 0, kills: 0 };

struct Host {
    evaluator: Evaluator,
    reading: Reading,
}

impl Host {
    fn new() -> Self {
        let reading = Reading {
            at_ns: SECOND,
            some_ns: Some(0),
            full_ns: Some(0),
            refaulted_bytes: Some(0),
            oom_kills: Some(0),
            total_bytes: Some(GIB),
            swap_free_bytes: Some(0),
            ..Reading::default()
        };
        Self { evaluator: Evaluator::new(Arc::default(), Settings::default()), reading }
    }

    fn second(&mut self, second: Second) -> (VerdictState, f64) {
        let add = |to: &mut Option<u64>, n: u64| *to = to.map(|was| was + n);
        let r = &mut self.reading;
        r.at_ns += SECOND;
        let full_ns = second.full_percent * SECOND / 100;
        add(&mut r.full_ns, full_ns);
        add(&mut r.some_ns, full_ns);
        add(&mut r.refaulted_bytes, second.refaulted);
        add(&mut r.oom_kills, second.kills);
        r.available_bytes = Some(second.available);
        let verdict = self.evaluator.evaluate(*r);
        (verdict.position.state, verdict.position.weight)
    }

    fn seconds(&mut self, n: u32, second: Second) -> (VerdictState, f64) {
        (0..n).map(|_| self.second(second)).last().expect("at least one")
    }
}

#[test]
fn the_night_of_web_01_is_drained_and_comes_back() {
    let mut host = Host::new();
    assert_eq!(host.seconds(60, CALM), (VerdictState::Ready, 1.0));
    let thrash = Second { full_percent: 80, available: GIB / 50, refaulted: GIB / 10, kills: 0 };
    let drained = (1..10).find(|_| host.second(thrash).0 == VerdictState::Overloaded);
    assert!(drained.is_some_and(|s| s <= 2), "drained after {drained:?} s");
    assert_eq!(host.seconds(3600, thrash), (VerdictState::Overloaded, 0.0));
    let mut weights = Vec::new();
    let back = (1..600).find(|_| {
        let (state, weight) = host.second(CALM);
        weights.push(weight);
        state == VerdictState::Ready
    });
    assert!(back.is_some_and(|s| (20..=90).contains(&s)), "ready after {back:?} s");
    assert!(weights.is_sorted(), "never less on the way back: {weights:?}");
    assert!(weights.windows(2).all(|w| w[1] - w[0] <= 0.051), "in small steps: {weights:?}");
}

#[test]
fn a_daemon_that_is_started_in_the_night_knows_at_once() {
    let mut host = Host::new();
    host.reading.at_ns = 3600 * SECOND;
    host.reading.full_ns = Some(600 * SECOND);
    host.reading.before = Some([[0, 596 * SECOND], [0, 580 * SECOND]]);
    assert_eq!(host.second(CALM), (VerdictState::Overloaded, 0.0), "four of ten seconds lost");
    let mut calm = Host::new();
    calm.reading.at_ns = 3600 * SECOND;
    calm.reading.before = Some([[0, 0], [0, 0]]);
    assert_eq!(calm.second(CALM), (VerdictState::Ready, 1.0));
}

#[test]
fn a_full_page_cache_and_a_short_burst_are_no_harm() {
    let mut host = Host::new();
    // Much `some` alone: a backup that reads everything once.
    for _ in 0..120 {
        host.reading.some_ns = host.reading.some_ns.map(|ns| ns + SECOND * 6 / 10);
        assert_eq!(host.second(CALM), (VerdictState::Ready, 1.0));
    }
    // Half a second of stall once.
    let burst = Second { full_percent: 50, ..CALM };
    assert_eq!(host.second(burst), (VerdictState::Ready, 1.0));
    assert_eq!(host.seconds(60, CALM), (VerdictState::Ready, 1.0));
}

#[test]
fn a_kill_takes_weight_and_a_second_one_drains() {
    let mut host = Host::new();
    host.seconds(5, CALM);
    let kill = Second { kills: 1, ..CALM };
    assert_eq!(host.second(kill).0, VerdictState::Degraded);
    assert_eq!(host.second(kill), (VerdictState::Overloaded, 0.0));
}

#[test]
fn a_leak_takes_weight_before_memory_is_gone() {
    let mut host = Host::new();
    host.seconds(60, CALM);
    let left = |t: u64| GIB / 2 - t * (GIB / 200);
    let degraded = (1..100).find(|t| {
        let (state, _) = host.second(Second { available: left(*t), ..CALM });
        state != VerdictState::Ready
    });
    let degraded = degraded.expect("degraded before it is all gone");
    assert!(left(degraded) > GIB / 50, "{degraded} s");
}

/// With fast swap PSI is next to silent while memory fills up and what was evicted comes back.
#[test]
fn a_host_that_overflows_into_fast_swap_is_left_within_a_second() {
    let mut host = Host::new();
    host.reading.swap_free_bytes = Some(4 * GIB);
    host.seconds(60, CALM);
    let of = |percent: u64| GIB * percent / 100;
    let weights = [40, 30, 20, 12, 5].map(|left| {
        let (state, weight) = host.second(Second { available: of(left), ..CALM });
        (state, (weight * 100.0).round())
    });
    let (ready, less) = ((VerdictState::Ready, 100.0), |weight| (VerdictState::Degraded, weight));
    assert_eq!(weights, [ready, ready, ready, less(75.0), less(50.0)]);
    let full = Second { full_percent: 3, available: of(1), refaulted: of(1), kills: 0 };
    assert_eq!(host.second(full), (VerdictState::Overloaded, 0.0));

    // The same in a group that has long been full: it swaps a little, and that is all.
    let mut host = Host::new();
    assert_eq!(host.seconds(120, Second { refaulted: 0, ..full }), (VerdictState::Ready, 1.0));
    assert_eq!(host.seconds(120, full), (VerdictState::Ready, 1.0), "and nothing is filling up");
}

#[test]
fn what_fires_on_the_way_back_stops_it() {
    let mut pace = WeightController::new(Settings::default());
    let after = |pace: &mut WeightController, seconds: std::ops::Range<u64>, level| {
        seconds.for_each(|second| pace.step(second * SECOND, level, level));
        format!("{:.0} %", pace.position().weight * 100.0)
    };
    assert_eq!(after(&mut pace, 1..3, Severity::Overloaded), "0 %");
    assert_eq!(after(&mut pace, 3..16, Severity::Calm), "15 %");
    assert_eq!(after(&mut pace, 16..300, Severity::Degraded), "15 %", "pages are still in swap");
    assert_eq!(after(&mut pace, 300..340, Severity::Calm), "100 %");
}

#[test]
fn what_is_only_a_little_better_does_not_end_a_drain() {
    let mut host = Host::new();
    let full = |full_percent| Second { full_percent, ..CALM };
    host.seconds(20, CALM);
    assert_eq!(host.seconds(20, full(30)), (VerdictState::Overloaded, 0.0));
    assert_eq!(
        host.seconds(300, full(15)),
        (VerdictState::Overloaded, 0.0),
        "half of 25 % is not yet calm"
    );
    assert_eq!(host.seconds(60, full(1)).0, VerdictState::Ready);
    assert_eq!(
        host.seconds(300, full(8)).0,
        VerdictState::Ready,
        "what never fired cannot hold on"
    );
}

#[test]
fn what_only_holds_on_takes_no_more_than_what_gives_half() {
    let mut pace = WeightController::new(Settings::default());
    let mut now = 0;
    let mut step = |pace: &mut WeightController, seconds: u64, fires, holds| {
        for _ in 0..seconds {
            now += SECOND;
            pace.step(now, fires, holds);
        }
        (pace.position().state, (pace.position().weight * 100.0).round())
    };
    step(&mut pace, 2, Severity::Overloaded, Severity::Overloaded);
    let back = step(&mut pace, 60, Severity::Calm, Severity::Degraded);
    assert_eq!(
        back,
        (VerdictState::Degraded, 50.0),
        "drained once, and a rule that never fires again"
    );
    let waiting = step(&mut pace, 10, Severity::Calm, Severity::Calm);
    assert_eq!(waiting, (VerdictState::Degraded, 50.0), "ten seconds of calm first");
    let nearly = step(&mut pace, 9, Severity::Calm, Severity::Calm);
    assert_eq!(nearly, (VerdictState::Degraded, 95.0));
    let holds = step(&mut pace, 60, Severity::Calm, Severity::Degraded);
    assert_eq!(holds, (VerdictState::Degraded, 95.0), "it is not taken back");
    assert_eq!(
        step(&mut pace, 60, Severity::Degraded, Severity::Degraded),
        (VerdictState::Degraded, 50.0)
    );
}

#[test]
fn no_news_is_not_good_news() {
    let mut host = Host::new();
    host.seconds(20, CALM);
    let thrash = Second { full_percent: 80, ..CALM };
    assert_eq!(host.seconds(5, thrash), (VerdictState::Overloaded, 0.0));
    for _ in 0..600 {
        host.reading.at_ns += SECOND;
        let verdict = host.evaluator.pause(host.reading.at_ns);
        assert_eq!(
            verdict.position.state,
            VerdictState::Overloaded,
            "a group that is gone is not calm"
        );
    }
    host.reading.before = Some([[0; 2]; 2].map(|_| [host.reading.some_ns.unwrap_or(0); 2]));
    assert_eq!(host.seconds(9, CALM), (VerdictState::Overloaded, 0.0), "calm must be seen anew");
    assert_eq!(host.seconds(40, CALM), (VerdictState::Ready, 1.0));
}

#[test]
fn a_group_that_is_killed_at_once_is_one_kill() {
    let mut host = Host::new();
    host.seconds(5, CALM);
    for at_once in [1, 40] {
        host.seconds(120, CALM);
        host.reading.at_ns += SECOND / 10;
        let killed = host.second(Second { kills: at_once, ..CALM });
        assert_eq!(killed.0, VerdictState::Degraded, "{at_once} at once");
    }
}

/// A file that cannot be read once must not blind a rule for as long as its window.
#[test]
fn a_counter_that_is_missing_once_leaves_its_window_alone() {
    let mut past = ReadingHistory::default();
    let mut signals = None;
    for i in 1..=30u64 {
        let told = (i != 20).then_some(i * GIB / 100);
        let at_ns = i * SECOND;
        let total_bytes = Some(GIB);
        let full_ns = Some(0);
        let reading =
            Reading { at_ns, full_ns, refaulted_bytes: told, total_bytes, ..Reading::default() };
        signals = past.push(reading);
        let expected = (i > 5 && i != 20).then_some(0.01);
        let found = signals.and_then(|s| s.get(Signal::Refault10s));
        assert_eq!(found.map(|r| (r * 1e6).round() / 1e6), expected, "at {i}");
    }
    assert_eq!(signals.and_then(|s| s.get(Signal::Full10s)), Some(0.0));
}

#[test]
fn a_rule_holds_on_until_its_signals_are_clearly_better() {
    for (signal, fires, holds, quiet) in
        [(Signal::Full10s, 0.25, 0.13, 0.12), (Signal::Exhaustion, 10.0, 19.0, 21.0)]
    {
        let rule = if signal == Signal::Full10s { "stalled" } else { "running_out" };
        let at = |value| {
            let mut signals = Signals::default();
            for (signal, value) in
                [(Signal::Some10s, 0.5), (Signal::Available, 0.05), (signal, value)]
            {
                signals.set(signal, Some(value));
            }
            let found = Policy::default().evaluate(&signals).rules;
            found.into_iter().find(|f| f.rule == rule).map(|f| f.fires)
        };
        assert_eq!((at(fires), at(holds), at(quiet)), (Some(true), Some(false), None), "{rule}");
    }
}

#[test]
fn a_window_is_as_long_as_it_says_however_often_it_is_looked_at() {
    let mut past = ReadingHistory::default();
    let mut signals = None;
    for i in 0..1000u64 {
        // Ten seconds, a hundred looks in each; all of the last one is lost.
        let full_ns = i.saturating_sub(899) * SECOND / 100;
        let at_ns = SECOND + i * SECOND / 100;
        signals = past.push(Reading { at_ns, full_ns: Some(full_ns), ..Reading::default() });
    }
    let share = signals.and_then(|s| s.get(Signal::Full1s)).expect("told");
    assert!(share > 0.94, "{share}");
}

#[test]
fn without_psi_the_stall_clock_stands_in() {
    let mut signals = Signals::default();
    signals.set(Signal::Stalled1s, Some(3.0));
    signals.set(Signal::Stalled10s, Some(2.0));
    assert_eq!(Policy::default().evaluate(&signals).fires, Severity::Overloaded);
    signals.set(Signal::Full1s, Some(0.0));
    signals.set(Signal::Full10s, Some(0.0));
    assert_eq!(Policy::default().evaluate(&signals).fires, Severity::Calm, "PSI knows better");
}

#[test]
fn each_relapse_makes_the_way_back_longer() {
    let mut pace = WeightController::new(Settings::default());
    let mut now = 0;
    let mut waits = Vec::new();
    for _ in 0..8 {
        now += SECOND;
        pace.step(now, Severity::Overloaded, Severity::Overloaded);
        let drained = now;
        while pace.position().state == VerdictState::Overloaded {
            now += SECOND;
            pace.step(now, Severity::Calm, Severity::Calm);
        }
        waits.push((now - drained) / SECOND);
    }
    assert!(waits.is_sorted() && waits[0] < 15 && waits[7] >= 300, "{waits:?}");
    assert!(waits[7] <= 302, "bounded: {waits:?}");
}

#[test]
fn every_rule_can_fire_and_names_are_unique() {
    for rule in RULES {
        let mut signals = Signals::default();
        for condition in rule.when {
            signals.set(condition.signal, Some(condition.threshold));
        }
        let evidence = Policy::default().evaluate(&signals);
        let found = evidence.rules.iter().find(|f| f.rule == rule.name);
        assert!(found.is_some_and(|f| f.fires), "{}", rule.name);
        assert_eq!(RULES.iter().filter(|r| r.name == rule.name).count(), 1, "{}", rule.name);
        assert!(rule.level > Severity::Calm);
        let names: Vec<_> = rule.when.iter().map(|c| c.signal.name()).collect();
        let only_some = names.iter().all(|n| n.starts_with("some_share"));
        assert!(!only_some, "{} rests on some alone", rule.name);
    }
}

#[test]
fn changes_of_rules_are_checked() {
    let change = |rule: &str, signal: &str, threshold: f64| {
        let thresholds = [(signal.to_owned(), threshold)].into();
        Policy::new(&Changes::from([(rule.to_owned(), Change { enabled: None, thresholds })]))
    };
    assert!(change("stalled", "full_share_10s", 0.5).is_ok());
    for (error, says) in [
        (change("stale", "full_share_10s", 0.5), "no rule \"stale\"; there are: stalled"),
        (change("stalled", "full", 0.5), "but at: full_share_10s"),
        (change("stalled", "full_share_10s", -1.0), "not a threshold"),
    ] {
        let error = error.expect_err(says);
        assert!(error.contains(says), "{error}");
    }
    let off = Change { enabled: Some(false), ..Change::default() };
    let policy = Policy::new(&Changes::from([("stalled".to_owned(), off)])).expect("valid");
    let mut signals = Signals::default();
    signals.set(Signal::Full10s, Some(0.3));
    let found = policy.evaluate(&signals);
    assert!(found.rules.iter().all(|f| f.rule != "stalled"), "{found:?}");
}

fn level() -> impl Strategy<Value = Severity> {
    prop_oneof![Just(Severity::Calm), Just(Severity::Degraded), Just(Severity::Overloaded)]
}

fn some_signals() -> impl Strategy<Value = Signals> {
    prop::collection::vec(prop::option::of(0.0..1.0f64), Signal::ALL.len()).prop_map(|values| {
        let mut signals = Signals::default();
        for (signal, value) in Signal::ALL.iter().zip(values) {
            signals.set(*signal, value.map(|v| v * scale(*signal)));
        }
        signals
    })
}

/// Values about the thresholds.
fn scale(signal: Signal) -> f64 {
    match signal {
        Signal::Exhaustion | Signal::Filled | Signal::Refaults10s | Signal::SwapIns10s => 100.0,
        Signal::NoProgress | Signal::Priority => 16.0,
        Signal::OomKills60s | Signal::Stalled1s | Signal::Stalled10s => 3.0,
        Signal::Refault1s | Signal::Refault10s => 0.05,
        _ => 1.0,
    }
}

proptest! {
    #[test]
    fn a_worse_signal_is_never_a_better_verdict(
        signals in some_signals(),
        which in 0..Signal::ALL.len(),
        by in 0.0..2.0f64,
        history in prop::collection::vec((level(), level()), 0..40),
    ) {
        let signal = Signal::ALL[which];
        let mut worse = signals;
        let step = by * scale(signal);
        worse.set(signal, signals.get(signal).map(|v| match signal.worse() {
            Worse::Up => v + step,
            Worse::Down => v - step,
        }));
        let policy = Policy::default();
        let (one, other) = (policy.evaluate(&signals), policy.evaluate(&worse));
        prop_assert!(other.fires >= one.fires && other.holds >= one.holds);
        // And from any point of any history, worse evidence is no better an answer.
        let mut pace = WeightController::new(Settings::default());
        let mut now = 0;
        for (fires, holds) in history {
            now += SECOND;
            pace.step(now, fires, holds);
        }
        let (mut a, mut b) = (pace, pace);
        a.step(now + SECOND, one.fires, one.holds);
        b.step(now + SECOND, other.fires, other.holds);
        let (a, b) = (a.position(), b.position());
        prop_assert!(b.state >= a.state && b.weight <= a.weight, "{a:?} {b:?}");
    }

    #[test]
    fn it_always_comes_back_when_it_is_calm(
        // More than a history of a quarter of an hour has.
        relapses in 0u32..=5,
        history in prop::collection::vec((level(), level(), 0..5 * SECOND), 0..200)
    ) {
        let mut pace = WeightController::new(Settings::default());
        let overloaded_until_ns = (relapses > 0).then_some(0);
        let (state, weight) = (VerdictState::Overloaded, 0.0);
        pace.resume(ScopeState { state, weight, overloaded_until_ns, relapses });
        let mut now = 0;
        for (fires, holds, elapsed) in history {
            now += elapsed;
            pace.step(now, fires, holds);
        }
        // Once until it gets traffic again, once at half of it, and the climb.
        let longest = 2 * Settings::default().recover_after_max.as_secs() + 60;
        for _ in 0..longest {
            now += SECOND;
            pace.step(now, Severity::Calm, Severity::Calm);
        }
        prop_assert_eq!((pace.position().state, pace.position().weight), (VerdictState::Ready, 1.0));
    }

    #[test]
    fn whatever_comes_weights_fit_states_and_drains_are_rare(
        history in prop::collection::vec((level(), level(), 1..SECOND), 1..3000)
    ) {
        let mut pace = WeightController::new(Settings::default());
        let (mut now, mut drains) = (0u64, 0u64);
        for (fires, holds, elapsed) in history {
            now += elapsed;
            let before = pace.position().state;
            pace.step(now, fires, holds);
            prop_assert!(pace.position().is_sound(), "{pace:?}");
            let drained = pace.position().state == VerdictState::Overloaded;
            drains += u64::from(drained && before != VerdictState::Overloaded);
        }
        // Waits of 10, 20, 40 ... seconds between drains.
        let seconds = now / SECOND;
        prop_assert!(drains <= 1 + u64::from((seconds / 10 + 1).ilog2()), "{drains} in {seconds} s");
    }
}
