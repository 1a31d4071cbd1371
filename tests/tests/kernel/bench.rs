//! The object with its programs loaded and none attached, and the contents of their maps.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData, PerCpuArray, RingBuf},
    programs::{RawTracePoint, RawTracePointRunOptions, TestRun as _},
};
use aya_log::EbpfLogger;
use sensor_core::{
    btf::{
        reader::{self, Btf},
        resolve::{self, Host, Plan},
    },
    model::{counters::InFlight, event::EventKind},
};
use sensor_ebpf::{
    hist,
    inflight::{CHUNK_WORDS, CHUNKS, Slot, WAYS, owner, place},
    loss,
    probe_id::Id,
    probes,
    spec::{NO_ARG, ROW_WORDS, Row, Shape},
    stall_kind::{Cause, KINDS, Kind},
};
use sensor_user::{
    kernel::{
        load,
        settings::{BpfLog, Settings},
    },
    oom::decode,
};

/// The object with all programs loaded and none attached.
pub(crate) struct Bench {
    pub(crate) ebpf: Ebpf,
    globals: BTreeMap<&'static str, u32>,
    events: RingBuf<MapData>,
    log: EbpfLogger<Messages>,
    messages: Messages,
}

/// Messages of the kernel half's debug log.
#[derive(Clone, Default)]
struct Messages(Arc<Mutex<Vec<String>>>);

impl log::Log for Messages {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(format!("{} {}", record.level(), record.args()));
    }

    fn flush(&self) {}
}

