//! Offsets of kernel structure members that programs read, resolved from BTF at start.
//!
//! rustc emits no CO-RE relocations, so user space looks each member up by name in the running
//! kernel's BTF and passes the offset to the programs as a global. If a member is not found, the
//! programs that need it are not attached; no offset is ever guessed.

#[cfg(any(target_arch = "bpf", kernel_check))]
use aya_ebpf::Global;

use crate::spec::Field;

macro_rules! fields {
    ($($(#[$doc:meta])* $name:ident, $global:ident = $path:literal;)*) => {
        $(
            $(#[$doc])*
            pub const $name: Field = Field { path: $path, global: stringify!($global) };
            #[cfg(any(target_arch = "bpf", kernel_check))]
            #[unsafe(no_mangle)]
            pub(crate) static $global: Global<u32> = Global::new(0);
        )*
    };
}

fields! {
    /// Thread id.
    TASK_PID, OFF_TASK_PID = "task_struct.pid";
    /// Process id.
    TASK_TGID, OFF_TASK_TGID = "task_struct.tgid";
    /// Thread name.
    TASK_COMM, OFF_TASK_COMM = "task_struct.comm";
    /// `PF_*` flags.
    TASK_FLAGS, OFF_TASK_FLAGS = "task_struct.flags";
    /// Main thread of the process.
    TASK_LEADER, OFF_TASK_LEADER = "task_struct.group_leader";
    /// Start time in CLOCK_BOOTTIME nanoseconds (since 5.5; the member had another name before).
    TASK_START, OFF_TASK_START = "task_struct.start_boottime";
    /// Address space; null for a kernel thread and an exiting task.
    TASK_MM, OFF_TASK_MM = "task_struct.mm";
    /// Completion that a vfork child signals once it has an address space of its own; null for
    /// every other task, and after exec.
    TASK_VFORK_DONE, OFF_TASK_VFORK_DONE = "task_struct.vfork_done";
    /// Shared by the threads of a process.
    TASK_SIGNAL, OFF_TASK_SIGNAL = "task_struct.signal";
    /// Credentials.
    TASK_CRED, OFF_TASK_CRED = "task_struct.cred";
    /// Voluntary context switches: the number of times the task went to sleep.
    TASK_NVCSW, OFF_TASK_NVCSW = "task_struct.nvcsw";
    /// The task's css_set.
    TASK_CGROUPS, OFF_TASK_CGROUPS = "task_struct.cgroups";
    /// Threads of the process that have not exited yet.
    SIGNAL_LIVE, OFF_SIGNAL_LIVE = "signal_struct.live";
    /// -1000 to 1000, a `short`.
    SIGNAL_OOM_SCORE_ADJ, OFF_SIGNAL_ADJ = "signal_struct.oom_score_adj";
    /// User id.
    CRED_UID, OFF_CRED_UID = "cred.uid";
    /// Address space in pages.
    MM_TOTAL_VM, OFF_MM_TOTAL_VM = "mm_struct.total_vm";
    /// Page tables in bytes.
    MM_PGTABLES, OFF_MM_PGTABLES = "mm_struct.pgtables_bytes";
    /// Resident file pages. An atomic_long before 6.2, a percpu_counter since (its `count` lags by
    /// at most one per-CPU batch; the kernel's own OOM report prints the same number).
    MM_FILE_PAGES, OFF_MM_FILE_PAGES = "mm_struct.rss_stat[MM_FILEPAGES]";
    /// Resident anonymous pages.
    MM_ANON_PAGES, OFF_MM_ANON_PAGES = "mm_struct.rss_stat[MM_ANONPAGES]";
    /// Swapped-out pages.
    MM_SWAP_PAGES, OFF_MM_SWAP_PAGES = "mm_struct.rss_stat[MM_SWAPENTS]";
    /// Resident shared-memory pages.
    MM_SHMEM_PAGES, OFF_MM_SHMEM_PAGES = "mm_struct.rss_stat[MM_SHMEMPAGES]";
    /// The css_set's cgroup on the default (v2) hierarchy.
    CSET_DFL_CGRP, OFF_CSET_DFL_CGRP = "css_set.dfl_cgrp";
    /// The css_set's state of the memory controller.
    CSET_MEMORY, OFF_CSET_MEMORY = "css_set.subsys[memory_cgrp_id]";
    /// The cgroup that a controller's state belongs to.
    CSS_CGROUP, OFF_CSS_CGROUP = "cgroup_subsys_state.cgroup";
    /// The hierarchy of the cgroup.
    CGROUP_ROOT, OFF_CGROUP_ROOT = "cgroup.root";
    /// The cgroup's node in cgroupfs.
    CGROUP_KN, OFF_CGROUP_KN = "cgroup.kn";
    /// The node's id, which is also its inode number.
    KERNFS_ID, OFF_KERNFS_ID = "kernfs_node.id";
    /// Why a signal was sent.
    SIGINFO_CODE, OFF_SIGINFO_CODE = "kernel_siginfo.si_code";
    /// Order of the failed allocation; -1 if there is none (sysrq-f).
    OOM_ORDER, OFF_OOM_ORDER = "oom_control.order";
    /// Its GFP flags.
    OOM_GFP_MASK, OFF_OOM_GFP_MASK = "oom_control.gfp_mask";
    /// The memory cgroup that reached its limit; null if the host ran out of memory.
    OOM_MEMCG, OFF_OOM_MEMCG = "oom_control.memcg";
    /// `enum oom_constraint`: the part of the host's memory that the allocation may use.
    OOM_CONSTRAINT, OFF_OOM_CONSTRAINT = "oom_control.constraint";
}

/// Members that describe a task and the sizes of its address space.
pub const TASK_AND_SIZES: [Field; 19] = {
    let [a, b, c, d, e, f] = CGROUP_OF_TASK;
    [
        TASK_PID,
        TASK_TGID,
        TASK_COMM,
        TASK_MM,
        TASK_CRED,
        CRED_UID,
        TASK_SIGNAL,
        SIGNAL_OOM_SCORE_ADJ,
        MM_PGTABLES,
        MM_FILE_PAGES,
        MM_ANON_PAGES,
        MM_SWAP_PAGES,
        MM_SHMEM_PAGES,
        a,
        b,
        c,
        d,
        e,
        f,
    ]
};

/// Members that lead from a task to the id of its cgroup.
pub const CGROUP_OF_TASK: [Field; 6] =
    [TASK_CGROUPS, CSET_DFL_CGRP, CSET_MEMORY, CSS_CGROUP, CGROUP_KN, KERNFS_ID];
