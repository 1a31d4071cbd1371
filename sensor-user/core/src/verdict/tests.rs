//! Courses of events over minutes, through the whole verdict.
//!
//! Not here: properties of any course of events ([`super::properties`]).

use std::sync::Arc;

use super::{
    evaluator::Evaluator,
    policy::{Change, Changes, Policy, RULES},
    reading::Reading,
    signals::{ReadingHistory, Signal, Signals},
    state::{Severity, VerdictState},
    weight::{Settings, WeightController},
};

const SECOND: u64 = 1_000_000_000;
const GIB: u64 = 1 << 30;

/// What happens on a host within one second.
#[derive(Debug, Clone, Copy)]
struct Second {
    full_percent: u64,
    available: u64,
    refaulted: u64,
    kills: u64,
}

const CALM: Second = Second { full_percent: 0, available: GIB / 2, refaulted: 0, kills: 0 };
const THRASHING: Second = Second { full_percent: 80, ..CALM };

const READY: (VerdictState, f64) = (VerdictState::Ready, 1.0);
const OVERLOADED: (VerdictState, f64) = (VerdictState::Overloaded, 0.0);

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
        let add = |counter: &mut Option<u64>, n: u64| *counter = counter.map(|count| count + n);
        let reading = &mut self.reading;
        reading.at_ns += SECOND;
        let full_ns = second.full_percent * SECOND / 100;
        add(&mut reading.full_ns, full_ns);
        add(&mut reading.some_ns, full_ns);
        add(&mut reading.refaulted_bytes, second.refaulted);
        add(&mut reading.oom_kills, second.kills);
        reading.available_bytes = Some(second.available);
        let verdict = self.evaluator.evaluate(*reading);
        (verdict.position.state, verdict.position.weight)
    }

    fn seconds(&mut self, n: u32, second: Second) -> (VerdictState, f64) {
        (0..n).map(|_| self.second(second)).last().expect("at least one")
    }
}

/// A controller with a clock.
struct Clocked {
    controller: WeightController,
    now_ns: u64,
}

impl Clocked {
    fn new() -> Self {
        Self { controller: WeightController::new(Settings::default()), now_ns: 0 }
    }

    /// Steps once per second; returns the state and the weight in percent.
    fn seconds(&mut self, n: u64, fires: Severity, holds: Severity) -> (VerdictState, f64) {
        for _ in 0..n {
            self.now_ns += SECOND;
            self.controller.step(self.now_ns, fires, holds);
        }
        let current = self.controller.current();
        (current.state, (current.weight * 100.0).round())
    }
}

#[test]
fn a_thrashing_host_is_overloaded_until_it_is_calm() {
    let mut host = Host::new();
    assert_eq!(host.seconds(60, CALM), READY);
    let thrashing = Second { available: GIB / 50, refaulted: GIB / 10, ..THRASHING };
    let overloaded = (1..10).find(|_| host.second(thrashing).0 == VerdictState::Overloaded);
    assert!(overloaded.is_some_and(|s| s <= 2), "overloaded after {overloaded:?} s");
    assert_eq!(host.seconds(3600, thrashing), OVERLOADED);
    let mut weights = Vec::new();
    let ready = (1..600).find(|_| {
        let (state, weight) = host.second(CALM);
        weights.push(weight);
        state == VerdictState::Ready
    });
    assert!(ready.is_some_and(|s| (15..=60).contains(&s)), "ready after {ready:?} s");
    assert!(weights.is_sorted(), "the weight never falls during recovery: {weights:?}");
    assert!(weights.windows(2).all(|w| w[1] - w[0] <= 0.101), "in small steps: {weights:?}");
}

#[test]
fn the_first_sample_includes_the_kernels_averages() {
    let mut host = Host::new();
    host.reading.at_ns = 3600 * SECOND;
    host.reading.full_ns = Some(600 * SECOND);
    host.reading.before = Some([[0, 596 * SECOND], [0, 580 * SECOND]]);
    assert_eq!(host.second(CALM), OVERLOADED, "stalled for four of the last ten seconds");
    let mut calm = Host::new();
    calm.reading.at_ns = 3600 * SECOND;
    calm.reading.before = Some([[0, 0], [0, 0]]);
    assert_eq!(calm.second(CALM), READY);
}

#[test]
fn page_cache_reads_and_a_short_burst_keep_full_weight() {
    let mut host = Host::new();
    // High `some` without `full`: a backup that reads all files once.
    for _ in 0..120 {
        host.reading.some_ns = host.reading.some_ns.map(|ns| ns + SECOND * 6 / 10);
        assert_eq!(host.second(CALM), READY);
    }
    let burst = Second { full_percent: 50, ..CALM };
    assert_eq!(host.second(burst), READY);
    assert_eq!(host.seconds(60, CALM), READY);
}

