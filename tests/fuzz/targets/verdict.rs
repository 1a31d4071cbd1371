//! The verdict over any readings and any signals.
#![no_main]

use std::{sync::Arc, time::Duration};

use arbitrary::{Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;
use sensor_core::verdict::{
    evaluator::{Evaluator, Verdict},
    explain::explain,
    policy::Policy,
    reading::{LimitPart, Reading},
    signals::{Signal, Signals, Worse},
    weight::Settings,
};

/// More steps reach no other states, and take time.
const MAX_STEPS: usize = 32;

#[derive(Debug, Arbitrary)]
enum Step {
    /// The scope could not be read.
    Pause {
        after_ms: u32,
    },
    Read {
        after_ms: u32,
        values: Values,
    },
    /// The last values again, each second: states change with time.
    Repeat {
        #[arbitrary(with = |bytes: &mut Unstructured| bytes.int_in_range(1..=40))]
        seconds: u8,
    },
}

/// A reading without its time.
#[derive(Debug, Clone, Copy, Default, Arbitrary)]
struct Values {
    psi: Option<[u64; 2]>,
    before: Option<[[u64; 2]; 2]>,
    io_some_ns: Option<u64>,
    io_full_ns: Option<u64>,
    stall_ns: Option<u64>,
    refaulted_bytes: Option<u64>,
    lost_bytes: Option<u64>,
    read_bytes: Option<u64>,
    swapped: [Option<u64>; 2],
    reclaim: Option<[u64; 2]>,
    oom_kills: Option<u64>,
    sizes: [Option<u64>; 4],
    above_low_bytes: Option<i64>,
    levels: [Option<u8>; 2],
}

impl Values {
    fn at(self, at_ns: u64) -> Reading {
        Reading {
            at_ns,
            some_ns: self.psi.map(|psi| psi[0]),
            full_ns: self.psi.map(|psi| psi[1]),
            before: self.before,
            io_some_ns: self.io_some_ns,
            io_full_ns: self.io_full_ns,
            stall_ns: self.stall_ns,
            refaulted_bytes: self.refaulted_bytes,
            swapped_in_bytes: self.swapped[0],
            swapped_out_bytes: self.swapped[1],
            scanned_pages: self.reclaim.map(|pages| pages[0]),
            reclaimed_pages: self.reclaim.map(|pages| pages[1]),
            oom_kills: self.oom_kills,
            total_bytes: self.sizes[0],
            available_bytes: self.sizes[1],
            unused_bytes: self.sizes[2],
            swap_free_bytes: self.sizes[3],
            above_low_bytes: self.above_low_bytes,
            priority: self.levels[0],
            no_progress: self.levels[1],
            lost_bytes: self.lost_bytes,
            read_bytes: self.read_bytes,
            limits: LimitPart::default(),
        }
    }
}

#[derive(Debug, Arbitrary)]
struct Course {
    steps: Vec<Step>,
    worse: Worsening,
}

/// One of the signals gets worse.
#[derive(Debug, Arbitrary)]
struct Worsening {
    signals: [Option<f32>; Signal::ALL.len()],
    index: u8,
    by: f32,
}

fuzz_target!(|course: Course| {
    evaluate(&course.steps);
    worsen(&course.worse);
});

fn evaluate(steps: &[Step]) {
    let policy = Arc::new(Policy::default());
    let mut evaluator = Evaluator::new(Arc::clone(&policy), Settings::default());
    let (mut now_ns, mut last) = (1 << 40, Values::default());
    for step in steps.iter().take(MAX_STEPS) {
        match *step {
            Step::Pause { after_ms } => {
                now_ns += u64::from(after_ms) * 1_000_000;
                check(&evaluator.pause(now_ns));
            }
            Step::Read { after_ms, values } => {
                (now_ns, last) = (now_ns + u64::from(after_ms) * 1_000_000, values);
                check(&evaluator.evaluate(values.at(now_ns)));
            }
            Step::Repeat { seconds } => {
                for _ in 0..seconds {
                    now_ns += 1_000_000_000;
                    check(&evaluator.evaluate(last.at(now_ns)));
                }
            }
        }
    }
    let verdict = evaluator.evaluate(last.at(now_ns + 1));
    check(&verdict);
    explain("host", &verdict, &policy, now_ns + 1);
}

fn check(verdict: &Verdict) {
    assert!(verdict.position.is_sound(), "{:?}", verdict.position);
    assert!(verdict.recover_after <= Duration::from_mins(5));
    for signal in Signal::ALL {
        assert!(verdict.signals.get(*signal).is_none_or(f64::is_finite));
    }
}

/// A worse signal never gives a better result, neither at once nor as the next verdict.
fn worsen(worse: &Worsening) {
    let Worsening { signals: values, index, by } = worse;
    let mut signals = Signals::default();
    for (signal, value) in Signal::ALL.iter().zip(values) {
        signals.set(*signal, value.map(f64::from));
    }
    let signal = Signal::ALL[usize::from(*index) % Signal::ALL.len()];
    let by = f64::from(by.abs());
    let Some(value) = signals.get(signal).filter(|_| by.is_finite()) else { return };
    let mut worse = signals;
    worse.set(
        signal,
        Some(match signal.worse() {
            Worse::Up => value + by,
            Worse::Down => value - by,
        }),
    );
    let policy = Policy::default();
    let (better, worse) = (policy.evaluate(&signals), policy.evaluate(&worse));
    assert!(worse.fires >= better.fires && worse.holds >= better.holds, "{signal:?}");
}
