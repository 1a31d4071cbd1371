//! What changed over one, ten and sixty seconds: the numbers that rules compare.

use std::collections::VecDeque;

use super::{
    forecast,
    reading::{BEFORE_SECONDS, Reading},
};

macro_rules! signals {
    ($($id:ident $name:literal $worse:ident $about:literal;)*) => {
        /// A number that a rule can compare. Shares are of time, ratios of the scope's memory.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Signal { $(#[doc = $about] $id,)* }

        impl Signal {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$id,)*];

            /// Its name in rules, output and configuration.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$id => $name,)* }
            }

            /// What it is.
            pub const fn about(self) -> &'static str {
                match self { $(Self::$id => $about,)* }
            }

            /// Which way is worse.
            pub const fn worse(self) -> Worse {
                match self { $(Self::$id => Worse::$worse,)* }
            }
        }
    };
}

/// Which way a signal is worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Worse {
    /// More is worse.
    Up,
    /// Less is worse.
    Down,
}

signals! {
    Some1s "some_share_1s" Up "share of a second in which some task waited for memory (PSI)";
    Some10s "some_share_10s" Up "share of ten seconds in which some task waited for memory (PSI)";
    Some60s "some_share_60s" Up "share of a minute in which some task waited for memory (PSI)";
    Full1s "full_share_1s" Up "share of a second in which all non-idle tasks waited for memory (PSI)";
    Full10s "full_share_10s" Up "share of ten seconds in which all non-idle tasks waited for memory (PSI)";
    Full60s "full_share_60s" Up "share of a minute in which all non-idle tasks waited for memory (PSI)";
    IoFull1s "io_full_share_1s" Up "share of a second in which all non-idle tasks waited for I/O (PSI)";
    IoFull10s "io_full_share_10s" Up "share of ten seconds in which all non-idle tasks waited for I/O (PSI)";
    Stalled1s "stalled_tasks_1s" Up "tasks in reclaim, compaction or throttling, on average of a second";
    Stalled10s "stalled_tasks_10s" Up "tasks in reclaim, compaction or throttling, on average of ten seconds";
    Refault1s "refault_ratio_1s" Up "part of the memory that was evicted and read again in the last second";
    Refault10s "refault_ratio_10s" Up "part of the memory that was evicted and read again, per second";
    Refaults10s "refaults_10s" Up "pages that were evicted and read again, per second";
    SwapIns10s "swap_ins_10s" Up "pages read from swap, per second";
    ScanEfficiency10s "scan_efficiency_10s" Down "pages freed per page that reclaim looked at";
    Priority "reclaim_priority" Down "the hardest that reclaim tried: 12 is easy, 0 is the whole LRU";
    NoProgress "no_progress_loops" Up "most rounds of one allocation that freed nothing; above 16 is OOM";
    Available "available_ratio" Down "part of the memory that can be had without swapping";
    Unused "unused_ratio" Down "part of the memory that nothing uses, not even page cache";
    AboveLow "above_low_watermark_ratio" Down "free memory above the low watermarks, as a part of all";
    OomKills60s "oom_kills_60s" Up "OOM kills in the last minute; those within a second are one";
    Filled "filled_seconds" Down "seconds until nothing is left without swapping, by the last six seconds";
    Exhaustion "exhaustion_seconds" Down "seconds until memory and swap are gone, if the trend holds";
}

const COUNT: usize = Signal::ALL.len();

/// The signals of one moment; what cannot be told is `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Signals([Option<f64>; COUNT]);

impl Signals {
    /// One of them.
    pub fn get(&self, signal: Signal) -> Option<f64> {
        self.0[signal as usize]
    }

    /// Whether PSI tells anything; else the stall clock stands in.
    pub fn has_psi(&self) -> bool {
        self.get(Signal::Full1s).or(self.get(Signal::Full10s)).is_some()
    }

    /// Sets one: for tests and replays.
    pub fn set(&mut self, signal: Signal, value: Option<f64>) {
        self.0[signal as usize] = value.filter(|v| v.is_finite());
    }
}

const SECOND: u64 = 1_000_000_000;
const MINUTE: u64 = 60 * SECOND;

/// Readings closer to each other than this are not kept: the history is bounded by time and number.
const SPACING_NS: u64 = SECOND / 20;
/// More are never kept.
const MAX_KEPT: usize = 64;

/// Bytes of what is counted as a page: 4 KiB, whatever the kernel's is, so that thresholds mean the same.
const PAGE: f64 = 4096.0;

