//! Signals: the rates and shares over one, ten and sixty seconds that rules compare with their
//! thresholds.
//!
//! Not here: the thresholds ([`super::policy`]) and reading the counters (the daemon's `host`).

use std::collections::VecDeque;

use super::{
    forecast,
    reading::{BEFORE_SECONDS, Reading},
};

macro_rules! signals {
    ($($id:ident $name:literal $worse:ident $about:literal;)*) => {
        /// A number that rules compare: shares are of time, ratios of the memory of the scope.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Signal { $(#[doc = $about] $id,)* }

        impl Signal {
            /// All signals, in the order of their indices.
            pub const ALL: &[Self] = &[$(Self::$id,)*];

            /// Name in rules, output and configuration.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$id => $name,)* }
            }

            /// Description, for operators.
            pub const fn about(self) -> &'static str {
                match self { $(Self::$id => $about,)* }
            }

            /// The direction in which it gets worse.
            pub const fn worse(self) -> Worse {
                match self { $(Self::$id => Worse::$worse,)* }
            }
        }
    };
}

/// The direction in which a signal gets worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Worse {
    /// Higher values are worse.
    Up,
    /// Lower values are worse.
    Down,
}

signals! {
    Some1s "some_share_1s" Up
        "share of the last second in which at least one task waited for memory (PSI)";
    Some10s "some_share_10s" Up
        "share of the last ten seconds in which at least one task waited for memory (PSI)";
    Some60s "some_share_60s" Up
        "share of the last minute in which at least one task waited for memory (PSI)";
    Full1s "full_share_1s" Up
        "share of the last second in which all non-idle tasks waited for memory (PSI)";
    Full10s "full_share_10s" Up
        "share of the last ten seconds in which all non-idle tasks waited for memory (PSI)";
    Full60s "full_share_60s" Up
        "share of the last minute in which all non-idle tasks waited for memory (PSI)";
    IoFull1s "io_full_share_1s" Up
        "share of the last second in which all non-idle tasks waited for I/O (PSI)";
    IoFull10s "io_full_share_10s" Up
        "share of the last ten seconds in which all non-idle tasks waited for I/O (PSI)";
    Stalled1s "stalled_tasks_1s" Up
        "tasks in reclaim, compaction or throttling, average over one second";
    Stalled10s "stalled_tasks_10s" Up
        "tasks in reclaim, compaction or throttling, average over ten seconds";
    Refaults1s "refaults_1s" Up "pages evicted and read again per second, over one second";
    Refaults10s "refaults_10s" Up "pages evicted and read again per second, over ten seconds";
    Lost10s "lost_pages_10s" Up
        "pages per second that were lost from the working set and needed again, over ten seconds";
    RereadWait1s "reread_wait_share_1s" Up
        "share of the last second in which some task waited for the disk to read lost pages of files \
         again (PSI of I/O, by the part of such pages in all reads)";
    RereadWait10s "reread_wait_share_10s" Up "the same for the last ten seconds";
    SwapWait1s "swap_wait_share_1s" Up
        "share of the last second in which some task waited for the disk to read pages from swap (PSI \
         of I/O, by the part of swap in all reads)";
    SwapWait10s "swap_wait_share_10s" Up "the same for the last ten seconds";
    LimitStalls10s "limit_stall_share_10s" Up
        "share of the last ten seconds in which tasks waited for memory (PSI) and not because the \
         host reclaimed, but because of cgroups' own limits; the other signals do not include it";
    PsiContradicted "psi_contradicted" Up
        "1 while PSI reports almost no waits although tasks are in reclaim: then the stall clock \
         replaces PSI";
    SwapIns10s "swap_ins_10s" Up "pages read from swap per second, over ten seconds";
    ScanEfficiency10s "scan_efficiency_10s" Down
        "pages freed per page that reclaim scanned, over ten seconds";
    Priority "reclaim_priority" Down
        "lowest priority that reclaim reached: 12 scans a part of the LRU lists, 0 all of them";
    NoProgress "no_progress_loops" Up
        "most retries of one allocation without a freed page; above 16 the OOM killer runs";
    Available "available_ratio" Down "share of memory that can be allocated without swapping";
    Unused "unused_ratio" Down "share of memory that is not used at all, not even for page cache";
    AboveLow "above_low_watermark_ratio" Down
        "free memory above the low watermarks, as a share of all memory";
    OomKills60s "oom_kills_60s" Up
        "OOM kills in the last minute; kills within one second count once";
    Filled "filled_seconds" Down
        "seconds until nothing is available without swapping, by the trend of six seconds";
    Exhaustion "exhaustion_seconds" Down
        "seconds until memory and swap are exhausted, by the trend of a minute";
}

const COUNT: usize = Signal::ALL.len();

