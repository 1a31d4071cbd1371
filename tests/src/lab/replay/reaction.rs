//! Reaction times: from the first stall to memsensor's verdict and to HAProxy's weight. Pure.

use std::time::Duration;

use super::{server::Server, watch::Observed};

/// Window in which the rise of PSI `some` is compared with the calm phase.
const WINDOW: Duration = Duration::from_millis(100);
/// The smallest rise that counts as a stall.
const LEAST_US: u64 = 1000;

/// The first stall after `fault_at`: the start of the first rise of PSI `some` in a window that is
/// more than twice the largest rise before the fault.
pub fn first_stall(some_us: &[(Duration, u64)], fault_at: Duration) -> Option<Duration> {
    let begin = some_us.partition_point(|(at, _)| *at < fault_at);
    let calm = rises(&some_us[..begin], WINDOW).map(|(_, rise)| rise).max().unwrap_or(0);
    let limit = (2 * calm).max(LEAST_US);
    let after = &some_us[begin.saturating_sub(1)..];
    let (first, _) = rises(after, WINDOW).find(|(_, rise)| *rise > limit)?;
    let from = after[first].1;
    after[first..].iter().find(|(_, some)| *some > from).map(|(at, _)| *at)
}

/// The first time after `fault_at` at which the stall time in the `window` before it reached a
/// share of that window.
pub fn reaches(
    total_us: &[(Duration, u64)],
    fault_at: Duration,
    window: Duration,
    share: f64,
) -> Option<Duration> {
    let stalled = total_us.iter().zip(rises(total_us, window));
    let mut later = stalled.filter(|((at, _), _)| *at >= fault_at);
    later.find(|(_, (_, rise))| *rise as f64 >= share * window.as_micros() as f64).map(|(s, _)| s.0)
}

/// For each sample: the index where the window before it begins, and the rise since then.
fn rises(some_us: &[(Duration, u64)], window: Duration) -> impl Iterator<Item = (usize, u64)> {
    let mut first = 0;
    some_us.iter().map(move |(at, some)| {
        while some_us[first].0 + window < *at {
            first += 1;
        }
        (first, some.saturating_sub(some_us[first].1))
    })
}

/// The weight in an agent-check's line, in percent; `None` if it has none.
pub fn weight(line: &str) -> Option<u32> {
    line.split_whitespace().find_map(|word| word.strip_suffix('%')?.parse().ok())
}

/// Times after the first stall.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reaction {
    /// memsensor reports less than full weight.
    pub reduced: Option<Duration>,
    /// memsensor reports weight 0.
    pub overloaded: Option<Duration>,
    /// HAProxy reduces its weight.
    pub balancer_reduced: Option<Duration>,
    /// HAProxy sends it no new requests.
    pub balancer_none: Option<Duration>,
}

/// The names of [`Reaction::all`].
pub const STEPS: [&str; 4] = [
    "memsensor: weight below 100 %",
    "memsensor: overloaded (weight 0)",
    "HAProxy: weight below 100 %",
    "HAProxy: no new requests to the host",
];

impl Reaction {
    /// Reaction to a fault at `fault_at` with a first stall at `stall`. A time between the two
    /// counts as 0, because memsensor may have predicted the stall.
    pub fn of(seen: &Observed, fault_at: Duration, stall: Duration) -> Self {
        let after = |at: Duration| at.saturating_sub(stall);
        let verdict = |which: &dyn Fn(&String) -> bool| {
            let found = seen.verdicts.iter().find(|(at, line)| *at >= fault_at && which(line));
            found.map(|(at, _)| after(*at))
        };
        let balancer = |which: &dyn Fn(&Server) -> bool| {
            let found = seen.servers.iter().find(|(at, s)| *at >= fault_at && which(s));
            found.map(|(at, _)| after(*at))
        };
        let below = |least: u32| move |l: &String| weight(l).is_some_and(|weight| weight < least);
        Self {
            reduced: verdict(&below(100)),
            overloaded: verdict(&below(1)),
            balancer_reduced: balancer(&|s| !s.serves() || s.weight < 100),
            balancer_none: balancer(&|s| !s.serves()),
        }
    }

    /// In the order of [`STEPS`].
    pub fn all(self) -> [Option<Duration>; 4] {
        [self.reduced, self.overloaded, self.balancer_reduced, self.balancer_none]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn a_stall_exceeds_the_rises_of_the_calm_phase() {
        // 10 ms apart; the calm phase has one rise of 2 ms.
        let psi = |steps: &[(u64, u64)]| {
            let total = |t: u64| steps.iter().filter(|(at, _)| *at <= t).map(|(_, us)| us).sum();
            (0..200).map(|i| (ms(10 * i), total(10 * i))).collect::<Vec<_>>()
        };
        for (steps, stall) in [
            (&[(300, 2000)][..], None),
            (&[(300, 2000), (1200, 3900)], None),
            (&[(300, 2000), (1200, 4100)], Some(1200)),
            // A small rise in the window of the large one.
            (&[(300, 2000), (1150, 100), (1200, 4100)], Some(1150)),
            (&[(1200, 900)], None),
            (&[(1200, 1100)], Some(1200)),
            // Before the fault.
            (&[(900, 50_000)], None),
        ] {
            assert_eq!(first_stall(&psi(steps), ms(1000)), stall.map(ms), "{steps:?}");
        }
        assert_eq!(first_stall(&[], ms(0)), None);
    }

    #[test]
    fn a_share_is_of_the_whole_window() {
        // Half of the time from 1 s on.
        let total = |i: u64| (ms(10 * i), i.saturating_sub(100) * 5000);
        let totals: Vec<_> = (0..400).map(total).collect();
        for (from, window, share, reached) in [
            (0, 1000, 0.2, Some(1400)),
            (0, 1000, 0.5, Some(2000)),
            (0, 1000, 0.6, None),
            (1700, 1000, 0.2, Some(1700)),
            (0, 10_000, 0.08, Some(2600)),
        ] {
            let found = reaches(&totals, ms(from), ms(window), share);
            assert_eq!(found, reached.map(ms), "{share} of {window} ms");
        }
    }

    #[test]
    fn the_weight_of_an_agent_check_line_is_parsed() {
        for (line, expected) in [
            ("up 100%", Some(100)),
            ("up 35%", Some(35)),
            ("up 0%", Some(0)),
            ("no response", None),
        ] {
            assert_eq!(weight(line), expected, "{line}");
        }
    }

    #[test]
    fn times_count_from_the_stall_and_only_after_the_fault() {
        let server = |status: &str, weight| Server { status: status.into(), weight };
        let seen = Observed {
            some_us: Vec::new(),
            full_us: Vec::new(),
            io_full_us: Vec::new(),
            verdicts: vec![
                (ms(10), "up 90%".into()),
                (ms(20), "up 100%".into()),
                (ms(150), "up 80%".into()),
                (ms(400), "up 0%".into()),
            ],
            servers: vec![
                (ms(0), server("UP", 100)),
                (ms(300), server("UP", 80)),
                (ms(900), server("DRAIN (agent)", 0)),
            ],
        };
        let reaction = Reaction::of(&seen, ms(100), ms(100));
        assert_eq!(reaction.all(), [Some(ms(50)), Some(ms(300)), Some(ms(200)), Some(ms(800))]);
        assert_eq!(Reaction::of(&seen, ms(1000), ms(1000)).all(), [None; 4]);
        // The weight was reduced before the stall.
        let predicted = Reaction::of(&seen, ms(100), ms(200)).all();
        assert_eq!(predicted, [Some(ms(0)), Some(ms(200)), Some(ms(100)), Some(ms(700))]);
    }
}
