//! Reclaim and compaction: memsensor's counts compared with vmstat and the kernel's trace.

use std::collections::BTreeMap;

use sensor_tests::support::{
    counts::{Record, Recorded, Trace, has_event, vmstat},
    daemon::{Daemon, delta},
    scope::{MIB, Scope},
};

use crate::{OOM_KILLS, assert_no_losses, hog, killed, sum, wait_until};

/// CLOCK_MONOTONIC, the clock of the trace.
fn now() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// memsensor's samples and the counts beside them are not read at the same time. So memsensor's
/// count must be at least the count between its samples and at most the count around them. Without
/// events at the ends, the three are equal.
#[track_caller]
fn assert_between(name: &str, [inner, ours, all]: [f64; 3]) {
    assert!(
        inner <= ours && ours <= all,
        "{name}: {ours}, but {inner} between the samples and {all} around them"
    );
}

/// The sum of `of` over the records of an event: within the times, and in all.
fn traced(
    trace: &Recorded,
    (from, to): (f64, f64),
    event: &str,
    of: impl Fn(&Record) -> f64,
) -> (f64, f64) {
    let records = || trace.of(event).expect("traced");
    let within = records().filter(|r| r.seconds >= from && r.seconds <= to);
    (within.map(&of).sum(), records().map(&of).sum())
}

/// The same for a field.
fn traced_sum(trace: &Recorded, within: (f64, f64), event: &str, field: &str) -> (f64, f64) {
    traced(trace, within, event, |r| r.number(field).expect(field) as f64)
}

fn went_up(before: &Series, after: &Series, name: &str) -> f64 {
    sum(after, name) - sum(before, name)
}

const END: &str = "mm_vmscan_memcg_reclaim_end";
const SHRINK: &str = "mm_vmscan_lru_shrink_inactive";

type Series = BTreeMap<String, f64>;
type Vmstat = BTreeMap<String, u64>;

/// Limit reclaim of page cache, measured three ways at once: memsensor's samples, vmstat read
/// inside and outside of them, and the kernel's trace.
struct CacheThrash {
    before: Series,
    after: Series,
    /// vmstat inside the samples, and around them.
    inner: [Vmstat; 2],
    outer: [Vmstat; 2],
    trace: Recorded,
    /// Times of the inner reads.
    within: (f64, f64),
    /// Thread id of the hog.
    tid: u32,
}

impl CacheThrash {
    fn run() -> Self {
        let daemon = Daemon::start("").expect("daemon");
        let scope = Scope::new("cache", 192 * MIB).expect("scope");
        let name = format!("memsensor-test-cache-{}", std::process::id());
        let file = std::env::temp_dir().join(name);
        let path = file.to_str().expect("UTF-8");
        // Written below the limit: no process waits for dirty pages or is killed because of them.
        let written = hog(&scope, &["file", path, "96", "0"]).status().expect("hog");
        assert!(written.success(), "{written}: write {path}");
        scope.set_limit(24 * MIB).expect("lower the limit");
        let trace = Trace::start(&[&format!("vmscan:{END}"), &format!("vmscan:{SHRINK}")]);
        let trace = trace.expect("trace");
        let outer_before = vmstat().expect("vmstat");
        let before = daemon.metrics().expect("metrics");
        let (from, inner_before) = (now(), vmstat().expect("vmstat"));
        let mut child = hog(&scope, &["file", path, "96", "6"]).spawn().expect("hog");
        let (tid, status) = (child.id(), child.wait().expect("wait"));
        let (to, inner_after) = (now(), vmstat().expect("vmstat"));
        let after = daemon.metrics().expect("metrics");
        let outer_after = vmstat().expect("vmstat");
        let trace = trace.stop().expect("trace");
        std::fs::remove_file(&file).expect("remove the file");
        assert!(status.success(), "{status}: page cache is reclaimable if {path} is on a disk");
        let (inner, outer) = ([inner_before, inner_after], [outer_before, outer_after]);
        Self { before, after, inner, outer, trace, within: (from, to), tid }
    }

