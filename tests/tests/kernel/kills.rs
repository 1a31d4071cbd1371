//! OOM kills, the exits of their victims, and SIGKILL from user space.

use std::collections::BTreeMap;

use aya::maps::{Array, HashMap, MapData};
use sensor_core::model::event::{AllocContext, EventKind, OomType, SentSignal};
use sensor_ebpf::{
    probe_id::Id,
    probes::oom_kill::{HOST_KILLS_WORD, KILLS_WORD},
    spec::{NO_ARG, SENDER_WITH_EVENT},
};
use sensor_user::kernel::programs::drop_old_victims;

use crate::bench::{Bench, at, histogram, now, run_on, stay_on_this_cpu, tid};

/// Not a kernel address: reading it fails, and every member reads as 0.
const SOME_TASK: u64 = 0x1000;
const SEND_SIG_PRIV: u64 = 1;

/// This thread stays on its CPU from then on, as the kernel does from a SIGKILL to its mark_victim.
fn oom_sigkill(bench: &Bench, sig: u64, info: u64, task: u64) {
    stay_on_this_cpu();
    let args = [("ARG_OOM_SIG", sig), ("ARG_OOM_INFO", info), ("ARG_OOM_TARGET", task)];
    bench.run("oom_sigkill", &args);
}

/// Both halves of an OOM kill.
pub(crate) fn oom_kill(bench: &Bench) {
    oom_sigkill(bench, 9, SEND_SIG_PRIV, SOME_TASK);
    bench.run("mark_victim", &[("ARG_VICTIM_TASK", SOME_TASK)]);
}

/// Kills of type global and memcg.
fn kills(bench: &Bench) -> (u64, u64) {
    let row = bench.probe(Id::oom_kill);
    (row[KILLS_WORD], row[KILLS_WORD + 1])
}

fn memcg_reclaim(bench: &Bench) {
    bench.run("memcg_begin", &[]);
    bench.run("memcg_end", &[("ARG_MEMCG_FREED", 0)]);
}

fn direct_reclaim(bench: &Bench) {
    bench.run("direct_begin", &[]);
    bench.run("direct_end", &[("ARG_DIRECT_FREED", 0)]);
}

#[test]
fn a_kill_is_a_kernel_sigkill_and_mark_victim_of_one_task() {
    let mut bench = Bench::new();
    // Already exiting: there was no SIGKILL before.
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

    oom_kill(&bench);
    // The same victim again, without a new SIGKILL: not a second kill.
    bench.run("mark_victim", &[("ARG_VICTIM_TASK", SOME_TASK)]);
    assert_eq!(kills(&bench), (1, 0), "no reclaim before it: global");
    memcg_reclaim(&bench);
    oom_kill(&bench);
    assert_eq!(kills(&bench), (1, 1), "limit reclaim before it: memcg");
    direct_reclaim(&bench);
    oom_kill(&bench);
    assert_eq!(kills(&bench), (2, 1), "global reclaim was the last");

    let events = bench.events();
    assert_eq!(events.len(), 3);
    for event in events {
        let EventKind::OomKill { trigger, .. } = event else { panic!("{event:?}") };
        assert_eq!((trigger.pid, trigger.tid), (std::process::id(), tid()));
    }
}

/// This separates the kills of one OOM from those of the next.
#[test]
fn a_kill_has_the_end_of_the_last_reclaim_of_its_trigger() {
    let mut bench = Bench::new();
    oom_kill(&bench);
    let begun = now();
    memcg_reclaim(&bench);
    let ended = now();
    // Two kills of one call.
    oom_kill(&bench);
    oom_kill(&bench);
    memcg_reclaim(&bench);
    oom_kill(&bench);
    let ends = bench.reclaim_ends();
    let [0, first, second, later] = ends[..] else { panic!("{ends:?}") };
    assert!((begun..=ended).contains(&first), "{first} is not in {begun} to {ended}");
    assert!(second == first && later > ended, "{ends:?}");
}

/// Writes the record of `oom_context`, which BPF_PROG_TEST_RUN cannot run.
fn set_context(bench: &mut Bench, called_ns: u64, tid: u32, memcg: bool) {
    set_call(bench, called_ns, tid, memcg, (2, 3));
}

