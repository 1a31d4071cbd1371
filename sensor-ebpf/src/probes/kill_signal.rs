//! SIGKILL from user space: somebody other than the kernel decided that a process must die.
//!
//! `signal_generate` (kernel/signal.c, __send_signal_locked) fires for every signal; the program
//! returns at once unless it is a SIGKILL that was delivered. Who sent it follows from `info`:
//! SEND_SIG_PRIV (1) is the kernel itself (the OOM killer among others) and not counted here;
//! SEND_SIG_NOINFO (0) is the kernel on behalf of a process (`cgroup.kill`); otherwise si_code <= 0
//! is a process (SI_FROMUSER). `current` is the sender.
//!
//! A child whose parent died gets its parent-death signal in the second way: if that is SIGKILL, it
//! counts as sent by the dying parent.
//!
//! A sender is known by its thread name, which any process may take: a label, not a proof, and no
//! reason to let it crowd out the record of OOM kills. So events are limited to one in 10 ms on the whole
//! machine: a gap per CPU would let a thread of that name on each of many CPUs fill the ring.

use core::mem::offset_of;

use crate::{
    layout,
    spec::{Arg, ArgType, Field, Label, MAX_SENDERS, Metric, Need, Probe, Program, Shape, Unit},
};

/// What describing a task reads, and si_code.
const FIELDS: [Field; 14] = {
    let [a, b, c, d, e, f] = layout::CGROUP_OF_TASK;
    [
        layout::SIGINFO_CODE,
        layout::TASK_PID,
        layout::TASK_TGID,
        layout::TASK_COMM,
        layout::TASK_CRED,
        layout::CRED_UID,
        layout::TASK_SIGNAL,
        layout::SIGNAL_OOM_SCORE_ADJ,
        a,
        b,
        c,
        d,
        e,
        f,
    ]
};

/// See the module.
pub const PROBE: Probe = Probe {
    name: "kill_signal",
    about: "SIGKILL sent by a process: earlyoom, systemd-oomd, the kubelet, a person",
    programs: &[Program {
        name: "kill_signal",
        event: "signal:signal_generate",
        args: &[
            Arg { param: "sig", global: "ARG_KILL_SIG", ty: ArgType::Int },
            Arg { param: "info", global: "ARG_KILL_INFO", ty: ArgType::Ptr("kernel_siginfo") },
            Arg { param: "task", global: "ARG_KILL_TASK", ty: ArgType::Ptr("task_struct") },
            Arg { param: "result", global: "ARG_KILL_RESULT", ty: ArgType::Int },
        ],
        one_of: &[],
        fields: &FIELDS,
        need: Need::Required,
    }],
    metrics: &[Metric {
        name: "kill_signals",
        unit: Unit::None,
        help: "SIGKILLs sent from user space, by the thread name of the sender",
        shape: Shape::Counter { at: offset_of!(State, by_sender) / 8 },
        labels: &[Label::Sender],
    }],
};

#[repr(C)]
struct State {
    by_sender: [u64; MAX_SENDERS],
}

#[cfg(any(target_arch = "bpf", kernel_check))]
mod kernel {
    use aya_ebpf::{
        EbpfContext as _,
        macros::{map, raw_tracepoint},
        maps::{Array, HashMap},
        programs::RawTracePointContext,
    };

    use super::State;
    use crate::{
        bpf::{
            args,
            count::{lost, row},
            read::{Probed, read},
            ring, task, track,
        },
        event::{COMM, KillSignal, Tag},
        layout::OFF_SIGINFO_CODE,
        loss::Loss,
        probes::Id,
        spec::{MAX_SENDERS, SENDER_WITH_EVENT},
    };

    const SIGKILL: u32 = 9;
    const SEND_SIG_NOINFO: u64 = 0;
    const SEND_SIG_PRIV: u64 = 1;
    /// include/trace/events/signal.h
    const TRACE_SIGNAL_DELIVERED: u32 = 0;
    /// Shortest time between two events.
    const EVENT_GAP_NS: u64 = 10_000_000;

    args::arg_global!(ARG_KILL_SIG, ARG_KILL_INFO, ARG_KILL_TASK, ARG_KILL_RESULT);

    /// Thread name to index in `by_sender`, `SENDER_WITH_EVENT` for known OOM daemons.
    #[map]
    static SENDERS: HashMap<[u8; COMM], u32> = HashMap::with_max_entries(MAX_SENDERS as u32, 0);

    /// When the last event was sent, by any CPU.
    #[map]
    static SIGNAL_SENT: Array<u64> = Array::with_max_entries(1, 0);

    /// Whether an event may be sent at `now`, which is then taken as sent. Two CPUs that ask in the same
    /// few nanoseconds may both be told so: one event more does no harm.
    #[inline(always)]
    fn may_send(now: u64) -> bool {
        let Some(sent) = SIGNAL_SENT.get_ptr_mut(0) else { return false };
        // SAFETY: a map value of this type, aligned, any bits of which are valid; volatile, for other
        // CPUs write it too.
        let sent_ns = unsafe { sent.read_volatile() };
        if now.saturating_sub(sent_ns) < EVENT_GAP_NS {
            return false;
        }
        // SAFETY: as above.
        unsafe { sent.write_volatile(now) };
        true
    }

    #[raw_tracepoint(tracepoint = "signal_generate")]
    fn kill_signal(ctx: RawTracePointContext) -> u32 {
        if args::get(&ctx, &ARG_KILL_SIG) as u32 != SIGKILL
            || args::get(&ctx, &ARG_KILL_RESULT) as u32 != TRACE_SIGNAL_DELIVERED
        {
            return 0;
        }
        let info = args::get(&ctx, &ARG_KILL_INFO);
        let from_user = match info {
            SEND_SIG_NOINFO => true,
            SEND_SIG_PRIV => false,
            _ => read::<i32>(info, &OFF_SIGINFO_CODE) <= 0,
        };
        if !from_user {
            return 0;
        }
        let known = match ctx.command() {
            // SAFETY: the map's entries are set before the program is attached and never removed.
            Ok(comm) => unsafe { SENDERS.get(comm) }.copied().unwrap_or(0),
            Err(_) => 0,
        };
        let index = known & !SENDER_WITH_EVENT;
        // SAFETY: State is repr(C) and u64 only.
        let Some(row) = (unsafe { row::<State>(Id::kill_signal as u32) }) else { return 0 };
        if let Some(n) = row.by_sender.get_mut(index as usize) {
            *n += 1;
        }
        if known & SENDER_WITH_EVENT != 0 {
            let now = track::now();
            if !may_send(now) {
                lost(Loss::RateLimited);
                return 0;
            }
            ring::send(KillSignal {
                tag: Tag::KillSignal as u32,
                sender_index: index,
                time_ns: now,
                sender: task::describe::<Probed>(task::current()),
                target: task::describe::<Probed>(args::get(&ctx, &ARG_KILL_TASK)),
            });
        }
        0
    }
}