/// PSI of I/O is near 1 while a single process reads: a backup, or a program that slept and whose pages
/// are in swap. Neither waits for memory.
#[test]
fn a_reader_is_swapping_only_with_swap_ins_and_while_memory_is_short() {
    for (swapped_in_pages, waits_percent, state) in [
        (0, 1, VerdictState::Ready),
        (600, 0, VerdictState::Ready),
        (600, 1, VerdictState::Overloaded),
    ] {
        let mut host = Host::new();
        host.reading.io_some_ns = Some(0);
        host.reading.swapped_in_bytes = Some(0);
        host.reading.read_bytes = Some(0);
        // A cache that is read again, 0.25 MiB a second.
        let refaulted = GIB / 4096;
        for _ in 0..60 {
            let add = |counter: &mut Option<u64>, n| *counter = counter.map(|count| count + n);
            add(&mut host.reading.io_some_ns, SECOND * 9 / 10);
            add(&mut host.reading.some_ns, SECOND / 100 * waits_percent);
            add(&mut host.reading.swapped_in_bytes, swapped_in_pages * 4096);
            add(&mut host.reading.read_bytes, swapped_in_pages * 4096 + refaulted);
            host.second(Second { available: GIB / 20, refaulted, ..CALM });
        }
        let verdict = host.second(Second { available: GIB / 20, refaulted, ..CALM });
        let case = format!("{swapped_in_pages} pages swapped in per second, {waits_percent} %");
        assert_eq!(verdict.0, state, "{case}");
    }
}

#[test]
fn one_kill_degrades_and_a_second_one_overloads() {
    let mut host = Host::new();
    host.seconds(5, CALM);
    let kill = Second { kills: 1, ..CALM };
    assert_eq!(host.second(kill).0, VerdictState::Degraded);
    assert_eq!(host.second(kill), OVERLOADED);
}

#[test]
fn a_leak_degrades_before_memory_is_exhausted() {
    let mut host = Host::new();
    host.seconds(60, CALM);
    let available = |second: u64| GIB / 2 - second * (GIB / 200);
    let degraded = (1..100).find(|second| {
        let (state, _) = host.second(Second { available: available(*second), ..CALM });
        state != VerdictState::Ready
    });
    let degraded = degraded.expect("degraded while memory is left");
    assert!(available(degraded) > GIB / 50, "{degraded} s");
}

/// With fast swap PSI is near zero while memory fills up and evicted pages are read again.
#[test]
fn overflow_into_fast_swap_overloads_within_a_second() {
    let mut host = Host::new();
    host.reading.swap_free_bytes = Some(4 * GIB);
    host.seconds(60, CALM);
    let of_total = |percent: u64| GIB * percent / 100;
    let weights = [40, 30, 20, 12, 5].map(|percent| {
        let (state, weight) = host.second(Second { available: of_total(percent), ..CALM });
        (state, (weight * 100.0).round())
    });
    let ready = (VerdictState::Ready, 100.0);
    let degraded = |weight| (VerdictState::Degraded, weight);
    assert_eq!(weights, [ready, ready, ready, degraded(75.0), degraded(50.0)]);
    let full = Second { full_percent: 3, available: of_total(1), refaulted: of_total(1), kills: 0 };
    assert_eq!(host.second(full), OVERLOADED);
}

#[test]
fn a_cgroup_that_has_long_been_full_and_swaps_a_little_is_ready() {
    let mut host = Host::new();
    let full = Second { full_percent: 3, available: GIB / 100, refaulted: GIB / 100, kills: 0 };
    assert_eq!(host.seconds(120, Second { refaulted: 0, ..full }), READY);
    assert_eq!(host.seconds(120, full), READY);
}

#[test]
fn a_degraded_rule_stops_the_rise_of_the_weight() {
    let mut clocked = Clocked::new();
    let mut seconds = |n, level| clocked.seconds(n, level, level);
    let recovering = (VerdictState::Degraded, 15.0);
    assert_eq!(seconds(2, Severity::Overloaded), OVERLOADED);
    assert_eq!(seconds(7, Severity::Calm), recovering);
    assert_eq!(seconds(284, Severity::Degraded), recovering, "pages are still in swap");
    assert_eq!(seconds(40, Severity::Calm), (VerdictState::Ready, 100.0));
}

