//! Exits of OOM victims: the time from the kill until the memory was freed.
//!
//! `mmap:exit_mmap` fires when the address space of the victim has been torn down. Kernels without
//! it use `sched_process_exit` of the last thread instead: there it comes after exit_mm
//! (kernel/exit.c; it moved before exit_mm in 6.16, which has exit_mmap). `process_exit` also
//! removes the exiting task from the table of in-flight tasks.
//!
//! Kernels: all from 5.10 on; `exit_mmap` from 6.1 on.

use core::mem::offset_of;

use crate::{
    hist::Log2Seconds,
    layout,
    loss::Loss,
    spec::{Arg, Metric, Need, Probe, Program, Shape, Unit},
};

/// See the module.
pub const PROBE: Probe = Probe {
    name: "victim_exit",
    about: "time until the memory of an OOM victim was freed",
    programs: &[
        Program {
            name: "exit_mmap",
            event: "mmap:exit_mmap",
            args: &[Arg::ptr("mm", "ARG_EXIT_MM", "mm_struct")],
            one_of: &[],
            fields: &[],
            need: Need::Optional {
                lost: "the exit of the last thread is used, not the end of the address space",
                present: Some("HAVE_EXIT_MMAP"),
                metrics: &[],
            },
        },
        Program {
            name: "process_exit",
            event: "sched:sched_process_exit",
            args: &[],
            one_of: &[],
            fields: &[layout::TASK_SIGNAL, layout::SIGNAL_LIVE],
            need: Need::Required,
        },
    ],
    metrics: &[Metric {
        name: "oom_victim_exit",
        unit: Unit::Seconds,
        help: "Time from an OOM kill until the memory of the victim was freed",
        shape: Shape::Histogram { at: offset_of!(State, latency) / 8 },
        labels: &[],
    }],
    losses: &[Loss::RingFull, Loss::Abandoned, Loss::VictimsFull],
};

#[repr(C)]
struct State {
    latency: Log2Seconds,
}

#[cfg(any(target_arch = "bpf", kernel_check))]
pub(crate) use kernel::await_exit;

#[cfg(any(target_arch = "bpf", kernel_check))]
mod kernel {
    use aya_ebpf::{
        Global,
        macros::{map, raw_tracepoint},
        maps::HashMap,
        programs::RawTracePointContext,
    };

    use super::{PROBE, State};
    use crate::{
        bpf::{
            args, clock,
            count::{Counters, row},
            inflight,
            lost::lost,
            read::read,
            ring, stall, task,
        },
        event::{Tag, VictimExit},
        layout::{OFF_SIGNAL_LIVE, OFF_TASK_SIGNAL},
        loss::Loss,
        probe_id::Id,
        spec::Probe,
    };

    args::arg_global!(ARG_EXIT_MM);

    // SAFETY: repr(C) and u64 only.
    unsafe impl Counters for State {
        const ID: Id = Id::victim_exit;
        const PROBE: &'static Probe = &PROBE;
    }

    /// 1 if `exit_mmap` is attached.
    #[unsafe(no_mangle)]
    static HAVE_EXIT_MMAP: Global<u32> = Global::new(0);

    /// A victim whose memory is not freed yet.
    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Victim {
        killed_ns: u64,
        tgid: u64,
    }

    /// By address of the mm_struct, or by process id on kernels without `exit_mmap`.
    #[map]
    static VICTIMS: HashMap<u64, Victim> = HashMap::with_max_entries(1024, 0);

    /// 1 if this probe is attached: otherwise no program would remove the victims again.
    #[unsafe(no_mangle)]
    static AWAIT_EXITS: Global<u32> = Global::new(0);

    /// Remembers a victim until its memory is freed.
    #[inline(always)]
    pub(crate) fn await_exit(mm: u64, tgid: u32, killed_ns: u64) {
        if AWAIT_EXITS.load() == 0 {
            return;
        }
        let key = if HAVE_EXIT_MMAP.load() != 0 { mm } else { u64::from(tgid) };
        let victim = Victim { killed_ns, tgid: u64::from(tgid) };
        if VICTIMS.insert(key, victim, 0).is_err() {
            lost!(State, Loss::VictimsFull, "victim", tgid);
        }
    }

    /// Records that the memory of the victim with this key, if it is one, was freed.
    #[inline(always)]
    fn freed(key: u64) {
        // SAFETY: the value is copied at once; if the element is reused meanwhile, the copy may be
        // another victim's, whose time differs by little.
        let Some(victim) = (unsafe { VICTIMS.get(key) }).copied() else { return };
        let now = clock::now();
        // Several threads of a process may each find that they are the last (5.10): one removes it.
        if VICTIMS.remove(key).is_err() {
            return;
        }
        if let Some(row) = row::<State>() {
            row.latency.observe(now.saturating_sub(victim.killed_ns));
        }
        let tgid = victim.tgid as u32;
        let event = VictimExit {
            tag: Tag::VictimExit as u32,
            tgid,
            time_ns: now,
            killed_ns: victim.killed_ns,
        };
        ring::send::<State, _>(event, tgid);
    }

    #[raw_tracepoint(tracepoint = "exit_mmap")]
    fn exit_mmap(ctx: RawTracePointContext) -> u32 {
        freed(args::get(&ctx, &ARG_EXIT_MM));
        0
    }

    #[raw_tracepoint(tracepoint = "sched_process_exit")]
    fn process_exit(_ctx: RawTracePointContext) -> u32 {
        let tid = task::tid();
        if let Some(bucket) = inflight::bucket(tid) {
            for slot in &bucket.0 {
                if slot.tid() == tid {
                    stall::settle(slot);
                }
            }
            if bucket.forget(tid) > 0 {
                lost!(State, Loss::Abandoned, "thread", tid);
            }
        }
        if HAVE_EXIT_MMAP.load() == 0 {
            let signal: u64 = read(task::current(), &OFF_TASK_SIGNAL);
            if read::<i32>(signal, &OFF_SIGNAL_LIVE) == 0 {
                freed(u64::from(task::tgid()));
            }
        }
        0
    }
}