/// EventKind the resolver passes to the programs on this kernel.
pub(crate) fn plan() -> (Btf, Plan) {
    let btf = Btf::parse(std::fs::read(reader::VMLINUX).expect("BTF")).expect("BTF parses");
    let host = Host { memory_on_v1: sensor_user::host::cgroup::mounts::memory_on_v1() };
    let plan = resolve::plan(Ok(&btf), host);
    (btf, plan)
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::with_globals(&[])
    }

    pub(crate) fn with_globals(overrides: &[(&'static str, u32)]) -> Self {
        Self::configured(&Settings::default(), overrides)
    }

    /// With the debug log on.
    pub(crate) fn with_log() -> Self {
        Self::configured(&Settings { bpf_log: BpfLog::Warn, ..Settings::default() }, &[])
    }

    pub(crate) fn configured(config: &Settings, overrides: &[(&'static str, u32)]) -> Self {
        let (btf, mut plan) = plan();
        for (global, index) in made_up(&btf) {
            plan.globals.entry(global).or_insert(index);
        }
        plan.globals.extend(overrides.iter().copied());
        let mut ebpf = load::open(config, &plan).expect("open");
        for (_, program) in ebpf.programs_mut() {
            // Programs at functions cannot be run by BPF_PROG_TEST_RUN, nor loaded on every kernel.
            if let Ok(program) = <&mut RawTracePoint>::try_from(program) {
                program.load().expect("the verifier accepts it");
            }
        }
        let events = ebpf.take_map("EVENTS").expect("EVENTS").try_into().expect("a ring buffer");
        let messages = Messages::default();
        let log = EbpfLogger::init_with_logger(&mut ebpf, messages.clone()).expect("AYA_LOGS");
        Self { ebpf, globals: plan.globals, events, log, messages }
    }

    /// Runs a program as the current task, with arguments by the names of their globals.
    pub(crate) fn run(&self, program: &str, args: &[(&str, u64)]) -> u32 {
        let mut options = RawTracePointRunOptions::new();
        for (global, value) in args {
            let index = self.globals.get(global).copied().unwrap_or(NO_ARG);
            assert_ne!(index, NO_ARG, "{global} is not resolved here");
            options.args[index as usize] = *value;
        }
        let program = self.ebpf.program(program).expect(program);
        let aya::programs::Program::RawTracePoint(program) = program else { panic!("kind") };
        program.test_run(options).expect("runs").return_value
    }

    /// A row of counters, summed over CPUs.
    pub(crate) fn row(&self, index: u32) -> Row {
        let map = self.ebpf.map("COUNTERS").expect("COUNTERS");
        let map: PerCpuArray<&MapData, Row> = map.try_into().expect("per-CPU array");
        let mut sum = [0; ROW_WORDS];
        for row in map.get(&index, 0).expect("row").iter() {
            for (to, from) in sum.iter_mut().zip(row) {
                *to += from;
            }
        }
        sum
    }

    /// The histograms of cgroups, by cgroup and kind.
    pub(crate) fn reclaim(&self) -> BTreeMap<[u64; 2], [u64; hist::WORDS]> {
        let map = self.ebpf.map("RECLAIM").expect("RECLAIM");
        let map: HashMap<&MapData, [u64; 2], [u64; hist::WORDS]> = map.try_into().expect("LRU");
        map.iter().collect::<Result<_, _>>().expect("read")
    }

    pub(crate) fn probe(&self, id: Id) -> Row {
        self.row(id as u32)
    }

    /// EventKind was lost, by reason.
    pub(crate) fn lost(&self) -> BTreeMap<&'static str, u64> {
        let row = self.row(loss::ROW);
        loss::REASONS.iter().copied().zip(row).filter(|(_, n)| *n > 0).collect()
    }

    /// Messages of the debug log since the last call.
    pub(crate) fn messages(&mut self) -> Vec<String> {
        self.log.flush();
        let mut all = self.messages.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *all)
    }

    pub(crate) fn slots(&self) -> Vec<Slot> {
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

    /// Fills the bucket of this thread with the next threads, each inside direct reclaim, the first
    /// for longest.
    pub(crate) fn fill_bucket(&mut self) {
        let (chunk, bucket) = place(tid());
        let map = self.ebpf.map_mut("INFLIGHT").expect("INFLIGHT");
        let mut map: Array<&mut MapData, [u64; CHUNK_WORDS]> = map.try_into().expect("array");
        let mut words = [0; CHUNK_WORDS];
        let slots = words.as_chunks_mut::<5>().0.iter_mut().skip(bucket * WAYS).take(WAYS);
        for (slot, other) in slots.zip(tid() + 1..) {
            *slot = [owner(other, Kind::Direct), now() + u64::from(other - tid()), 0, 42, 7];
        }
        map.set(chunk, words, 0).expect("room");
    }

    pub(crate) fn inside(&self) -> [u32; KINDS] {
        InFlight::of(&self.slots(), now()).tasks
    }

    pub(crate) fn stalls(&self) -> BTreeMap<u64, [u64; Cause::COUNT]> {
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

    /// When the trigger's last reclaim ended, for each event.
    pub(crate) fn reclaim_ends(&mut self) -> Vec<u64> {
        let records = std::iter::from_fn(|| self.events.next().map(|record| record.to_vec()));
        records.map(|record| decode::reclaim_ended_ns(&record)).collect()
    }

    pub(crate) fn events(&mut self) -> Vec<EventKind> {
        let mut all = Vec::new();
        while let Some(record) = self.events.next() {
            all.push(decode::decode(&record, 4096, "b").expect("decodes").1);
        }
        all
    }
}

/// Positions for the arguments that this kernel does not pass: of events that it lacks, and of the
/// other form where there are two. Nothing is attached, so any position will do that differs from
/// the program's others.
fn made_up(btf: &Btf) -> impl Iterator<Item = (&'static str, u32)> {
    let programs = probes::ALL.iter().flat_map(|probe| probe.programs);
    programs.flat_map(move |program| {
        let (_, event) = program.event.split_once(':').expect("system:event");
        let lacking = if btf.tracepoint(event).is_none() { program.args } else { &[] };
        lacking.iter().chain(program.one_of).map(|arg| arg.global).zip(0..)
    })
}

/// The first word of a metric.
pub(crate) fn at(id: Id, metric: &str) -> usize {
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
pub(crate) fn histogram(row: &Row, at: usize) -> (u64, u64) {
    (row[at + 1..at + hist::WORDS].iter().sum(), row[at])
}

pub(crate) fn now() -> u64 {
    sensor_core::common::clock::monotonic_ns()
}

/// Id of this thread.
pub(crate) fn tid() -> u32 {
    u32::try_from(rustix::thread::gettid().as_raw_nonzero().get()).expect("positive")
}

/// Binds the current thread to a CPU.
pub(crate) fn run_on(cpu: usize) {
    let mut cpus = rustix::thread::CpuSet::new();
    cpus.set(cpu);
    rustix::thread::sched_setaffinity(None, &cpus).expect("the CPU is there");
}

/// Binds the current thread to the CPU that it runs on.
pub(crate) fn stay_on_this_cpu() {
    run_on(rustix::thread::sched_getcpu());
}