/// The signals at one moment; `None` if a signal could not be measured.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Signals([Option<f64>; COUNT]);

impl Signals {
    /// The value of a signal.
    pub fn get(&self, signal: Signal) -> Option<f64> {
        self.0[signal as usize]
    }

    /// Whether stalls are measured by PSI; if not, the rules of the stall clock apply.
    pub fn has_psi(&self) -> bool {
        self.get(Signal::Full1s).or(self.get(Signal::Full10s)).is_some()
    }

    /// Removes PSI if it stands still while tasks are in reclaim, all of whose time is also time of
    /// PSI (`__perform_reclaim`, mm/page_alloc.c). `some` is the share of the last ten seconds,
    /// limits included.
    fn drop_contradicted_psi(&mut self, some: Option<f64>) {
        let (Some(some), Some(tasks)) = (some, self.get(Signal::Stalled10s)) else { return };
        let is_contradicted = some < PSI_STANDS_STILL && tasks >= TASKS_IN_RECLAIM;
        self.set(Signal::PsiContradicted, Some(f64::from(u8::from(is_contradicted))));
        if is_contradicted {
            let psi = [Signal::Some1s, Signal::Some10s, Signal::Some60s];
            let psi = psi.iter().chain(&[Signal::Full1s, Signal::Full10s, Signal::Full60s]);
            psi.for_each(|signal| self.set(*signal, None));
        }
    }

    /// Sets a signal; a value that is not finite counts as not measured.
    pub fn set(&mut self, signal: Signal, value: Option<f64>) {
        self.0[signal as usize] = value.filter(|value| value.is_finite());
    }
}

const SECOND: u64 = 1_000_000_000;
const MINUTE: u64 = 60 * SECOND;

/// Least distance of two recent readings that are kept.
const SPACING_NS: u64 = SECOND / 20;
/// Most readings that are kept in each of the two lists.
const MAX_READINGS: usize = 64;

/// Signals count pages of 4 KiB on every kernel, so that thresholds mean the same everywhere.
const PAGE: f64 = 4096.0;

/// Window of the trend for [`Signal::Filled`]; a trend shows after four seconds.
const FILLING_NS: u64 = 6 * SECOND;

/// Assumed pages of a read of a file: readahead begins with four and doubles (mm/readahead.c). A page
/// from swap is mostly a read of its own, so bytes alone would hide these reads behind those of files.
const FILE_READ_PAGES: f64 = 8.0;

/// Below this many scanned pages the efficiency of reclaim means nothing.
const MIN_SCANNED: u64 = 512;

/// Share of time below which PSI stands still: many tasks in reclaim at the same time are one wait.
const PSI_STANDS_STILL: f64 = 0.001;
/// Tasks in reclaim, on average over ten seconds, that contradict it.
const TASKS_IN_RECLAIM: f64 = 0.5;

/// Kills within this time count once: memory.oom.group kills all processes of a cgroup for one OOM.
const ONE_KILL_NS: u64 = SECOND;

/// The readings of the last minute: all of the last two seconds, and one per second before.
#[derive(Debug, Clone, Default)]
pub struct ReadingHistory {
    recent: VecDeque<Reading>,
    seconds: VecDeque<Reading>,
    /// Times of the kills in the last minute.
    kill_times: VecDeque<u64>,
    /// The last value of the kill counter.
    kill_count: Option<u64>,
    /// Whether [`Self::seconds`] begins with the kernel's averages.
    has_averages: bool,
}

impl ReadingHistory {
    /// Adds a reading and returns the signals. A reading that is not later than the last one is
    /// ignored and returns `None`.
    pub fn push(&mut self, reading: Reading) -> Option<Signals> {
        let now = reading.at_ns;
        if self.recent.back().is_some_and(|last| now <= last.at_ns) {
            return None;
        }
        // They are of the time before the first readings.
        if self.seconds.len() < 2 {
            self.add_kernel_averages(&reading);
        }
        self.count_kills(&reading);
        // The newest reading is always kept. It replaces the last one if both are within the
        // spacing of the one before.
        let before_last = self.recent.iter().nth_back(1);
        if before_last.is_some_and(|earlier| now < earlier.at_ns + SPACING_NS) {
            self.recent.pop_back();
        }
        self.recent.push_back(reading);
        if self.seconds.back().is_none_or(|last| now >= last.at_ns + SECOND) {
            self.seconds.push_back(reading);
        }
        remove_older(&mut self.recent, now.saturating_sub(2 * SECOND));
        remove_older(&mut self.seconds, now.saturating_sub(MINUTE + SECOND));
        Some(self.signals(&reading))
    }

