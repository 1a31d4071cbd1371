//! Every kernel program against the verifier, and run by hand with made-up arguments
//! (BPF_PROG_TEST_RUN): exact map contents, also out of order, nested, and with a missing end.
//!
//! Nothing is attached here, so only what a test runs is counted. Needs root.

#![allow(clippy::panic, reason = "the helpers of a test fail it")]

use std::{collections::BTreeMap, sync::atomic::Ordering};

use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData, PerCpuArray, RingBuf},
    programs::{RawTracePoint, RawTracePointRunOptions, TestRun as _},
};
use sensor_ebpf::{
    event::Tag,
    hist,
    inflight::{CHUNK_WORDS, CHUNKS, KINDS, Kind, Slot},
    loss::{self, Loss},
    probes::{self, Cause, Id},
    spec::{Label, MAX_NODES, NO_ARG, Row, Shape},
};
use sensor_user::{
    config::Config,
    events::{self, What},
    kernel::{
        btf::{self, Btf},
        load,
        read::Inside,
        resolve::{self, Host},
    },
};

/// The object with all programs loaded and none attached.
struct Bench {
    ebpf: Ebpf,
    globals: BTreeMap<&'static str, u32>,
    events: RingBuf<MapData>,
}

impl Bench {
    fn new() -> Self {
        Self::with_globals(&[])
    }

    fn with_globals(overrides: &[(&'static str, u32)]) -> Self {
        let btf = Btf::parse(std::fs::read(btf::VMLINUX).expect("BTF")).expect("BTF parses");
        let host = Host { memory_on_v1: sensor_user::host::cgroup::memory_on_v1() };
        let mut plan = resolve::plan(Ok(&btf), host);
        plan.globals.extend(overrides.iter().copied());
        let mut ebpf = load::open(&Config::default(), &plan).expect("open");
        for (_, program) in ebpf.programs_mut() {
            let program: &mut RawTracePoint = program.try_into().expect("a raw tracepoint");
            program.load().expect("the verifier accepts it");
        }
        let events = ebpf.take_map("EVENTS").expect("EVENTS").try_into().expect("a ring buffer");
        Self { ebpf, globals: plan.globals, events }
    }

    /// Runs a program as the current task, with arguments by their globals' names.
    fn run(&self, program: &str, args: &[(&str, u64)]) -> u32 {
        let mut options = RawTracePointRunOptions::new();
        for (global, value) in args {
            let index = self.globals[global];
            assert_ne!(index, NO_ARG, "{global} is not resolved here");
            options.args[index as usize] = *value;
        }
        let program = self.ebpf.program(program).expect(program);
        let aya::programs::Program::RawTracePoint(program) = program else { panic!("kind") };
        program.test_run(options).expect("runs").return_value
    }

    fn row(&self, index: u32) -> Row {
        let map = self.ebpf.map("COUNTERS").expect("COUNTERS");
        let map: PerCpuArray<&MapData, Row> = map.try_into().expect("per-CPU array");
        let mut sum = [0; sensor_ebpf::spec::ROW_WORDS];
        for row in map.get(&index, 0).expect("row").iter() {
            for (to, from) in sum.iter_mut().zip(row) {
                *to += from;
            }
        }
        sum
    }

    fn probe(&self, id: Id) -> Row {
        self.row(id as u32)
    }

    fn lost(&self) -> BTreeMap<&'static str, u64> {
        let row = self.row(loss::ROW);
        loss::REASONS.iter().copied().zip(row).filter(|(_, n)| *n > 0).collect()
    }

    fn slots(&self) -> Vec<Slot> {
        let map = self.ebpf.map("INFLIGHT").expect("INFLIGHT");
        let map: Array<&MapData, [u64; CHUNK_WORDS]> = map.try_into().expect("array");
        (0..u32::try_from(CHUNKS).expect("fits"))
            .flat_map(|i| map.get(&i, 0).expect("chunk").as_chunks::<5>().0.to_vec())
            .map(|[owner, start_ns, inner_ns, aux, unsettled_ns]| Slot {
                owner,
                start_ns,
                inner_ns,
                aux,
                unsettled_ns,
            })
            .collect()
    }

    fn inside(&self) -> [u32; KINDS] {
        Inside::of(self.slots().into_iter(), now()).tasks
    }

    fn stalls(&self) -> BTreeMap<u64, [u64; Cause::COUNT]> {
        let map = self.ebpf.map("STALLS").expect("STALLS");
        let map: HashMap<&MapData, u64, [u64; Cause::COUNT]> = map.try_into().expect("hash");
        let mut stalls: BTreeMap<u64, [u64; Cause::COUNT]> =
            map.iter().map(|entry| entry.expect("entry")).collect();
        for slot in self.slots().iter().filter(|s| s.unsettled_ns != 0) {
            if let Some(cause) = slot.cause() {
                stalls.entry(slot.aux).or_default()[cause as usize] += slot.unsettled_ns;
            }
        }
        stalls
    }

    fn events(&mut self) -> Vec<What> {
        let mut all = Vec::new();
        while let Some(record) = self.events.next() {
            all.push(events::decode(&record, 4096).expect("decodes").1);
        }
        all
    }
}

/// The first word of a metric.
fn at(id: Id, metric: &str) -> usize {
    let metric = probes::ALL[id as usize].metrics.iter().find(|m| m.name == metric);
    match metric.expect("a metric of this name").shape {
        Shape::Counter { at }
        | Shape::Histogram { at }
        | Shape::Stall { at, .. }
        | Shape::NodeActive { at, .. }
        | Shape::Lowest { at, .. }
        | Shape::Highest { at, .. } => at,
        Shape::Inside { .. } => panic!("not in the row"),
    }
}

/// Observations and sum of a histogram.
fn histogram(row: &Row, at: usize) -> (u64, u64) {
    (row[at + 1..at + hist::WORDS].iter().sum(), row[at])
}

fn now() -> u64 {
    sensor_user::host::clock::monotonic_ns()
}

#[test]
fn every_program_passes_the_verifier() {
    let bench = Bench::new();
    let mut seen = 0;
    for program in probes::ALL.iter().flat_map(|p| p.programs) {
        let loaded = bench.ebpf.program(program.name).expect(program.name);
        let aya::programs::Program::RawTracePoint(loaded) = loaded else { panic!("kind") };
        let info = loaded.info().expect("info");
        println!(
            "{:16} {:5} instructions walked, {:5} bytes translated",
            program.name,
            info.verified_instruction_count().map_or("?".to_owned(), |n| n.to_string()),
            info.size_translated().map_or("?".to_owned(), |n| n.to_string()),
        );
        assert_eq!(loaded.info().expect("info").name_as_str(), Some(program.name));
        seen += 1;
    }
    assert_eq!(seen, 19);
}

#[test]
fn the_kernel_says_who_we_are() {
    assert_eq!(Bench::new().run("whoami", &[]), std::process::id());
}

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
    assert_eq!(row[first + hist::bucket(sum)], 1, "in the bucket of its length");
    assert_eq!(row[at(Id::direct_reclaim, "direct_reclaim_pages")], 33);
    assert_eq!(row[at(Id::direct_reclaim, "stall")], sum);
    assert_eq!(bench.inside(), [0; KINDS]);
    assert_eq!(bench.lost(), BTreeMap::new());
    let stalls: Vec<_> = bench.stalls().into_values().collect();
    assert_eq!(stalls, [[sum, 0, 0, 0]], "charged to one cgroup, as direct reclaim");
}

