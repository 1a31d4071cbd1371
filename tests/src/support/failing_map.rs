//! One BPF map of a running process that cannot be read: as a debugger, the lookups of that map get
//! another descriptor, and fail with EBADF. strace does not distinguish maps.
//!
//! Not here: system calls that fail for every argument (`failing_calls`).

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    os::unix::fs::FileExt as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use aya::maps::loaded_maps;

/// Commands of bpf(2) that read a map (include/uapi/linux/bpf.h).
const READS: [u64; 2] = [1, 4];

/// What ptrace reports about the system call of a stopped thread (PTRACE_SYSCALL_INFO_ENTRY).
const ENTRY: u8 = 1;

/// A stop by a system call (PTRACE_O_TRACESYSGOOD).
const SYSCALL_STOP: i32 = libc::SIGTRAP | 0x80;

/// A map that cannot be read until this is dropped.
#[derive(Debug)]
pub struct FailingMap {
    is_over: Arc<AtomicBool>,
    tracer: Option<JoinHandle<Result<usize>>>,
}

impl FailingMap {
    /// Makes the map of this name fail in all threads of the process.
    pub fn begin(pid: u32, map: &str) -> Result<Self> {
        let fds = descriptors(pid, map)?;
        ensure!(!fds.is_empty(), "process {pid} has no map {map}");
        let is_over = Arc::new(AtomicBool::new(false));
        let (attached, is_attached) = mpsc::channel();
        let over = Arc::clone(&is_over);
        // Only the thread that attaches may control the others.
        let tracer = thread::spawn(move || {
            let mut tracer = Tracer::attach(pid, fds)?;
            let _ = attached.send(());
            tracer.run(&over)
        });
        let failing = Self { is_over, tracer: Some(tracer) };
        match is_attached.recv() {
            Ok(()) => Ok(failing),
            Err(_) => Err(failing.end().err().context("the tracer has ended")?),
        }
    }

    /// Lets the map be read again; returns how many reads have failed.
    pub fn end(mut self) -> Result<usize> {
        self.detach().context("it has ended before")?
    }

    fn detach(&mut self) -> Option<Result<usize>> {
        self.is_over.store(true, Ordering::Relaxed);
        Some(self.tracer.take()?.join().unwrap_or_else(|_| Ok(0)))
    }
}

impl Drop for FailingMap {
    fn drop(&mut self) {
        let _ = self.detach();
    }
}

/// The descriptors that the process has of the map.
fn descriptors(pid: u32, map: &str) -> Result<BTreeSet<i32>> {
    let named = loaded_maps().filter_map(Result::ok);
    let named = named.filter(|info| info.name_as_str() == Some(map)).map(|info| info.id());
    let ids: BTreeSet<_> = named.map(|id| id.to_string()).collect();
    let mut fds = BTreeSet::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo")).context("list descriptors")? {
        let path = entry?.path();
        let Ok(info) = fs::read_to_string(&path) else { continue };
        let id = info.lines().find_map(|line| line.strip_prefix("map_id:")).map(str::trim);
        let fd = path.file_name().and_then(|name| name.to_str()?.parse::<i32>().ok());
        fds.extend(fd.filter(|_| id.is_some_and(|id| ids.contains(id))));
    }
    Ok(fds)
}

/// A call of ptrace(2) without a result beyond success.
fn ptrace(request: libc::c_uint, tid: i32, data: i64) -> std::io::Result<()> {
    // SAFETY: these requests take numbers only, and the kernel checks that the thread is ours.
    let result = unsafe { libc::ptrace(request, tid, 0_i64, data) };
    if result == -1 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}

struct Tracer {
    /// Memory of the process.
    memory: File,
    fds: BTreeSet<i32>,
    threads: BTreeSet<i32>,
    /// Calls under way with another descriptor: by thread, the address of it and the right one.
    changed: BTreeMap<i32, (u64, i32)>,
    failed: usize,
}

