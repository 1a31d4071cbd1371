//! SIGKILL from user space: a process, not the kernel, kills another process.
//!
//! earlyoom and nohang send SIGTERM first, and most of their victims end by that. So SIGTERM counts
//! too, but only from known OOM daemons: others send it to stop a service.
//!
//! `signal_generate` (kernel/signal.c, __send_signal_locked) fires for every signal; the program
//! returns at once unless it is one of these two and was delivered. `info` shows the kind of sender:
//! SEND_SIG_PRIV (1) is the kernel itself (the OOM killer, for example) and not counted here;
//! SEND_SIG_NOINFO (0) is the kernel on behalf of a process (`cgroup.kill`); otherwise si_code <= 0
//! is a process (SI_FROMUSER). `current` is the sender.
//!
//! The parent-death signal of a child is sent in the second way: if it is SIGKILL, it counts as
//! sent by the exiting parent.
//!
//! A sender is known by its thread name, which any process can set: it is a label, not a proof,
//! and must not displace OOM kills in the ring. So events are limited to one per 10 ms on the
//! whole host: a limit per CPU would let threads of that name on many CPUs fill the ring.
//!
//! Kernels: all from 5.10 on.

use core::mem::offset_of;

use crate::{
    layout,
    loss::Loss,
    spec::{Arg, Field, Label, MAX_SENDERS, Metric, Need, Probe, Program, Shape, Unit},
};

/// Members that describe a task, and si_code.
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
    about: "SIGKILL sent by a process: earlyoom, systemd-oomd, the kubelet, a shell",
    programs: &[Program {
        name: "kill_signal",
        event: "signal:signal_generate",
        args: &[
            Arg::int("sig", "ARG_KILL_SIG"),
            Arg::ptr("info", "ARG_KILL_INFO", "kernel_siginfo"),
            Arg::ptr("task", "ARG_KILL_TASK", "task_struct"),
            Arg::int("result", "ARG_KILL_RESULT"),
        ],
        one_of: &[],
        fields: &FIELDS,
        need: Need::Required,
    }],
    metrics: &[Metric {
        name: "kill_signals",
        unit: Unit::None,
        help: "SIGKILLs sent by processes, and SIGTERMs by known OOM daemons, by thread name of \
               the sender",
        shape: Shape::Counter { at: offset_of!(State, by_sender) / 8 },
        labels: &[Label::Sender],
    }],
    losses: &[Loss::RingFull, Loss::RateLimited],
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

    use super::{PROBE, State};
    use crate::{
        bpf::{
            args, clock,
            count::{Counters, row},
            lost::lost,
            read::{Probed, read},
            ring, task,
        },
        event::{COMM, KillSignal, Tag},
        layout::{OFF_SIGINFO_CODE, OFF_TASK_TGID},
        loss::Loss,
        probe_id::Id,
        spec::{MAX_SENDERS, Probe, SENDER_WITH_EVENT},
    };

    // SAFETY: repr(C) and u64 only.
    unsafe impl Counters for State {
        const ID: Id = Id::kill_signal;
        const PROBE: &'static Probe = &PROBE;
    }

    const SIGKILL: u32 = 9;
    const SIGTERM: u32 = 15;
    const SEND_SIG_NOINFO: u64 = 0;
    const SEND_SIG_PRIV: u64 = 1;
    /// include/trace/events/signal.h
    const TRACE_SIGNAL_DELIVERED: u32 = 0;
    /// Shortest time between two events.
    const EVENT_GAP_NS: u64 = 10_000_000;

    args::arg_global!(ARG_KILL_SIG, ARG_KILL_INFO, ARG_KILL_TASK, ARG_KILL_RESULT);

    /// Index in `by_sender` by thread name, with `SENDER_WITH_EVENT` for known OOM daemons.
    #[map]
    static SENDERS: HashMap<[u8; COMM], u32> = HashMap::with_max_entries(MAX_SENDERS as u32, 0);

    /// Time of the last event, on any CPU.
    #[map]
    static SIGNAL_SENT: Array<u64> = Array::with_max_entries(1, 0);

    /// Whether an event may be sent at `now`; if so, it counts as sent. If two CPUs call it
    /// within a few nanoseconds, both may get true: one more event does no harm.
    #[inline(always)]
    fn may_send(now: u64) -> bool {
        let Some(sent) = SIGNAL_SENT.get_ptr_mut(0) else { return false };
        // SAFETY: a map value of this type, aligned, any bits of which are valid. Volatile, because
        // other CPUs write it too.
        let sent_ns = unsafe { sent.read_volatile() };
        if now.saturating_sub(sent_ns) < EVENT_GAP_NS {
            return false;
        }
        // SAFETY: as above.
        unsafe { sent.write_volatile(now) };
        true
    }

    /// Sends the event of a signal by the current task, or counts it as lost.
    #[inline(always)]
    fn send(sender_index: u32, target: u64, signal: u32) {
        let now = clock::now();
        if !may_send(now) {
            lost!(State, Loss::RateLimited, "target process", read::<u32>(target, &OFF_TASK_TGID));
            return;
        }
        let event = KillSignal {
            tag: Tag::KillSignal as u32,
            sender_index,
            time_ns: now,
            sender: task::describe::<Probed>(task::current()),
            target: task::describe::<Probed>(target),
            signal,
            unused: 0,
        };
        let tgid = event.target.tgid;
        ring::send::<State, _>(event, tgid);
    }

    #[raw_tracepoint(tracepoint = "signal_generate")]
    fn kill_signal(ctx: RawTracePointContext) -> u32 {
        let signal = args::get(&ctx, &ARG_KILL_SIG) as u32;
        if (signal != SIGKILL && signal != SIGTERM)
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
        let is_oom_daemon = known & SENDER_WITH_EVENT != 0;
        if signal == SIGTERM && !is_oom_daemon {
            return 0;
        }
        let index = known & !SENDER_WITH_EVENT;
        let Some(row) = row::<State>() else { return 0 };
        if let Some(n) = row.by_sender.get_mut(index as usize) {
            *n += 1;
        }
        if is_oom_daemon {
            send(index, args::get(&ctx, &ARG_KILL_TASK), signal);
        }
        0
    }
}
