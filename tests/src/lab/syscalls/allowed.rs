//! The system calls that the sensing and the answering thread may make. None opens a file, writes
//! to one, changes the address space, or waits for another thread, but for the lock of malloc.

use std::{collections::BTreeMap, fmt::Write as _, ops::Range};

use super::trace::{Call, Calls};

/// A call, or a kind of it, that a thread may make.
#[derive(Debug)]
struct Rule {
    name: &'static str,
    /// A condition on the call.
    when: fn(&Call) -> bool,
    /// Why it cannot block the thread; for readers of this list.
    _reason: &'static str,
}

const fn rule(name: &'static str, when: fn(&Call) -> bool, reason: &'static str) -> Rule {
    Rule { name, when, _reason: reason }
}

fn always(_: &Call) -> bool {
    true
}

/// A file of /proc or of a cgroup: the kernel generates it, no disk is read.
fn is_kernel_file(call: &Call) -> bool {
    call.descriptor().is_some_and(|name| name.starts_with("/proc/") || name.starts_with("/sys/"))
}

fn is_eventfd(call: &Call) -> bool {
    call.descriptor() == Some("anon_inode:") && call.rest.contains("[eventfd]")
}

fn is_socket(call: &Call) -> bool {
    let kinds =
        ["TCP:", "TCPv6:", "UNIX-STREAM:", "UNIX:", "socket:", "UNIX-STREAM", "TCP", "TCPv6"];
    call.descriptor().is_some_and(|name| kinds.contains(&name))
}

fn is_wake(call: &Call) -> bool {
    call.rest.contains("FUTEX_WAKE")
}

fn reads_a_map(call: &Call) -> bool {
    ["BPF_MAP_LOOKUP_ELEM,", "BPF_MAP_GET_NEXT_KEY,"].iter().any(|c| call.rest.starts_with(c))
}

fn asks_for_a_flag(call: &Call) -> bool {
    call.rest.contains("F_GETFD") || call.rest.contains("F_GETFL")
}

/// What both threads may do.
const BOTH: &[Rule] = &[
    rule("futex", is_wake, "wakes a thread, and waits for none"),
    rule("write", is_eventfd, "wakes a thread; the counter never fills"),
    rule("restart_syscall", always, "goes on with a wait that a signal interrupted"),
];

/// What the sensing thread may do.
const SENSE: &[Rule] = &[
    rule("bpf", reads_a_map, "copies a value of a map"),
    rule("pread64", is_kernel_file, "reads a file that is open since before"),
    rule("read", is_eventfd, "takes a signal; does not block"),
    rule("ppoll", always, "waits for the next sample, its only wait"),
];

/// What the answering thread may do.
const ANSWER: &[Rule] = &[
    rule("epoll_wait", always, "waits for clients and timers, its only wait"),
    rule("epoll_ctl", always, "registers a connection"),
    rule("accept4", is_socket, "does not block"),
    rule("recvfrom", is_socket, "does not block"),
    rule("sendto", is_socket, "does not block"),
    rule("writev", is_socket, "does not block"),
    rule("shutdown", is_socket, "does not wait for the client"),
    rule("setsockopt", is_socket, "changes the socket in memory"),
    rule("getsockopt", is_socket, "reads who has connected"),
    rule("close", is_socket, "of a connection: does not linger"),
    rule(
        "fcntl",
        asks_for_a_flag,
        "builds for tests check a descriptor when they take or close it",
    ),
    rule("read", is_eventfd, "takes a signal; does not block"),
];

/// The threads, and what each may do beside [`BOTH`].
const THREADS: [(&str, &[Rule]); 2] = [("memsensor", ANSWER), ("sense", SENSE)];

/// Calls of both threads, by thread and name, and those that are not on the list.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Number of calls.
    pub counts: BTreeMap<(&'static str, String), usize>,
    /// Waits for the lock of malloc: they are not excluded, see "Threads" in ARCHITECTURE.md.
    pub malloc_waits: usize,
    /// Calls that are not on the list.
    pub violations: Vec<(&'static str, Call)>,
}

impl Verdict {
    /// The counts as a Markdown table.
    pub fn table(&self) -> String {
        let mut out = String::from("| thread | system call | calls |\n|---|---|---:|\n");
        for ((thread, call), count) in &self.counts {
            let _ = writeln!(out, "| `{thread}` | `{call}` | {count} |");
        }
        let Self { malloc_waits, .. } = self;
        let _ =
            writeln!(out, "| both | `futex`, of these waits for malloc's lock | {malloc_waits} |");
        out
    }
}

/// Compares the calls with the list. `malloc_lock` is where the lock of malloc is.
pub fn check(calls: &Calls, malloc_lock: &Range<u64>) -> Verdict {
    let mut verdict = Verdict::default();
    for (thread, own) in THREADS {
        for call in calls.get(thread).into_iter().flatten() {
            *verdict.counts.entry((thread, call.name.clone())).or_default() += 1;
            let waits_for_malloc = call.name == "futex"
                && call.rest.contains("FUTEX_WAIT_PRIVATE")
                && call.address().is_some_and(|address| malloc_lock.contains(&address));
            let mut rules = own.iter().chain(BOTH);
            if waits_for_malloc {
                verdict.malloc_waits += 1;
            } else if !rules.any(|rule| rule.name == call.name && (rule.when)(call)) {
                verdict.violations.push((thread, call.clone()));
            }
        }
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listed_calls_pass() {
        let call = |name: &str, rest: &str| Call { name: name.to_owned(), rest: rest.to_owned() };
        let is_allowed = |thread: &str, call: &Call| {
            let calls = Calls::from([(thread.to_owned(), vec![call.clone()])]);
            check(&calls, &(0x100..0x200)).violations.is_empty()
        };
        for (name, rest, sense, answer) in [
            ("openat", "AT_FDCWD</>, \"/proc/vmstat\", O_RDONLY) = 3", false, false),
            ("brk", "0x55) = 0x55", false, false),
            ("mmap", "NULL, 4096, PROT_READ) = 0x7f", false, false),
            ("pread64", "3</proc/vmstat>, \"\", 1, 0) = 0", true, false),
            ("pread64", "3</var/lib/x>, \"\", 1, 0) = 0", false, false),
            ("write", "3</run/memsensor/verdict.new>, \"\", 1) = 1", false, false),
            ("write", "2<pipe:[7]>, \"\", 1) = 1", false, false),
            ("write", "4<anon_inode:[eventfd]>, \"\", 8) = 8", true, true),
            ("recvfrom", "4<TCP:[127.0.0.1:1->127.0.0.1:2]>, \"\", 8) = 8", false, true),
            ("close", "4</run/memsensor/x>) = 0", false, false),
            ("futex", "0x9000, FUTEX_WAKE_PRIVATE, 1) = 1", true, true),
            ("futex", "0x9000, FUTEX_WAIT_PRIVATE, 2, NULL) = 0", false, false),
            ("futex", "0x180, FUTEX_WAIT_PRIVATE, 2, NULL) = 0", true, true),
            ("bpf", "BPF_MAP_LOOKUP_ELEM, {map_fd=4}, 32) = 0", true, false),
            ("bpf", "BPF_ITER_CREATE, {map_fd=4}, 32) = 0", false, false),
            ("clone3", "{flags=CLONE_VM}, 88) = 9", false, false),
        ] {
            let call = call(name, rest);
            let allowed = ["sense", "memsensor"].map(|thread| is_allowed(thread, &call));
            assert_eq!(allowed, [sense, answer], "{call:?}");
        }
    }
}
