//! What keeps us answering while the host around us thrashes: memory that is never reclaimed, a
//! scheduling class that waits for nobody, and an OOM score that is looked at last.
//!
//! Not here: the files that are kept open (each beside its reader), and what a supervisor can do
//! (`deploy/memsensor.service`). Nothing here is needed to run. What cannot be had is said, for on that
//! host the answer may come late.

use std::{fmt, ptr};

use anyhow::{Context as _, Result, ensure};
use procfs::process::{MMPermissions, MMapPath, MemoryMap};
use rustix::{
    io::Errno,
    mm::{MlockAllFlags, mlock, mlockall},
    process::{Resource, Rlimit, getrlimit, setrlimit},
    thread::{CapabilitySet, capabilities},
};

/// The stack of each of our threads. All of it is in memory from the start.
pub const STACK_BYTES: usize = 256 << 10;

/// The heap that is in memory from the start, beyond what is in use then: answering a scrape takes a
/// few hundred KiB, `memsensor events` the most.
const RESERVE_BYTES: usize = 1 << 20;
const PIECE_BYTES: usize = 64 << 10;

/// The lowest real-time priority is above everybody who has none. Should we ever run wild, the kernel
/// leaves the others a twentieth of each second (kernel.sched_rt_runtime_us), and the supervisor's
/// watchdog ends us.
const PRIORITY: i32 = 1;

/// The kernel kills everybody else first; -1000 would have it panic rather than kill us.
const OOM_SCORE_ADJ: &str = "-999";

/// What was to be had, and what was not, each with what to do about it.
#[derive(Debug, Default)]
pub struct Hardening {
    had: Vec<&'static str>,
    missed: Vec<String>,
    /// Memory may be locked without a capability.
    lock_unlimited: bool,
}

impl Hardening {
    /// Takes what needs privileges, before they are dropped and before threads are started, which
    /// inherit the scheduling class.
    pub fn prepare() -> Self {
        let mut survival = Self::default();
        survival.note(
            "OOM score",
            std::fs::write("/proc/self/oom_score_adj", OOM_SCORE_ADJ)
                .context("set oom_score_adj (CAP_SYS_RESOURCE, or OOMScoreAdjust= in the unit)"),
        );
        survival.note(
            "real-time priority",
            real_time().context("SCHED_RR (CAP_SYS_NICE, or CPUSchedulingPolicy=rr in the unit)"),
        );
        let unlimited = Rlimit { current: None, maximum: None };
        survival.lock_unlimited = getrlimit(Resource::Memlock).current.is_none()
            || setrlimit(Resource::Memlock, unlimited).is_ok();
        survival
    }

    /// What must not be dropped for memory to stay locked: without it and with a limit, the next
    /// thread or allocation beyond the limit would fail.
    pub fn needs(&self) -> CapabilitySet {
        if self.lock_unlimited { CapabilitySet::empty() } else { CapabilitySet::IPC_LOCK }
    }

    /// Locks all of our memory, now and in future: code, heap with a reserve, and stacks. After
    /// everything large has been used and freed, and before threads are started.
    pub fn lock(&mut self) {
        let remedy = "lock memory (CAP_IPC_LOCK, or LimitMEMLOCK=infinity in the unit)";
        self.note("locked memory", self.lock_all().context(remedy));
    }

    fn lock_all(&self) -> Result<()> {
        keep_heap();
        // What start-up has used and freed is a hole in the heap: that is not to be filled again, while
        // all that is in memory now, or comes into it, stays.
        mlockall(MlockAllFlags::CURRENT | MlockAllFlags::ONFAULT)?;
        reserve();
        touch_stack();
        lock_files()?;
        let effective = capabilities(None)?.effective;
        ensure!(
            self.lock_unlimited || effective.contains(CapabilitySet::IPC_LOCK),
            "only what there is now is locked: what is needed later would fail at the limit"
        );
        // The second call changes nothing about what the first has locked (mm/mlock.c).
        Ok(mlockall(MlockAllFlags::FUTURE)?)
    }

