//! The table of processes, beside what /proc says of each.

use std::{
    collections::BTreeMap,
    process::{Command, Stdio},
};

use sensor_ebpf::event::Process;
use sensor_tests::support::{
    daemon::Daemon,
    scope::{MIB, Scope, program},
};
use sensor_user::{
    config::Config,
    kernel::{load, read::Reader},
    top::Top,
};

use crate::{Running, hog, wait_for_line};

fn reader() -> Reader {
    load::load(&Config::default()).expect("load").reader
}

fn table(reader: &mut Reader) -> BTreeMap<u32, Process> {
    let mut table = BTreeMap::new();
    let has_main_thread = |p: &Process| p.task.tid == p.task.tgid;
    reader
        .processes(|process| {
            let before = table.insert(process.task.tgid, *process);
            assert!(
                before.as_ref().is_none_or(|p| !has_main_thread(p)),
                "twice: {before:?} {process:?}"
            );
        })
        .expect("a pass");
    table
}

/// Each process that /proc knows before and after is there, once, with what /proc says of it.
#[test]
fn it_agrees_with_proc() {
    let mut reader = reader();
    let page = procfs::page_size();
    // A counter lags by a batch per CPU, and the rest of the machine goes on.
    let slack = 2 * 64 * page * std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let known = |p: &procfs::process::Process| {
        let (stat, status) = (p.stat().ok()?, p.status().ok()?);
        Some(((p.pid().cast_unsigned(), stat.starttime), (stat.comm, status)))
    };
    let all = || procfs::process::all_processes().expect("/proc").flatten();
    let ticks = procfs::ticks_per_second();
    let mut look = || {
        let before: BTreeMap<_, _> = all().filter_map(|p| known(&p)).collect();
        let table = table(&mut reader);
        let after: BTreeMap<_, _> = all().filter_map(|p| known(&p)).collect();
        let (mut seen, mut other_sizes) = (0, Vec::new());
        for ((pid, start), (comm, status)) in &before {
            let Some((comm_after, status_after)) = after.get(&(*pid, *start)) else { continue };
            // A machine may keep a process of its own from all that root looks at.
            if std::fs::read_link(format!("/proc/{pid}/ns/pid")).is_err() {
                continue;
            }
            let (rss, rss_after) = match (status.vmrss, status_after.vmrss) {
                (Some(rss), Some(rss_after)) => (rss * 1024, rss_after * 1024),
                (None, None) => {
                    assert!(!table.contains_key(pid), "without memory of its own: {pid}");
                    continue;
                }
                // It ends.
                _ => continue,
            };
            let found = table.get(pid).unwrap_or_else(|| panic!("not there: {status:?}"));
            assert!((found.start_ns / (1_000_000_000 / ticks)).abs_diff(*start) <= 1, "{found:?}");
            if comm == comm_after {
                let name: Vec<_> =
                    found.task.comm.iter().copied().take_while(|b| *b != 0).collect();
                assert_eq!(String::from_utf8_lossy(&name), *comm);
            }
            if status.ruid == status_after.ruid {
                assert_eq!(found.task.uid, status.ruid);
            }
            let sizes = &found.sizes;
            let resident = (sizes.anon_pages + sizes.file_pages + sizes.shmem_pages) * page;
            let least = rss.min(rss_after).saturating_sub(slack);
            if !(least..=rss.max(rss_after) + slack).contains(&resident) {
                other_sizes.push(format!("{resident} bytes: {status:?} {status_after:?}"));
            }
            seen += 1;
        }
        (seen, other_sizes)
    };
    // A compiler may grow and shrink between two looks at /proc. Not each time.
    let mut looks = (0..10).map(|_| look());
    let (seen, wrong) = looks.find(|(_, wrong)| wrong.is_empty()).unwrap_or_else(&mut look);
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(seen >= 2, "only {seen} processes");
}