/// The same with another order and constraint.
fn set_call(
    bench: &mut Bench,
    called_ns: u64,
    tid: u32,
    memcg: bool,
    (order, constraint): (i32, u64),
) {
    let map = bench.ebpf.map_mut("OOM_CONTEXT").expect("OOM_CONTEXT");
    let mut map: Array<&mut MapData, [u64; 4]> = map.try_into().expect("array");
    let (order, gfp_flags) = (u64::from(order.cast_unsigned()), 0xcc0u64);
    let words =
        [called_ns, u64::from(tid) | order << 32, gfp_flags | constraint << 32, memcg.into()];
    map.set(0, words, 0).expect("room");
}

/// `enum oom_constraint`: none, cpuset, memory policy, memcg.
#[test]
fn only_kills_of_the_whole_host_count_for_it() {
    for (order, constraint, memcg, of_host) in [
        (0, 0, false, 1),
        (3, 0, false, 1),
        (0, 1, false, 0),
        (0, 2, false, 0),
        (-1, 0, false, 0),
        (0, 3, true, 0),
    ] {
        let mut bench = Bench::new();
        set_call(&mut bench, now(), tid(), memcg, (order, constraint));
        oom_kill(&bench);
        let counted = bench.probe(Id::oom_kill)[HOST_KILLS_WORD];
        assert_eq!(counted, of_host, "order {order}, constraint {constraint}");
        assert_eq!(kills(&bench), if memcg { (0, 1) } else { (1, 0) }, "the type is as before");
    }
    let bench = Bench::new();
    oom_kill(&bench);
    assert_eq!(bench.probe(Id::oom_kill)[HOST_KILLS_WORD], 1, "an unknown constraint");
    memcg_reclaim(&bench);
    oom_kill(&bench);
    assert_eq!(bench.probe(Id::oom_kill)[HOST_KILLS_WORD], 1, "a cgroup at its limit");
}

#[test]
fn a_kill_has_the_context_of_its_own_oom_call_only() {
    let mut bench = Bench::new();
    let kill = |bench: &mut Bench| {
        oom_kill(bench);
        let EventKind::OomKill { context, oom_type, .. } = bench.events().remove(0) else {
            panic!("a kill")
        };
        (context, oom_type)
    };
    let (global, memcg) = ((None, OomType::Global), (None, OomType::Memcg));
    assert_eq!(kill(&mut bench), global, "no context");
    direct_reclaim(&bench);
    let context = AllocContext {
        order: 2,
        gfp_flags: "0xcc0".to_owned(),
        gfp_names: None,
        constraint: "3".to_owned(),
        nodes: None,
        from_log: false,
    };
    set_context(&mut bench, now(), tid(), false);
    assert_eq!(kill(&mut bench), (Some(context.clone()), OomType::Global));
    set_context(&mut bench, now(), tid(), true);
    let known = (Some(context), OomType::Memcg);
    assert_eq!(kill(&mut bench), known, "the context decides, not the reclaim before it");
    assert_eq!(kill(&mut bench), known, "the next kill of a group, by the same call");
    direct_reclaim(&bench);
    assert_eq!(kill(&mut bench), global, "the context of an earlier kill");
    set_context(&mut bench, now(), tid() + 1, true);
    assert_eq!(kill(&mut bench), global, "the context of another task");
    memcg_reclaim(&bench);
    assert_eq!(kill(&mut bench), memcg, "without a context the reclaim decides");
}

#[test]
fn a_kill_is_counted_while_its_bucket_is_full() {
    let mut bench = Bench::new();
    bench.fill_bucket();
    let before = bench.slots();
    oom_kill(&bench);
    assert_eq!(kills(&bench), (1, 0));
    assert_eq!(bench.events().len(), 1);
    assert_eq!(bench.slots(), before, "no task was evicted");
    assert_eq!(bench.lost(), BTreeMap::new());
}

#[test]
fn a_task_that_shares_a_victim_s_memory_is_no_second_kill() {
    let mut bench = Bench::new();
    // The kernel kills A, and with it B, which shares A's memory; B is the trigger.
    oom_kill(&bench);
    oom_sigkill(&bench, 9, SEND_SIG_PRIV, SOME_TASK + 8);
    // B continues to reclaim, calls the OOM killer again and gets access to the reserves.
    direct_reclaim(&bench);
    bench.run("mark_victim", &[("ARG_VICTIM_TASK", SOME_TASK + 8)]);
    assert_eq!(kills(&bench), (1, 0));
    assert_eq!(bench.events().len(), 1);
}

