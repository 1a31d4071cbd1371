//! Attributes the host's stalls: to the host's own shortage of memory, or to cgroups that reached
//! their own limits.
//!
//! PSI of the host, its refaults and its swap-ins include every cgroup. A container that thrashes at
//! its limit of 64 MiB says nothing about a machine with 20 GiB free, and a user who may set a limit
//! must not be able to take the machine out of service. The evidence:
//!
//! * The stall clock by cause: limit reclaim and the throttling inside it, or global direct reclaim,
//!   its throttling and compaction.
//! * Pages scanned and evicted. vmstat counts those of kswapd and direct reclaim for the host only
//!   (`pgscan_kswapd`, `pgsteal_direct`, ...), and those of all reclaim by type of page
//!   (`pgscan_anon`, `pgsteal_file`, ...; mm/vmscan.c since 5.8). The difference is limit reclaim.
//!
//! A refault is attributed by who evicted in the last half minute. Without evidence, everything is
//! the host's.
//!
//! Not here: reading the counters (the daemon's `host/vmstat` and `collect/host_reader`), and
//! cgroups' own scopes, where a limit does count.

use std::ops::AddAssign;

use super::reading::{LimitPart, Reading};

/// A counter, by origin.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ByOrigin {
    /// The host's own shortage.
    pub host: u64,
    /// Cgroups at their own limits.
    pub limits: u64,
}

/// Counters by origin; `None` if they are not measured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Origins {
    /// The stall clock, nanoseconds.
    pub stall_ns: Option<ByOrigin>,
    /// Pages scanned by reclaim.
    pub scanned_pages: Option<ByOrigin>,
    /// Pages evicted by reclaim.
    pub evicted_pages: Option<ByOrigin>,
}

/// Time constant of the weights of stalls: stalls that ended three seconds ago weigh a third.
const STALL_SECONDS: f64 = 3.0;
/// The same for evictions: an evicted page is missed later.
const EVICTION_SECONDS: f64 = 30.0;
/// Assumed wait for a page that returns from disk. Its only use is to weigh these waits against the
/// stall clock, which does not include them.
const REFAULT_NS: f64 = 1_000_000.0;
/// Without the stall clock: assumed time to scan a page.
const SCAN_NS: f64 = 1_000.0;
const PAGE: f64 = 4096.0;

/// Decayed sums of a pair of counters.
#[derive(Debug, Clone, Copy, Default)]
struct Weights {
    host: f64,
    limits: f64,
}

impl Weights {
    fn decay(&mut self, seconds: f64, time_constant: f64) {
        let factor = (-seconds / time_constant).exp();
        self.host *= factor;
        self.limits *= factor;
    }

    /// The host's share; `None` if there is nothing to divide.
    fn host_share(&self) -> Option<f64> {
        let sum = self.host + self.limits;
        (sum >= 1.0).then(|| self.host / sum)
    }
}

impl AddAssign<(f64, f64)> for Weights {
    fn add_assign(&mut self, (host, limits): (f64, f64)) {
        self.host += host;
        self.limits += limits;
    }
}

/// Attributes the stalls of one host, reading by reading.
#[derive(Debug, Clone)]
pub struct Attribution {
    last: Option<(Reading, Origins)>,
    /// Stalls and waits for refaults, nanoseconds.
    stalls: Weights,
    /// The stall clock of the host alone, nanoseconds.
    clock: Weights,
    /// Evicted pages.
    evictions: Weights,
    /// The host's share of evictions, when there were any.
    evicted_share: f64,
    part: LimitPart,
}

impl Default for Attribution {
    fn default() -> Self {
        Self {
            last: None,
            stalls: Weights::default(),
            clock: Weights::default(),
            evictions: Weights::default(),
            evicted_share: 1.0,
            part: LimitPart::default(),
        }
    }
}