    /// Fills the windows from the kernel's averages. A daemon that is restarted while its host
    /// thrashes must not report it as ready until its own windows are full.
    fn add_kernel_averages(&mut self, reading: &Reading) {
        let Some(before) = reading.before.filter(|_| !self.has_averages) else { return };
        self.has_averages = true;
        for ([some_ns, full_ns], seconds) in before.into_iter().zip(BEFORE_SECONDS) {
            let Some(at_ns) = reading.at_ns.checked_sub(seconds * SECOND) else { continue };
            let (some_ns, full_ns) = (Some(some_ns), Some(full_ns));
            self.seconds.push_front(Reading { at_ns, some_ns, full_ns, ..Reading::default() });
        }
    }

    /// Drops all readings after an interruption: the windows start again with the next one. Kills
    /// stay in their window.
    pub fn interrupt(&mut self) {
        self.recent.clear();
        self.seconds.clear();
        self.has_averages = false;
    }

    fn count_kills(&mut self, reading: &Reading) {
        let now = reading.at_ns;
        if let Some(count) = reading.oom_kills {
            let rose = self.kill_count.replace(count).is_some_and(|last| count > last);
            if rose && self.kill_times.back().is_none_or(|last| now >= last + ONE_KILL_NS) {
                self.kill_times.push_back(now);
            }
        }
        while self.kill_times.front().is_some_and(|at| at + MINUTE < now) {
            self.kill_times.pop_front();
        }
    }

    /// Time and value at the start of a window: from the latest reading at or before the start
    /// that has the value. If there is none, from the oldest that has it, if that covers at least
    /// half of the window.
    fn start_of_window<T>(
        &self,
        now: u64,
        window: u64,
        value: impl Fn(&Reading) -> Option<T>,
    ) -> Option<(u64, T)> {
        let start = now.saturating_sub(window);
        let values =
            || self.recent.iter().chain(&self.seconds).filter_map(|r| Some((r.at_ns, value(r)?)));
        let at_or_before = values().filter(|(at, _)| *at <= start).max_by_key(|(at, _)| *at);
        at_or_before
            .or_else(|| values().min_by_key(|(at, _)| *at))
            .filter(|(at, _)| *at <= now.saturating_sub(window / 2))
    }

    /// Rise of a counter per second over a window, in the counter's unit.
    fn rate(
        &self,
        now: &Reading,
        seconds: u64,
        counter: fn(&Reading) -> Option<u64>,
    ) -> Option<f64> {
        let (start, first) = self.start_of_window(now.at_ns, seconds * SECOND, counter)?;
        let elapsed = now.at_ns.checked_sub(start).filter(|ns| *ns > 0)? as f64 / 1e9;
        Some(rise(first, counter(now)?) as f64 / elapsed)
    }

    fn signals(&self, now: &Reading) -> Signals {
        let rate = |seconds, counter| self.rate(now, seconds, counter);
        let share = |seconds, counter| Some((rate(seconds, counter)? / 1e9).min(1.0));
        let of_total = |value: f64| Some(value / now.total_bytes.filter(|b| *b > 0)? as f64);
        let mut signals = Signals::default();
        for (signal, value) in [
            (Signal::Some1s, share(1, Reading::own_some_ns)),
            (Signal::Some10s, share(10, Reading::own_some_ns)),
            (Signal::Some60s, share(60, Reading::own_some_ns)),
            (Signal::Full1s, share(1, Reading::own_full_ns)),
            (Signal::Full10s, share(10, Reading::own_full_ns)),
            (Signal::Full60s, share(60, Reading::own_full_ns)),
            (Signal::IoFull1s, share(1, |r| r.io_full_ns)),
            (Signal::IoFull10s, share(10, |r| r.io_full_ns)),
            (Signal::Stalled1s, rate(1, |r| r.stall_ns).map(|ns| ns / 1e9)),
            (Signal::Stalled10s, rate(10, |r| r.stall_ns).map(|ns| ns / 1e9)),
            (Signal::Refaults1s, rate(1, Reading::own_refaulted_bytes).map(|b| b / PAGE)),
            (Signal::Refaults10s, rate(10, Reading::own_refaulted_bytes).map(|b| b / PAGE)),
            (Signal::Lost10s, rate(10, lost).map(|b| b / PAGE)),
            (Signal::RereadWait1s, self.reread_wait(now, 1)),
            (Signal::RereadWait10s, self.reread_wait(now, 10)),
            (Signal::SwapWait1s, self.swap_wait(now, 1)),
            (Signal::SwapWait10s, self.swap_wait(now, 10)),
            (Signal::LimitStalls10s, share(10, |r| r.some_ns.map(|_| r.limits.some_ns))),
            (Signal::SwapIns10s, rate(10, Reading::own_swapped_in_bytes).map(|b| b / PAGE)),
            (Signal::ScanEfficiency10s, self.scan_efficiency(now)),
            (Signal::Priority, now.priority.map(f64::from)),
            (Signal::NoProgress, now.no_progress.map(f64::from)),
            (Signal::Available, now.available_bytes.and_then(|b| of_total(b as f64))),
            (Signal::Unused, now.unused_bytes.and_then(|b| of_total(b as f64))),
            (Signal::AboveLow, now.above_low_bytes.and_then(|b| of_total(b as f64))),
            (Signal::OomKills60s, now.oom_kills.map(|_| self.kill_times.len() as f64)),
            (Signal::Filled, forecast::seconds_until_none(self.available(now.at_ns, FILLING_NS))),
            (Signal::Exhaustion, forecast::seconds_until_none(self.available_and_swap())),
        ] {
            signals.set(signal, value);
        }
        signals.drop_contradicted_psi(share(10, |r| r.some_ns));
        signals
    }