    fn note(&mut self, what: &'static str, result: Result<()>) {
        match result {
            Ok(()) => self.had.push(what),
            Err(e) => self.missed.push(format!("{what}: {e:#}")),
        }
    }

    /// What could not be had, and why.
    pub fn missed(&self) -> impl Iterator<Item = &str> {
        self.missed.iter().map(String::as_str)
    }
}

impl fmt::Display for Hardening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.had.is_empty() { "nothing" } else { "" })?;
        f.write_str(&self.had.join(", "))
    }
}

/// Bytes of ours in memory, and those of them that stay there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footprint {
    /// Resident.
    pub resident: u64,
    /// Of address space that is locked; guard pages and what is reserved for growth count as well.
    pub locked: u64,
}

impl Footprint {
    /// Ours, from /proc/self/status.
    pub fn now() -> Option<Self> {
        let status = procfs::process::Process::myself().ok()?.status().ok()?;
        Some(Self { resident: status.vmrss? * 1024, locked: status.vmlck? * 1024 })
    }
}

/// Gives back what start-up used, then never again: memory that was given back would have to be got
/// anew, which is what may take seconds on a host without any. One arena, for each reserves an address
/// space that would count as locked.
#[allow(unsafe_code, reason = "the allocator has no other knobs")]
fn keep_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: these only change how malloc deals with free memory, under its own locks.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::malloc_trim(0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
        libc::mallopt(libc::M_MMAP_MAX, 0);
    }
}

/// Brings free heap into memory: in pieces that fit anywhere, all held at once.
fn reserve() {
    let pieces: Vec<_> = (0..RESERVE_BYTES / PIECE_BYTES).map(|_| vec![1u8; PIECE_BYTES]).collect();
    std::hint::black_box(&pieces);
}

/// Brings our code and that of the libraries into memory, all of it: what is first needed in an
/// emergency must not be read from a disk then.
#[allow(unsafe_code, reason = "rustix cannot know that we own no pointer into these")]
fn lock_files() -> Result<()> {
    for map in procfs::process::Process::myself()?.maps()? {
        if !is_lockable(&map) {
            continue;
        }
        let (from, to) = (usize::try_from(map.address.0)?, usize::try_from(map.address.1)?);
        // SAFETY: mlock changes no memory and no mapping, only whether it may be reclaimed; a range
        // that is not mapped any more is an error.
        unsafe { mlock(ptr::without_provenance_mut(from), to - from)? };
    }
    Ok(())
}

/// A file's, and not one that only keeps a place free (as the loader does between parts of a library): what
/// nobody may touch cannot be brought into memory, and mlock fails there.
fn is_lockable(map: &MemoryMap) -> bool {
    let access = MMPermissions::READ | MMPermissions::WRITE | MMPermissions::EXECUTE;
    matches!(map.pathname, MMapPath::Path(_)) && map.perms.intersects(access)
}

/// Grows the main thread's stack, which the kernel otherwise does page by page as it is used.
#[inline(never)]
#[allow(clippy::large_stack_arrays, reason = "that is what it is for")]
fn touch_stack() {
    let mut stack = [0u8; STACK_BYTES];
    // Without this, nothing need be on the stack at all.
    std::hint::black_box(&mut stack);
}

/// Round robin with others of the same priority, for this thread and those it starts. Beside the
/// processor, this gives access to a part of the memory below the watermarks
/// (`gfp_to_alloc_flags`, mm/page_alloc.c): the sockets of an answer need not wait for reclaim.
fn real_time() -> Result<(), Errno> {
    schedule(libc::SCHED_RR, PRIORITY)
}

/// Has the calling thread wait its turn like everybody else's: for work that nobody waits for. Giving
/// priority away needs no privilege.
pub fn wait_your_turn() -> Result<(), Errno> {
    schedule(libc::SCHED_OTHER, 0)
}

#[allow(unsafe_code, reason = "no safe wrapper among our dependencies")]
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
    fn only_what_may_be_touched_of_files_is_locked() {
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
