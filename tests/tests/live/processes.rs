//! The scan of processes, compared with /proc.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::{Command, Stdio},
};

use procfs::process::Status;
use sensor_core::model::memory_usage::{MemoryUsage, ProcessUsage};
use sensor_ebpf::event::Process;
use sensor_tests::support::{
    daemon::Daemon,
    scope::{MIB, Scope, program},
};

use sensor_user::{
    kernel::{load, programs::Programs, settings::Settings},
    serve::admin_protocol::Top,
};

use crate::{Running, hog, wait_for_line};

fn programs() -> Programs {
    load::load(&Settings::default()).expect("load").programs
}

fn table(programs: &mut Programs) -> BTreeMap<u32, Process> {
    let mut table = BTreeMap::new();
    let has_main_thread = |p: &Process| p.task.tid == p.task.tgid;
    programs
        .processes(|process| {
            let before = table.insert(process.task.tgid, *process);
            assert!(
                before.as_ref().is_none_or(|p| !has_main_thread(p)),
                "listed twice: {before:?} {process:?}"
            );
        })
        .expect("a scan");
    table
}

/// A process as /proc has it.
struct InProc {
    comm: String,
    status: Status,
    /// Minor and major page faults so far.
    faults: (u64, u64),
}

/// All processes in /proc, by id and start time.
fn proc_table() -> BTreeMap<(u32, u64), InProc> {
    let read = |process: procfs::process::Process| {
        let (stat, status) = (process.stat().ok()?, process.status().ok()?);
        let faults = (stat.minflt, stat.majflt);
        let key = (process.pid().cast_unsigned(), stat.starttime);
        Some((key, InProc { comm: stat.comm, status, faults }))
    };
    procfs::process::all_processes().expect("/proc").flatten().filter_map(read).collect()
}

/// Asserts that a process agrees with /proc before and after the scan. Returns whether its memory
/// was steady in between (no page fault and the same size); only then its size is compared.
fn assert_agrees(found: &Process, start: u64, before: &InProc, after: &InProc) -> bool {
    let ticks = procfs::ticks_per_second();
    assert!((found.start_ns / (1_000_000_000 / ticks)).abs_diff(start) <= 1, "{found:?}");
    if before.comm == after.comm {
        let name: Vec<_> = found.task.comm.iter().copied().take_while(|b| *b != 0).collect();
        assert_eq!(String::from_utf8_lossy(&name), before.comm);
    }
    if before.status.ruid == after.status.ruid {
        assert_eq!(found.task.uid, before.status.ruid);
    }
    if before.faults != after.faults || before.status.vmrss != after.status.vmrss {
        return false;
    }
    let page = procfs::page_size();
    // The kernel's counters lag by a batch per CPU.
    let cpus = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let slack = 2 * 64 * page * cpus;
    let sizes = &found.sizes;
    let resident = (sizes.anon_pages + sizes.file_pages + sizes.shmem_pages) * page;
    let rss = before.status.vmrss.unwrap_or_default() * 1024;
    assert!(resident.abs_diff(rss) <= slack, "{resident} bytes: {:?}", before.status);
    true
}

/// One scan: compares every process that is in /proc before and after it. Returns the ids of those
/// whose size was compared.
fn compare_with_proc(programs: &mut Programs) -> BTreeSet<u32> {
    let before = proc_table();
    let table = table(programs);
    let after = proc_table();
    let mut steady = BTreeSet::new();
    for ((pid, start), process) in &before {
        let Some(later) = after.get(&(*pid, *start)) else { continue };
        // Some machines hide processes of their own even from root.
        if std::fs::read_link(format!("/proc/{pid}/ns/pid")).is_err() {
            continue;
        }
        match (process.status.vmrss, later.status.vmrss) {
            (Some(_), Some(_)) => {}
            (None, None) => {
                assert!(!table.contains_key(pid), "a process without memory: {pid}");
                continue;
            }
            // It is ending.
            _ => continue,
        }
        let found = table.get(pid).unwrap_or_else(|| panic!("missing: {:?}", process.status));
        if assert_agrees(found, *start, process, later) {
            steady.insert(*pid);
        }
    }
    steady
}

/// Every scan must agree with /proc; a process that holds its memory must be compared in each of
/// them.
#[test]
fn every_scan_agrees_with_proc() {
    let mut programs = programs();
    let scope = Scope::new("steady", 64 * MIB).expect("scope");
    let mut held = hog(&scope, &["anon", "32", "hold"]);
    let mut held = held.stdout(Stdio::piped()).spawn().expect("start hog");
    wait_for_line(&mut held);
    for scan in 0..10 {
        let steady = compare_with_proc(&mut programs);
        assert!(steady.contains(&held.id()), "scan {scan}: the hog was not compared");
        assert!(steady.len() >= 2, "scan {scan}: only {} processes were compared", steady.len());
    }
    held.kill().expect("kill");
    held.wait().expect("wait");
}