impl Attribution {
    /// Sets [`Reading::limits`], and lets [`Reading::before`] contain the host's own part. The first
    /// reading has no `before`: the origin of these stalls is unknown until the second one.
    pub fn apply(&mut self, reading: &mut Reading, origins: Origins) {
        let raw = *reading;
        let Some((last, before)) = self.last else {
            reading.before = None;
            self.last = Some((raw, origins));
            return;
        };
        if raw.at_ns <= last.at_ns {
            reading.limits = self.part;
            return;
        }
        self.last = Some((raw, origins));
        let (stall_share, refault_share) = self.weigh(&last, &raw, before, origins);
        self.part.add(&last, &raw, 1.0 - stall_share, 1.0 - refault_share);
        reading.limits = self.part;
        reading.before = raw.before.map(|spans| {
            spans.map(|[some, full]| {
                let own = |now: Option<u64>, limits: u64, then: u64| {
                    let now = now.unwrap_or(then);
                    let rose = share_of(now.saturating_sub(then), stall_share);
                    now.saturating_sub(limits).saturating_sub(rose)
                };
                let part = &self.part;
                [own(raw.some_ns, part.some_ns, some), own(raw.full_ns, part.full_ns, full)]
            })
        });
    }

    /// The host's shares of stalls and of refaults in the interval.
    fn weigh(
        &mut self,
        last: &Reading,
        now: &Reading,
        before: Origins,
        origins: Origins,
    ) -> (f64, f64) {
        let seconds = now.at_ns.saturating_sub(last.at_ns) as f64 / 1e9;
        self.stalls.decay(seconds, STALL_SECONDS);
        self.clock.decay(seconds, STALL_SECONDS);
        self.evictions.decay(seconds, EVICTION_SECONDS);
        if let Some(evicted) = rise(before.evicted_pages, origins.evicted_pages) {
            self.evictions += evicted;
            self.evicted_share = self.evictions.host_share().unwrap_or(self.evicted_share);
        }
        let stalled = rise(before.stall_ns, origins.stall_ns);
        let scanned = rise(before.scanned_pages, origins.scanned_pages);
        let Some(work) =
            stalled.or_else(|| scanned.map(|(host, limits)| (host * SCAN_NS, limits * SCAN_NS)))
        else {
            return (1.0, self.evicted_share);
        };
        self.stalls += work;
        self.clock += stalled.unwrap_or_default();
        let waits = refaulted_pages(last, now) * REFAULT_NS;
        self.stalls += (waits * self.evicted_share, waits * (1.0 - self.evicted_share));
        // However much cgroups at their limits stall, they do not hide the host's own stalls: if on
        // average one task is stalled by the host at any time, that alone explains PSI.
        let tasks = self.clock.host / (STALL_SECONDS * 1e9);
        let share = self.stalls.host_share().unwrap_or(0.0);
        (share.max(tasks.min(1.0)), self.evicted_share)
    }
}

impl LimitPart {
    fn add(&mut self, last: &Reading, now: &Reading, stalls: f64, refaults: f64) {
        let mut add = |to: fn(&mut Self) -> &mut u64, from: fn(&Reading) -> Option<u64>, share| {
            if let (Some(before), Some(after)) = (from(last), from(now)) {
                let sum = to(self);
                *sum = sum.saturating_add(share_of(after.saturating_sub(before), share));
            }
        };
        add(|part| &mut part.some_ns, |r| r.some_ns, stalls);
        add(|part| &mut part.full_ns, |r| r.full_ns, stalls);
        add(|part| &mut part.refaulted_bytes, |r| r.refaulted_bytes, refaults);
        add(|part| &mut part.lost_bytes, |r| r.lost_bytes, refaults);
        add(|part| &mut part.swapped_in_bytes, |r| r.swapped_in_bytes, refaults);
    }
}

