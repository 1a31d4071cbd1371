//! Begins and ends: what is timed, the tasks in flight, and the charges of the stall clock.

use std::{collections::BTreeMap, io::Read as _, sync::atomic::Ordering, time::Duration};

use aya::programs::Iter;
use sensor_ebpf::{
    hist,
    inflight::DOUBTED_NS,
    loss,
    probe_id::Id,
    stall_kind::{KINDS, Kind},
};
use sensor_user::kernel::settings::Settings;

use crate::bench::{Bench, at, histogram, now};

#[test]
fn a_direct_reclaim_is_timed_and_its_pages_counted() {
    let bench = Bench::new();
    let begun = now();
    bench.run("direct_begin", &[]);
    assert_eq!(bench.inside()[Kind::Direct as usize], 1);
    std::thread::sleep(std::time::Duration::from_millis(3));
    bench.run("direct_end", &[("ARG_DIRECT_FREED", 33)]);
    let took = now() - begun;
    let row = bench.probe(Id::direct_reclaim);
    let (n, sum) = histogram(&row, at(Id::direct_reclaim, "direct_reclaim"));
    assert_eq!(n, 1);
    assert!((3_000_000..=took).contains(&sum), "{sum} of {took}");
    let first = at(Id::direct_reclaim, "direct_reclaim") + 1;
    assert_eq!(row[first + hist::bucket(sum)], 1, "in the bucket of its duration");
    assert_eq!(row[at(Id::direct_reclaim, "direct_reclaim_pages")], 33);
    assert_eq!(row[at(Id::direct_reclaim, "stall")], sum);
    assert_eq!(bench.inside(), [0; KINDS]);
    assert_eq!(bench.lost(), BTreeMap::new());
    let stalls: Vec<_> = bench.stalls().into_values().collect();
    assert_eq!(stalls, [[sum, 0, 0, 0, 0]], "charged to one cgroup, as direct reclaim");
}

#[test]
fn an_end_without_a_begin_is_only_counted_as_lost() {
    let bench = Bench::new();
    bench.run("direct_end", &[("ARG_DIRECT_FREED", 33)]);
    assert_eq!(bench.lost(), BTreeMap::from([("unmatched_end", 1)]));
    assert_eq!(bench.probe(Id::direct_reclaim), [0; 128]);
}

#[test]
fn a_begin_without_an_end_neither_leaks_nor_adds_time() {
    let bench = Bench::new();
    bench.run("direct_begin", &[]);
    std::thread::sleep(std::time::Duration::from_millis(50));
    let begun = now();
    bench.run("direct_begin", &[]);
    assert_eq!(bench.inside()[Kind::Direct as usize], 1, "still one task");
    bench.run("direct_end", &[("ARG_DIRECT_FREED", 1)]);
    let row = bench.probe(Id::direct_reclaim);
    let (n, sum) = histogram(&row, at(Id::direct_reclaim, "direct_reclaim"));
    assert_eq!(n, 1);
    assert!(sum <= now() - begun, "the 50 ms of the lost begin are not included: {sum}");
    assert_eq!(bench.inside(), [0; KINDS]);
    assert_eq!(bench.lost(), BTreeMap::from([("unmatched_begin", 1)]));
}

#[test]
fn a_task_that_exits_inside_is_removed() {
    let bench = Bench::new();
    bench.run("direct_begin", &[]);
    bench.run("process_exit", &[]);
    assert_eq!(bench.inside(), [0; KINDS]);
    assert_eq!(bench.lost(), BTreeMap::from([("abandoned", 1)]));
    bench.run("direct_end", &[("ARG_DIRECT_FREED", 1)]);
    assert_eq!(bench.lost().get("unmatched_end"), Some(&1), "it has no slot any more");
}

/// As a scan of the processes does.
fn pass_over_tasks(bench: &mut Bench) {
    let program = bench.ebpf.program_mut("process_table").expect("process_table");
    let program: &mut Iter = program.try_into().expect("an iterator");
    if program.fd().is_err() {
        program.load("task", &aya::Btf::from_sys_fs().expect("BTF")).expect("load");
    }
    let link = program.attach().expect("attach");
    let link = program.take_link(link).expect("link");
    let mut file = link.into_file().expect("file");
    let mut records = Vec::new();
    file.read_to_end(&mut records).expect("read");
    assert!(!records.is_empty(), "this process is one");
}

/// Its end was skipped, or came before the program for it was attached.
#[test]
fn a_begin_without_an_end_is_dropped_by_a_pass_over_tasks() {
    let mut bench = Bench::new();
    for program in ["direct_begin", "memcg_begin", "compact_begin"] {
        bench.run(program, &[]);
    }
    bench.run("kswapd_wake", &[("ARG_WAKE_NID", 0)]);
    let active = |bench: &Bench| bench.slots().iter().filter(|slot| slot.active()).count();
    pass_over_tasks(&mut bench);
    assert_eq!(active(&bench), 4, "they may have begun just now");
    assert_eq!(bench.lost(), BTreeMap::new());
    std::thread::sleep(Duration::from_nanos(DOUBTED_NS) + Duration::from_millis(10));
    pass_over_tasks(&mut bench);
    assert_eq!(active(&bench), 0, "this task is not in reclaim");
    assert_eq!(bench.lost(), BTreeMap::from([("unmatched_begin", 1)]), "one task");
    assert_eq!(bench.stalls(), BTreeMap::new(), "no time is counted");
    bench.run("direct_begin", &[]);
    bench.run("direct_end", &[("ARG_DIRECT_FREED", 1)]);
    assert_eq!(bench.lost(), BTreeMap::from([("unmatched_begin", 1)]), "as before");
}

