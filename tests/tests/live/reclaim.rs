//! Reclaim and compaction: our counts against vmstat's and against the kernel's trace.

use std::collections::BTreeMap;

use sensor_tests::support::{
    counts::{Record, Recorded, Trace, has_event, vmstat},
    daemon::{Daemon, delta},
    scope::{MIB, Scope},
};

use crate::{OOM_KILLS, assert_no_losses, hog, killed, sum, wait_until};

/// CLOCK_MONOTONIC, which the trace is stamped with too.
fn now() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Our samples and what we compare them with are not of the same moment, and the rest of the machine goes
/// on: ours must be between what was counted from sample to sample, and what was in all, in which
/// both samples are. Where nothing happens at the ends, the three are equal.
#[track_caller]
fn assert_between(what: &str, [inner, ours, all]: [f64; 3]) {
    assert!(
        inner <= ours && ours <= all,
        "{what}: {ours}, but {inner} from sample to sample and {all} in all"
    );
}

/// The sum of `of` each record of an event: of those within the times, and of all.
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

/// The same of a field.
fn traced_sum(trace: &Recorded, within: (f64, f64), event: &str, field: &str) -> (f64, f64) {
    traced(trace, within, event, |r| r.number(field).expect(field) as f64)
}

fn went_up(before: &BTreeMap<String, f64>, after: &BTreeMap<String, f64>, name: &str) -> f64 {
    sum(after, name) - sum(before, name)
}

/// Limit reclaim of page cache: no OOM, our counts against the kernel's and its trace's.
#[test]
fn limit_reclaim_agrees_with_the_kernel_and_with_its_trace() {
    let daemon = Daemon::start("").expect("daemon");
    let scope = Scope::new("cache", 192 * MIB).expect("scope");
    let file = std::env::temp_dir().join(format!("memsensor-test-cache-{}", std::process::id()));
    let path = file.to_str().expect("UTF-8");
    // Written with room to spare: nobody has to wait for dirty pages at the limit, or dies of them.
    let written = hog(&scope, &["file", path, "96", "0"]).status().expect("hog");
    assert!(written.success(), "{written}: write {path}");
    scope.set_limit(24 * MIB).expect("lower the limit");
    let trace = Trace::start(&[
        "vmscan:mm_vmscan_memcg_reclaim_end",
        "vmscan:mm_vmscan_lru_shrink_inactive",
    ])
    .expect("trace");
    let around_before = vmstat().expect("vmstat");
    let before = daemon.metrics().expect("metrics");
    let (from, kernel_before) = (now(), vmstat().expect("vmstat"));
    let mut child = hog(&scope, &["file", path, "96", "6"]).spawn().expect("hog");
    let (tid, status) = (child.id(), child.wait().expect("wait"));
    let (to, kernel_after) = (now(), vmstat().expect("vmstat"));
    let after = daemon.metrics().expect("metrics");
    let around_after = vmstat().expect("vmstat");
    let trace = trace.stop().expect("trace");
    std::fs::remove_file(&file).expect("remove the file");
    assert!(
        status.success(),
        "{status}: page cache can be reclaimed, nobody is killed, if {path} is on a disk"
    );

    let went_up = |name: &str| went_up(&before, &after, name);
    let between = |metric: &str, (inner, all)| {
        let ours = went_up(metric);
        assert_between(metric, [inner, ours, all]);
        ours
    };
    let end = "mm_vmscan_memcg_reclaim_end";
    let count = "memsensor_memcg_reclaim_seconds_count";
    let ends = between(count, traced(&trace, (from, to), end, |_| 1.0));
    println!("{ends} limit reclaims");
    assert!(ends > 100.0, "only {ends} limit reclaims: the workload is too kind");
    let pages = traced_sum(&trace, (from, to), end, "nr_reclaimed");
    between("memsensor_memcg_reclaim_pages_total", pages);
    let scan = |field| traced_sum(&trace, (from, to), "mm_vmscan_lru_shrink_inactive", field);
    let scanned = between("memsensor_reclaim_scanned_pages_total", scan("nr_scanned"));
    let stolen = between("memsensor_reclaim_stolen_pages_total", scan("nr_reclaimed"));
    let kernel = |prefix: &str| {
        let names = [format!("{prefix}_anon"), format!("{prefix}_file")];
        let rose = |before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>| {
            names.iter().map(|name| (after[name] - before[name]) as f64).sum::<f64>()
        };
        (rose(&kernel_before, &kernel_after), rose(&around_before, &around_after))
    };
    let (inner, all) = kernel("pgscan");
    // The event of the multi-generational LRU has what was looked at, again for what it retries, and nothing
    // at all when the generations run out; vmstat has what was isolated. That is about the same.
    let about = if is_multi_generational() { inner / 20.0 } else { 0.0 };
    assert_between("pgscan", [inner - about, scanned, all + about]);
    let (inner, all) = kernel("pgsteal");
    assert_between("pgsteal", [inner, stolen, all]);
    assert_eq!(went_up("memsensor_oom_kills_total"), 0.0);
    // All that the hog stole was stolen by a task at its limit, from the file LRU.
    let series = "memsensor_reclaim_stolen_pages_total{by=\"memcg\",lru=\"file\"}";
    let event = "mm_vmscan_lru_shrink_inactive";
    let by_it = |r: &Record| {
        if r.tid == tid { r.number("nr_reclaimed").expect("nr_reclaimed") as f64 } else { 0.0 }
    };
    let (inner, _) = traced(&trace, (from, to), event, by_it);
    assert!(inner > 0.0, "the hog, {tid}, stole nothing");
    assert_between(series, [inner, delta(&before, &after, series).expect("series"), stolen]);
    // The buckets add up, and the stall clock has the same time.
    let seconds = went_up("memsensor_memcg_reclaim_seconds_sum");
    let stall = "memsensor_stall_seconds_total{cause=\"memcg_reclaim\"}";
    let mut stalled = delta(&before, &after, stall).expect("stall");
    // Where the kernel tells of throttling, what it slept is not in the reclaim around it.
    let throttle = "memsensor_stall_seconds_total{cause=\"throttle\"}";
    if after.contains_key(throttle) {
        stalled += delta(&before, &after, throttle).expect("throttle");
    } else {
        let told = has_event("vmscan:mm_vmscan_throttled").expect("tracefs");
        assert!(!told, "{throttle} is missing");
    }
    assert!((stalled - seconds).abs() < 1e-6, "{stalled} s stalled, {seconds} s in reclaim");
    let inf = "memsensor_memcg_reclaim_seconds_bucket{le=\"+Inf\"}";
    assert_eq!(delta(&before, &after, inf).expect("+Inf"), ends);
    assert_no_losses(&before, &after);
}