#[test]
fn slightly_better_signals_do_not_end_an_overload() {
    let mut host = Host::new();
    let full = |full_percent| Second { full_percent, ..CALM };
    host.seconds(20, CALM);
    assert_eq!(host.seconds(20, full(30)), OVERLOADED);
    assert_eq!(host.seconds(300, full(15)), OVERLOADED, "above half of the threshold of 25 %");
    assert_eq!(host.seconds(60, full(1)).0, VerdictState::Ready);
    let below_all_thresholds = host.seconds(300, full(8)).0;
    assert_eq!(below_all_thresholds, VerdictState::Ready, "no rule fired, so none holds");
}

#[test]
fn a_rule_that_only_holds_allows_the_degraded_weight() {
    let (calm, degraded) = (Severity::Calm, Severity::Degraded);
    let mut clocked = Clocked::new();
    clocked.seconds(2, Severity::Overloaded, Severity::Overloaded);
    let expected = |percent| (VerdictState::Degraded, percent);
    assert_eq!(clocked.seconds(60, calm, degraded), expected(50.0), "after an overload");
    assert_eq!(clocked.seconds(5, calm, calm), expected(50.0), "it waits for five seconds");
    assert_eq!(clocked.seconds(4, calm, calm), expected(90.0));
    assert_eq!(clocked.seconds(60, calm, degraded), expected(90.0), "a held rule lowers nothing");
    assert_eq!(clocked.seconds(60, degraded, degraded), expected(50.0), "a rule that fires does");
}

#[test]
fn a_scope_without_readings_does_not_recover() {
    let mut host = Host::new();
    host.seconds(20, CALM);
    assert_eq!(host.seconds(5, THRASHING), OVERLOADED);
    for _ in 0..600 {
        host.reading.at_ns += SECOND;
        let state = host.evaluator.pause(host.reading.at_ns).position.state;
        assert_eq!(state, VerdictState::Overloaded, "its cgroup does not exist");
    }
    host.reading.before = Some([[host.reading.some_ns.unwrap_or(0); 2]; 2]);
    assert_eq!(host.seconds(4, CALM), OVERLOADED, "the wait starts again");
    assert_eq!(host.seconds(40, CALM), READY);
}

#[test]
fn kills_within_one_second_count_once() {
    let mut host = Host::new();
    host.seconds(5, CALM);
    for kills in [1, 40] {
        host.seconds(120, CALM);
        host.reading.at_ns += SECOND / 10;
        let (state, _) = host.second(Second { kills, ..CALM });
        assert_eq!(state, VerdictState::Degraded, "{kills} at once");
    }
}

/// A file that cannot be read once must not disable a rule for the length of its window.
#[test]
fn one_missing_value_does_not_reset_its_window() {
    let mut history = ReadingHistory::default();
    for second in 1..=30u64 {
        let is_missing = second == 20;
        let reading = Reading {
            at_ns: second * SECOND,
            full_ns: Some(0),
            refaulted_bytes: (!is_missing).then_some(second * 4096),
            ..Reading::default()
        };
        let signals = history.push(reading).expect("later than the last");
        let expected = (second > 5 && !is_missing).then_some(1.0);
        let refaults = signals.get(Signal::Refaults10s);
        assert_eq!(refaults.map(|r| (r * 1e6).round() / 1e6), expected, "at {second} s");
        assert_eq!(signals.get(Signal::Full10s), (second > 5).then_some(0.0), "at {second} s");
    }
}

#[test]
fn a_rule_holds_until_signals_pass_the_relaxed_threshold() {
    for (rule, signal, fires, holds, quiet) in [
        ("stalled", Signal::Full10s, 0.25, 0.13, 0.12),
        ("running_out", Signal::Exhaustion, 10.0, 19.0, 21.0),
    ] {
        let result = |value| {
            let mut signals = Signals::default();
            signals.set(Signal::Some10s, Some(0.5));
            signals.set(Signal::Available, Some(0.05));
            signals.set(signal, Some(value));
            let results = Policy::default().evaluate(&signals).rules;
            results.into_iter().find(|result| result.rule == rule).map(|result| result.fires)
        };
        let results = (result(fires), result(holds), result(quiet));
        assert_eq!(results, (Some(true), Some(false), None), "{rule}");
    }
}

#[test]
fn windows_keep_their_length_at_high_sample_rates() {
    let mut history = ReadingHistory::default();
    let mut signals = None;
    for sample in 0..1000u64 {
        // A hundred samples per second; all tasks are stalled in the last of ten seconds.
        let full_ns = sample.saturating_sub(899) * SECOND / 100;
        let at_ns = SECOND + sample * SECOND / 100;
        signals = history.push(Reading { at_ns, full_ns: Some(full_ns), ..Reading::default() });
    }
    let share = signals.and_then(|s| s.get(Signal::Full1s)).expect("measured");
    assert!(share > 0.94, "{share}");
}

