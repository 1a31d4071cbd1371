//! The system calls that the running daemon may make: a seccomp filter, also when no supervisor has
//! set one up.
//!
//! A call that is not on the list fails with EPERM. It does not end the process: a C library or a
//! kernel that needs another call must not take the sensor down. What an attacker would use is
//! impossible either way: other programs, new processes, BPF programs, mounts, modules, ptrace, new
//! executable memory, sockets for networks, other users and capabilities.
//!
//! The kernel logs a refused call, by its audit. The process cannot count them. For that it would
//! have to handle SIGSYS, by which a thread that blocks this signal would end the process
//! (force_sig_info_to_task, kernel/signal.c), or another process would have to answer each call.
//!
//! Not here: files (`sandbox`).

use std::{collections::BTreeMap, io};

use anyhow::{Context as _, Result, bail};
use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter, apply_filter_all_threads,
};

/// Calls that are allowed with any arguments.
const ALLOWED: &[c_long] = &[
    // Open files and sockets.
    libc::SYS_accept4,
    libc::SYS_close,
    libc::SYS_connect,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_fadvise64,
    libc::SYS_fallocate,
    libc::SYS_fcntl,
    libc::SYS_fdatasync,
    libc::SYS_flock,
    libc::SYS_fstat,
    libc::SYS_ftruncate,
    libc::SYS_getdents64,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_getxattr,
    libc::SYS_lseek,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_ppoll,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_read,
    libc::SYS_readlinkat,
    libc::SYS_readv,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    libc::SYS_statfs,
    libc::SYS_fstatfs,
    libc::SYS_statx,
    libc::SYS_unlinkat,
    libc::SYS_write,
    libc::SYS_writev,
    // Memory.
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_munmap,
    // Threads, time, signals.
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    // Allowed here, and answered by the other filter.
    libc::SYS_clone3,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getcpu,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_gettimeofday,
    libc::SYS_getuid,
    libc::SYS_membarrier,
    libc::SYS_nanosleep,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    // A thread lowers its priority; without CAP_SYS_NICE none can raise it.
    libc::SYS_sched_setscheduler,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    libc::SYS_sysinfo,
    libc::SYS_uname,
];

/// Older names of allowed calls, which newer architectures do not have.
#[cfg(target_arch = "x86_64")]
const OLD: &[c_long] = &[
    libc::SYS_epoll_wait,
    libc::SYS_lstat,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_rename,
    libc::SYS_stat,
    libc::SYS_time,
    libc::SYS_unlink,
];
#[cfg(not(target_arch = "x86_64"))]
const OLD: &[c_long] = &[];

/// Commands of bpf(2) (include/uapi/linux/bpf.h): reading and updating maps, information on
/// programs, and the iterator over processes.
const BPF_COMMANDS: [u64; 6] = [
    1,  // BPF_MAP_LOOKUP_ELEM
    3,  // BPF_MAP_DELETE_ELEM
    4,  // BPF_MAP_GET_NEXT_KEY
    15, // BPF_OBJ_GET_INFO_BY_FD
    28, // BPF_LINK_CREATE
    33, // BPF_ITER_CREATE
];

/// PR_SET_NAME, and PR_SET_VMA, by which malloc names its memory.
const PRCTL_OPTIONS: [u64; 2] = [15, 0x5356_4d41];

/// FIONBIO, FIOCLEX, and PERF_EVENT_IOC_DISABLE for the end of a kprobe.
const IOCTLS: [u64; 3] = [0x5421, 0x5451, 0x2401];

