//! Memory pressure on the whole guest, undone on drop.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use super::{hog, meminfo_mib};

/// Disables swap until dropped.
pub(crate) struct NoSwap;

const SWAP: &str = "/dev/vda";

impl NoSwap {
    pub(crate) fn new() -> Self {
        let status = Command::new("swapoff").arg(SWAP).status().expect("swapoff");
        assert!(status.success(), "swapoff {SWAP}: {status}");
        Self
    }
}

impl Drop for NoSwap {
    fn drop(&mut self) {
        let _ = Command::new("swapon").arg(SWAP).status();
    }
}

/// Moves swap to the slow disk until dropped: then waits for swap outweigh the slowness of the
/// emulation.
pub(crate) struct SlowSwap {
    /// Dropped last, which restores the fast swap.
    _fast: NoSwap,
}

const SLOW: &str = "/dev/vdc";
const SLOW_DIR: &str = "/slow";

impl SlowSwap {
    pub(crate) fn new() -> Self {
        let slow = Self { _fast: NoSwap::new() };
        for words in [&["umount", SLOW_DIR][..], &["mkswap", SLOW], &["swapon", SLOW]] {
            run(words);
        }
        slow
    }
}

impl Drop for SlowSwap {
    fn drop(&mut self) {
        for words in [
            &["swapoff", SLOW][..],
            &["mke2fs", "-F", SLOW],
            &["mount", "-t", "ext4", SLOW, SLOW_DIR],
        ] {
            run(words);
        }
    }
}

fn run(words: &[&str]) {
    let status = Command::new(words[0]).args(&words[1..]).stdout(Stdio::null()).status();
    assert!(status.is_ok_and(|s| s.success()), "{words:?}");
}

/// Disables the multi-generational LRU until dropped, because it never throttles for a congested
/// disk. Does nothing on kernels without it.
pub(crate) struct NoMglru {
    was: Option<String>,
}

const MGLRU: &str = "/sys/kernel/mm/lru_gen/enabled";

impl NoMglru {
    pub(crate) fn new() -> Self {
        let was = fs::read_to_string(MGLRU).ok();
        if was.is_some() {
            fs::write(MGLRU, "n").expect("switch MGLRU off");
        }
        Self { was }
    }
}

impl Drop for NoMglru {
    fn drop(&mut self) {
        if let Some(was) = &self.was {
            let _ = fs::write(MGLRU, was.trim());
        }
    }
}

/// A sysctl, restored on drop.
pub(crate) struct Sysctl {
    path: &'static str,
    was: u64,
}

impl Sysctl {
    pub(crate) fn set(path: &'static str, value: u64) -> Self {
        let was = super::number(path);
        super::set(path, value);
        Self { path, was }
    }
}

impl Drop for Sysctl {
    fn drop(&mut self) {
        let _ = fs::write(self.path, self.was.to_string());
    }
}

/// Hogs that together use more than available memory, for some seconds or until dropped.
pub(crate) struct SwapThrash(Vec<Child>);

impl SwapThrash {
    pub(crate) fn start(hogs: u64, seconds: u32) -> Self {
        assert!(meminfo_mib("SwapFree") >= 200, "the guest has no swap left");
        let mib = (meminfo_mib("MemAvailable") + 60) / hogs;
        let start = |_| hog(&["anon", &mib.to_string(), "loop", &seconds.to_string()]).spawn();
        Self((0..hogs).map(start).map(|child| child.expect("hog")).collect())
    }

    /// Whether all hogs run. Panics if one was killed.
    pub(crate) fn is_running(&mut self) -> bool {
        self.0.iter_mut().all(|child| match child.try_wait().expect("wait") {
            Some(status) => {
                assert_enough_swap(status);
                false
            }
            None => true,
        })
    }
}

fn assert_enough_swap(status: ExitStatus) {
    assert!(status.success(), "a hog ended with {status}: swap should have been enough");
}

impl Drop for SwapThrash {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Swap thrash for some seconds.
pub(crate) fn swap_thrash(hogs: u64, seconds: u32) {
    let mut thrash = SwapThrash::start(hogs, seconds);
    for child in &mut thrash.0 {
        assert_enough_swap(child.wait().expect("wait"));
    }
}

/// A hog that holds memory until dropped.
pub(crate) struct Holder(Child);

impl Holder {
    pub(crate) fn new(mib: u64) -> Self {
        let mut child =
            hog(&["anon", &mib.to_string(), "hold"]).stdout(Stdio::piped()).spawn().expect("hog");
        let mut line = String::new();
        let stdout = child.stdout.as_mut().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        assert_eq!(line.trim(), "touched", "the hog that should hold {mib} MiB has ended");
        Self(child)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A file in the page cache, removed on drop.
pub(crate) struct Cached(&'static str);

impl Drop for Cached {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.0);
    }
}

/// A hog that reads a file repeatedly until dropped.
pub(crate) struct Reader {
    child: Child,
    _file: Cached,
}

impl Reader {
    pub(crate) fn new(mib: u64) -> Self {
        let file = Cached("/tmp/read");
        let child = hog(&["file", file.0, &mib.to_string(), "1000"]).spawn().expect("hog");
        Self { child, _file: file }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Cache thrash: reads a file larger than the free memory, `passes` times. The rest of memory is
/// held and cannot be swapped out.
pub(crate) fn cache_thrash(passes: u32) -> Cached {
    const LEFT_MIB: u64 = 80;
    let _no_swap = NoSwap::new();
    let _holder = Holder::new(meminfo_mib("MemAvailable").saturating_sub(LEFT_MIB));
    let file = Cached("/tmp/cache");
    let mib = (LEFT_MIB * 2).to_string();
    let status = hog(&["file", file.0, &mib, &passes.to_string()]).status().expect("hog");
    assert!(status.success(), "the hog ended with {status}: page cache is always reclaimable");
    file
}

/// Makes half of memory dirty, which must be written to a slow disk before it can be reclaimed, and
/// allocates more than is free.
pub(crate) fn slow_disk() {
    let _no_swap = NoSwap::new();
    let _most = Sysctl::set("/proc/sys/vm/dirty_ratio", 90);
    let _background = Sysctl::set("/proc/sys/vm/dirty_background_ratio", 80);
    let dirty = meminfo_mib("MemAvailable") / 2;
    let file = Cached("/slow/dirty");
    let mut writer = hog(&["file", file.0, &dirty.to_string(), "1"]).spawn().expect("hog");
    let full = || meminfo_mib("Dirty") + meminfo_mib("Writeback") + 8 >= dirty;
    let end = Instant::now() + Duration::from_secs(20);
    while !full() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(20));
    }
    let holder = meminfo_mib("MemFree") + dirty / 4;
    hog(&["anon", &holder.to_string()]).status().expect("hog");
    writer.kill().expect("kill");
    writer.wait().expect("wait");
}

/// Allocates more than the guest has until it is killed; returns its process id. Without swap, to
/// be fast.
pub(crate) fn out_of_memory() -> u32 {
    let _no_swap = NoSwap::new();
    // Or the kernel would refuse the allocation.
    let _overcommit = Sysctl::set("/proc/sys/vm/overcommit_memory", 1);
    let mib = meminfo_mib("MemTotal") + 100;
    let mut victim = hog(&["anon", &mib.to_string()]).spawn().expect("hog");
    let status = victim.wait().expect("wait");
    let signal = std::os::unix::process::ExitStatusExt::signal(&status);
    assert_eq!(signal, Some(9), "the hog ended with {status}, it should have been killed");
    victim.id()
}