#[test]
fn an_end_without_begin_is_counted_as_such_and_as_nothing_else() {
    let bench = Bench::new();
    bench.run("direct_end", &[("ARG_DIRECT_FREED", 33)]);
    assert_eq!(bench.lost(), BTreeMap::from([("unmatched_end", 1)]));
    assert_eq!(bench.probe(Id::direct_reclaim), [0; 128]);
}

#[test]
fn a_begin_without_end_neither_leaks_nor_poisons() {
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
    assert!(sum <= now() - begun, "the lost begin's 50 ms are not in it: {sum}");
    assert_eq!(bench.inside(), [0; KINDS]);
    assert_eq!(bench.lost(), BTreeMap::from([("unmatched_begin", 1)]));
}

#[test]
fn a_task_that_dies_inside_is_swept() {
    let bench = Bench::new();
    bench.run("direct_begin", &[]);
    bench.run("process_exit", &[]);
    assert_eq!(bench.inside(), [0; KINDS]);
    assert_eq!(bench.lost(), BTreeMap::from([("abandoned", 1)]));
    bench.run("direct_end", &[("ARG_DIRECT_FREED", 1)]);
    assert_eq!(bench.lost().get("unmatched_end"), Some(&1), "no slot is left of it");
}

#[test]
fn many_tasks_inside_at_once_do_not_meet() {
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
    assert_eq!(memcg[at(Id::memcg_reclaim, "stall")], 0, "direct reclaim has that time already");
    assert_eq!(throttle[at(Id::throttle, "reclaim_throttle") + 2], 1_000_000);
    assert_eq!(throttle[at(Id::throttle, "stall")], 1_000_000);
    let exclusive = direct[at(Id::direct_reclaim, "stall")];
    assert_eq!(exclusive, inclusive - 1_000_000, "what throttling slept is throttling's");
    let stalls: Vec<_> = bench.stalls().into_values().collect();
    assert_eq!(stalls, [[exclusive, 0, 1_000_000, 0]]);
    assert_eq!(bench.lost(), BTreeMap::new());
}

