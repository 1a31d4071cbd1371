//! How fast: from the first stall to what memsensor says and what HAProxy does. Pure.

use std::time::Duration;

use super::{balancer::Server, watch::Observed};

/// What is compared with calm: how much PSI `some` rises in so long.
const WINDOW: Duration = Duration::from_millis(100);
/// A rise that is never calm's, and so small that nobody feels it.
const LEAST_US: u64 = 1000;

/// The first moment after `fault_at` at which somebody waited for memory, in a check_mode that nobody did
/// before: a rise within a tenth of a second of more than twice the largest before.
pub fn first_stall(some_us: &[(Duration, u64)], fault_at: Duration) -> Option<Duration> {
    let begin = some_us.partition_point(|(at, _)| *at < fault_at);
    let calm = rises(&some_us[..begin], WINDOW).map(|(_, rise)| rise).max().unwrap_or(0);
    let limit = (2 * calm).max(LEAST_US);
    let after = &some_us[begin.saturating_sub(1)..];
    let (first, _) = rises(after, WINDOW).find(|(_, rise)| *rise > limit)?;
    let from = after[first].1;
    after[first..].iter().find(|(_, some)| *some > from).map(|(at, _)| *at)
}

/// The first moment after `fault_at` at which the time lost in the `window` before it was so large a
/// share of that.
pub fn reaches(
    total_us: &[(Duration, u64)],
    fault_at: Duration,
    window: Duration,
    share: f64,
) -> Option<Duration> {
    let lost = total_us.iter().zip(rises(total_us, window));
    let mut later = lost.filter(|((at, _), _)| *at >= fault_at);
    later.find(|(_, (_, rise))| *rise as f64 >= share * window.as_micros() as f64).map(|(s, _)| s.0)
}

/// For each sample: where the window before it begins, and how much it rose since.
fn rises(some_us: &[(Duration, u64)], window: Duration) -> impl Iterator<Item = (usize, u64)> {
    let mut first = 0;
    some_us.iter().map(move |(at, some)| {
        while some_us[first].0 + window < *at {
            first += 1;
        }
        (first, some.saturating_sub(some_us[first].1))
    })
}

/// What an agent-check's line asks for, in percent of the weight; `None` if there was no line.
pub fn asked_weight(line: &str) -> Option<u32> {
    if line.starts_with("down") {
        return Some(0);
    }
    line.split_whitespace().find_map(|word| word.strip_suffix('%')?.parse().ok())
}

/// When things happened after the first stall.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reaction {
    /// memsensor says less than full weight.
    pub less: Option<Duration>,
    /// memsensor drains.
    pub drain: Option<Duration>,
    /// HAProxy gives it less.
    pub balancer_less: Option<Duration>,
    /// HAProxy gives it nothing.
    pub balancer_none: Option<Duration>,
}

/// The names of [`Reaction::all`].
pub const STEPS: [&str; 4] = [
    "memsensor: weight below 100 %",
    "memsensor: drain",
    "HAProxy: weight below 100 %",
    "HAProxy: nothing new to the host",
];

impl Reaction {
    /// Of a host that was fault_at, and whose first stall was then. What came between is 0: memsensor
    /// may have foreseen it.
    pub fn of(seen: &Observed, fault_at: Duration, stall: Duration) -> Self {
        let after = |at: Duration| at.saturating_sub(stall);
        let said = |which: &dyn Fn(&String) -> bool| {
            let found = seen.verdicts.iter().find(|(at, line)| *at >= fault_at && which(line));
            found.map(|(at, _)| after(*at))
        };
        let gets = |which: &dyn Fn(&Server) -> bool| {
            let found = seen.servers.iter().find(|(at, s)| *at >= fault_at && which(s));
            found.map(|(at, _)| after(*at))
        };
        let asks = |least: u32| move |l: &String| asked_weight(l).is_some_and(|w| w < least);
        Self {
            less: said(&asks(100)),
            drain: said(&asks(1)),
            balancer_less: gets(&|s| !s.serves() || s.weight < 100),
            balancer_none: gets(&|s| !s.serves()),
        }
    }

    /// As [`STEPS`] has them.
    pub fn all(self) -> [Option<Duration>; 4] {
        [self.less, self.drain, self.balancer_less, self.balancer_none]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn a_stall_is_more_than_what_calm_shows() {
        // 10 ms apart; calm has a rise of 2 ms in one.
        let psi = |steps: &[(u64, u64)]| {
            let total = |t: u64| steps.iter().filter(|(at, _)| *at <= t).map(|(_, us)| us).sum();
            (0..200).map(|i| (ms(10 * i), total(10 * i))).collect::<Vec<_>>()
        };
        for (steps, stall) in [
            (&[(300, 2000)][..], None),
            (&[(300, 2000), (1200, 3900)], None),
            (&[(300, 2000), (1200, 4100)], Some(1200)),
            // Begins small, but is part of the window that is more.
            (&[(300, 2000), (1150, 100), (1200, 4100)], Some(1150)),
            (&[(1200, 900)], None),
            (&[(1200, 1100)], Some(1200)),
            // Before the disturbance, it is calm.
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
    fn lines_of_the_agent_check_are_weights() {
        for (line, weight) in [
            ("up 100%", Some(100)),
            ("up 35%", Some(35)),
            ("up 0%", Some(0)),
            ("down#memsensor-stale", Some(0)),
            ("no answer", None),
        ] {
            assert_eq!(asked_weight(line), weight, "{line}");
        }
    }

    #[test]
    fn steps_are_counted_from_the_stall_and_before_it_do_not_count() {
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
        // The verdict was less before the stall.
        let foreseen = Reaction::of(&seen, ms(100), ms(200)).all();
        assert_eq!(foreseen, [Some(ms(0)), Some(ms(200)), Some(ms(100)), Some(ms(700))]);
    }
}
