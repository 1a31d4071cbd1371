//! Properties of the verdict on arbitrary machines: of any size, with and without PSI, swap, zram, huge
//! pages or counters of reclaim, as cgroup v1 and old kernels lack them.

use std::sync::Arc;

use proptest::prelude::*;

use super::{
    evaluator::Evaluator,
    policy::Policy,
    reading::Reading,
    state::VerdictState,
    weight::{ScopeState, Settings},
};

const SECOND: u64 = 1_000_000_000;
const MIB: u64 = 1 << 20;

/// What a machine measures, and what happens on it in each second.
#[allow(clippy::struct_excessive_bools, reason = "each is a group of counters that may be missing")]
#[derive(Debug, Clone)]
struct Machine {
    has_psi: bool,
    has_io: bool,
    has_reclaim: bool,
    has_sizes: bool,
    /// Free swap as a part of memory; swap in memory (zram) counts as what compression gains.
    swap: Option<f64>,
    seconds: Vec<Second>,
}

/// A second: shares of time in percent, parts of memory in percent, pages.
#[derive(Debug, Clone, Copy)]
struct Second {
    some: u64,
    full: u64,
    io_some: u64,
    io_full: u64,
    available: f64,
    refaulted: u64,
    swapped_in: u64,
    read: u64,
    scanned: u64,
    kills: u64,
}

fn second() -> impl Strategy<Value = Second> {
    let shares = (0..=100u64, 0..=100u64, 0..=100u64, 0..=100u64);
    let pages = (0..5000u64, 0..2000u64, 0..20_000u64, 0..50_000u64);
    // Few seconds have a kill.
    let kills = (0..50u64).prop_map(|n| u64::from(n == 0));
    (shares, 0.0..1.0f64, pages, kills).prop_map(|(shares, available, pages, kills)| Second {
        some: shares.0,
        full: shares.1.min(shares.0),
        io_some: shares.2,
        io_full: shares.3.min(shares.2),
        available,
        refaulted: pages.0,
        swapped_in: pages.1,
        read: pages.2,
        scanned: pages.3,
        kills,
    })
}

fn machine(second: impl Strategy<Value = Second>) -> impl Strategy<Value = Machine> {
    let has = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    let swap = prop::option::of(0.0..2.0f64);
    (has, swap, prop::collection::vec(second, 1..60)).prop_map(|(has, swap, seconds)| Machine {
        has_psi: has.0,
        has_io: has.1,
        has_reclaim: has.2,
        has_sizes: has.3,
        swap,
        seconds,
    })
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a part of at most twice the memory"
)]
fn part(of: f64, total: u64) -> u64 {
    (of * total as f64) as u64
}

/// The counters of a machine so far, in the order of [`Second::rises`].
type Counters = [u64; 9];

impl Second {
    /// How far the counters rise: times in nanoseconds, bytes, pages, kills.
    fn rises(&self) -> Counters {
        let (time, page) = (SECOND / 100, 4096);
        [
            self.some * time,
            self.full * time,
            self.io_some * time,
            self.io_full * time,
            self.refaulted * page,
            self.swapped_in * page,
            self.read * page,
            self.scanned,
            self.kills,
        ]
    }
}

impl Machine {
    fn reading(&self, at_ns: u64, counters: &Counters, total: u64, available: u64) -> Reading {
        let measured = |has: bool, value: u64| has.then_some(value);
        Reading {
            at_ns,
            some_ns: measured(self.has_psi, counters[0]),
            full_ns: measured(self.has_psi, counters[1]),
            io_some_ns: measured(self.has_io, counters[2]),
            io_full_ns: measured(self.has_io, counters[3]),
            refaulted_bytes: measured(self.has_reclaim, counters[4]),
            lost_bytes: measured(self.has_reclaim, counters[4] / 2),
            swapped_in_bytes: measured(self.has_reclaim, counters[5]),
            read_bytes: measured(self.has_io, counters[6]),
            scanned_pages: measured(self.has_reclaim, counters[7]),
            reclaimed_pages: measured(self.has_reclaim, counters[7] / 2),
            oom_kills: Some(counters[8]),
            total_bytes: measured(self.has_sizes, total),
            available_bytes: measured(self.has_sizes, available),
            unused_bytes: measured(self.has_sizes, available / 2),
            swap_free_bytes: self.swap.map(|swap| part(swap, total)),
            ..Reading::default()
        }
    }
}

/// The states and weights of a machine with so many bytes of memory.
fn course(machine: &Machine, total: u64) -> Vec<ScopeState> {
    let mut evaluator = Evaluator::new(Arc::new(Policy::default()), Settings::default());
    let (mut counters, mut at_ns) = ([0; 9], 0);
    let mut states = Vec::new();
    for second in &machine.seconds {
        at_ns += SECOND;
        for (counter, rise) in counters.iter_mut().zip(second.rises()) {
            *counter += rise;
        }
        let available = part(second.available, total);
        let reading = machine.reading(at_ns, &counters, total, available);
        states.push(evaluator.evaluate(reading).position);
    }
    states
}

proptest! {
    #[test]
    fn the_size_of_a_machine_does_not_matter(machine in machine(second()), doublings in 0..18u32) {
        // 64 MiB to 16 TiB.
        let small = course(&machine, 64 * MIB);
        let large = course(&machine, (64 * MIB) << doublings);
        for (small, large) in small.iter().zip(&large) {
            prop_assert_eq!(small.state, large.state);
            prop_assert!((small.weight - large.weight).abs() < 1e-6);
        }
    }

    /// However full its memory is, and however much it reads.
    #[test]
    fn a_machine_on_which_nothing_waits_is_ready(
        machine in machine(second()),
        available in 0.0..1.0f64,
    ) {
        let calm = |second: &Second| Second {
            some: 0,
            full: 0,
            io_some: 0,
            io_full: 0,
            kills: 0,
            available,
            ..*second
        };
        let seconds = machine.seconds.iter().map(calm).collect();
        for state in course(&Machine { seconds, ..machine }, 1024 * MIB) {
            prop_assert_eq!(state.state, VerdictState::Ready);
        }
    }

    /// A disk that is busy with files that are read once, or with a program that wakes up.
    #[test]
    fn a_busy_disk_alone_takes_no_weight(machine in machine(second()), available in 0.0..1.0f64) {
        let reads = |second: &Second| Second {
            some: 0,
            full: 0,
            refaulted: 0,
            kills: 0,
            available,
            ..*second
        };
        let seconds = machine.seconds.iter().map(reads).collect();
        for state in course(&Machine { seconds, ..machine }, 1024 * MIB) {
            prop_assert_eq!(state.state, VerdictState::Ready);
        }
    }
}