fn rise(from: Option<ByOrigin>, to: Option<ByOrigin>) -> Option<(f64, f64)> {
    let (from, to) = (from?, to?);
    let rose = |from: u64, to: u64| to.saturating_sub(from) as f64;
    Some((rose(from.host, to.host), rose(from.limits, to.limits)))
}

fn refaulted_pages(last: &Reading, now: &Reading) -> f64 {
    let rose = |from: Option<u64>, to: Option<u64>| {
        from.zip(to).map_or(0, |(from, to)| to.saturating_sub(from)) as f64 / PAGE
    };
    rose(last.refaulted_bytes, now.refaulted_bytes)
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the share is from 0 to 1, so the product is at most the counter"
)]
fn share_of(counter: u64, share: f64) -> u64 {
    ((counter as f64 * share.clamp(0.0, 1.0)) as u64).min(counter)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// What happens within one second: share of `full`, and the origins' rises.
    #[derive(Debug, Clone, Copy, Default)]
    struct Second {
        full_percent: u64,
        refaults: u64,
        /// Milliseconds of the stall clock.
        stall_ms: (u64, u64),
        evicted: (u64, u64),
    }

    struct Host {
        attribution: Attribution,
        reading: Reading,
        origins: Origins,
    }

    impl Host {
        fn new(has_probes: bool) -> Self {
            let reading = Reading {
                at_ns: SECOND,
                some_ns: Some(0),
                full_ns: Some(0),
                refaulted_bytes: Some(0),
                lost_bytes: Some(0),
                ..Reading::default()
            };
            let origins = Origins {
                stall_ns: has_probes.then(ByOrigin::default),
                scanned_pages: Some(ByOrigin::default()),
                evicted_pages: Some(ByOrigin::default()),
            };
            let mut host = Self { attribution: Attribution::default(), reading, origins };
            host.second(Second::default());
            host
        }

        /// Own `full` and own refaults of this second, in percent and in pages.
        fn second(&mut self, second: Second) -> (u64, u64) {
            let own = |r: &Reading| (r.own_full_ns().unwrap_or(0), r.own_refaulted_bytes());
            let mut before = self.reading;
            before.limits = self.attribution.part;
            let before = own(&before);
            let reading = &mut self.reading;
            reading.at_ns += SECOND;
            let add = |to: &mut Option<u64>, n: u64| *to = to.map(|sum| sum + n);
            add(&mut reading.full_ns, second.full_percent * SECOND / 100);
            add(&mut reading.some_ns, second.full_percent * SECOND / 100);
            add(&mut reading.refaulted_bytes, second.refaults * 4096);
            let rise = |to: &mut Option<ByOrigin>, (host, limits): (u64, u64), unit: u64| {
                if let Some(to) = to {
                    to.host += host * unit;
                    to.limits += limits * unit;
                }
            };
            rise(&mut self.origins.stall_ns, second.stall_ms, 1_000_000);
            rise(&mut self.origins.evicted_pages, second.evicted, 1);
            rise(&mut self.origins.scanned_pages, second.evicted, 2);
            let mut reading = self.reading;
            self.attribution.apply(&mut reading, self.origins);
            let after = own(&reading);
            let pages = after.1.unwrap_or(0) - before.1.unwrap_or(0);
            ((after.0 - before.0) * 100 / SECOND, pages / 4096)
        }
    }

    #[test]
    fn stalls_are_attributed_to_their_origin() {
        let stalled = Second { full_percent: 80, refaults: 1000, ..Second::default() };
        for (case, second, with_probes, without) in [
            (
                "a cgroup at its limit",
                Second { stall_ms: (0, 900), evicted: (0, 5000), ..stalled },
                (0, 0),
                (0, 0),
            ),
            (
                "the host",
                Second { stall_ms: (2000, 0), evicted: (5000, 0), ..stalled },
                (80, 1000),
                (80, 1000),
            ),
            (
                "the host and a cgroup that stalls more",
                Second { stall_ms: (1000, 50_000), evicted: (2500, 2500), ..stalled },
                (80, 500),
                (40, 500),
            ),
            (
                "a cgroup, while kswapd evicts a cache that is not needed",
                Second { stall_ms: (0, 900), refaults: 0, evicted: (5000, 1000), ..stalled },
                (0, 0),
                (66, 0),
            ),
            ("PSI without any reclaim", Second { refaults: 0, ..stalled }, (0, 0), (0, 0)),
            ("refaults of earlier evictions", stalled, (80, 1000), (80, 1000)),
        ] {
            for (has_probes, expected) in [(true, with_probes), (false, without)] {
                let mut host = Host::new(has_probes);
                let mut last = (0, 0);
                for _ in 0..20 {
                    last = host.second(second);
                }
                let near = |a: u64, b: u64| a.abs_diff(b) <= 1 + b / 20;
                let is_near = near(last.0, expected.0) && near(last.1, expected.1);
                assert!(is_near, "{case}, probes {has_probes}: {last:?}, not {expected:?}");
            }
        }
    }

    #[test]
    fn without_evidence_everything_is_the_hosts() {
        let mut attribution = Attribution::default();
        for second in 1..10 {
            let full_ns = Some(second * SECOND / 2);
            let mut reading = Reading { at_ns: second * SECOND, full_ns, ..Reading::default() };
            attribution.apply(&mut reading, Origins::default());
            assert_eq!(reading.own_full_ns(), full_ns);
        }
    }

    #[test]
    fn the_kernels_averages_are_attributed_by_the_second_reading() {
        for (stall_ms, own_ns) in [((0, 500), 0), ((500, 0), 6 * SECOND)] {
            let mut attribution = Attribution::default();
            let mut apply = |second: u64, ms: (u64, u64)| {
                let full_ns = Some(100 * SECOND + second * SECOND / 2);
                let before = full_ns.map(|ns| [[ns - 6 * SECOND; 2], [ns - 6 * SECOND; 2]]);
                let at_ns = second * SECOND;
                let some_ns = full_ns;
                let mut reading = Reading { at_ns, some_ns, full_ns, before, ..Reading::default() };
                let ns = |ms: u64| ms * 1_000_000;
                let stall_ns = Some(ByOrigin { host: ns(ms.0), limits: ns(ms.1) });
                attribution.apply(&mut reading, Origins { stall_ns, ..Origins::default() });
                reading
            };
            assert_eq!(apply(1, (0, 0)).before, None, "their origin is unknown");
            let second = apply(2, stall_ms);
            let before = second.before.expect("attributed");
            let rose = second.own_full_ns().map(|own| own - before[0][1]);
            assert_eq!(rose, Some(own_ns), "{stall_ms:?}");
        }
    }

    proptest! {
        #[test]
        fn own_counters_never_fall_nor_exceed_the_raw_ones(
            seconds in prop::collection::vec(
                (0u64..=100, 0u64..10_000, (0u64..9000, 0u64..9000), (0u64..9000, 0u64..9000)),
                1..60,
            ),
            has_probes: bool,
        ) {
            let mut host = Host::new(has_probes);
            for (full_percent, refaults, stall_ms, evicted) in seconds {
                let (own_full, own_refaults) =
                    host.second(Second { full_percent, refaults, stall_ms, evicted });
                prop_assert!(own_full <= full_percent && own_refaults <= refaults);
            }
        }

        /// A user who may set a limit cannot hide that the host stalls all the time.
        #[test]
        fn limits_do_not_hide_the_hosts_stalls(limit_ms in 0u64..10_000_000, tasks in 1u64..50) {
            let mut host = Host::new(true);
            let stall_ms = (tasks * 1000, limit_ms);
            let second = Second { full_percent: 90, stall_ms, ..Second::default() };
            let own = (0..15).map(|_| host.second(second).0).last();
            prop_assert!(own >= Some(80), "{own:?}");
        }
    }
}
