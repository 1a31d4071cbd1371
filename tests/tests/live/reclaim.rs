//! Reclaim and compaction: our counts against vmstat's and against the kernel's trace.

use sensor_tests::{
    count::{Record, Trace, has_event, vmstat},
    daemon::{Daemon, delta},
    scope::{MIB, Scope},
};

use crate::{OOM_KILLS, assert_no_losses, hog, killed, sum};

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
    let (before, kernel_before) = (daemon.metrics().expect("metrics"), vmstat().expect("vmstat"));
    let status = hog(&scope, &["file", path, "96", "6"]).status().expect("hog");
    let kernel_after = vmstat().expect("vmstat");
    let after = daemon.metrics().expect("metrics");
    let traced = trace.stop().expect("trace");
    std::fs::remove_file(&file).expect("remove the file");
    assert!(
        status.success(),
        "{status}: page cache can be reclaimed, nobody is killed, if {path} is on a disk"
    );

    let went_up = |name: &str| sum(&after, name) - sum(&before, name);
    let kernel = |name: &str| (kernel_after[name] - kernel_before[name]) as f64;
    let ends = went_up("memsensor_memcg_reclaim_seconds_count");
    println!("{ends} limit reclaims");
    assert!(ends > 100.0, "only {ends} limit reclaims: the workload is too kind");
    let end = "mm_vmscan_memcg_reclaim_end";
    assert_eq!(ends, traced.count(end).expect("ends") as f64);
    let pages = traced.sum(end, "nr_reclaimed").expect("pages");
    assert_eq!(went_up("memsensor_memcg_reclaim_pages_total"), pages as f64);
    let scanned = went_up("memsensor_reclaim_scanned_pages_total");
    let stolen = went_up("memsensor_reclaim_stolen_pages_total");
    let scan = |field| traced.sum("mm_vmscan_lru_shrink_inactive", field).expect(field) as f64;
    assert_eq!((scanned, stolen), (scan("nr_scanned"), scan("nr_reclaimed")));
    let pgscan = kernel("pgscan_anon") + kernel("pgscan_file");
    if is_multi_generational() {
        // Its event has what was looked at, again for what it retries, and nothing at all when the
        // generations run out; vmstat has what was isolated. That is about the same.
        assert!((scanned - pgscan).abs() < pgscan / 20.0, "{scanned} scanned, vmstat: {pgscan}");
    } else {
        assert_eq!(scanned, pgscan);
    }
    assert_eq!(stolen, kernel("pgsteal_anon") + kernel("pgsteal_file"));
    assert_eq!(went_up("memsensor_oom_kills_total"), 0.0);
    // All of it was done by tasks at their limit, on the file LRU.
    let series = "memsensor_reclaim_stolen_pages_total{by=\"memcg\",lru=\"file\"}";
    assert_eq!(delta(&before, &after, series).expect("series"), stolen);
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
    for _ in 0..5 {
        killed(&scope, &["anon", "48"]);
    }
    let after = daemon.metrics().expect("metrics");
    let traced = trace.stop().expect("trace");
    let count = |event| traced.count(event).expect(event);
    let ends = sum(&after, "memsensor_memcg_reclaim_seconds_count")
        - sum(&before, "memsensor_memcg_reclaim_seconds_count");
    let traced_ends = count("mm_vmscan_memcg_reclaim_end");
    assert_eq!(count("mm_vmscan_memcg_reclaim_begin"), traced_ends);
    assert_eq!(count("mark_victim"), 5);
    assert_eq!(ends, traced_ends as f64);
    assert_eq!(delta(&before, &after, OOM_KILLS[1]).expect("memcg"), 5.0);
    assert_eq!(after["memsensor_reclaiming_tasks{kind=\"memcg\"}"], 0.0);
    assert_no_losses(&before, &after);
}

#[test]
fn compaction_by_a_task_counts_and_kcompactd_does_not() {
    let daemon = Daemon::start("").expect("daemon");
    let trace = Trace::start(&["compaction:mm_compaction_end"]).expect("trace");
    let before = daemon.metrics().expect("metrics");
    std::fs::write("/proc/sys/vm/compact_memory", "1").expect("compact");
    let after = daemon.metrics().expect("metrics");
    let traced = trace.stop().expect("trace");
    let went_up = |name: &str| sum(&after, name) - sum(&before, name);
    let ends = went_up("memsensor_compaction_stall_seconds_count");
    assert!(ends > 0.0, "nothing was compacted");
    let by_a_task = |record: &&Record| {
        let comm = record.comm.as_deref().expect("the kernel remembers who compacted");
        !comm.starts_with("kcompactd")
    };
    let traced = traced.of("mm_compaction_end").expect("traced").filter(by_a_task).count();
    assert_eq!(ends, traced as f64);
    assert_eq!(went_up("memsensor_compaction_results_total"), ends, "each has a named result");
}