/// A condition on the lower half of an argument.
fn argument(index: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompCondition> {
    Ok(SeccompCondition::new(index, SeccompCmpArgLen::Dword, operator, value)?)
}

/// One rule for each allowed value of an argument.
fn one_of(index: u8, values: &[u64]) -> Result<Vec<SeccompRule>> {
    let rule = |value| Ok(SeccompRule::new(vec![argument(index, SeccompCmpOp::Eq, value)?])?);
    values.iter().map(|value| rule(*value)).collect()
}

/// Some bits of an argument must have these values.
fn bits(index: u8, mask: i32, value: i32) -> Result<Vec<SeccompRule>> {
    let [mask, value] = [mask, value].map(|bits| u64::from(bits.cast_unsigned()));
    let condition = argument(index, SeccompCmpOp::MaskedEq(mask), value)?;
    Ok(vec![SeccompRule::new(vec![condition])?])
}

/// Calls that are allowed with some arguments.
fn conditional() -> Result<Vec<(c_long, Vec<SeccompRule>)>> {
    let own_process = u64::from(std::process::id());
    let read_limit = SeccompRule::new(vec![argument(0, SeccompCmpOp::Eq, 0)?, null_pointer(2)?])?;
    Ok(vec![
        (libc::SYS_bpf, one_of(0, &BPF_COMMANDS)?),
        (libc::SYS_prctl, one_of(0, &PRCTL_OPTIONS)?),
        (libc::SYS_ioctl, one_of(1, &IOCTLS)?),
        (libc::SYS_clone, bits(0, libc::CLONE_THREAD, libc::CLONE_THREAD)?),
        (libc::SYS_mmap, bits(2, libc::PROT_EXEC, 0)?),
        (libc::SYS_mprotect, bits(2, libc::PROT_EXEC, 0)?),
        (libc::SYS_prlimit64, vec![read_limit]),
        // For the supervisor's socket.
        (libc::SYS_socket, one_of(0, &[u64::from(libc::AF_UNIX.cast_unsigned())])?),
        (libc::SYS_tgkill, one_of(0, &[own_process])?),
    ])
}

fn null_pointer(index: u8) -> Result<SeccompCondition> {
    Ok(SeccompCondition::new(index, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0)?)
}

/// The filters, in the order in which they are installed.
///
/// The flags of clone3 are in memory, which a filter cannot read, so it reports ENOSYS: the C
/// library then uses clone.
fn filters() -> Result<[BpfProgram; 2]> {
    let arch = std::env::consts::ARCH.try_into().context("this architecture is not supported")?;
    let compile = |rules: BTreeMap<_, _>, otherwise, matched| -> Result<BpfProgram> {
        Ok(SeccompFilter::new(rules, otherwise, matched, arch)?.try_into()?)
    };
    let errno = |code: i32| SeccompAction::Errno(code.cast_unsigned());
    let no_clone3 = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let mut allowed: BTreeMap<_, _> =
        ALLOWED.iter().chain(OLD).map(|call| (*call, Vec::new())).collect();
    allowed.extend(conditional()?);
    // The second filter could not be installed after one that forbids seccomp(2).
    Ok([
        compile(no_clone3, SeccompAction::Allow, errno(libc::ENOSYS))?,
        compile(allowed, errno(libc::EPERM), SeccompAction::Allow)?,
    ])
}

/// Whose system calls are restricted. A thread that is started later has its starter's filters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Threads {
    /// Those of this process.
    All,
    /// The calling one, for tests.
    This,
}

/// Restricts these threads, and those that they start.
pub fn restrict(threads: Threads) -> Result<()> {
    let [no_clone3, allowed] = filters()?;
    // This one also sets no_new_privs. What it refuses is expected, and not logged.
    match threads {
        Threads::All => apply_filter_all_threads(&no_clone3),
        Threads::This => apply_filter(&no_clone3),
    }
    .map_err(anyhow::Error::from)
    .and_then(|()| install_logged(&allowed, threads))
    .context("install the filter (CONFIG_SECCOMP_FILTER)")
}

/// Installs a filter, and makes the kernel log the calls that it refuses.
#[allow(unsafe_code, reason = "no dependency has a safe wrapper with the flag for the log")]
fn install_logged(filter: &BpfProgram, threads: Threads) -> Result<()> {
    let all = if threads == Threads::All { libc::SECCOMP_FILTER_FLAG_TSYNC } else { 0 };
    let flags = all | libc::SECCOMP_FILTER_FLAG_LOG;
    let len = filter.len().try_into().context("the filter is too long")?;
    // Instructions of seccompiler have the kernel's layout.
    let program = libc::sock_fprog { len, filter: filter.as_ptr().cast_mut().cast() };
    let operation = libc::SECCOMP_SET_MODE_FILTER;
    // SAFETY: the kernel copies `len` instructions, which `filter` has, and writes nothing.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, operation, flags, &raw const program) };
    match result {
        0 => Ok(()),
        -1 => Err(io::Error::last_os_error().into()),
        thread => bail!("thread {thread} has other filters"),
    }
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, process::Command};

    use super::*;

    /// A filter restricts a thread, so that a test can lose one.
    fn restricted<T: Send + 'static>(test: impl FnOnce() -> T + Send + 'static) -> T {
        let body = || {
            restrict(Threads::This).expect("installed");
            test()
        };
        std::thread::spawn(body).join().expect("no panic")
    }

    #[test]
    fn no_program_process_or_listener_can_be_started() {
        let is_forbidden = |result: io::Result<()>| {
            result.is_err_and(|e| e.kind() == io::ErrorKind::PermissionDenied)
        };
        let attempts = || {
            [
                Command::new("/bin/true").spawn().map(drop),
                TcpListener::bind("127.0.0.1:0").map(drop),
                // Not that of the C library, which ends the process if one of its threads fails.
                rustix::thread::set_thread_uid(rustix::process::getuid()).map_err(io::Error::from),
                rustix::process::chroot("/").map_err(io::Error::from),
                rustix::process::set_dumpable_behavior(
                    rustix::process::DumpableBehavior::NotDumpable,
                )
                .map_err(io::Error::from),
            ]
        };
        let results = restricted(move || attempts().map(is_forbidden));
        assert_eq!(results, [true; 5]);
    }

    #[test]
    fn threads_files_and_memory_work() {
        restricted(|| {
            let read = std::thread::spawn(|| std::fs::read_to_string("/proc/thread-self/status"));
            let status = read.join().expect("a thread").expect("a file");
            assert!(status.contains("Seccomp:\t2"), "{status}");
            std::hint::black_box(vec![1u8; 64 << 20]);
            std::thread::sleep(std::time::Duration::from_millis(1));
        });
    }
}