impl Tracer {
    fn attach(pid: u32, fds: BTreeSet<i32>) -> Result<Self> {
        let memory = File::options().read(true).write(true).open(format!("/proc/{pid}/mem"));
        let memory = memory.context("open the memory of the process")?;
        let mut threads = BTreeSet::new();
        for entry in fs::read_dir(format!("/proc/{pid}/task")).context("list threads")? {
            let tid: i32 = entry?.file_name().to_string_lossy().parse()?;
            ptrace(libc::PTRACE_SEIZE, tid, libc::PTRACE_O_TRACESYSGOOD.into())
                .with_context(|| format!("attach to thread {tid}"))?;
            ptrace(libc::PTRACE_INTERRUPT, tid, 0)?;
            threads.insert(tid);
        }
        Ok(Self { memory, fds, threads, changed: BTreeMap::new(), failed: 0 })
    }

    /// Until it is over and all threads run freely. Returns the number of failed reads.
    fn run(&mut self, is_over: &AtomicBool) -> Result<usize> {
        let mut is_ending = false;
        while !self.threads.is_empty() {
            if is_over.load(Ordering::Relaxed) && !is_ending {
                is_ending = true;
                for tid in &self.threads {
                    let _ = ptrace(libc::PTRACE_INTERRUPT, *tid, 0);
                }
            }
            let mut status = 0;
            let flags = libc::__WALL | libc::__WNOTHREAD | libc::WNOHANG;
            // SAFETY: the kernel writes the status of one of this thread's own tracees.
            let tid = unsafe { libc::waitpid(-1, &raw mut status, flags) };
            if tid <= 0 {
                thread::sleep(Duration::from_micros(50));
            } else if libc::WIFSTOPPED(status) {
                self.stopped(tid, status, is_ending)?;
            } else {
                self.threads.remove(&tid);
            }
        }
        Ok(self.failed)
    }

    /// Lets a stopped thread continue, after a change where it is due.
    fn stopped(&mut self, tid: i32, status: i32, is_ending: bool) -> Result<()> {
        let signal = libc::WSTOPSIG(status);
        if signal == SYSCALL_STOP {
            self.syscall(tid)?;
        }
        let is_event = status >> 16 != 0;
        let passed = if signal == SYSCALL_STOP || is_event { 0 } else { signal };
        if is_ending && !self.changed.contains_key(&tid) {
            self.threads.remove(&tid);
            let _ = ptrace(libc::PTRACE_DETACH, tid, passed.into());
        } else {
            // It fails if the thread was killed meanwhile.
            let _ = ptrace(libc::PTRACE_SYSCALL, tid, passed.into());
        }
        Ok(())
    }

    /// Replaces the descriptor before the call, and restores it after.
    fn syscall(&mut self, tid: i32) -> Result<()> {
        if let Some((address, fd)) = self.changed.remove(&tid) {
            self.failed += 1;
            return Ok(self.memory.write_all_at(&fd.to_ne_bytes(), address)?);
        }
        let Some([number, command, address]) = entered(tid)? else { return Ok(()) };
        if number != libc::SYS_bpf.cast_unsigned() || !READS.contains(&command) {
            return Ok(());
        }
        // The first member of what these commands read.
        let mut fd = [0; 4];
        self.memory.read_exact_at(&mut fd, address)?;
        let fd = i32::from_ne_bytes(fd);
        if self.fds.contains(&fd) {
            self.memory.write_all_at(&(-1_i32).to_ne_bytes(), address)?;
            self.changed.insert(tid, (address, fd));
        }
        Ok(())
    }
}

/// Number and first two arguments of the system call that a thread has just entered; `None` if it
/// has just left one.
fn entered(tid: i32) -> Result<Option<[u64; 3]>> {
    // SAFETY: it consists of integers, for which zeros are valid.
    let mut info: libc::ptrace_syscall_info = unsafe { std::mem::zeroed() };
    let size = size_of_val(&info);
    // SAFETY: the kernel writes at most so many bytes to `info`.
    let result = unsafe { libc::ptrace(libc::PTRACE_GET_SYSCALL_INFO, tid, size, &raw mut info) };
    ensure!(result > 0, "system call: {}", std::io::Error::last_os_error());
    if info.op != ENTRY {
        return Ok(None);
    }
    // SAFETY: `op` says that the kernel has filled in this member of the union.
    let entry = unsafe { info.u.entry };
    Ok(Some([entry.nr, entry.args[0], entry.args[1]]))
}