/// Over which it is seen whether memory fills up: four seconds in which it does are a trend then.
const FILLING_NS: u64 = 6 * SECOND;

/// Pages that reclaim must have looked at before its efficiency means anything.
const MIN_SCANNED: u64 = 512;

/// Kills closer to each other are one: memory.oom.group kills a whole group for one lack of memory.
const ONE_KILL_NS: u64 = SECOND;

/// Readings of the last minute: all of the last two seconds, then one a second.
#[derive(Debug, Clone, Default)]
pub struct ReadingHistory {
    recent: VecDeque<Reading>,
    seconds: VecDeque<Reading>,
    /// When something was killed, in the last minute; and the counter as last seen.
    kills: VecDeque<u64>,
    killed: Option<u64>,
}

impl ReadingHistory {
    /// Takes a reading, and says what the signals are now; `None` for one that is not later than the
    /// last, which is ignored.
    pub fn push(&mut self, reading: Reading) -> Option<Signals> {
        let now = reading.at_ns;
        if self.recent.back().is_some_and(|last| now <= last.at_ns) {
            return None;
        }
        if self.recent.is_empty() {
            self.remember(&reading);
        }
        self.note_kills(&reading);
        let spaced = |past: &VecDeque<Reading>, by: u64| {
            past.iter().nth_back(1).is_none_or(|last| now >= last.at_ns + by)
        };
        // The newest is always there; the one before it goes if it was too close.
        if !spaced(&self.recent, SPACING_NS) {
            self.recent.pop_back();
        }
        self.recent.push_back(reading);
        if self.seconds.back().is_none_or(|last| now >= last.at_ns + SECOND) {
            self.seconds.push_back(reading);
        }
        forget(&mut self.recent, now.saturating_sub(2 * SECOND));
        forget(&mut self.seconds, now.saturating_sub(MINUTE + SECOND));
        Some(self.signals(&reading))
    }

    /// Begins with what the kernel remembers: a daemon that is restarted while its host thrashes must
    /// not call it ready until its own windows are full.
    fn remember(&mut self, first: &Reading) {
        let Some(before) = first.before else { return };
        for ([some_ns, full_ns], seconds) in before.into_iter().zip(BEFORE_SECONDS).rev() {
            let Some(at_ns) = first.at_ns.checked_sub(seconds * SECOND) else { continue };
            let (some_ns, full_ns) = (Some(some_ns), Some(full_ns));
            self.seconds.push_back(Reading { at_ns, some_ns, full_ns, ..Reading::default() });
        }
    }

    /// Forgets what was read, for nothing has been for a while: the next reading begins anew. Kills are
    /// not forgotten.
    pub fn interrupt(&mut self) {
        self.recent.clear();
        self.seconds.clear();
    }

    fn note_kills(&mut self, reading: &Reading) {
        let now = reading.at_ns;
        if let Some(kills) = reading.oom_kills {
            let rose = self.killed.replace(kills).is_some_and(|before| kills > before);
            if rose && self.kills.back().is_none_or(|last| now >= last + ONE_KILL_NS) {
                self.kills.push_back(now);
            }
        }
        while self.kills.front().is_some_and(|at| at + MINUTE < now) {
            self.kills.pop_front();
        }
    }

    /// A counter in the latest reading that has it and is at least so old, or in the oldest, if that is
    /// at least half so old: less would not be what the window's name says.
    fn since<T>(
        &self,
        now: u64,
        window: u64,
        of: impl Fn(&Reading) -> Option<T>,
    ) -> Option<(u64, T)> {
        let start = now.saturating_sub(window);
        let told =
            || self.recent.iter().chain(&self.seconds).filter_map(|r| Some((r.at_ns, of(r)?)));
        let at_or_before = told().filter(|(at, _)| *at <= start).max_by_key(|(at, _)| *at);
        at_or_before
            .or_else(|| told().min_by_key(|(at, _)| *at))
            .filter(|(at, _)| *at <= now.saturating_sub(window / 2))
    }

