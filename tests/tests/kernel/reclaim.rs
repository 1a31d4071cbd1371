//! Counters of reclaim other than time: kswapd, scans, retries, and values that are out of bounds.

use std::collections::BTreeMap;

use sensor_ebpf::{
    probe_id::Id,
    probes::{alloc_retry, reclaim_scan},
    spec::{Label, MAX_NODES},
    stall_kind::Kind,
};

use crate::bench::{Bench, at, histogram, now};

#[test]
fn an_unknown_value_of_a_kernel_enum_is_ignored() {
    let bench = Bench::new();
    bench.run("throttled", &[("ARG_THROTTLE_USEC", 4000), ("ARG_THROTTLE_WHY", 200)]);
    assert_eq!(bench.probe(Id::throttle), [0; 128]);
    bench.run("compact_begin", &[]);
    bench.run("compact_end", &[("ARG_COMPACT_STATUS", 200)]);
    let row = bench.probe(Id::compaction);
    assert_eq!(histogram(&row, at(Id::compaction, "compaction_stall")).0, 1);
}

#[test]
fn kswapd_is_active_from_its_first_wake_to_its_sleep() {
    let bench = Bench::new();
    let begun = now();
    bench.run("kswapd_wake", &[("ARG_WAKE_NID", 3)]);
    std::thread::sleep(std::time::Duration::from_millis(2));
    // A second wake without a sleep between: it only paused.
    bench.run("kswapd_wake", &[("ARG_WAKE_NID", 3)]);
    std::thread::sleep(std::time::Duration::from_millis(2));
    assert_eq!(bench.inside()[Kind::Kswapd as usize], 1);
    bench.run("kswapd_sleep", &[("ARG_SLEEP_NID", 3)]);
    let took = now() - begun;
    let row = bench.probe(Id::kswapd);
    let wakeups = at(Id::kswapd, "kswapd_wakeups");
    let active = at(Id::kswapd, "kswapd_active");
    assert_eq!(row[wakeups + 3], 2);
    assert!((4_000_000..=took).contains(&row[active + 3]));
    assert_eq!(row[wakeups..wakeups + MAX_NODES].iter().sum::<u64>(), 2);
    assert_eq!(bench.lost(), BTreeMap::new());
    // Already asleep, or attached while it was awake: nothing is counted.
    bench.run("kswapd_sleep", &[("ARG_SLEEP_NID", 3)]);
    assert_eq!(bench.probe(Id::kswapd), row);
}

#[test]
fn a_node_beyond_the_bound_is_counted_as_lost() {
    let bench = Bench::new();
    for nid in [MAX_NODES as u64, u64::from(u32::MAX)] {
        bench.run("kswapd_wake", &[("ARG_WAKE_NID", nid)]);
        bench.run("kswapd_sleep", &[("ARG_SLEEP_NID", nid)]);
    }
    assert_eq!(bench.probe(Id::kswapd), [0; 128]);
    assert_eq!(bench.lost(), BTreeMap::from([("node_out_of_range", 2)]));
}

fn scan(bench: &Bench, file: u64, priority: u64) {
    bench.run(
        "shrink_inactive",
        &[
            ("ARG_SCAN_SCANNED", 32),
            ("ARG_SCAN_STOLEN", 10),
            ("ARG_SCAN_PRIORITY", priority),
            ("ARG_SCAN_FILE", file),
        ],
    );
}

#[test]
fn scans_are_counted_by_kind_of_reclaim() {
    let bench = Bench::new();
    let labels = reclaim_scan::PROBE.metrics[0].labels;
    let [Label::Fixed { values: by, .. }, Label::Fixed { values: lru, .. }] = labels else {
        panic!("{labels:?}")
    };
    assert_eq!((*by, *lru), (&["kswapd", "direct", "memcg", "other"][..], &["anon", "file"][..]));

    bench.run("kswapd_wake", &[("ARG_WAKE_NID", 0)]);
    scan(&bench, 0, 12);
    bench.run("kswapd_sleep", &[("ARG_SLEEP_NID", 0)]);
    bench.run("direct_begin", &[]);
    scan(&bench, 1, 7);
    bench.run("softlimit_begin", &[]);
    scan(&bench, 1, 7);
    bench.run("softlimit_end", &[("ARG_SOFT_FREED", 0)]);
    bench.run("direct_end", &[("ARG_DIRECT_FREED", 0)]);
    bench.run("memcg_begin", &[]);
    scan(&bench, 0, 0);
    bench.run("memcg_end", &[("ARG_MEMCG_FREED", 0)]);
    scan(&bench, 2, 200);

    let row = bench.probe(Id::reclaim_scan);
    let words = |metric| &row[at(Id::reclaim_scan, metric)..][..8];
    assert_eq!(words("reclaim_scanned_pages"), [32, 0, 0, 64, 32, 0, 0, 32]);
    assert_eq!(words("reclaim_stolen_pages"), [10, 0, 0, 20, 10, 0, 0, 10]);
    assert_eq!(reclaim_scan::PRIORITY_WORD, at(Id::reclaim_scan, "reclaim_priority_min"));
    let priorities = &row[reclaim_scan::PRIORITY_WORD..][..reclaim_scan::PRIORITIES];
    assert_eq!(priorities, [1, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 1]);
}

#[test]
fn retries_are_counted_by_rounds_without_progress() {
    let bench = Bench::new();
    for loops in [0, 0, 16, 17, u64::from(u32::MAX)] {
        bench.run("reclaim_retry", &[("ARG_RETRY_LOOPS", loops)]);
    }
    bench.run("compact_retry", &[]);
    let row = bench.probe(Id::alloc_retry);
    assert_eq!(row[at(Id::alloc_retry, "alloc_retries")], 6);
    assert_eq!(alloc_retry::LOOPS_WORD, at(Id::alloc_retry, "alloc_no_progress_loops_max"));
    let loops = &row[alloc_retry::LOOPS_WORD..][..alloc_retry::LOOPS];
    assert_eq!((loops[0], loops[16], loops[17], loops[18]), (2, 1, 1, 1));
}