    fn increase(&self, name: &str) -> f64 {
        went_up(&self.before, &self.after, name)
    }

    fn delta(&self, series: &str) -> f64 {
        delta(&self.before, &self.after, series).expect(series)
    }

    /// Asserts a metric against the trace; returns its increase.
    fn agrees(&self, metric: &str, (inner, all): (f64, f64)) -> f64 {
        let ours = self.increase(metric);
        assert_between(metric, [inner, ours, all]);
        ours
    }

    /// Sums of a counter of vmstat for anon and file, inside the samples and around them.
    fn vmstat(&self, prefix: &str) -> (f64, f64) {
        let names = [format!("{prefix}_anon"), format!("{prefix}_file")];
        let rise = |[before, after]: &[Vmstat; 2]| {
            names.iter().map(|name| (after[name] - before[name]) as f64).sum::<f64>()
        };
        (rise(&self.inner), rise(&self.outer))
    }

    /// Scanned and reclaimed pages, by trace and by vmstat; returns the reclaimed ones.
    fn assert_scan_agrees(&self) -> f64 {
        let scan = |field| traced_sum(&self.trace, self.within, SHRINK, field);
        let scanned = self.agrees("memsensor_reclaim_scanned_pages_total", scan("nr_scanned"));
        let stolen = self.agrees("memsensor_reclaim_stolen_pages_total", scan("nr_reclaimed"));
        let (inner, all) = self.vmstat("pgscan");
        // The event of the multi-generational LRU counts scanned pages, again on a retry, and is
        // absent when generations run out; vmstat counts isolated pages. The two are only about the
        // same.
        let slack = if is_multi_generational() { inner / 20.0 } else { 0.0 };
        assert_between("pgscan", [inner - slack, scanned, all + slack]);
        let (inner, all) = self.vmstat("pgsteal");
        assert_between("pgsteal", [inner, stolen, all]);
        stolen
    }

    /// The hog reclaimed from the file LRU, as a task at its limit.
    fn assert_reclaim_is_by_memcg(&self, stolen: f64) {
        let series = "memsensor_reclaim_stolen_pages_total{by=\"memcg\",lru=\"file\"}";
        let by_hog = |r: &Record| {
            let pages = r.number("nr_reclaimed").expect("nr_reclaimed") as f64;
            if r.tid == self.tid { pages } else { 0.0 }
        };
        let (inner, _) = traced(&self.trace, self.within, SHRINK, by_hog);
        assert!(inner > 0.0, "the hog, {}, reclaimed nothing", self.tid);
        assert_between(series, [inner, self.delta(series), stolen]);
    }

    /// The histogram's sum is the stall clock's time, and its last bucket has all reclaims.
    fn assert_times_agree(&self, reclaims: f64) {
        let seconds = self.increase("memsensor_memcg_reclaim_seconds_sum");
        let mut stalled = self.delta("memsensor_stall_seconds_total{cause=\"memcg_reclaim\"}");
        // Where the kernel reports throttling, its sleeps are not part of the reclaim around them.
        let throttle = "memsensor_stall_seconds_total{cause=\"throttle\"}";
        if self.after.contains_key(throttle) {
            stalled += self.delta(throttle);
        } else {
            let reported = has_event("vmscan:mm_vmscan_throttled").expect("tracefs");
            assert!(!reported, "{throttle} is missing");
        }
        assert!((stalled - seconds).abs() < 1e-6, "{stalled} s stalled, {seconds} s in reclaim");
        let inf = "memsensor_memcg_reclaim_seconds_bucket{le=\"+Inf\"}";
        assert_eq!(self.delta(inf), reclaims);
    }
}