#[test]
fn many_tasks_inside_at_once_are_timed_apart() {
    const TASKS: u64 = 64;
    let bench = Bench::new();
    let barrier = std::sync::Barrier::new(usize::try_from(TASKS).expect("fits"));
    let inside = std::sync::atomic::AtomicU32::new(0);
    std::thread::scope(|scope| {
        for i in 1..=TASKS {
            let (bench, barrier, inside) = (&bench, &barrier, &inside);
            scope.spawn(move || {
                bench.run("direct_begin", &[]);
                barrier.wait();
                if i == 1 {
                    inside.store(bench.inside()[Kind::Direct as usize], Ordering::Relaxed);
                }
                barrier.wait();
                bench.run("direct_end", &[("ARG_DIRECT_FREED", i)]);
            });
        }
    });
    assert_eq!(u64::from(inside.into_inner()), TASKS);
    let row = bench.probe(Id::direct_reclaim);
    assert_eq!(histogram(&row, at(Id::direct_reclaim, "direct_reclaim")).0, TASKS);
    assert_eq!(row[at(Id::direct_reclaim, "direct_reclaim_pages")], TASKS * (TASKS + 1) / 2);
    assert_eq!(bench.lost(), BTreeMap::new());
}

#[test]
fn nested_stalls_are_charged_once() {
    let bench = Bench::new();
    let nap = || std::thread::sleep(std::time::Duration::from_millis(2));
    bench.run("direct_begin", &[]);
    bench.run("softlimit_begin", &[]);
    nap();
    bench.run("softlimit_end", &[("ARG_SOFT_FREED", 5)]);
    bench.run("throttled", &[("ARG_THROTTLE_USEC", 1000), ("ARG_THROTTLE_WHY", 2)]);
    nap();
    bench.run("direct_end", &[("ARG_DIRECT_FREED", 7)]);

    let direct = bench.probe(Id::direct_reclaim);
    let (n, inclusive) = histogram(&direct, at(Id::direct_reclaim, "direct_reclaim"));
    let memcg = bench.probe(Id::memcg_reclaim);
    let (soft, soft_ns) = histogram(&memcg, at(Id::memcg_reclaim, "softlimit_reclaim"));
    let throttle = bench.probe(Id::throttle);
    assert_eq!((n, soft), (1, 1));
    assert!(soft_ns >= 2_000_000 && soft_ns < inclusive);
    assert_eq!(memcg[at(Id::memcg_reclaim, "softlimit_reclaim_pages")], 5);
    assert_eq!(memcg[at(Id::memcg_reclaim, "stall")], 0, "direct reclaim includes that time");
    assert_eq!(throttle[at(Id::throttle, "reclaim_throttle") + 2], 1_000_000);
    assert_eq!(throttle[at(Id::throttle, "stall")], 1_000_000);
    let exclusive = direct[at(Id::direct_reclaim, "stall")];
    assert_eq!(exclusive, inclusive - 1_000_000, "the sleep is charged to throttling");
    let stalls: Vec<_> = bench.stalls().into_values().collect();
    assert_eq!(stalls, [[exclusive, 0, 1_000_000, 0, 0]]);
    assert_eq!(bench.lost(), BTreeMap::new());
}

/// The sleep of a task at its cgroup's limit is no shortage of the host.
#[test]
fn a_sleep_inside_limit_reclaim_has_a_cause_of_its_own() {
    let bench = Bench::new();
    bench.run("memcg_begin", &[]);
    std::thread::sleep(std::time::Duration::from_millis(2));
    bench.run("throttled", &[("ARG_THROTTLE_USEC", 1000), ("ARG_THROTTLE_WHY", 2)]);
    bench.run("memcg_end", &[("ARG_MEMCG_FREED", 7)]);
    let stalls: Vec<_> = bench.stalls().into_values().collect();
    let memcg = bench.probe(Id::memcg_reclaim)[at(Id::memcg_reclaim, "stall")];
    assert_eq!(stalls, [[0, memcg, 0, 0, 1_000_000]]);
    assert!(memcg >= 1_000_000, "{memcg}");
    let throttle = bench.probe(Id::throttle);
    assert_eq!(throttle[at(Id::throttle, "stall")], 0, "the host's");
}