/// Memory by kind, the cgroup, and threads as one process.
#[test]
fn a_process_is_listed_once_with_all_its_memory() {
    let mut programs = programs();
    let scope = Scope::new("table", 256 * MIB).expect("scope");
    let mut held = hog(&scope, &["--adj", "123", "anon", "64", "hold"]);
    let mut held = held.stdout(Stdio::piped()).spawn().expect("start hog");
    wait_for_line(&mut held);
    let mut threads = hog(&scope, &["--comm-hex", "1b5b33316d", "threads", "4", "16"]);
    let mut threads = threads.stdout(Stdio::piped()).spawn().expect("start hog");
    wait_for_line(&mut threads);
    let pages = |mib: u64| mib * MIB / procfs::page_size();
    // The kernel's counters lag: by a batch per CPU, before 6.2 by one per thread. A small machine
    // may also swap during the test.
    let all_64_mib = pages(52)..pages(76);
    let is_64_mib = |p: &Process| all_64_mib.contains(&(p.sizes.anon_pages + p.sizes.swap_pages));
    crate::wait_until("all four threads hold their memory", || {
        table(&mut programs).get(&threads.id()).is_some_and(is_64_mib)
    });
    let table = table(&mut programs);
    let one = &table[&held.id()];
    assert!(is_64_mib(one), "{one:?}");
    // A program file in a tmpfs counts as shared memory.
    assert!(one.sizes.file_pages + one.sizes.shmem_pages > 0, "{one:?}");
    assert!(one.sizes.pgtables_bytes >= 64 * MIB / 512, "{one:?}");
    assert_eq!((one.task.oom_score_adj, one.task.tid), (123, held.id()));
    assert_eq!(one.task.cgroup, scope.id().expect("its id"));
    let other = &table[&threads.id()];
    assert!(is_64_mib(other), "{other:?}");
    assert_eq!(&other.task.comm[..6], b"\x1b[31m\0", "unescaped; output escapes it");
    for mut child in [held, threads] {
        child.kill().expect("kill");
        child.wait().expect("wait");
    }
    let after = self::table(&mut programs);
    assert!(after.values().all(|p| p.task.cgroup != one.task.cgroup), "the cgroup is empty");
}

/// A FIFO without a writer, which blocks a reader until this is dropped.
struct Fifo(std::path::PathBuf);

impl Fifo {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("memsensor-fifo-{}", std::process::id()));
        let made = Command::new("mkfifo").arg(&path).status().expect("mkfifo");
        assert!(made.success(), "{}", path.display());
        Self(path)
    }
}