#[test]
fn the_stall_clock_is_used_only_without_psi() {
    let mut signals = Signals::default();
    signals.set(Signal::Stalled1s, Some(3.0));
    signals.set(Signal::Stalled10s, Some(2.0));
    assert_eq!(Policy::default().evaluate(&signals).fires, Severity::Overloaded);
    signals.set(Signal::Full1s, Some(0.0));
    signals.set(Signal::Full10s, Some(0.0));
    assert_eq!(Policy::default().evaluate(&signals).fires, Severity::Calm);
}

/// Seen with psi=1 and a patched scheduler: all totals stay at 0.
#[test]
fn psi_that_stands_still_is_replaced_by_the_stall_clock() {
    for (some_percent, stalled_percent, state, contradicted) in [
        (0, 200, VerdictState::Overloaded, 1.0),
        (0, 0, VerdictState::Ready, 0.0),
        // Many tasks in reclaim at once are one wait.
        (5, 200, VerdictState::Ready, 0.0),
    ] {
        let mut host = Host::new();
        host.reading.stall_ns = Some(0);
        host.reading.available_bytes = Some(GIB / 50);
        for _ in 0..30 {
            let add = |counter: &mut Option<u64>, n| *counter = counter.map(|count| count + n);
            add(&mut host.reading.stall_ns, SECOND * stalled_percent / 100);
            add(&mut host.reading.some_ns, SECOND * some_percent / 100);
            host.reading.at_ns += SECOND;
            host.evaluator.evaluate(host.reading);
        }
        host.reading.at_ns += SECOND;
        let verdict = host.evaluator.evaluate(host.reading);
        assert_eq!(verdict.position.state, state, "{some_percent} {stalled_percent}");
        let signal = verdict.signals.get(Signal::PsiContradicted);
        assert_eq!(signal, Some(contradicted), "{some_percent} {stalled_percent}");
    }
}

#[test]
fn each_relapse_lengthens_the_wait_up_to_its_limit() {
    let mut clocked = Clocked::new();
    let mut waits = Vec::new();
    for _ in 0..8 {
        clocked.seconds(1, Severity::Overloaded, Severity::Overloaded);
        let overloaded_ns = clocked.now_ns;
        while clocked.seconds(1, Severity::Calm, Severity::Calm).0 == VerdictState::Overloaded {}
        waits.push((clocked.now_ns - overloaded_ns) / SECOND);
    }
    assert!(waits.is_sorted() && waits[0] < 15, "{waits:?}");
    assert!((300..=302).contains(&waits[7]), "{waits:?}");
}

#[test]
fn every_rule_can_fire_and_names_are_unique() {
    for rule in RULES {
        let mut signals = Signals::default();
        for condition in rule.when {
            signals.set(condition.signal, Some(condition.threshold));
        }
        let results = Policy::default().evaluate(&signals).rules;
        let result = results.iter().find(|result| result.rule == rule.name);
        assert!(result.is_some_and(|result| result.fires), "{}", rule.name);
        assert_eq!(RULES.iter().filter(|r| r.name == rule.name).count(), 1, "{}", rule.name);
        assert!(rule.level > Severity::Calm, "{}", rule.name);
        let uses_only_some = rule.when.iter().all(|c| c.signal.name().starts_with("some_share"));
        assert!(!uses_only_some, "{} uses PSI `some` alone", rule.name);
    }
}

#[test]
fn changes_to_rules_are_checked() {
    let change = |rule: &str, signal: &str, threshold: f64| {
        let thresholds = [(signal.to_owned(), threshold)].into();
        Policy::new(&Changes::from([(rule.to_owned(), Change { enabled: None, thresholds })]))
    };
    assert!(change("stalled", "full_share_10s", 0.5).is_ok());
    for (result, expected) in [
        (change("stale", "full_share_10s", 0.5), "no rule \"stale\"; there are: stalled"),
        (change("stalled", "full", 0.5), "no signal \"full\"; it has: full_share_10s"),
        (change("stalled", "full_share_10s", -1.0), "not a finite number of at least 0"),
    ] {
        let error = result.expect_err(expected);
        assert!(error.contains(expected), "{error}");
    }
    let disabled = Change { enabled: Some(false), ..Change::default() };
    let policy = Policy::new(&Changes::from([("stalled".to_owned(), disabled)])).expect("valid");
    let mut signals = Signals::default();
    signals.set(Signal::Full10s, Some(0.3));
    let results = policy.evaluate(&signals);
    assert!(results.rules.iter().all(|result| result.rule != "stalled"), "{results:?}");
}