#[test]
fn a_throttled_sleep_is_at_most_the_stall_around_it() {
    let bench = Bench::new();
    let begun = now();
    bench.run("direct_begin", &[]);
    bench.run("throttled", &[("ARG_THROTTLE_USEC", 4_000_000), ("ARG_THROTTLE_WHY", 0)]);
    bench.run("direct_end", &[("ARG_DIRECT_FREED", 1)]);
    let took = now() - begun;
    let direct = bench.probe(Id::direct_reclaim);
    let (_, inclusive) = histogram(&direct, at(Id::direct_reclaim, "direct_reclaim"));
    let stalled = direct[at(Id::direct_reclaim, "stall")]
        + bench.probe(Id::throttle)[at(Id::throttle, "stall")];
    assert_eq!(stalled, inclusive);
    assert!(stalled <= took);
}

#[test]
fn a_throttled_kswapd_is_no_stall() {
    let bench = Bench::new();
    bench.run("kswapd_wake", &[("ARG_WAKE_NID", 0)]);
    bench.run("throttled", &[("ARG_THROTTLE_USEC", 4000), ("ARG_THROTTLE_WHY", 0)]);
    bench.run("kswapd_sleep", &[("ARG_SLEEP_NID", 0)]);
    let row = bench.probe(Id::throttle);
    assert_eq!(row[at(Id::throttle, "reclaim_throttle")], 4_000_000);
    assert_eq!(row[at(Id::throttle, "stall")], 0);
    assert_eq!(bench.stalls(), BTreeMap::new());
}

#[test]
fn limit_reclaim_of_the_daemon_is_not_counted() {
    let bench = Bench::with_globals(&[("SELF_TGID", std::process::id())]);
    bench.run("memcg_begin", &[]);
    bench.run("memcg_end", &[("ARG_MEMCG_FREED", 9)]);
    assert_eq!(bench.probe(Id::memcg_reclaim), [0; 128]);
    assert_eq!(bench.lost(), BTreeMap::new());
    let bench = Bench::new();
    bench.run("memcg_begin", &[]);
    bench.run("memcg_end", &[("ARG_MEMCG_FREED", 9)]);
    let row = bench.probe(Id::memcg_reclaim);
    assert_eq!(histogram(&row, at(Id::memcg_reclaim, "memcg_reclaim")).0, 1);
    assert_eq!(row[at(Id::memcg_reclaim, "memcg_reclaim_pages")], 9);
    assert!(row[at(Id::memcg_reclaim, "stall")] > 0);
}

#[test]
fn the_stalls_of_a_cgroup_are_one_entry() {
    let bench = Bench::new();
    let cgroups = bench.stalls().len();
    for _ in 0..1000 {
        bench.run("direct_begin", &[]);
        bench.run("direct_end", &[("ARG_DIRECT_FREED", 1)]);
    }
    assert_eq!(bench.stalls().len(), cgroups + 1, "one cgroup, one entry");
    let stall = bench.probe(Id::direct_reclaim)[at(Id::direct_reclaim, "stall")];
    let charged: u64 = bench.stalls().values().flatten().sum();
    assert_eq!(charged, stall, "every nanosecond is charged to a cgroup");
    assert_eq!(bench.row(loss::ROW)[loss::CGROUPS_ADDED], 0, "all of it is still in the slot");
    bench.run("process_exit", &[]);
    assert!(bench.slots().iter().all(|s| s.unsettled_ns == 0), "settled when the task exits");
    let settled: u64 = bench.stalls().values().flatten().sum();
    assert_eq!(settled, stall, "without a loss");
    assert_eq!(bench.row(loss::ROW)[loss::CGROUPS_ADDED], 1, "added once");
}

#[test]
fn a_cgroup_has_histograms_if_the_configuration_asks() {
    let settings = Settings { cgroup_histograms: true, ..Settings::default() };
    let bench = Bench::configured(&settings, &[]);
    for _ in 0..3 {
        bench.run("direct_begin", &[]);
        bench.run("direct_end", &[("ARG_DIRECT_FREED", 1)]);
    }
    bench.run("memcg_begin", &[]);
    bench.run("memcg_end", &[("ARG_MEMCG_FREED", 1)]);
    let histograms = bench.reclaim();
    let kinds: Vec<_> = histograms.keys().map(|[_, kind]| *kind).collect();
    assert_eq!(kinds, [Kind::Direct as u64, Kind::Memcg as u64], "of one cgroup");
    // All reclaim of the host was in the cgroup of this test.
    let of_host = [(Id::direct_reclaim, "direct_reclaim"), (Id::memcg_reclaim, "memcg_reclaim")];
    for (words, (probe, metric)) in histograms.values().zip(of_host) {
        let of_host = at(probe, metric);
        assert_eq!(words[..], bench.probe(probe)[of_host..of_host + hist::WORDS], "{metric}");
    }
    assert_eq!(bench.row(loss::ROW)[loss::HISTOGRAMS_ADDED], 2);
    assert_eq!(bench.lost(), BTreeMap::new());

    let bench = Bench::new();
    bench.run("direct_begin", &[]);
    bench.run("direct_end", &[("ARG_DIRECT_FREED", 1)]);
    assert_eq!(bench.reclaim(), BTreeMap::new(), "not configured");
}