/// Whether this kernel reclaims by the multi-generational LRU (mm/vmscan.c, evict_folios).
fn is_multi_generational() -> bool {
    let Ok(enabled) = std::fs::read_to_string("/sys/kernel/mm/lru_gen/enabled") else {
        return false;
    };
    let bits = u32::from_str_radix(enabled.trim().trim_start_matches("0x"), 16);
    bits.expect("a hexadecimal number") & 1 != 0
}

/// Anonymous memory at the limit, without swap: reclaim finds nothing and the kernel kills.
#[test]
fn an_anonymous_workload_agrees_with_the_trace() {
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
    let (begin, end) = ("mm_vmscan_memcg_reclaim_begin", "mm_vmscan_memcg_reclaim_end");
    assert_eq!(by_hogs(begin), by_hogs(end));
    assert!(by_hogs(end) > 0, "{hogs:?} reclaimed nothing");
    let count = "memsensor_memcg_reclaim_seconds_count";
    let (inner, all) = traced(&trace, (from, to), end, |_| 1.0);
    assert_between(count, [inner, went_up(&before, &after, count), all]);
    let (inner, all) = traced(&trace, (from, to), "mark_victim", |_| 1.0);
    assert!(inner >= 5.0, "{inner} victims");
    let kills = delta(&before, &after, OOM_KILLS[1]).expect("memcg");
    assert_between(OOM_KILLS[1], [5.0, kills, all]);
    wait_until("nobody reclaims any more", || {
        daemon.metrics().expect("metrics")["memsensor_reclaiming_tasks{kind=\"memcg\"}"] == 0.0
    });
    assert_no_losses(&before, &after);
}

#[test]
fn compaction_by_a_task_counts_and_kcompactd_does_not() {
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
        let comm = record.comm.as_deref().expect("the kernel remembers who compacted");
        f64::from(u8::from(!comm.starts_with("kcompactd")))
    };
    let (inner, all) = traced(&trace, (from, to), "mm_compaction_end", by_a_task);
    assert_between("compactions", [inner, ends, all]);
    assert_eq!(went_up("memsensor_compaction_results_total"), ends, "each has a named result");
}