#[test]
fn a_kernel_that_passes_only_a_pid_is_supported() {
    // The pid of SOME_TASK reads as 0.
    let bench = Bench::with_globals(&[("ARG_VICTIM_TASK", NO_ARG)]);
    oom_sigkill(&bench, 9, SEND_SIG_PRIV, SOME_TASK);
    bench.run("mark_victim", &[("ARG_VICTIM_PID", 77)]);
    assert_eq!(bench.probe(Id::oom_kill), [0; 128], "the pid is not the one that got SIGKILL");
    oom_sigkill(&bench, 9, SEND_SIG_PRIV, SOME_TASK);
    bench.run("mark_victim", &[("ARG_VICTIM_PID", 0)]);
    assert_eq!(kills(&bench), (1, 0));
}

#[test]
fn an_exit_is_timed_at_the_end_of_the_address_space() {
    let mut bench = Bench::with_globals(&[("HAVE_EXIT_MMAP", 1)]);
    bench.run("exit_mmap", &[("ARG_EXIT_MM", 0)]);
    assert_eq!(bench.probe(Id::victim_exit), [0; 128], "not a victim");
    oom_kill(&bench);
    bench.run("exit_mmap", &[("ARG_EXIT_MM", 4096)]);
    assert_eq!(bench.probe(Id::victim_exit), [0; 128], "another address space");
    bench.run("exit_mmap", &[("ARG_EXIT_MM", 0)]);
    bench.run("exit_mmap", &[("ARG_EXIT_MM", 0)]);
    let row = bench.probe(Id::victim_exit);
    assert_eq!(histogram(&row, at(Id::victim_exit, "oom_victim_exit")).0, 1, "once");
    assert_eq!(bench.events().len(), 2, "a kill and an exit");
}

/// Fills the table of victims with others: keys here are 0, which no other has.
pub(crate) fn fill_victims(bench: &mut Bench) {
    let map = bench.ebpf.map_mut("VICTIMS").expect("VICTIMS");
    let mut map: HashMap<&mut MapData, u64, [u64; 2]> = map.try_into().expect("hash");
    for key in 1..=1024u64 {
        map.insert(key, [0, 0], 0).expect("room");
    }
}

/// The kernel may skip the program that sees a victim exit.
#[test]
fn victims_whose_exit_was_missed_leave_room_for_others() {
    let mut bench = Bench::with_globals(&[("HAVE_EXIT_MMAP", 1)]);
    fill_victims(&mut bench);
    let hour = 3_600_000_000_000;
    // Those in the table were killed at the boot.
    for (after, dropped) in [(hour, 0), (hour + 1, 1024), (hour + 1, 0)] {
        let map = bench.ebpf.map_mut("VICTIMS").expect("VICTIMS");
        let mut map: HashMap<&mut MapData, u64, [u64; 2]> = map.try_into().expect("hash");
        assert_eq!(drop_old_victims(&mut map, after), dropped, "after {after} ns");
    }
    oom_kill(&bench);
    assert_eq!(bench.lost(), BTreeMap::new());
    bench.run("exit_mmap", &[("ARG_EXIT_MM", 0)]);
    assert_eq!(bench.events().len(), 2, "a kill and an exit");
}

#[test]
fn victims_that_never_exit_are_bounded_and_counted() {
    let mut bench = Bench::with_globals(&[("HAVE_EXIT_MMAP", 1)]);
    fill_victims(&mut bench);
    oom_kill(&bench);
    assert_eq!(bench.lost(), BTreeMap::from([("victims_full", 1)]));
    assert_eq!(bench.events().len(), 1, "the kill itself is sent");
}

#[test]
fn a_full_ring_buffer_is_counted() {
    let mut bench = Bench::new();
    let mut sent = 0u64;
    while bench.lost().is_empty() {
        oom_kill(&bench);
        sent += 1;
        assert!(sent < 10_000, "the ring never fills");
    }
    assert_eq!(bench.lost(), BTreeMap::from([("ring_full", 1)]));
    assert_eq!(bench.events().len() as u64, sent - 1, "all events that were not lost are there");
    println!("the ring holds {} OOM kills", sent - 1);
    assert!(sent > 1000);
}

