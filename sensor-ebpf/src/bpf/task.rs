//! Reading tasks: the current one, and the one that an event points at.

use aya_ebpf::{
    Global,
    helpers::{
        bpf_get_current_cgroup_id, bpf_get_current_pid_tgid, bpf_get_current_task,
        generated::{bpf_get_current_task_btf, bpf_probe_read_kernel},
    },
};

use crate::{
    event::{COMM, Sizes, Task},
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

/// Reads a member of the kernel structure at `base`; 0 if the address cannot be read.
///
/// The helper fills with zeros what it cannot read (kernel/trace/bpf_trace.c,
/// bpf_probe_read_kernel_common, since 5.5), so there is nothing to branch on: twenty reads with a
/// branch each are more paths than the verifier of 6.1 walks.
#[inline(always)]
pub(crate) fn read<T: Copy + Default>(base: u64, offset: &Global<u32>) -> T {
    let mut value = T::default();
    // SAFETY: `value` is as large as told; the helper checks the address itself.
    unsafe {
        bpf_probe_read_kernel(
            (&raw mut value).cast(),
            size_of::<T>() as u32,
            (base + u64::from(offset.load())) as *const _,
        );
    }
    value
}

/// Declares a read of a member through a pointer whose type the verifier knows: one instruction, a
/// fault reads as 0. Four of these cost what one bpf_probe_read_kernel does.
///
/// The offset is in frozen read-only data, so to the verifier it is a constant, which it checks
/// against the type. Only assembly keeps the compiler from folding it into the access.
macro_rules! typed_read {
    ($name:ident, $size:literal) => {
        #[inline(always)]
        fn $name(base: u64, offset: &Global<u32>) -> u64 {
            let at = base + u64::from(offset.load());
            #[cfg(target_arch = "bpf")]
            // SAFETY: the verifier checks pointer, offset and size against the type in BTF.
            unsafe {
                let value: u64;
                core::arch::asm!(
                    concat!("{value} = *(", $size, " *)({at} + 0)"),
                    at = in(reg) at,
                    value = lateout(reg) value,
                    options(readonly, nostack, preserves_flags),
                );
                value
            }
            #[cfg(not(target_arch = "bpf"))]
            at
        }
    };
}
typed_read!(typed_u32, "u32");
typed_read!(typed_u64, "u64");

/// The current task_struct, as the verifier knows it; only where there is `HAVE_TASK_BTF`.
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
        return typed_u32(typed_current(), &OFF_TASK_FLAGS) as u32 & PF_KTHREAD != 0;
    }
    is_kernel(current())
}

/// How often the current task has gone to sleep.
#[inline(always)]
pub(crate) fn sleeps() -> u64 {
    if HAVE_TASK_BTF.load() != 0 {
        typed_u64(typed_current(), &OFF_TASK_NVCSW)
    } else {
        read(current(), &OFF_TASK_NVCSW)
    }
}

/// Id of the cgroup that the current task's memory is charged to.
#[inline(always)]
pub(crate) fn current_cgroup() -> u64 {
    if MEMORY_ON_V1.load() == 0 {
        // SAFETY: the helper takes no arguments.
        return unsafe { bpf_get_current_cgroup_id() };
    }
    if HAVE_TASK_BTF.load() == 0 {
        return cgroup_of(current());
    }
    let css = typed_u64(typed_u64(typed_current(), &OFF_TASK_CGROUPS), &OFF_CSET_MEMORY);
    let cgroup = typed_u64(css, &OFF_CSS_CGROUP);
    typed_u64(typed_u64(cgroup, &OFF_CGROUP_KN), &OFF_KERNFS_ID)
}

/// Address of the cgroup that a task's memory is charged to.
#[inline(always)]
pub(crate) fn memory_cgroup(task: u64) -> u64 {
    let set: u64 = read(task, &OFF_TASK_CGROUPS);
    if MEMORY_ON_V1.load() == 0 {
        return read(set, &OFF_CSET_DFL_CGRP);
    }
    read(read(set, &OFF_CSET_MEMORY), &OFF_CSS_CGROUP)
}

/// A cgroup's id.
#[inline(always)]
pub(crate) fn cgroup_id(cgroup: u64) -> u64 {
    read(read(cgroup, &OFF_CGROUP_KN), &OFF_KERNFS_ID)
}

/// Id of the cgroup that a task's memory is charged to.
#[inline(always)]
pub(crate) fn cgroup_of(task: u64) -> u64 {
    cgroup_id(memory_cgroup(task))
}

/// What an address space holds.
#[inline(always)]
pub(crate) fn sizes(mm: u64) -> Sizes {
    Sizes {
        anon_pages: pages(mm, &OFF_MM_ANON_PAGES),
        file_pages: pages(mm, &OFF_MM_FILE_PAGES),
        shmem_pages: pages(mm, &OFF_MM_SHMEM_PAGES),
        swap_pages: pages(mm, &OFF_MM_SWAP_PAGES),
        pgtables_bytes: read(mm, &OFF_MM_PGTABLES),
    }
}

/// Such a counter may be a little below zero between per-CPU batches.
#[inline(always)]
fn pages(mm: u64, offset: &Global<u32>) -> u64 {
    read::<i64>(mm, offset).max(0) as u64
}

/// Whether a task is a kernel thread.
#[inline(always)]
pub(crate) fn is_kernel(task: u64) -> bool {
    read::<u32>(task, &OFF_TASK_FLAGS) & PF_KTHREAD != 0
}

/// Describes a task for an event.
#[inline(always)]
pub(crate) fn describe(task: u64) -> Task {
    Task {
        tgid: read(task, &OFF_TASK_TGID),
        tid: read(task, &OFF_TASK_PID),
        uid: read(read(task, &OFF_TASK_CRED), &OFF_CRED_UID),
        oom_score_adj: i32::from(read::<i16>(read(task, &OFF_TASK_SIGNAL), &OFF_SIGNAL_ADJ)),
        cgroup: cgroup_of(task),
        comm: read::<[u8; COMM]>(task, &OFF_TASK_COMM),
    }
}