/// What is of which kind, whose cgroup it is, and threads as one.
#[test]
fn a_process_is_told_whole_and_once() {
    let mut reader = reader();
    let scope = Scope::new("table", 256 * MIB).expect("scope");
    let mut held = hog(&scope, &["--adj", "123", "anon", "64", "hold"]);
    let mut held = held.stdout(Stdio::piped()).spawn().expect("start hog");
    wait_for_line(&mut held);
    let mut threads = hog(&scope, &["--comm-hex", "1b5b33316d", "threads", "4", "16"]);
    let mut threads = threads.stdout(Stdio::piped()).spawn().expect("start hog");
    wait_for_line(&mut threads);
    let pages = |mib: u64| mib * MIB / procfs::page_size();
    // The kernel's counters lag: by a batch per CPU, before 6.2 by one per thread.
    // And a small machine may swap while others build on it.
    let all_64_mib = pages(52)..pages(76);
    let is_64_mib = |p: &Process| all_64_mib.contains(&(p.sizes.anon_pages + p.sizes.swap_pages));
    crate::wait_until("all four threads hold theirs", || {
        table(&mut reader).get(&threads.id()).is_some_and(is_64_mib)
    });
    let table = table(&mut reader);
    let one = &table[&held.id()];
    assert!(is_64_mib(one), "{one:?}");
    // A program in a tmpfs is shared memory.
    assert!(one.sizes.file_pages + one.sizes.shmem_pages > 0, "{one:?}");
    assert!(one.sizes.pgtables_bytes >= 64 * MIB / 512, "{one:?}");
    assert_eq!((one.task.oom_score_adj, one.task.tid), (123, held.id()));
    assert_eq!(one.task.cgroup, scope.id().expect("its id"));
    let other = &table[&threads.id()];
    assert!(is_64_mib(other), "{other:?}");
    assert_eq!(&other.task.comm[..6], b"\x1b[31m\0", "as it is, and escaped where it is shown");
    for mut child in [held, threads] {
        child.kill().expect("kill");
        child.wait().expect("wait");
    }
    let gone = self::table(&mut reader);
    assert!(gone.values().all(|p| p.task.cgroup != one.task.cgroup), "nobody is left in there");
}

/// A FIFO that nobody writes to, which keeps whoever opens it to read until this is dropped.
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
        // Read and write: it must not wait itself.
        let _ = std::fs::OpenOptions::new().read(true).write(true).open(&self.0);
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Between vfork and exec a child runs in its parent's memory: that is the parent's, once.
#[test]
fn a_child_that_has_not_called_exec_yet_has_no_memory() {
    let fifo = Fifo::new();
    let scope = Scope::new("vfork", 128 * MIB).expect("scope");
    let fifo_path = fifo.0.to_str().expect("a name of ours");
    let mut parent = hog(&scope, &["spawn", "64", fifo_path]).spawn().expect("start hog");
    // /proc shows it with its parent's memory.
    let child_of = |parent: u32| {
        let path = format!("/proc/{parent}/task/{parent}/children");
        let child = std::fs::read_to_string(path).ok()?.trim().parse().ok()?;
        let rss = procfs::process::Process::new(child).ok()?.status().ok()?.vmrss?;
        (rss > 64 << 10).then_some(child.cast_unsigned())
    };
    crate::wait_until("the child", || child_of(parent.id()).is_some());
    let child = child_of(parent.id()).expect("it waits");
    let table = table(&mut reader());
    drop(fifo);
    let ended = parent.wait().expect("wait");
    assert!(ended.success(), "{ended}");
    assert!(table.contains_key(&parent.id()) && !table.contains_key(&child), "{child}");
}

