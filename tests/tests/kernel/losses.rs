//! The debug log: its message for each loss, its rate limit, and its silence while it is off.
//! The counters count every loss, whether it is logged or not.

use std::{collections::BTreeMap, time::Instant};

use aya::maps::{MapData, PerCpuArray, PerCpuValues};
use sensor_ebpf::{inflight::WAYS, log_limit, spec::MAX_NODES};

use crate::{
    bench::{Bench, stay_on_this_cpu, tid},
    kills,
};

/// A message about a thread, logged while this process ran.
fn about(what: &str, noun: &str, number: u64) -> String {
    format!("WARN {what}; {noun} {number} (current process {})", std::process::id())
}

#[test]
fn an_end_without_a_begin_is_logged_with_its_probe() {
    let mut bench = Bench::with_log();
    for (before, (probe, program, arg)) in (0..).zip([
        ("direct_reclaim", "direct_end", "ARG_DIRECT_FREED"),
        ("memcg_reclaim", "memcg_end", "ARG_MEMCG_FREED"),
        ("memcg_reclaim", "softlimit_end", "ARG_SOFT_FREED"),
        ("compaction", "compact_end", "ARG_COMPACT_STATUS"),
    ]) {
        bench.run(program, &[(arg, 0)]);
        assert_eq!(bench.lost(), BTreeMap::from([("unmatched_end", before + 1)]), "{program}");
        let what = format!("{probe}: unmatched_end, end without a begin, not timed");
        assert_eq!(bench.messages(), [about(&what, "thread", tid().into())], "{program}");
    }
}

#[test]
fn a_begin_without_an_end_is_logged_with_its_probe() {
    let mut bench = Bench::with_log();
    for (before, (probe, program)) in (0..).zip([
        ("direct_reclaim", "direct_begin"),
        ("memcg_reclaim", "memcg_begin"),
        ("memcg_reclaim", "softlimit_begin"),
        ("compaction", "compact_begin"),
    ]) {
        bench.run(program, &[]);
        assert_eq!(bench.messages(), [""; 0], "{program}: nothing is lost yet");
        bench.run(program, &[]);
        assert_eq!(bench.lost(), BTreeMap::from([("unmatched_begin", before + 1)]), "{program}");
        let what =
            format!("{probe}: unmatched_begin, begin without an end, the earlier begin is dropped");
        assert_eq!(bench.messages(), [about(&what, "thread", tid().into())], "{program}");
    }
}

#[test]
fn a_full_bucket_is_logged_with_the_evicted_thread() {
    let mut bench = Bench::with_log();
    bench.fill_bucket();
    bench.run("kswapd_wake", &[("ARG_WAKE_NID", 0)]);
    bench.run("kswapd_sleep", &[("ARG_SLEEP_NID", 0)]);
    bench.fill_bucket();
    bench.run("direct_begin", &[]);
    assert_eq!(bench.lost(), BTreeMap::from([("inflight_evicted", 2)]));
    let evicted = |probe: &str| {
        let what =
            format!("{probe}: inflight_evicted, in-flight bucket full, its oldest task is dropped");
        about(&what, "thread", u64::from(tid()) + 1)
    };
    assert_eq!(bench.messages(), [evicted("kswapd"), evicted("direct_reclaim")]);
    assert_eq!(bench.slots().iter().filter(|slot| slot.active()).count(), WAYS);
}

#[test]
fn a_full_ring_buffer_is_logged_with_the_victim() {
    let mut bench = Bench::with_log();
    while bench.lost().is_empty() {
        kills::oom_kill(&bench);
    }
    assert_eq!(bench.lost(), BTreeMap::from([("ring_full", 1)]));
    // The process id of a task that cannot be read is 0.
    let what = "oom_kill: ring_full, event dropped, the ring buffer is full";
    assert_eq!(bench.messages(), [about(what, "event about process", 0)]);
}

#[test]
fn a_full_table_of_victims_is_logged_with_the_victim() {
    let mut bench = Bench::with_log();
    kills::fill_victims(&mut bench);
    kills::oom_kill(&bench);
    assert_eq!(bench.lost(), BTreeMap::from([("victims_full", 1)]));
    let what = "victim_exit: victims_full, table of OOM victims full, the exit is not timed";
    assert_eq!(bench.messages(), [about(what, "victim", 0)]);
}

