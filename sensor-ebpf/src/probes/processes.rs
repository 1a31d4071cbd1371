//! Processes with memory: sizes by kind of page, cgroup and start time of each.
//!
//! An iterator (kernel/bpf/task_iter.c): when user space reads, the kernel walks its tasks and
//! calls the program for each, so a pass costs a few system calls, where /proc costs several per
//! process. It shows the tasks of the reader's pid namespace.
//!
//! Sizes belong to the address space, which all threads share, so only the main thread of a
//! process is written; after its end, the other threads are (`Process::task`). Kernel threads have
//! no memory of their own, and exiting processes and zombies have none left: they are not written.
//! Nor is the child of a vfork (kernel/fork.c; posix_spawn uses it): until exec it runs in the
//! address space of its parent, on a thrashing disk possibly for long, and would look like a new
//! process with all of the parent's memory.
//!
//! The pass also ends stalls whose ends were missed. During reclaim and direct compaction the kernel
//! marks the task with PF_MEMALLOC (mm/page_alloc.c, __perform_reclaim; mm/vmscan.c,
//! try_to_free_mem_cgroup_pages). A task without the mark that has seemed to be inside for two
//! seconds is not inside. (A write to `/proc/sys/vm/compact_memory` has no mark: when one zone takes
//! longer, it is not counted.)
//!
//! The counters are those of the kernel's own OOM report. Since 6.2 each lags by at most one batch
//! per CPU (lib/percpu_counter.c: 32 pages, or twice the number of CPUs if that is more).
//!
//! Kernels: all from 5.10 on (the iterator is from 5.8).

use crate::{
    layout,
    loss::Loss,
    spec::{Field, Need, Probe, Program},
};

const FIELDS: [Field; 23] = {
    let mut fields = [layout::TASK_LEADER; 23];
    fields[1] = layout::TASK_START;
    fields[2] = layout::TASK_FLAGS;
    fields[3] = layout::TASK_VFORK_DONE;
    let (_, rest) = fields.split_at_mut(4);
    rest.copy_from_slice(&layout::TASK_AND_SIZES);
    fields
};

/// See the module.
pub const PROBE: Probe = Probe {
    name: "processes",
    about: "memory of every process, with its cgroup and start time",
    programs: &[Program {
        name: "process_table",
        event: "iter:task",
        args: &[],
        one_of: &[],
        fields: &FIELDS,
        need: Need::Required,
    }],
    metrics: &[],
    losses: &[Loss::UnmatchedBegin],
};

#[cfg(any(target_arch = "bpf", kernel_check))]
mod kernel {
    use aya_ebpf::{cty::c_void, helpers::generated::bpf_seq_write};

    use crate::{
        bpf::{
            clock, inflight, lost,
            read::{Member as _, Typed},
            task,
        },
        event::Process,
        layout::{
            OFF_TASK_LEADER, OFF_TASK_MM, OFF_TASK_PID, OFF_TASK_START, OFF_TASK_TGID,
            OFF_TASK_VFORK_DONE,
        },
        loss::Loss,
    };

    /// `struct bpf_iter__task`.
    #[repr(C)]
    struct Context {
        meta: *const Meta,
        /// Null at the end.
        task: *const c_void,
    }

    /// `struct bpf_iter_meta`: the output goes to `seq`.
    #[repr(C)]
    struct Meta {
        seq: *mut c_void,
    }

    /// Ends the stalls of a task that is not in reclaim.
    #[inline(always)]
    fn end_missed_stalls(task: u64) {
        if task::is_reclaiming::<Typed>(task) {
            return;
        }
        let tid = Typed::word(task, &OFF_TASK_PID);
        let Some(bucket) = inflight::bucket(tid) else { return };
        if bucket.end_missed(tid, clock::now()) > 0 {
            lost::record(super::PROBE.name, Loss::UnmatchedBegin, "thread", || tid.into());
        }
    }

    /// Without a macro: aya has none for iterators.
    #[unsafe(no_mangle)]
    #[unsafe(link_section = "iter/task")]
    extern "C" fn process_table(ctx: *const Context) -> u32 {
        // SAFETY: the kernel passes its own structure of this layout; the verifier checks it.
        let (meta, task) = unsafe { ((*ctx).meta, (*ctx).task as u64) };
        if task == 0 {
            return 0;
        }
        end_missed_stalls(task);
        if task::is_kernel::<Typed>(task) {
            return 0;
        }
        let mm = Typed::long(task, &OFF_TASK_MM);
        if mm == 0 {
            return 0;
        }
        if Typed::word(task, &OFF_TASK_PID) != Typed::word(task, &OFF_TASK_TGID)
            && Typed::long(Typed::long(task, &OFF_TASK_LEADER), &OFF_TASK_MM) != 0
        {
            return 0;
        }
        if Typed::long(task, &OFF_TASK_VFORK_DONE) != 0 {
            return 0;
        }
        let mut process = Process {
            task: task::describe::<Typed>(task),
            start_ns: Typed::long(task, &OFF_TASK_START),
            sizes: task::sizes::<Typed>(mm),
        };
        // SAFETY: `seq` comes from the kernel, and `process` has the given size. If the buffer is
        // full, the kernel itself notes it and calls again for the same task.
        unsafe {
            bpf_seq_write(
                (*meta).seq.cast(),
                (&raw mut process).cast(),
                size_of::<Process>() as u32,
            );
        }
        0
    }
}