    fn scan_efficiency(&self, now: &Reading) -> Option<f64> {
        let pages = |r: &Reading| Some((r.scanned_pages?, r.reclaimed_pages?));
        let (_, (scanned, reclaimed)) = self.start_of_window(now.at_ns, 10 * SECOND, pages)?;
        let scanned = rise(scanned, now.scanned_pages?);
        let reclaimed = rise(reclaimed, now.reclaimed_pages?);
        (scanned >= MIN_SCANNED).then(|| reclaimed as f64 / scanned as f64)
    }

    /// The part of the waits for I/O of some task that is due to pages of files that memory had lost:
    /// by their part in all bytes read.
    fn reread_wait(&self, now: &Reading, seconds: u64) -> Option<f64> {
        let waited = (self.rate(now, seconds, |r| r.io_some_ns)? / 1e9).min(1.0);
        // Pages from swap have a signal of their own.
        let swapped = self.rate(now, seconds, Reading::own_swapped_in_bytes).unwrap_or(0.0);
        let files = (self.rate(now, seconds, lost)? - swapped).max(0.0);
        let read = self.rate(now, seconds, |r| r.read_bytes)?;
        Some(if read > 0.0 { waited * (files / read).min(1.0) } else { 0.0 })
    }

    /// The part of the waits for I/O of some task that is due to pages in swap: by their part in all
    /// reads. Swap as fast as memory has few waits, however many pages are read.
    fn swap_wait(&self, now: &Reading, seconds: u64) -> Option<f64> {
        let waited = (self.rate(now, seconds, |r| r.io_some_ns)? / 1e9).min(1.0);
        let swapped = self.rate(now, seconds, Reading::own_swapped_in_bytes)?;
        let others = (self.rate(now, seconds, |r| r.read_bytes)? - swapped).max(0.0);
        let reads = swapped + others / FILE_READ_PAGES;
        Some(if reads > 0.0 { waited * (swapped / reads) } else { 0.0 })
    }

    /// Available memory plus free swap over the last minute, as (seconds, bytes), oldest first.
    fn available_and_swap(&self) -> impl Iterator<Item = (f64, f64)> {
        self.readings().filter_map(|r| {
            let bytes = r.available_bytes?.saturating_add(r.swap_free_bytes.unwrap_or(0));
            Some((r.at_ns as f64 / 1e9, bytes as f64))
        })
    }

    /// Available memory over a window, as (seconds, bytes), oldest first.
    fn available(&self, now: u64, window: u64) -> impl Iterator<Item = (f64, f64)> {
        let in_window = move |r: &&Reading| r.at_ns >= now.saturating_sub(window);
        self.readings()
            .filter(in_window)
            .filter_map(|r| Some((r.at_ns as f64 / 1e9, r.available_bytes? as f64)))
    }

    /// One reading per second, then the recent ones that are later than these.
    fn readings(&self) -> impl Iterator<Item = &Reading> {
        let newest = self.seconds.back().map_or(0, |r| r.at_ns);
        self.seconds.iter().chain(self.recent.iter().filter(move |r| r.at_ns > newest))
    }
}

/// Bytes lost from the working set; where the kernel does not count them, all refaults.
fn lost(reading: &Reading) -> Option<u64> {
    reading.own_lost_bytes().or(reading.own_refaulted_bytes())
}

/// How far a counter rose. A lower value is that of a new counter (the scope was created again),
/// which started at 0.
fn rise(from: u64, to: u64) -> u64 {
    to.checked_sub(from).unwrap_or(to)
}

/// Removes readings older than `start`, except for the newest of them: windows that begin at
/// `start` compare with that one.
fn remove_older(readings: &mut VecDeque<Reading>, start: u64) {
    while readings.len() > MAX_READINGS || readings.get(1).is_some_and(|r| r.at_ns <= start) {
        readings.pop_front();
    }
}