#[test]
fn a_rate_limited_event_is_logged_with_its_target() {
    let mut bench = Bench::with_log();
    kills::add_this_thread_as_sender(&mut bench, 5);
    kills::set_last_event(&mut bench, u64::MAX);
    kills::kill_signal(&bench, 9, 0, 0);
    assert_eq!(bench.lost(), BTreeMap::from([("rate_limited", 1)]));
    let what = "kill_signal: rate_limited, event dropped by the rate limit, the signal is counted";
    assert_eq!(bench.messages(), [about(what, "target process", 0)]);
}

#[test]
fn other_losses_are_logged_with_their_probes() {
    let mut bench = Bench::with_log();
    bench.run("direct_begin", &[]);
    bench.run("process_exit", &[]);
    bench.run("kswapd_wake", &[("ARG_WAKE_NID", MAX_NODES as u64)]);
    assert_eq!(bench.lost(), BTreeMap::from([("abandoned", 1), ("node_out_of_range", 1)]));
    assert_eq!(
        bench.messages(),
        [
            about(
                "victim_exit: abandoned, task exited before the end, not timed",
                "thread",
                tid().into()
            ),
            about(
                "kswapd: node_out_of_range, NUMA node out of range, not counted",
                "node",
                MAX_NODES as u64
            ),
        ]
    );
}

#[test]
fn the_log_is_limited_and_the_counters_are_not() {
    const ENDS: u64 = 500;
    let mut bench = Bench::with_log();
    stay_on_this_cpu();
    let started = Instant::now();
    for _ in 0..ENDS {
        bench.run("direct_end", &[("ARG_DIRECT_FREED", 0)]);
    }
    let windows = started.elapsed().as_nanos() / u128::from(log_limit::WINDOW_NS) + 1;
    let logged = bench.messages().len() as u64;
    println!("{logged} of {ENDS} messages in {windows} windows");
    assert_eq!(bench.lost(), BTreeMap::from([("unmatched_end", ENDS)]));
    assert!(logged >= log_limit::MESSAGES, "the first of a window are logged");
    assert!(u128::from(logged) <= windows * u128::from(log_limit::MESSAGES));
    assert!(logged < ENDS, "too slow to exceed the limit");

    // As if the last second were over.
    clear_windows(&mut bench);
    bench.run("direct_end", &[("ARG_DIRECT_FREED", 0)]);
    assert_eq!(bench.messages().len(), 1, "a new window");
}

fn clear_windows(bench: &mut Bench) {
    let map = bench.ebpf.map_mut("LOG_WINDOW").expect("LOG_WINDOW");
    let mut map: PerCpuArray<&mut MapData, [u64; 2]> = map.try_into().expect("per-CPU array");
    let cpus = aya::util::nr_cpus().expect("CPUs");
    let values = PerCpuValues::try_from(vec![[0; 2]; cpus]).expect("one per CPU");
    map.set(0, values, 0).expect("the only element");
}

#[test]
fn nothing_is_logged_while_the_log_is_off() {
    let mut bench = Bench::new();
    bench.run("direct_end", &[("ARG_DIRECT_FREED", 0)]);
    bench.fill_bucket();
    bench.run("direct_begin", &[]);
    bench.run("process_exit", &[]);
    bench.run("kswapd_wake", &[("ARG_WAKE_NID", MAX_NODES as u64)]);
    let lost = bench.lost();
    let reasons: Vec<_> = lost.keys().copied().collect();
    assert_eq!(reasons, ["abandoned", "inflight_evicted", "node_out_of_range", "unmatched_end"]);
    assert_eq!(bench.messages(), [""; 0]);
    let map = bench.ebpf.map("LOG_WINDOW").expect("LOG_WINDOW");
    let map: PerCpuArray<&MapData, [u64; 2]> = map.try_into().expect("per-CPU array");
    let windows = map.get(&0, 0).expect("the only element");
    assert!(windows.iter().all(|window| *window == [0; 2]), "not even the limit is looked at");
}
