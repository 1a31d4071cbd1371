//! OOM kills: the kernel ran out of memory, selected a process and killed it.
//!
//! `oom:mark_victim` (mm/oom_kill.c, mark_oom_victim) is not the same as a kill: it also fires for
//! a task that is already exiting and only gets access to the reserves. `__oom_kill_process`
//! counts the kill (vmstat `oom_kill`), sends SIGKILL with SEND_SIG_PRIV and calls
//! mark_oom_victim, in this order, under the victim's task lock. So a kill is a SIGKILL from the
//! kernel itself to a task, followed by mark_victim of the same task by the same current. This
//! pair is counted, so the count agrees with vmstat. Other processes that share the victim's
//! memory get SIGKILL after mark_victim and are not counted; the kernel does not count them
//! either.
//!
//! The task lock is a spinlock, so both halves run on one CPU, and no other task sends a signal
//! there in between (with PREEMPT_RT one could). So the first half is kept per CPU: in the table
//! of in-flight tasks it would be lost when its bucket is full of reclaiming tasks.
//!
//! The pair has a second use: old kernels pass only a pid to mark_victim (5.10.0 to 5.10.218, and
//! up to 6.8 without backports), and the signal event has the task of that pid.
//!
//! `current` is the *trigger*: the task whose allocation failed. Everything about the victim is
//! read from the victim's own task_struct. No tracepoint has the type of the kill (global or
//! memcg) or the parameters of the failed allocation. `oom_kill_process` (mm/oom_kill.c) has both
//! in its `struct oom_control`, and every kill happens inside it, also the several kills of one
//! `memory.oom.group`. The kernel runs one OOM killer at a time (`oom_lock`), so `oom_context`
//! keeps one record. A kill uses the record if its own task wrote it and has not reclaimed since.
//! Otherwise the type follows from the trigger's last reclaim: the memcg charge path reclaims its
//! cgroup before it calls the OOM killer, the page allocator reclaims globally, and no reclaim at
//! all (sysrq-f) is global. That is wrong if the kernel skipped our program at that reclaim. The
//! constraint is passed on as it is and does not change the type.
//!
//! Not every kill of type global means that the host ran out of memory. An allocation that a cpuset
//! or a memory policy binds to some NUMA nodes fails when these are full, and sysrq-f asks for a kill
//! without any allocation (order -1). Where `oom_context` shows one of them, the kill does not count
//! in the word that the host's verdict reads.
//!
//! Kernels: all from 5.10 on; `oom_context` on those with BPF trampolines (x86_64; arm64 tested
//! from 6.12 on).

use core::mem::offset_of;

use crate::{
    layout,
    loss::Loss,
    spec::{Arg, Field, Label, Metric, Need, Probe, Program, Shape, Unit},
};

const FIELDS: [Field; 20] = {
    let mut fields = [layout::MM_TOTAL_VM; 20];
    let (_, rest) = fields.split_at_mut(1);
    rest.copy_from_slice(&layout::TASK_AND_SIZES);
    fields
};

/// The part of the host's memory that the failed allocation was allowed to use.
pub const CONSTRAINT: Label = Label::KernelEnum {
    key: "constraint",
    ty: "oom_constraint",
    prefix: "CONSTRAINT_",
    len: 8,
};

/// First of the words that count kills: those of type `global`, then `memcg`.
pub const KILLS_WORD: usize = offset_of!(State, kills) / 8;

/// The word that counts the kills of type `global` that show that the host ran out of memory.
pub const HOST_KILLS_WORD: usize = offset_of!(State, of_host) / 8;

/// See the module.
pub const PROBE: Probe = Probe {
    name: "oom_kill",
    about: "processes killed by the kernel's OOM killer: victim, trigger, sizes, cgroup",
    programs: &[
        Program {
            name: "oom_sigkill",
            event: "signal:signal_generate",
            args: &[
                Arg::int("sig", "ARG_OOM_SIG"),
                Arg::ptr("info", "ARG_OOM_INFO", "kernel_siginfo"),
                Arg::ptr("task", "ARG_OOM_TARGET", "task_struct"),
            ],
            one_of: &[],
            fields: &[],
            need: Need::Required,
        },
        Program {
            name: "mark_victim",
            event: "oom:mark_victim",
            args: &[],
            one_of: &[
                Arg::ptr("task", "ARG_VICTIM_TASK", "task_struct"),
                Arg::int("pid", "ARG_VICTIM_PID"),
            ],
            fields: &FIELDS,
            need: Need::Required,
        },
        Program {
            name: "oom_context",
            event: "fentry:oom_kill_process",
            args: &[Arg::ptr("oc", "ARG_OOM_CONTROL", "oom_control")],
            one_of: &[],
            fields: &[
                layout::OOM_ORDER,
                layout::OOM_GFP_MASK,
                layout::OOM_MEMCG,
                layout::OOM_CONSTRAINT,
            ],
            need: Need::Optional {
                lost: "order, gfp flags and constraint of OOM kills are unknown",
                present: None,
                metrics: &[],
            },
        },
    ],
    metrics: &[Metric {
        name: "oom_kills",
        unit: Unit::None,
        help: "Processes killed by the kernel's OOM killer, by type: global (the host ran out of \
               memory) or memcg (a memory cgroup reached its limit)",
        shape: Shape::Counter { at: KILLS_WORD },
        labels: &[Label::Fixed { key: "type", values: &["global", "memcg"] }],
    }],
    losses: &[Loss::RingFull],
};

