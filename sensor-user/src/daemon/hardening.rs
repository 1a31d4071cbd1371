//! Keeps response times short while the host thrashes: locked memory, a real-time scheduling class,
//! and an OOM score that makes the OOM killer select other processes first.
//!
//! None of it is required to run. The daemon reports measures that are not available, because
//! answers may then be late.
//!
//! Not here: files that are kept open (each reader opens its own), and settings of the supervisor
//! (`deploy/memsensor.service`).

use std::{fmt, ptr};

use anyhow::{Context as _, Result, ensure};
use procfs::process::{MMPermissions, MMapPath, MemoryMap};
use rustix::{
    io::Errno,
    mm::{MlockAllFlags, mlock, mlockall},
    process::{Resource, Rlimit, getrlimit, setrlimit},
    thread::{CapabilitySet, capabilities},
};

/// Stack of each thread, resident from the start.
pub const STACK_BYTES: usize = 256 << 10;

/// Free heap that is made resident at the start: a scrape needs a few hundred KiB, `memsensor
/// events` the most.
const RESERVE_BYTES: usize = 1 << 20;
const PIECE_BYTES: usize = 64 << 10;

/// The lowest real-time priority is above all normal ones. If a thread loops, the kernel leaves
/// other processes a twentieth of each second (kernel.sched_rt_runtime_us), and the supervisor's
/// watchdog restarts the daemon.
const PRIORITY: i32 = 1;

/// The kernel kills every other process first. With -1000 it would panic instead of killing this
/// process.
const OOM_SCORE_ADJ: &str = "-999";

/// Measures in effect, and unavailable ones with a remedy.
#[derive(Debug, Default)]
pub struct Hardening {
    active: Vec<&'static str>,
    unavailable: Vec<String>,
    /// Whether memory can be locked without a capability.
    lock_unlimited: bool,
}

impl Hardening {
    /// Applies the measures that need privileges. Call it before privileges are dropped, and before
    /// threads are started, which inherit the scheduling class.
    pub fn prepare() -> Self {
        let mut hardening = Self::default();
        hardening.note(
            "OOM score",
            std::fs::write("/proc/self/oom_score_adj", OOM_SCORE_ADJ)
                .context("set oom_score_adj (CAP_SYS_RESOURCE, or OOMScoreAdjust= in the unit)"),
        );
        hardening.note(
            "real-time priority",
            real_time().context("SCHED_RR (CAP_SYS_NICE, or CPUSchedulingPolicy=rr in the unit)"),
        );
        let unlimited = Rlimit { current: None, maximum: None };
        hardening.lock_unlimited = getrlimit(Resource::Memlock).current.is_none()
            || setrlimit(Resource::Memlock, unlimited).is_ok();
        hardening
    }

    /// Capabilities that must be kept for memory to stay locked: without them and with a limit, the
    /// next thread or allocation beyond the limit would fail.
    pub fn needs(&self) -> CapabilitySet {
        if self.lock_unlimited { CapabilitySet::empty() } else { CapabilitySet::IPC_LOCK }
    }

    /// Locks all present and future memory: code, heap with a reserve, and stacks. Call it when the
    /// large allocations of the start have been freed, and before threads are started.
    pub fn lock(&mut self) {
        let remedy = "lock memory (CAP_IPC_LOCK, or LimitMEMLOCK=infinity in the unit)";
        self.note("locked memory", self.lock_all().context(remedy));
    }

    fn lock_all(&self) -> Result<()> {
        keep_heap();
        // ONFAULT: pages that are resident now, or become so later, stay; freed heap of the start
        // does not become resident again.
        mlockall(MlockAllFlags::CURRENT | MlockAllFlags::ONFAULT)?;
        reserve();
        touch_stack();
        lock_files()?;
        let effective = capabilities(None)?.effective;
        ensure!(
            self.lock_unlimited || effective.contains(CapabilitySet::IPC_LOCK),
            "only present memory is locked: allocations beyond the limit would fail"
        );
        // The second call changes nothing about what the first has locked (mm/mlock.c).
        Ok(mlockall(MlockAllFlags::FUTURE)?)
    }

    fn note(&mut self, measure: &'static str, result: Result<()>) {
        match result {
            Ok(()) => self.active.push(measure),
            Err(e) => self.unavailable.push(format!("{measure}: {e:#}")),
        }
    }

    /// Unavailable measures, with reasons.
    pub fn unavailable(&self) -> impl Iterator<Item = &str> {
        self.unavailable.iter().map(String::as_str)
    }
}

impl fmt::Display for Hardening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.active.is_empty() { "nothing" } else { "" })?;
        f.write_str(&self.active.join(", "))
    }
}

