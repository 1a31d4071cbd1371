//! Records of rare events, as they cross the ring buffer: an OOM kill, the exit of its victim, a
//! signal by which a user-space OOM killer kills, a cgroup created or removed.
//!
//! `repr(C)`, integers and byte arrays only, no implicit padding (bytemuck's derive checks that
//! when the host half is compiled). Names in records are set by processes: attacker-controlled
//! bytes.

/// Bytes of a task's name in the kernel, NUL included.
pub const COMM: usize = 16;

/// Bytes of a cgroup's path, NUL included. A Kubernetes container has about 200; longer paths are
/// cut.
pub const PATH: usize = 256;

/// A task in an event.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
#[cfg_attr(not(target_arch = "bpf"), derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct Task {
    /// Process id (the kernel's tgid), in the initial pid namespace.
    pub tgid: u32,
    /// Thread id (the kernel's pid), in the initial pid namespace.
    pub tid: u32,
    /// User id in the initial user namespace.
    pub uid: u32,
    /// -1000 to 1000.
    pub oom_score_adj: i32,
    /// Id of the cgroup that memory is charged to.
    pub cgroup: u64,
    /// Name of the thread, NUL-padded.
    pub comm: [u8; COMM],
}

/// Sizes of an address space.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
#[cfg_attr(not(target_arch = "bpf"), derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct Sizes {
    /// Resident anonymous pages.
    pub anon_pages: u64,
    /// Resident file pages.
    pub file_pages: u64,
    /// Resident shared-memory pages.
    pub shmem_pages: u64,
    /// Swapped-out pages.
    pub swap_pages: u64,
    /// Page tables in bytes.
    pub pgtables_bytes: u64,
}

/// A process with memory of its own, as the iterator over tasks writes it; not an event.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
#[cfg_attr(not(target_arch = "bpf"), derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct Process {
    /// The process. `tid` differs from `tgid` after the main thread has ended: then each other
    /// thread is written, and all of these records are one process.
    pub task: Task,
    /// Start time in CLOCK_BOOTTIME nanoseconds: together with the process id it is unique.
    pub start_ns: u64,
    /// Its memory.
    pub sizes: Sizes,
}

/// Type of a record; its first word.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tag {
    /// [`OomKill`].
    OomKill = 1,
    /// [`VictimExit`].
    VictimExit = 2,
    /// [`KillSignal`].
    KillSignal = 3,
    /// [`CgroupMade`].
    CgroupMade = 4,
    /// [`CgroupGone`].
    CgroupGone = 5,
}

/// The kernel's OOM killer killed a process.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
#[cfg_attr(not(target_arch = "bpf"), derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct OomKill {
    /// [`Tag::OomKill`].
    pub tag: u32,
    /// Type of the kill: 0 = global (the host ran out of memory), 1 = memcg (a memory cgroup
    /// reached its limit).
    pub memcg: u32,
    /// CLOCK_MONOTONIC nanoseconds.
    pub time_ns: u64,
    /// CLOCK_MONOTONIC nanoseconds at which the trigger's last reclaim ended; 0 = none is known.
    pub reclaim_ended_ns: u64,
    /// The killed task.
    pub victim: Task,
    /// The task whose allocation failed.
    pub trigger: Task,
    /// The victim's address space in pages.
    pub total_vm_pages: u64,
    /// The victim's memory.
    pub sizes: Sizes,
    /// 1 if the members below are known.
    pub has_context: u32,
    /// Order of the failed allocation; -1 for sysrq-f.
    pub order: i32,
    /// Its GFP flags.
    pub gfp_flags: u32,
    /// The kernel's `enum oom_constraint`.
    pub constraint: u32,
}

/// A victim's memory was freed.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
#[cfg_attr(not(target_arch = "bpf"), derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct VictimExit {
    /// [`Tag::VictimExit`].
    pub tag: u32,
    /// Process id of the victim.
    pub tgid: u32,
    /// CLOCK_MONOTONIC nanoseconds.
    pub time_ns: u64,
    /// CLOCK_MONOTONIC nanoseconds of the kill.
    pub killed_ns: u64,
}

/// A known user-space killer (earlyoom, systemd-oomd, ...) sent SIGKILL or SIGTERM.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
#[cfg_attr(not(target_arch = "bpf"), derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct KillSignal {
    /// [`Tag::KillSignal`].
    pub tag: u32,
    /// Index of the configured sender, from 1.
    pub sender_index: u32,
    /// CLOCK_MONOTONIC nanoseconds.
    pub time_ns: u64,
    /// The task that sent it.
    pub sender: Task,
    /// The task that received it.
    pub target: Task,
    /// Number of the signal: 9 or 15.
    pub signal: u32,
    /// 0.
    pub unused: u32,
}

/// A cgroup was created in the hierarchy that charges memory.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
#[cfg_attr(not(target_arch = "bpf"), derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct CgroupMade {
    /// [`Tag::CgroupMade`].
    pub tag: u32,
    /// Bytes of the path with its NUL, at most [`PATH`]. As an `i32`, negative if the path could
    /// not be read.
    pub path_len: u32,
    /// Its id: the inode number of its directory.
    pub id: u64,
    /// From the root of the hierarchy, NUL-terminated. Bytes after the NUL are from older records.
    pub path: [u8; PATH],
}

/// A cgroup was removed.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
#[cfg_attr(not(target_arch = "bpf"), derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct CgroupGone {
    /// [`Tag::CgroupGone`].
    pub tag: u32,
    /// 0.
    pub unused: u32,
    /// Its id.
    pub id: u64,
}