impl Drop for Fifo {
    fn drop(&mut self) {
        // For reading and writing, which does not block.
        let _ = std::fs::OpenOptions::new().read(true).write(true).open(&self.0);
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Between vfork and exec a child shares its parent's memory, which must count once.
#[test]
fn a_vfork_child_before_exec_is_not_listed() {
    let fifo = Fifo::new();
    let scope = Scope::new("vfork", 128 * MIB).expect("scope");
    let fifo_path = fifo.0.to_str().expect("UTF-8");
    let mut parent = hog(&scope, &["spawn", "64", fifo_path]).spawn().expect("start hog");
    // /proc shows the child with its parent's memory.
    let child_of = |parent: u32| {
        let path = format!("/proc/{parent}/task/{parent}/children");
        let child = std::fs::read_to_string(path).ok()?.trim().parse().ok()?;
        let rss = procfs::process::Process::new(child).ok()?.status().ok()?.vmrss?;
        (rss > 64 << 10).then_some(child.cast_unsigned())
    };
    crate::wait_until("the child", || child_of(parent.id()).is_some());
    let child = child_of(parent.id()).expect("it is blocked");
    let table = table(&mut programs());
    drop(fifo);
    let ended = parent.wait().expect("wait");
    assert!(ended.success(), "{ended}");
    assert!(table.contains_key(&parent.id()) && !table.contains_key(&child), "{child}");
}

/// `top --by minute` lists the leak first, though other processes are larger, with its cgroup and
/// with an escaped name.
#[test]
fn the_fastest_growing_process_comes_first() {
    let scope = Scope::new("leaks", 256 * MIB).expect("scope");
    let large = Scope::new("large", 256 * MIB).expect("scope");
    let mut held = hog(&large, &["anon", "50", "hold"]);
    let mut held = held.stdout(Stdio::piped()).spawn().expect("start hog");
    wait_for_line(&mut held);
    let daemon = Daemon::start("").expect("daemon");
    let run_top =
        |words: &[&str]| daemon.ask(&[&["top", "--most", "100"], words].concat()).expect("top");
    let first = |by: &str| -> Option<Top> {
        let (output, code) = run_top(&["--by", by, "--json"]);
        assert_eq!(code, Some(0), "{output}");
        serde_json::from_str(&output).ok()
    };
    crate::wait_until("the large process is listed", || {
        first("memory").is_some_and(|top| top.usage.processes.iter().any(|p| p.pid == held.id()))
    });
    let args = ["--comm-hex", "1b5b33316d", "leak", "100", "50"];
    let mut leak = hog(&scope, &args).spawn().expect("start hog");
    // Both are younger than a minute; so may other processes of this machine be.
    let place = |top: &Top, pid| top.usage.processes.iter().position(|p| p.pid == pid);
    let comes_first = |top: &Top| {
        place(top, leak.id()).zip(place(top, held.id())).is_some_and(|(leak, held)| leak < held)
    };
    let mut found = None;
    crate::wait_until("the leak comes first", || {
        found = first("minute").filter(comes_first);
        found.is_some()
    });
    let usage = found.expect("found").usage;
    let leaked = 50 * MIB.cast_signed();
    let process = usage.processes.iter().find(|p| p.pid == leak.id()).expect("the leak");
    assert!(process.growth.minute_bytes >= leaked, "{process:?}");
    assert_eq!(process.cgroup_path.as_deref(), Some(&*scope.path()));
    let group = usage.cgroups.iter().find(|g| g.cgroup == process.cgroup).expect("its cgroup");
    assert_eq!((&group.cgroup_path, group.processes), (&process.cgroup_path, 1));
    assert!(group.growth.minute_bytes >= leaked, "{group:?}");
    let (text, _) = run_top(&["--by", "minute"]);
    assert!(text.contains("\\u{1b}[31m") && !text.contains('\u{1b}'), "{text}");
    for child in [&mut held, &mut leak] {
        child.kill().expect("kill");
        child.wait().expect("wait");
    }
}

#[test]
fn top_fails_with_a_reason_without_the_probe() {
    let daemon = Daemon::start("[probes]\ndisabled = [\"processes\"]\n").expect("daemon");
    let (output, code) = daemon.ask(&["top"]).expect("top");
    assert_ne!(code, Some(0), "{output}");
    assert!(output.contains("disabled in the configuration"), "{output}");
}

/// Without the BPF iterator usage comes from /proc, and the output says so.
#[test]
fn without_the_iterator_usage_comes_from_proc() {
    let dir = std::env::temp_dir().join(format!("memsensor-proc-{}", std::process::id()));
    std::fs::create_dir(&dir).expect("mkdir");
    let (config, socket) = (dir.join("config.toml"), dir.join("socket"));
    let path = socket.to_str().expect("UTF-8");
    std::fs::write(&config, format!("socket = {path:?}\ninterval = \"100ms\"")).expect("write");
    let daemon = Command::new("unshare")
        .args(["-m", "sh", "-c", "mount -t tmpfs none /sys/kernel/btf && exec \"$@\"", "sh"])
        .arg(program("memsensor").expect("memsensor"))
        .args(["run", "--allow-degraded", "--listen", "127.0.0.1:0", "--agent-listen"])
        .args(["127.0.0.1:0", "--config"])
        .arg(&config)
        .env("RUST_LOG", "off")
        .spawn();
    let daemon = Running(daemon.expect("run"));
    let mut output = None;
    crate::wait_until("usage is reported", || {
        let mut top = Command::new(program("memsensor").expect("memsensor"));
        let out = top.args(["top", "--json", "--most", "100", "--socket", path]).output();
        output = serde_json::from_slice::<Top>(&out.expect("top").stdout).ok();
        // The paths of cgroups come from a walk over the tree, which may end after the first scan.
        let own = output.as_ref().and_then(|top| own_row(&top.usage));
        own.is_some_and(|p| p.cgroup_path.is_some())
    });
    assert!(daemon.stop().success());
    std::fs::remove_dir_all(dir).expect("remove");
    let usage = output.expect("reported").usage;
    assert!(usage.usage_from_proc, "{usage:?}");
    let own = own_row(&usage).expect("this test");
    assert!(own.own_bytes > 0, "{own:?}");
}

fn own_row(usage: &MemoryUsage) -> Option<&ProcessUsage> {
    usage.processes.iter().find(|p| p.pid == std::process::id())
}