/// Limits malloc to one arena, because each arena reserves address space that counts as locked. Call
/// it before the first thread is started: a thread takes an arena with its first allocation.
#[allow(unsafe_code, reason = "malloc has no safe interface for this setting")]
pub fn use_one_arena() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it only changes where malloc takes memory from, under its own locks.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Returns the freed heap of the start to the kernel, and prevents malloc from returning heap after
/// that: allocating it again may take seconds on a host without free memory.
#[allow(unsafe_code, reason = "malloc has no safe interface for these settings")]
fn keep_heap() {
    use_one_arena();
    #[cfg(target_env = "gnu")]
    // SAFETY: these only change how malloc handles free memory, under its own locks.
    unsafe {
        libc::malloc_trim(0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
        libc::mallopt(libc::M_MMAP_MAX, 0);
    }
}

/// Makes free heap resident: allocates small pieces, which fit into any hole, and frees them
/// together.
fn reserve() {
    let pieces: Vec<_> = (0..RESERVE_BYTES / PIECE_BYTES).map(|_| vec![1u8; PIECE_BYTES]).collect();
    std::hint::black_box(&pieces);
}

/// Makes all code of the binary and of libraries resident: code that runs for the first time under
/// memory pressure must not be read from a disk.
#[allow(unsafe_code, reason = "rustix requires that the caller owns the mapped memory")]
fn lock_files() -> Result<()> {
    for map in procfs::process::Process::myself()?.maps()? {
        if !is_lockable(&map) {
            continue;
        }
        let (from, to) = (usize::try_from(map.address.0)?, usize::try_from(map.address.1)?);
        // SAFETY: mlock changes no memory and no mapping, only whether pages may be reclaimed; a
        // range that is no longer mapped is an error.
        unsafe { mlock(ptr::without_provenance_mut(from), to - from)? };
    }
    Ok(())
}

/// Whether a map is of a file and accessible. The loader reserves inaccessible ranges between parts
/// of a library, where mlock fails.
fn is_lockable(map: &MemoryMap) -> bool {
    let access = MMPermissions::READ | MMPermissions::WRITE | MMPermissions::EXECUTE;
    matches!(map.pathname, MMapPath::Path(_)) && map.perms.intersects(access)
}

/// Makes the main thread's stack resident; otherwise the kernel grows it page by page on use.
#[inline(never)]
#[allow(clippy::large_stack_arrays, reason = "the array has the size of the stack")]
fn touch_stack() {
    let mut stack = [0u8; STACK_BYTES];
    // Without this, the compiler may remove the array.
    std::hint::black_box(&mut stack);
}

/// Sets real-time priority (round robin) for this thread and the threads that it starts. Real-time
/// tasks may also use a part of the memory below the watermarks (`gfp_to_alloc_flags`,
/// mm/page_alloc.c), so that sockets do not wait for reclaim.
fn real_time() -> Result<(), Errno> {
    schedule(libc::SCHED_RR, PRIORITY)
}

/// Sets normal priority for the calling thread, for work that no response waits for. Needs no
/// privilege.
pub fn normal_priority() -> Result<(), Errno> {
    schedule(libc::SCHED_OTHER, 0)
}

#[allow(unsafe_code, reason = "no dependency has a safe wrapper")]
fn schedule(policy: i32, priority: i32) -> Result<(), Errno> {
    let param = libc::sched_param { sched_priority: priority };
    // SAFETY: `param` is valid for the call, which only reads it; 0 is the calling thread.
    let failed = unsafe { libc::sched_setscheduler(0, policy, &raw const param) } != 0;
    if failed { Err(last_error()) } else { Ok(()) }
}

fn last_error() -> Errno {
    let code = std::io::Error::last_os_error().raw_os_error();
    Errno::from_raw_os_error(code.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use procfs::{FromBufRead as _, process::MemoryMaps};

    use super::*;

    #[test]
    fn only_accessible_maps_of_files_are_locked() {
        let maps = "\
            5000-6000 r--p 00000000 fe:01 7 /usr/lib/libc.so.6\n\
            6000-7000 --xp 00001000 fe:01 7 /usr/lib/libc.so.6\n\
            7000-8000 ---p 00002000 fe:01 7 /usr/lib/libc.so.6\n\
            8000-9000 -w-s 00003000 fe:01 7 /usr/lib/libc.so.6\n\
            9000-a000 rw-p 00000000 00:00 0 \n\
            a000-b000 rw-p 00000000 00:00 0 [heap]\n";
        let maps = MemoryMaps::from_buf_read(maps.as_bytes()).expect("maps");
        let locked = maps.iter().filter(|map| is_lockable(map)).map(|map| map.address.0);
        assert_eq!(locked.collect::<Vec<_>>(), [0x5000, 0x6000, 0x8000]);
    }
}