pub(crate) fn kill_signal(bench: &Bench, sig: u64, info: u64, result: u64) {
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

/// Makes this thread's name a known sender, whose kills are events.
pub(crate) fn add_this_thread_as_sender(bench: &mut Bench, index: u32) {
    let comm = std::fs::read("/proc/thread-self/comm").expect("comm");
    let mut name = [0; 16];
    name[..comm.len() - 1].copy_from_slice(&comm[..comm.len() - 1]);
    let map = bench.ebpf.map_mut("SENDERS").expect("SENDERS");
    let mut map: HashMap<&mut MapData, [u8; 16], u32> = map.try_into().expect("hash");
    map.insert(name, index | SENDER_WITH_EVENT, 0).expect("room");
}

/// As if the last event had been sent then.
pub(crate) fn set_last_event(bench: &mut Bench, sent_ns: u64) {
    let map = bench.ebpf.map_mut("SIGNAL_SENT").expect("SIGNAL_SENT");
    let mut map: Array<&mut MapData, u64> = map.try_into().expect("array");
    map.set(0, sent_ns, 0).expect("room");
}

/// Signals by sender.
fn signals(bench: &Bench, sender: u32) -> u64 {
    bench.probe(Id::kill_signal)[at(Id::kill_signal, "kill_signals") + sender as usize]
}

#[test]
fn only_a_delivered_sigkill_of_a_process_is_counted() {
    let mut bench = Bench::new();
    let (delivered, not_delivered) = (0, 1);
    kill_signal(&bench, 15, 0, delivered);
    kill_signal(&bench, 1, 0, delivered);
    kill_signal(&bench, 9, SEND_SIG_PRIV, delivered);
    kill_signal(&bench, 9, 0, not_delivered);
    assert_eq!(bench.probe(Id::kill_signal), [0; 128]);
    kill_signal(&bench, 9, 0, delivered);
    assert_eq!(signals(&bench, 0), 1, "an unknown sender is `other`");
    assert_eq!(bench.events(), [], "and sends no event");
    assert_eq!(bench.lost(), BTreeMap::new());
}

#[test]
fn a_kill_by_a_known_sender_is_an_event() {
    let mut bench = Bench::new();
    add_this_thread_as_sender(&mut bench, 5);
    kill_signal(&bench, 9, 0, 0);
    assert_eq!((signals(&bench, 0), signals(&bench, 5)), (0, 1));
    let events = bench.events();
    let [EventKind::KillSignal { signal: SentSignal::Sigkill, sender, target }] = &events[..]
    else {
        panic!("{events:?}")
    };
    assert_eq!((sender.pid, target.pid), (std::process::id(), 0));
    assert_eq!(bench.lost(), BTreeMap::new());
}

/// earlyoom and nohang send it first.
#[test]
fn a_sigterm_by_a_known_sender_is_an_event() {
    let mut bench = Bench::new();
    kill_signal(&bench, 15, 0, 0);
    assert_eq!(bench.probe(Id::kill_signal), [0; 128], "an unknown sender stops a service");
    add_this_thread_as_sender(&mut bench, 5);
    for (sig, info, result) in [(1, 0, 0), (15, SEND_SIG_PRIV, 0), (15, 0, 1), (15, 0, 0)] {
        kill_signal(&bench, sig, info, result);
    }
    assert_eq!((signals(&bench, 0), signals(&bench, 5)), (0, 1));
    let events = bench.events();
    let [EventKind::KillSignal { signal, .. }] = &events[..] else { panic!("{events:?}") };
    assert_eq!(*signal, SentSignal::Sigterm);
    kill_signal(&bench, 15, 0, 0);
    assert_eq!(bench.events(), [], "the rate limit is for both signals");
    assert_eq!(bench.lost(), BTreeMap::from([("rate_limited", 1)]));
}

/// A flood must not displace OOM kills.
#[test]
fn a_kill_soon_after_another_is_counted_without_an_event() {
    const GAP_NS: u64 = 10_000_000;
    let mut bench = Bench::new();
    add_this_thread_as_sender(&mut bench, 5);
    // The last event is later than now, so the machine cannot be too slow for the limit.
    set_last_event(&mut bench, now() + 1_000_000_000_000);
    let cpus = rustix::thread::sched_getaffinity(None).expect("affinity");
    let cpus: Vec<_> = (0..rustix::thread::CpuSet::MAX_CPU).filter(|c| cpus.is_set(*c)).collect();
    for cpu in &cpus {
        run_on(*cpu);
        kill_signal(&bench, 9, 0, 0);
    }
    assert_eq!(signals(&bench, 5), cpus.len() as u64, "the limit is for all CPUs");
    assert_eq!(bench.events(), []);
    assert_eq!(bench.lost(), BTreeMap::from([("rate_limited", cpus.len() as u64)]));

    set_last_event(&mut bench, now() - GAP_NS);
    kill_signal(&bench, 9, 0, 0);
    assert_eq!(bench.events().len(), 1, "the next one after the gap");
    assert_eq!(bench.lost(), BTreeMap::from([("rate_limited", cpus.len() as u64)]));
}