#[test]
fn a_sleep_told_in_jiffies_is_no_longer_than_the_stall_around_it() {
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
fn a_throttled_kswapd_stalls_nobody() {
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
fn a_reason_that_the_kernel_may_add_one_day_is_no_error() {
    let bench = Bench::new();
    bench.run("throttled", &[("ARG_THROTTLE_USEC", 4000), ("ARG_THROTTLE_WHY", 200)]);
    assert_eq!(bench.probe(Id::throttle), [0; 128]);
    bench.run("compact_begin", &[]);
    bench.run("compact_end", &[("ARG_COMPACT_STATUS", 200)]);
    let row = bench.probe(Id::compaction);
    assert_eq!(histogram(&row, at(Id::compaction, "compaction_stall")).0, 1);
}

#[test]
fn limit_reclaim_counts_but_our_own_does_not() {
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
fn kswapd_is_active_from_its_first_wake_to_its_sleep() {
    let bench = Bench::new();
    let begun = now();
    bench.run("kswapd_wake", &[("ARG_WAKE_NID", 3)]);
    std::thread::sleep(std::time::Duration::from_millis(2));
    // A second wake without a sleep between: it napped only.
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
    // Asleep already, or attached while it was awake: nothing happens.
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
    assert_eq!(bench.lost(), BTreeMap::from([(loss::REASONS[Loss::NodeOutOfRange as usize], 2)]));
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
fn scans_are_told_apart_by_who_scans() {
    let bench = Bench::new();
    let labels = probes::reclaim_scan::PROBE.metrics[0].labels;
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
    let priorities = &row[at(Id::reclaim_scan, "reclaim_priority_min")..][..13];
    assert_eq!(priorities, [1, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 1]);
}

#[test]
fn retries_are_counted_by_how_far_they_got() {
    let bench = Bench::new();
    for loops in [0, 0, 16, 17, u64::from(u32::MAX)] {
        bench.run("reclaim_retry", &[("ARG_RETRY_LOOPS", loops)]);
    }
    bench.run("compact_retry", &[]);
    let row = bench.probe(Id::alloc_retry);
    assert_eq!(row[at(Id::alloc_retry, "alloc_retries")], 6);
    let loops = &row[at(Id::alloc_retry, "alloc_no_progress_loops_max")..][..19];
    assert_eq!((loops[0], loops[16], loops[17], loops[18]), (2, 1, 1, 1));
}

/// Not a kernel address: reading it fails, and what was to be read is 0.
const SOME_TASK: u64 = 0x1000;
const SEND_SIG_PRIV: u64 = 1;

fn oom_sigkill(bench: &Bench, sig: u64, info: u64, task: u64) {
    let args = [("ARG_OOM_SIG", sig), ("ARG_OOM_INFO", info), ("ARG_OOM_TARGET", task)];
    bench.run("oom_sigkill", &args);
}

#[test]
fn an_oom_kill_is_a_kernel_sigkill_followed_by_mark_victim_of_the_same_task() {
    let mut bench = Bench::new();
    let kills = |bench: &Bench| {
        let row = bench.probe(Id::oom_kill);
        let at = at(Id::oom_kill, "oom_kills");
        (row[at], row[at + 1])
    };
    // Already exiting: no SIGKILL went before.
    bench.run("mark_victim", &[("ARG_VICTIM_TASK", SOME_TASK)]);
    // Another signal, another sender, another task.
    for (sig, info, task) in
        [(15, SEND_SIG_PRIV, SOME_TASK), (9, 0, SOME_TASK), (9, SEND_SIG_PRIV, SOME_TASK + 8)]
    {
        oom_sigkill(&bench, sig, info, task);
        bench.run("mark_victim", &[("ARG_VICTIM_TASK", SOME_TASK)]);
    }
    assert_eq!(kills(&bench), (0, 0));
    assert_eq!(bench.events(), []);

    oom_sigkill(&bench, 9, SEND_SIG_PRIV, SOME_TASK);
    bench.run("mark_victim", &[("ARG_VICTIM_TASK", SOME_TASK)]);
    // The same victim again, without a new SIGKILL: not a second kill.
    bench.run("mark_victim", &[("ARG_VICTIM_TASK", SOME_TASK)]);
    assert_eq!(kills(&bench), (1, 0), "no reclaim before it: global");

    bench.run("memcg_begin", &[]);
    bench.run("memcg_end", &[("ARG_MEMCG_FREED", 0)]);
    oom_sigkill(&bench, 9, SEND_SIG_PRIV, SOME_TASK);
    bench.run("mark_victim", &[("ARG_VICTIM_TASK", SOME_TASK)]);
    assert_eq!(kills(&bench), (1, 1), "limit reclaim before it: memcg");

    bench.run("direct_begin", &[]);
    bench.run("direct_end", &[("ARG_DIRECT_FREED", 0)]);
    oom_sigkill(&bench, 9, SEND_SIG_PRIV, SOME_TASK);
    bench.run("mark_victim", &[("ARG_VICTIM_TASK", SOME_TASK)]);
    assert_eq!(kills(&bench), (2, 1), "global reclaim was the last");

    let events = bench.events();
    assert_eq!(events.len(), 3);
    for event in events {
        let What::OomKill { trigger, .. } = event else { panic!("{event:?}") };
        assert_eq!(trigger.pid, std::process::id());
        assert_eq!(
            trigger.tid,
            u32::try_from(rustix::thread::gettid().as_raw_nonzero().get()).expect("positive")
        );
    }
}

#[test]
fn a_task_that_shared_a_victim_s_memory_is_not_a_second_kill() {
    let mut bench = Bench::new();
    // The kernel kills A, and with it B, which shares A's memory; B is the trigger.
    oom_sigkill(&bench, 9, SEND_SIG_PRIV, SOME_TASK);
    bench.run("mark_victim", &[("ARG_VICTIM_TASK", SOME_TASK)]);
    oom_sigkill(&bench, 9, SEND_SIG_PRIV, SOME_TASK + 8);
    // B goes on reclaiming, comes to the OOM killer again and is let into the reserves.
    bench.run("direct_begin", &[]);
    bench.run("direct_end", &[("ARG_DIRECT_FREED", 0)]);
    bench.run("mark_victim", &[("ARG_VICTIM_TASK", SOME_TASK + 8)]);
    assert_eq!(bench.probe(Id::oom_kill)[at(Id::oom_kill, "oom_kills")], 1);
    assert_eq!(bench.events().len(), 1);
}

#[test]
fn a_kernel_that_tells_only_a_pid_is_understood_too() {
    // pid is at the place where this kernel has the task; ours reads as 0 from SOME_TASK.
    let task_index = Bench::new().globals["ARG_VICTIM_TASK"];
    let bench = Bench::with_globals(&[("ARG_VICTIM_TASK", NO_ARG), ("ARG_VICTIM_PID", task_index)]);
    oom_sigkill(&bench, 9, SEND_SIG_PRIV, SOME_TASK);
    bench.run("mark_victim", &[("ARG_VICTIM_PID", 77)]);
    assert_eq!(bench.probe(Id::oom_kill), [0; 128], "not the pid of the task that got SIGKILL");
    oom_sigkill(&bench, 9, SEND_SIG_PRIV, SOME_TASK);
    bench.run("mark_victim", &[("ARG_VICTIM_PID", 0)]);
    assert_eq!(bench.probe(Id::oom_kill)[at(Id::oom_kill, "oom_kills")], 1);
}

#[test]
fn a_victim_s_memory_is_back_when_its_address_space_is_gone() {
    let mut bench = Bench::with_globals(&[("HAVE_EXIT_MMAP", 1)]);
    bench.run("exit_mmap", &[("ARG_EXIT_MM", 0)]);
    assert_eq!(bench.probe(Id::victim_exit), [0; 128], "nobody's victim");
    oom_sigkill(&bench, 9, SEND_SIG_PRIV, SOME_TASK);
    bench.run("mark_victim", &[("ARG_VICTIM_TASK", SOME_TASK)]);
    bench.run("exit_mmap", &[("ARG_EXIT_MM", 4096)]);
    assert_eq!(bench.probe(Id::victim_exit), [0; 128], "somebody else's address space");
    bench.run("exit_mmap", &[("ARG_EXIT_MM", 0)]);
    bench.run("exit_mmap", &[("ARG_EXIT_MM", 0)]);
    let row = bench.probe(Id::victim_exit);
    assert_eq!(histogram(&row, at(Id::victim_exit, "oom_victim_exit")).0, 1, "once");
    assert_eq!(bench.events().len(), 2, "a kill and an exit");
}

#[test]
fn victims_that_never_exit_are_bounded_and_counted() {
    // Without exit_mmap victims are kept by process id, which reads as 0 here; so fill the map.
    let mut bench = Bench::with_globals(&[("HAVE_EXIT_MMAP", 1)]);
    {
        let map = bench.ebpf.map_mut("VICTIMS").expect("VICTIMS");
        let mut map: HashMap<&mut MapData, u64, [u64; 2]> = map.try_into().expect("hash");
        for mm in 1..=1024u64 {
            map.insert(mm, [0, 0], 0).expect("room");
        }
    }
    oom_sigkill(&bench, 9, SEND_SIG_PRIV, SOME_TASK);
    bench.run("mark_victim", &[("ARG_VICTIM_TASK", SOME_TASK)]);
    assert_eq!(bench.lost(), BTreeMap::from([("victims_full", 1)]));
    assert_eq!(bench.events().len(), 1, "the kill itself is told all the same");
}

#[test]
fn a_full_ring_buffer_is_counted() {
    let mut bench = Bench::new();
    let mut sent = 0u64;
    while bench.lost().is_empty() {
        oom_sigkill(&bench, 9, SEND_SIG_PRIV, SOME_TASK);
        bench.run("mark_victim", &[("ARG_VICTIM_TASK", SOME_TASK)]);
        sent += 1;
        assert!(sent < 10_000, "the ring never fills");
    }
    assert_eq!(bench.lost(), BTreeMap::from([("ring_full", 1)]));
    assert_eq!(bench.events().len() as u64, sent - 1, "what was not lost is all there");
    println!("the ring holds {} OOM kills", sent - 1);
    assert!(sent > 1000);
}

fn kill_signal(bench: &Bench, sig: u64, info: u64, result: u64) {
    bench.run(
        "kill_signal",
        &[
            ("ARG_KILL_SIG", sig),
            ("ARG_KILL_INFO", info),
            ("ARG_KILL_TASK", SOME_TASK),
            ("ARG_KILL_RESULT", result),
        ],
    );
}

#[test]
fn only_a_delivered_sigkill_from_user_space_is_a_kill_signal() {
    let mut bench = Bench::new();
    let by_sender = at(Id::kill_signal, "kill_signals");
    kill_signal(&bench, 15, 0, 0);
    kill_signal(&bench, 9, SEND_SIG_PRIV, 0);
    kill_signal(&bench, 9, 0, 1);
    assert_eq!(bench.probe(Id::kill_signal), [0; 128]);
    kill_signal(&bench, 9, 0, 0);
    assert_eq!(bench.probe(Id::kill_signal)[by_sender], 1, "an unknown sender is `other`");
    assert_eq!(bench.events(), []);

    let comm = std::fs::read("/proc/thread-self/comm").expect("comm");
    let mut name = [0; 16];
    name[..comm.len() - 1].copy_from_slice(&comm[..comm.len() - 1]);
    {
        let map = bench.ebpf.map_mut("SENDERS").expect("SENDERS");
        let mut map: HashMap<&mut MapData, [u8; 16], u32> = map.try_into().expect("hash");
        map.insert(name, 5 | 1 << 31, 0).expect("room");
    }
    kill_signal(&bench, 9, 0, 0);
    assert_eq!(bench.probe(Id::kill_signal)[by_sender + 5], 1);
    // A second one at once is counted, but no event: a flood must not crowd out OOM kills.
    kill_signal(&bench, 9, 0, 0);
    let counted = bench.probe(Id::kill_signal)[by_sender + 5];
    let limited = bench.lost().get("rate_limited").copied().unwrap_or(0);
    let events = bench.events();
    assert_eq!((counted, events.len() as u64), (2, 2 - limited));
    let What::KillSignal { sender, target } = &events[0] else { panic!("{events:?}") };
    assert_eq!((sender.pid, target.pid), (std::process::id(), 0));
    assert_eq!(Tag::KillSignal as u32, 3);
}

#[test]
fn a_hot_cgroup_table_stays_bounded() {
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
    assert_eq!(bench.row(loss::ROW)[loss::CGROUPS_ADDED], 0, "its slot still has it all");
    bench.run("process_exit", &[]);
    assert!(bench.slots().iter().all(|s| s.unsettled_ns == 0), "settled when the task exits");
    let settled: u64 = bench.stalls().values().flatten().sum();
    assert_eq!(settled, stall, "and nothing is lost by that");
    assert_eq!(bench.row(loss::ROW)[loss::CGROUPS_ADDED], 1, "added once");
}
