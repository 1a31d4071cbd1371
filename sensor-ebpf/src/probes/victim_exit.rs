//! Victims' exits: how long after an OOM kill the memory came back.
//!
//! Where the kernel has `mmap:exit_mmap` (6.1), that is the moment: the address space of the victim
//! has been torn down. Before that, `sched_process_exit` of the last thread stands in: on those
//! kernels it comes after exit_mm (kernel/exit.c; it moved before it in 6.16, where exit_mmap is
//! there). `process_exit` also sweeps what an exiting task left in the table of who is inside.

use core::mem::offset_of;

use crate::{
    hist::Log2Seconds,
    layout,
    spec::{Arg, ArgType, Metric, Need, Probe, Program, Shape, Unit},
};

/// See the module.
pub const PROBE: Probe = Probe {
    name: "victim_exit",
    about: "how long an OOM victim took to give its memory back",
    programs: &[
        Program {
            name: "exit_mmap",
            event: "mmap:exit_mmap",
            args: &[Arg { param: "mm", global: "ARG_EXIT_MM", ty: ArgType::Ptr("mm_struct") }],
            one_of: &[],
            fields: &[],
            need: Need::Optional {
                lost: "the exit of the victim's last thread stands in for the end of its address space",
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
        help: "Time from an OOM kill until the victim's memory was given back",
        shape: Shape::Histogram { at: offset_of!(State, latency) / 8 },
        labels: &[],
    }],
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

    use super::State;
    use crate::{
        bpf::{
            args,
            count::{lost, row},
            read::read,
            ring, stall, task, track,
        },
        event::{Tag, VictimExit},
        layout::{OFF_SIGNAL_LIVE, OFF_TASK_SIGNAL},
        loss::Loss,
        probes::Id,
    };

    args::arg_global!(ARG_EXIT_MM);

    /// 1 if `exit_mmap` is attached.
    #[unsafe(no_mangle)]
    static HAVE_EXIT_MMAP: Global<u32> = Global::new(0);

    /// A victim that has not given its memory back yet.
    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Victim {
        killed_ns: u64,
        tgid: u64,
    }

    /// By address of the mm_struct, or by process id where there is no `exit_mmap`.
    #[map]
    static VICTIMS: HashMap<u64, Victim> = HashMap::with_max_entries(1024, 0);

    /// 1 if this probe is attached: otherwise nobody would forget the victims again.
    #[unsafe(no_mangle)]
    static AWAIT_EXITS: Global<u32> = Global::new(0);

    /// Remembers a victim until its memory is back.
    #[inline(always)]
    pub(crate) fn await_exit(mm: u64, tgid: u32, killed_ns: u64) {
        if AWAIT_EXITS.load() == 0 {
            return;
        }
        let key = if HAVE_EXIT_MMAP.load() != 0 { mm } else { u64::from(tgid) };
        let victim = Victim { killed_ns, tgid: u64::from(tgid) };
        if VICTIMS.insert(key, victim, 0).is_err() {
            lost(Loss::VictimsFull);
        }
    }

    /// The victim behind `key`, if it is one, has given its memory back.
    #[inline(always)]
    fn gone(key: u64) {
        // SAFETY: the value is copied at once; an element freed meanwhile is at worst another
        // victim's, whose time differs by little.
        let Some(victim) = (unsafe { VICTIMS.get(key) }).copied() else { return };
        let now = track::now();
        // Several threads of a process may see that they are the last (5.10): one removes it.
        if VICTIMS.remove(key).is_err() {
            return;
        }
        // SAFETY: State is repr(C) and u64 only.
        if let Some(row) = unsafe { row::<State>(Id::victim_exit as u32) } {
            row.latency.observe(now.saturating_sub(victim.killed_ns));
        }
        ring::send(VictimExit {
            tag: Tag::VictimExit as u32,
            tgid: victim.tgid as u32,
            time_ns: now,
            killed_ns: victim.killed_ns,
        });
    }

    #[raw_tracepoint(tracepoint = "exit_mmap")]
    fn exit_mmap(ctx: RawTracePointContext) -> u32 {
        gone(args::get(&ctx, &ARG_EXIT_MM));
        0
    }

    #[raw_tracepoint(tracepoint = "sched_process_exit")]
    fn process_exit(_ctx: RawTracePointContext) -> u32 {
        let tid = task::tid();
        if let Some(bucket) = track::bucket(tid) {
            for slot in &bucket.0 {
                if slot.tid() == tid {
                    stall::settle(slot);
                }
            }
            if bucket.forget(tid) > 0 {
                lost(Loss::Abandoned);
            }
        }
        if HAVE_EXIT_MMAP.load() == 0 {
            let signal: u64 = read(task::current(), &OFF_TASK_SIGNAL);
            if read::<i32>(signal, &OFF_SIGNAL_LIVE) == 0 {
                gone(u64::from(task::tgid()));
            }
        }
        0
    }
}