#[repr(C)]
struct State {
    /// By type: global, memcg.
    kills: [u64; 2],
    /// Of type global, neither bound to a part of the host nor asked for by sysrq-f.
    of_host: u64,
}

#[cfg(any(target_arch = "bpf", kernel_check))]
mod kernel {
    use aya_ebpf::{
        macros::{fentry, map, raw_tracepoint},
        maps::{Array, PerCpuArray},
        programs::{FEntryContext, RawTracePointContext},
    };

    use super::{PROBE, State};
    use crate::{
        bpf::{
            args, clock,
            count::{Counters, row},
            inflight,
            read::{Probed, read},
            ring, task,
        },
        event::{OomKill, Tag},
        layout::{
            OFF_MM_TOTAL_VM, OFF_OOM_CONSTRAINT, OFF_OOM_GFP_MASK, OFF_OOM_MEMCG, OFF_OOM_ORDER,
            OFF_TASK_MM, OFF_TASK_PID,
        },
        probe_id::Id,
        probes::victim_exit,
        spec::Probe,
    };

    // SAFETY: repr(C) and u64 only.
    unsafe impl Counters for State {
        const ID: Id = Id::oom_kill;
        const PROBE: &'static Probe = &PROBE;
    }

    const SIGKILL: u32 = 9;
    const SEND_SIG_PRIV: u64 = 1;

    args::arg_global!(
        ARG_OOM_SIG,
        ARG_OOM_INFO,
        ARG_OOM_TARGET,
        ARG_VICTIM_TASK,
        ARG_VICTIM_PID,
        ARG_OOM_CONTROL
    );

    /// A SIGKILL from the kernel itself.
    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Sigkill {
        sent_ns: u64,
        /// Thread id of the sender; 0 = none.
        tid: u64,
        /// The task_struct of the receiver.
        target: u64,
    }

    /// The last one on each CPU. Most are not followed by mark_victim and are overwritten.
    #[map]
    static SIGKILLS: PerCpuArray<Sigkill> = PerCpuArray::with_max_entries(1, 0);

    /// The allocation that the OOM killer was last called for.
    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Context {
        /// Time of the call; 0 = unknown.
        called_ns: u64,
        tid: u32,
        order: i32,
        gfp_flags: u32,
        constraint: u32,
        /// 1 if a memory cgroup reached its limit.
        memcg: u64,
    }

    #[map]
    static OOM_CONTEXT: Array<Context> = Array::with_max_entries(1, 0);

    #[fentry(function = "oom_kill_process")]
    fn oom_context(ctx: FEntryContext) -> u32 {
        let control = args::get(&ctx, &ARG_OOM_CONTROL);
        let Some(place) = OOM_CONTEXT.get_ptr_mut(0) else { return 0 };
        let context = Context {
            called_ns: clock::now(),
            tid: task::tid(),
            order: read(control, &OFF_OOM_ORDER),
            gfp_flags: read(control, &OFF_OOM_GFP_MASK),
            constraint: read(control, &OFF_OOM_CONSTRAINT),
            memcg: u64::from(read::<u64>(control, &OFF_OOM_MEMCG) != 0),
        };
        // SAFETY: a map value of this type; the caller holds oom_lock, so no other task writes it.
        unsafe { place.write(context) };
        0
    }

    /// `CONSTRAINT_NONE` of `enum oom_constraint`, its first value: no limit but the host's memory.
    const CONSTRAINT_NONE: u32 = 0;
    /// `oom_control.order` of a kill that sysrq-f asked for (is_sysrq_oom, mm/oom_kill.c).
    const ORDER_SYSRQ: i32 = -1;

    const UNKNOWN: Context =
        Context { called_ns: 0, tid: 0, order: 0, gfp_flags: 0, constraint: 0, memcg: 0 };