    fn signals(&self, now: &Reading) -> Signals {
        let mut signals = Signals::default();
        // Per second of the window, in the counter's unit.
        let rate = |seconds: u64, of: fn(&Reading) -> Option<u64>| {
            let (then, was) = self.since(now.at_ns, seconds * SECOND, of)?;
            let seconds = now.at_ns.checked_sub(then).filter(|ns| *ns > 0)? as f64 / 1e9;
            Some(rise(was, of(now)?) as f64 / seconds)
        };
        let share = |seconds, of| Some((rate(seconds, of)? / 1e9).min(1.0));
        let of_total = |value: f64| Some(value / now.total_bytes.filter(|b| *b > 0)? as f64);
        for (signal, value) in [
            (Signal::Some1s, share(1, |r| r.some_ns)),
            (Signal::Some10s, share(10, |r| r.some_ns)),
            (Signal::Some60s, share(60, |r| r.some_ns)),
            (Signal::Full1s, share(1, |r| r.full_ns)),
            (Signal::Full10s, share(10, |r| r.full_ns)),
            (Signal::Full60s, share(60, |r| r.full_ns)),
            (Signal::IoFull1s, share(1, |r| r.io_full_ns)),
            (Signal::IoFull10s, share(10, |r| r.io_full_ns)),
            (Signal::Stalled1s, rate(1, |r| r.stall_ns).map(|ns| ns / 1e9)),
            (Signal::Stalled10s, rate(10, |r| r.stall_ns).map(|ns| ns / 1e9)),
            (Signal::Refault1s, rate(1, |r| r.refaulted_bytes).and_then(of_total)),
            (Signal::Refault10s, rate(10, |r| r.refaulted_bytes).and_then(of_total)),
            (Signal::Refaults10s, rate(10, |r| r.refaulted_bytes).map(|b| b / PAGE)),
            (Signal::SwapIns10s, rate(10, |r| r.swapped_in_bytes).map(|b| b / PAGE)),
            (Signal::ScanEfficiency10s, self.efficiency(now)),
            (Signal::Priority, now.priority.map(f64::from)),
            (Signal::NoProgress, now.no_progress.map(f64::from)),
            (Signal::Available, now.available_bytes.and_then(|b| of_total(b as f64))),
            (Signal::Unused, now.unused_bytes.and_then(|b| of_total(b as f64))),
            (Signal::AboveLow, now.above_low_bytes.and_then(|b| of_total(b as f64))),
            (Signal::OomKills60s, now.oom_kills.map(|_| self.kills.len() as f64)),
            (Signal::Filled, forecast::seconds_until_none(self.available(now.at_ns, FILLING_NS))),
            (Signal::Exhaustion, forecast::seconds_until_none(self.room())),
        ] {
            signals.set(signal, value);
        }
        signals
    }

    fn efficiency(&self, now: &Reading) -> Option<f64> {
        let pages = |r: &Reading| Some((r.scanned_pages?, r.reclaimed_pages?));
        let (_, (scanned, reclaimed)) = self.since(now.at_ns, 10 * SECOND, pages)?;
        let scanned = rise(scanned, now.scanned_pages?);
        let reclaimed = rise(reclaimed, now.reclaimed_pages?);
        (scanned >= MIN_SCANNED).then(|| reclaimed as f64 / scanned as f64)
    }

    /// Available memory and swap over the last minute, in seconds and bytes, oldest first.
    fn room(&self) -> impl Iterator<Item = (f64, f64)> {
        self.readings().filter_map(|r| {
            let bytes = r.available_bytes?.saturating_add(r.swap_free_bytes.unwrap_or(0));
            Some((r.at_ns as f64 / 1e9, bytes as f64))
        })
    }

    /// Available memory over a window, as [`Self::room`].
    fn available(&self, now: u64, window: u64) -> impl Iterator<Item = (f64, f64)> {
        let within = move |r: &&Reading| r.at_ns >= now.saturating_sub(window);
        self.readings()
            .filter(within)
            .filter_map(|r| Some((r.at_ns as f64 / 1e9, r.available_bytes? as f64)))
    }

    /// One a second, and those after the last of them.
    fn readings(&self) -> impl Iterator<Item = &Reading> {
        let newest = self.seconds.back().map_or(0, |r| r.at_ns);
        self.seconds.iter().chain(self.recent.iter().filter(move |r| r.at_ns > newest))
    }
}

/// How far a counter rose. One that fell belongs to another life of the scope: it rose from 0.
fn rise(from: u64, to: u64) -> u64 {
    to.checked_sub(from).unwrap_or(to)
}

/// Drops what is older than `before`, save for the newest such: it is what "since" compares with.
fn forget(past: &mut VecDeque<Reading>, before: u64) {
    while past.len() > MAX_KEPT || past.get(1).is_some_and(|r| r.at_ns <= before) {
        past.pop_front();
    }
}
