//! Reads tasks: the current one, and the one that an event points at.

use aya_ebpf::{
    Global,
    helpers::{
        bpf_get_current_cgroup_id, bpf_get_current_pid_tgid, bpf_get_current_task,
        generated::bpf_get_current_task_btf,
    },
};

use super::read::{Member, Probed, Typed};
use crate::{
    event::{Sizes, Task},
    layout::{
        OFF_CGROUP_KN, OFF_CRED_UID, OFF_CSET_DFL_CGRP, OFF_CSET_MEMORY, OFF_CSS_CGROUP,
        OFF_KERNFS_ID, OFF_MM_ANON_PAGES, OFF_MM_FILE_PAGES, OFF_MM_PGTABLES, OFF_MM_SHMEM_PAGES,
        OFF_MM_SWAP_PAGES, OFF_SIGNAL_ADJ, OFF_TASK_CGROUPS, OFF_TASK_COMM, OFF_TASK_CRED,
        OFF_TASK_FLAGS, OFF_TASK_NVCSW, OFF_TASK_PID, OFF_TASK_SIGNAL, OFF_TASK_TGID,
    },
};

/// 1 if the memory controller is on a cgroup v1 hierarchy.
#[unsafe(no_mangle)]
static MEMORY_ON_V1: Global<u32> = Global::new(0);

/// 1 if the kernel has `bpf_get_current_task_btf` (5.11).
#[unsafe(no_mangle)]
static HAVE_TASK_BTF: Global<u32> = Global::new(0);

/// `PF_KTHREAD`, include/linux/sched.h, the same since 2.6.
const PF_KTHREAD: u32 = 0x0020_0000;

/// `PF_MEMALLOC`, include/linux/sched.h, the same since 2.6: the task frees memory.
const PF_MEMALLOC: u32 = 0x0000_0800;

/// The current task_struct with its type; only where `HAVE_TASK_BTF` is 1.
#[inline(always)]
fn typed_current() -> u64 {
    // SAFETY: the helper takes no arguments and always succeeds.
    (unsafe { bpf_get_current_task_btf() }) as u64
}

/// Thread id of the current task.
#[inline(always)]
pub(crate) fn tid() -> u32 {
    bpf_get_current_pid_tgid() as u32
}

/// Process id of the current task.
#[inline(always)]
pub(crate) fn tgid() -> u32 {
    (bpf_get_current_pid_tgid() >> 32) as u32
}

/// Address of the current task_struct.
#[inline(always)]
pub(crate) fn current() -> u64 {
    // SAFETY: the helper takes no arguments and always succeeds.
    unsafe { bpf_get_current_task() }
}

/// Whether the current task is a kernel thread.
#[inline(always)]
pub(crate) fn is_kernel_thread() -> bool {
    if HAVE_TASK_BTF.load() != 0 {
        is_kernel::<Typed>(typed_current())
    } else {
        is_kernel::<Probed>(current())
    }
}

/// Voluntary context switches of the current task: the number of times it went to sleep.
#[inline(always)]
pub(crate) fn sleeps() -> u64 {
    if HAVE_TASK_BTF.load() != 0 {
        Typed::long(typed_current(), &OFF_TASK_NVCSW)
    } else {
        Probed::long(current(), &OFF_TASK_NVCSW)
    }
}

/// Id of the cgroup that the current task's memory is charged to.
#[inline(always)]
pub(crate) fn current_cgroup() -> u64 {
    if MEMORY_ON_V1.load() == 0 {
        // SAFETY: the helper takes no arguments.
        return unsafe { bpf_get_current_cgroup_id() };
    }
    if HAVE_TASK_BTF.load() != 0 {
        cgroup_of::<Typed>(typed_current())
    } else {
        cgroup_of::<Probed>(current())
    }
}

/// Address of the cgroup that a task's memory is charged to.
#[inline(always)]
pub(crate) fn memory_cgroup<M: Member>(task: u64) -> u64 {
    let set = M::long(task, &OFF_TASK_CGROUPS);
    if MEMORY_ON_V1.load() == 0 {
        return M::long(set, &OFF_CSET_DFL_CGRP);
    }
    M::long(M::long(set, &OFF_CSET_MEMORY), &OFF_CSS_CGROUP)
}

/// A cgroup's id.
#[inline(always)]
pub(crate) fn cgroup_id<M: Member>(cgroup: u64) -> u64 {
    M::long(M::long(cgroup, &OFF_CGROUP_KN), &OFF_KERNFS_ID)
}

/// Id of the cgroup that a task's memory is charged to.
#[inline(always)]
pub(crate) fn cgroup_of<M: Member>(task: u64) -> u64 {
    cgroup_id::<M>(memory_cgroup::<M>(task))
}

/// Sizes of an address space.
#[inline(always)]
pub(crate) fn sizes<M: Member>(mm: u64) -> Sizes {
    // Between per-CPU batches such a counter may be slightly negative.
    let pages = |offset| M::resident(mm, offset).cast_signed().max(0) as u64;
    Sizes {
        anon_pages: pages(&OFF_MM_ANON_PAGES),
        file_pages: pages(&OFF_MM_FILE_PAGES),
        shmem_pages: pages(&OFF_MM_SHMEM_PAGES),
        swap_pages: pages(&OFF_MM_SWAP_PAGES),
        pgtables_bytes: M::long(mm, &OFF_MM_PGTABLES),
    }
}

/// Whether a task is a kernel thread.
#[inline(always)]
pub(crate) fn is_kernel<M: Member>(task: u64) -> bool {
    M::word(task, &OFF_TASK_FLAGS) & PF_KTHREAD != 0
}

/// Whether a task frees memory, and may use the reserves for that.
#[inline(always)]
pub(crate) fn is_reclaiming<M: Member>(task: u64) -> bool {
    M::word(task, &OFF_TASK_FLAGS) & PF_MEMALLOC != 0
}

/// Describes a task.
#[inline(always)]
pub(crate) fn describe<M: Member>(task: u64) -> Task {
    let adj = M::half(M::long(task, &OFF_TASK_SIGNAL), &OFF_SIGNAL_ADJ);
    Task {
        tgid: M::word(task, &OFF_TASK_TGID),
        tid: M::word(task, &OFF_TASK_PID),
        uid: M::word(M::long(task, &OFF_TASK_CRED), &OFF_CRED_UID),
        oom_score_adj: i32::from(adj.cast_signed()),
        cgroup: cgroup_of::<M>(task),
        comm: M::name(task, &OFF_TASK_COMM),
    }
}