#[test]
fn limit_reclaim_agrees_with_vmstat_and_the_trace() {
    let run = CacheThrash::run();
    let ends = traced(&run.trace, run.within, END, |_| 1.0);
    let reclaims = run.agrees("memsensor_memcg_reclaim_seconds_count", ends);
    assert!(reclaims > 100.0, "only {reclaims} limit reclaims: the workload is too small");
    let pages = traced_sum(&run.trace, run.within, END, "nr_reclaimed");
    run.agrees("memsensor_memcg_reclaim_pages_total", pages);
    let stolen = run.assert_scan_agrees();
    run.assert_reclaim_is_by_memcg(stolen);
    run.assert_times_agree(reclaims);
    assert_eq!(run.increase("memsensor_oom_kills_total"), 0.0);
    assert_no_losses(&run.before, &run.after);
}

/// Whether this kernel reclaims by the multi-generational LRU (mm/vmscan.c, evict_folios).
fn is_multi_generational() -> bool {
    let Ok(enabled) = std::fs::read_to_string("/sys/kernel/mm/lru_gen/enabled") else {
        return false;
    };
    let bits = u32::from_str_radix(enabled.trim().trim_start_matches("0x"), 16);
    bits.expect("a hexadecimal number") & 1 != 0
}

/// Anonymous memory at the limit, without swap: reclaim fails and the kernel kills.
#[test]
fn oom_at_a_limit_agrees_with_the_trace() {
    let daemon = Daemon::start("").expect("daemon");
    let scope = Scope::new("anon", 24 * MIB).expect("scope");
    let trace = Trace::start(&[
        "vmscan:mm_vmscan_memcg_reclaim_begin",
        "vmscan:mm_vmscan_memcg_reclaim_end",
        "oom:mark_victim",
    ])
    .expect("trace");
    let before = daemon.metrics().expect("metrics");
    let from = now();
    let hogs: Vec<_> = (0..5).map(|_| killed(&scope, &["anon", "48"])).collect();
    let to = now();
    let after = daemon.metrics().expect("metrics");
    let trace = trace.stop().expect("trace");
    let by_hogs = |event: &str| {
        let all = trace.of(event).expect("traced");
        all.filter(|r| hogs.contains(&r.tid)).count()
    };
    let (begin, end) = ("mm_vmscan_memcg_reclaim_begin", END);
    assert_eq!(by_hogs(begin), by_hogs(end));
    assert!(by_hogs(end) > 0, "{hogs:?} reclaimed nothing");
    let count = "memsensor_memcg_reclaim_seconds_count";
    let (inner, all) = traced(&trace, (from, to), end, |_| 1.0);
    assert_between(count, [inner, went_up(&before, &after, count), all]);
    let (inner, all) = traced(&trace, (from, to), "mark_victim", |_| 1.0);
    assert!(inner >= 5.0, "{inner} victims");
    let kills = delta(&before, &after, OOM_KILLS[1]).expect("memcg");
    assert_between(OOM_KILLS[1], [5.0, kills, all]);
    wait_until("no task reclaims", || {
        daemon.metrics().expect("metrics")["memsensor_reclaiming_tasks{kind=\"memcg\"}"] == 0.0
    });
    assert_no_losses(&before, &after);
}

#[test]
fn compaction_by_a_task_counts_and_by_kcompactd_does_not() {
    let daemon = Daemon::start("").expect("daemon");
    let trace = Trace::start(&["compaction:mm_compaction_end"]).expect("trace");
    let before = daemon.metrics().expect("metrics");
    let from = now();
    std::fs::write("/proc/sys/vm/compact_memory", "1").expect("compact");
    let to = now();
    let after = daemon.metrics().expect("metrics");
    let trace = trace.stop().expect("trace");
    let went_up = |name: &str| went_up(&before, &after, name);
    let ends = went_up("memsensor_compaction_stall_seconds_count");
    assert!(ends > 0.0, "nothing was compacted");
    let by_a_task = |record: &Record| {
        let comm = record.comm.as_deref().expect("the name of the compacting task");
        f64::from(u8::from(!comm.starts_with("kcompactd")))
    };
    let (inner, all) = traced(&trace, (from, to), "mm_compaction_end", by_a_task);
    assert_between("compactions", [inner, ends, all]);
    assert_eq!(went_up("memsensor_compaction_results_total"), ends, "each has a named result");
}
