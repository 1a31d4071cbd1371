//! OOM kills, their victims' exits, and SIGKILL by others.

use std::collections::BTreeMap;

use aya::maps::{Array, HashMap, MapData};
use sensor_ebpf::{
    event::Tag,
    inflight::{CHUNK_WORDS, Kind, WAYS, owner, place},
    probes::Id,
    spec::NO_ARG,
};
use sensor_user::events::{Context, Scope, What};

use crate::bench::{Bench, at, histogram, now, run_on};

/// Not a kernel address: reading it fails, and what was to be read is 0.
const SOME_TASK: u64 = 0x1000;
const SEND_SIG_PRIV: u64 = 1;

/// This thread stays on its CPU from then on, as the kernel does from a SIGKILL to its mark_victim.
fn oom_sigkill(bench: &Bench, sig: u64, info: u64, task: u64) {
    run_on(rustix::thread::sched_getcpu());
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

/// What `oom_context` would note, which cannot be run by hand.
fn note_context(bench: &mut Bench, noted_ns: u64, tid: u32, memcg: bool) {
    let map = bench.ebpf.map_mut("OOM_CONTEXT").expect("OOM_CONTEXT");
    let mut map: Array<&mut MapData, [u64; 4]> = map.try_into().expect("array");
    let (order, gfp_flags, constraint) = (2u64, 0xcc0u64, 3u64);
    let words =
        [noted_ns, u64::from(tid) | order << 32, gfp_flags | constraint << 32, memcg.into()];
    map.set(0, words, 0).expect("room");
}

#[test]
fn a_kill_has_only_the_context_of_its_own_call_of_the_oom_killer() {
    let mut bench = Bench::new();
    let tid = u32::try_from(rustix::thread::gettid().as_raw_nonzero().get()).expect("positive");
    let kill = |bench: &mut Bench| {
        oom_sigkill(bench, 9, SEND_SIG_PRIV, SOME_TASK);
        bench.run("mark_victim", &[("ARG_VICTIM_TASK", SOME_TASK)]);
        let What::OomKill { context, scope, .. } = bench.events().remove(0) else {
            panic!("a kill")
        };
        (context, scope)
    };
    let reclaim = |bench: &Bench| {
        bench.run("direct_begin", &[]);
        bench.run("direct_end", &[("ARG_DIRECT_FREED", 0)]);
    };
    let (global, memcg) = ((None, Scope::Global), (None, Scope::Memcg));
    assert_eq!(kill(&mut bench), global, "nothing was noted");
    reclaim(&bench);
    let context = Context {
        order: 2,
        gfp_flags: "0xcc0".to_owned(),
        constraint: "3".to_owned(),
        from_log: false,
    };
    note_context(&mut bench, now(), tid, false);
    assert_eq!(kill(&mut bench), (Some(context.clone()), Scope::Global));
    note_context(&mut bench, now(), tid, true);
    let noted = (Some(context), Scope::Memcg);
    assert_eq!(kill(&mut bench), noted, "it knows better than the reclaim before it");
    assert_eq!(kill(&mut bench), noted, "the next of a group, by the same call");
    reclaim(&bench);
    assert_eq!(kill(&mut bench), global, "it was noted for an earlier kill");
    note_context(&mut bench, now(), tid + 1, true);
    assert_eq!(kill(&mut bench), global, "another task noted it");
    bench.run("memcg_begin", &[]);
    bench.run("memcg_end", &[("ARG_MEMCG_FREED", 0)]);
    assert_eq!(kill(&mut bench), memcg, "without a note the reclaim tells");
}

#[test]
fn a_kill_is_counted_where_all_slots_of_its_bucket_are_taken() {
    let mut bench = Bench::new();
    let tid = u32::try_from(rustix::thread::gettid().as_raw_nonzero().get()).expect("positive");
    let (chunk, bucket) = place(tid);
    {
        let map = bench.ebpf.map_mut("INFLIGHT").expect("INFLIGHT");
        let mut map: Array<&mut MapData, [u64; CHUNK_WORDS]> = map.try_into().expect("array");
        let mut words = [0; CHUNK_WORDS];
        let slots = words.as_chunks_mut::<5>().0.iter_mut().skip(bucket * WAYS).take(WAYS);
        for (slot, other) in slots.zip(tid + 1..) {
            *slot = [owner(other, Kind::Direct), now(), 0, 42, 7];
        }
        map.set(chunk, words, 0).expect("room");
    }
    let before = bench.slots();
    oom_sigkill(&bench, 9, SEND_SIG_PRIV, SOME_TASK);
    bench.run("mark_victim", &[("ARG_VICTIM_TASK", SOME_TASK)]);
    assert_eq!(bench.probe(Id::oom_kill)[at(Id::oom_kill, "oom_kills")], 1);
    assert_eq!(bench.events().len(), 1);
    assert_eq!(bench.slots(), before, "nobody had to give way");
    assert_eq!(bench.lost(), BTreeMap::new());
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
    // The pid of SOME_TASK reads as 0.
    let bench = Bench::with_globals(&[("ARG_VICTIM_TASK", NO_ARG)]);
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

    // Nor from another CPU: as if one were sent later than now, however slow this machine is.
    {
        let map = bench.ebpf.map_mut("SIGNAL_SENT").expect("SIGNAL_SENT");
        let mut map: Array<&mut MapData, u64> = map.try_into().expect("array");
        map.set(0, now() + 1_000_000_000_000, 0).expect("room");
    }
    let cpus = rustix::thread::sched_getaffinity(None).expect("affinity");
    let cpus: Vec<_> = (0..rustix::thread::CpuSet::MAX_CPU).filter(|c| cpus.is_set(*c)).collect();
    for cpu in &cpus {
        run_on(*cpu);
        kill_signal(&bench, 9, 0, 0);
    }
    assert_eq!(bench.events(), []);
    assert_eq!(bench.lost(), BTreeMap::from([("rate_limited", limited + cpus.len() as u64)]));
}