/// An operator asks who took it: the one that leaks, though others are larger, with its cgroup's path
/// and a name that cannot write to the terminal.
#[test]
fn who_took_it_comes_first() {
    let scope = Scope::new("leaks", 256 * MIB).expect("scope");
    let large = Scope::new("large", 256 * MIB).expect("scope");
    let mut held = hog(&large, &["anon", "50", "hold"]);
    let mut held = held.stdout(Stdio::piped()).spawn().expect("start hog");
    wait_for_line(&mut held);
    let daemon = Daemon::start("").expect("daemon");
    let ask =
        |words: &[&str]| daemon.ask(&[&["top", "--most", "100"], words].concat()).expect("top");
    let first = |by: &str| -> Option<Top> {
        let (said, code) = ask(&["--by", by, "--json"]);
        assert_eq!(code, Some(0), "{said}");
        serde_json::from_str(&said).ok()
    };
    crate::wait_until("the large one is seen", || {
        first("memory").is_some_and(|top| top.who.processes.iter().any(|p| p.pid == held.id()))
    });
    let args = ["--comm-hex", "1b5b33316d", "leak", "100", "50"];
    let mut leak = hog(&scope, &args).spawn().expect("start hog");
    // Both are younger than a minute, and others on this machine may be as well.
    let place = |top: &Top, pid| top.who.processes.iter().position(|p| p.pid == pid);
    let comes_first = |top: &Top| {
        place(top, leak.id()).zip(place(top, held.id())).is_some_and(|(leak, held)| leak < held)
    };
    let mut found = None;
    crate::wait_until("the leak comes first", || {
        found = first("minute").filter(comes_first);
        found.is_some()
    });
    let who = found.expect("found").who;
    let taken = 50 * MIB.cast_signed();
    let process = who.processes.iter().find(|p| p.pid == leak.id()).expect("the leak");
    assert!(process.growth.minute_bytes >= taken, "{process:?}");
    assert_eq!(process.cgroup_path.as_deref(), Some(&*scope.path()));
    let group = who.cgroups.iter().find(|g| g.cgroup == process.cgroup).expect("its cgroup");
    assert_eq!((&group.cgroup_path, group.processes), (&process.cgroup_path, 1));
    assert!(group.growth.minute_bytes >= taken, "{group:?}");
    let (text, _) = ask(&["--by", "minute"]);
    assert!(text.contains("\\u{1b}[31m") && !text.contains('\u{1b}'), "{text}");
    for child in [&mut held, &mut leak] {
        child.kill().expect("kill");
        child.wait().expect("wait");
    }
}

/// Where it cannot be told, it is not made up.
#[test]
fn without_the_table_it_says_so() {
    let daemon = Daemon::start("[probes]\ndisabled = [\"processes\"]\n").expect("daemon");
    let (said, code) = daemon.ask(&["top"]).expect("top");
    assert_ne!(code, Some(0), "{said}");
    assert!(said.contains("switched off in the configuration"), "{said}");
}

/// Where the kernel does not let us iterate, /proc tells, and the answer says so.
#[test]
fn without_the_iterator_proc_tells() {
    let dir = std::env::temp_dir().join(format!("memsensor-proc-{}", std::process::id()));
    std::fs::create_dir(&dir).expect("mkdir");
    let (config, socket) = (dir.join("config.toml"), dir.join("socket"));
    let path = socket.to_str().expect("UTF-8");
    std::fs::write(&config, format!("socket = {path:?}\ninterval = \"100ms\"")).expect("write");
    let blind = Command::new("unshare")
        .args(["-m", "sh", "-c", "mount -t tmpfs none /sys/kernel/btf && exec \"$@\"", "sh"])
        .arg(program("memsensor").expect("memsensor"))
        .args(["run", "--allow-degraded", "--listen", "127.0.0.1:0", "--agent-listen"])
        .args(["127.0.0.1:0", "--config"])
        .arg(&config)
        .env("RUST_LOG", "off")
        .spawn();
    let blind = Running(blind.expect("run"));
    let mut told = None;
    crate::wait_until("it is told", || {
        let mut top = Command::new(program("memsensor").expect("memsensor"));
        let out = top.args(["top", "--json", "--most", "100", "--socket", path]).output();
        told = serde_json::from_slice::<Top>(&out.expect("top").stdout).ok();
        told.is_some()
    });
    assert!(blind.stop().success());
    std::fs::remove_dir_all(dir).expect("remove");
    let who = told.expect("told").who;
    assert!(who.from_proc, "{who:?}");
    let we = who.processes.iter().find(|p| p.pid == std::process::id()).expect("we");
    assert!(we.own_bytes > 0 && we.cgroup_path.is_some(), "{we:?}");
}