    /// The last call of the OOM killer, if this task made it and has not reclaimed since.
    ///
    /// Not an `Option`: the compiler leaves the payload of a `None` unwritten and may read it all
    /// the same, which the verifier of 5.10 rejects.
    #[inline(always)]
    fn context(tid: u32, last_reclaim_ns: u64) -> Context {
        let Some(place) = OOM_CONTEXT.get_ptr(0) else { return UNKNOWN };
        // SAFETY: a map value of this type, any bits of which are valid; if another task writes it
        // now, the thread id differs from ours.
        let context = unsafe { place.read() };
        if context.tid == tid && context.called_ns > last_reclaim_ns { context } else { UNKNOWN }
    }

    #[raw_tracepoint(tracepoint = "signal_generate")]
    fn oom_sigkill(ctx: RawTracePointContext) -> u32 {
        if args::get(&ctx, &ARG_OOM_SIG) as u32 == SIGKILL
            && args::get(&ctx, &ARG_OOM_INFO) == SEND_SIG_PRIV
        {
            let tid = u64::from(task::tid());
            let target = args::get(&ctx, &ARG_OOM_TARGET);
            if let Some(place) = SIGKILLS.get_ptr_mut(0) {
                // SAFETY: a map value of this type, this CPU's own.
                unsafe { place.write(Sigkill { sent_ns: clock::now(), tid, target }) };
            }
        }
        0
    }

    /// Removes and returns the last SIGKILL on this CPU, if `tid` sent it.
    #[inline(always)]
    fn take_sigkill(tid: u32) -> Option<Sigkill> {
        // SAFETY: a map value of this type, this CPU's own, any bits of which are valid.
        let place = unsafe { &mut *SIGKILLS.get_ptr_mut(0)? };
        if place.tid != u64::from(tid) {
            return None;
        }
        let sigkill = *place;
        place.tid = 0;
        Some(sigkill)
    }

    /// Whether mark_victim is about the task `victim`.
    #[inline(always)]
    fn is_about(ctx: &RawTracePointContext, victim: u64) -> bool {
        if args::has(&ARG_VICTIM_TASK) {
            args::get(ctx, &ARG_VICTIM_TASK) == victim
        } else {
            let pid = args::get(ctx, &ARG_VICTIM_PID) as u32;
            read::<u32>(victim, &OFF_TASK_PID) == pid
        }
    }

    #[raw_tracepoint(tracepoint = "mark_victim")]
    fn mark_victim(ctx: RawTracePointContext) -> u32 {
        let tid = task::tid();
        let Some(bucket) = inflight::bucket(tid) else { return 0 };
        let now = clock::now();
        let Some(sigkill) = take_sigkill(tid) else { return 0 };
        let victim = sigkill.target;
        if !is_about(&ctx, victim) {
            return 0;
        }
        let reclaim = bucket.last_reclaim(tid);
        if reclaim.is_some_and(|r| r.ended_ns > sigkill.sent_ns) {
            // Between the two halves of a kill there is no reclaim: the SIGKILL was sent because
            // the task shares an earlier victim's memory, and it now gets access to the reserves
            // to exit.
            return 0;
        }
        let reclaim_ended_ns = reclaim.map_or(0, |r| r.ended_ns);
        let context = context(tid, reclaim_ended_ns);
        let known = context.called_ns != 0;
        let memcg = if known {
            context.memcg as u32
        } else {
            u32::from(reclaim.is_some_and(|r| r.memcg))
        };
        if let Some(row) = row::<State>() {
            row.kills[memcg as usize & 1] += 1;
            // These are 0 where the context is unknown: such a kill counts.
            let of_part = context.constraint != CONSTRAINT_NONE || context.order == ORDER_SYSRQ;
            if memcg == 0 && !of_part {
                row.of_host += 1;
            }
        }
        let mm: u64 = read(victim, &OFF_TASK_MM);
        let event = OomKill {
            tag: Tag::OomKill as u32,
            memcg,
            time_ns: now,
            reclaim_ended_ns,
            victim: task::describe::<Probed>(victim),
            trigger: task::describe::<Probed>(task::current()),
            total_vm_pages: read(mm, &OFF_MM_TOTAL_VM),
            sizes: task::sizes::<Probed>(mm),
            has_context: u32::from(known),
            order: context.order,
            gfp_flags: context.gfp_flags,
            constraint: context.constraint,
        };
        let victim_pid = event.victim.tgid;
        victim_exit::await_exit(mm, victim_pid, now);
        ring::send::<State, _>(event, victim_pid);
        0
    }
}
