//! Rights that the running daemon has given up, and who gave it commands.

use std::{
    fs,
    io::{ErrorKind, Read as _},
    os::unix::{
        fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink},
        process::CommandExt as _,
    },
    path::Path,
    process::Command,
};

use rustix::process::Signal;
use sensor_core::model::event::{EventKind, OperatorCommand};
use sensor_tests::support::{
    daemon::{DAEMON_UID, Daemon},
    scope::program,
};
use sensor_user::{
    daemon::{
        config::Config,
        syscalls::{self, Threads},
    },
    kernel::load,
};
use serde_json::Value;

use crate::{run_memsensor, wait_until};

/// The status of each thread of a process, with its name.
fn statuses(pid: u32) -> Vec<(String, String)> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("tasks");
    let read = |entry: std::io::Result<fs::DirEntry>| {
        let dir = entry.expect("an entry").path();
        let read = |name| fs::read_to_string(dir.join(name)).expect(name);
        (read("comm").trim().to_owned(), read("status"))
    };
    tasks.map(read).collect()
}

fn field(status: &str, name: &str) -> String {
    let line = status.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
    let words: Vec<_> = line.unwrap_or_default().split_whitespace().collect();
    words.join(" ")
}

fn probes(daemon: &Daemon) -> Value {
    let config = daemon.config();
    let out = Command::new(program("memsensor").expect("memsensor"))
        .args(["probes", "--json", "--config"])
        .arg(config)
        .output()
        .expect("run");
    serde_json::from_slice(&out.stdout).expect("JSON")
}

#[test]
fn every_thread_gives_up_its_rights_and_probes_shows_it() {
    let mut daemon = Daemon::start("").expect("daemon");
    let uid = DAEMON_UID.to_string();
    let ids = [uid.as_str(); 4].join(" ");
    let threads = statuses(daemon.pid());
    for name in ["memsensor", "log", "sense", "events", "cgroups", "store", "commands"] {
        assert!(threads.iter().any(|(comm, _)| comm == name), "no thread {name}");
    }
    for (comm, status) in &threads {
        for (name, expected) in [
            ("Uid", ids.as_str()),
            ("Gid", &ids),
            ("Groups", ""),
            ("NoNewPrivs", "1"),
            ("Seccomp", "2"),
        ] {
            assert_eq!(field(status, name), expected, "{name} of {comm}");
        }
    }
    let output = probes(&daemon);
    let running = &output["daemon"];
    assert_eq!(running["pid"], daemon.pid(), "{running:#}");
    let rights = &running["rights"];
    assert_eq!(rights["uids"], serde_json::json!([DAEMON_UID]), "{running:#}");
    assert_eq!(rights["seccomp_filter"], true, "{running:#}");
    assert_eq!(rights["no_new_privs"], true, "{running:#}");
    let missing = running["protection"]["missing"].as_array().expect("a list");
    let has_landlock = running["protection"]["landlock"].is_string();
    let says_why = missing.iter().any(|why| why.as_str().is_some_and(|w| w.contains("Landlock")));
    assert!(has_landlock != says_why, "{running:#}");
    assert_eq!(missing.len(), usize::from(says_why), "{running:#}");
    daemon.stop(Signal::TERM).expect("stop");
    assert_eq!(probes(&daemon)["daemon"], Value::Null);
}

#[test]
fn without_its_user_the_daemon_keeps_uid_0_and_says_how_to_create_it() {
    let daemon = Daemon::start("user = \"memsensor-no-such\"\n").expect("daemon");
    let command = "useradd --system --no-create-home --shell /usr/sbin/nologin memsensor-no-such";
    assert!(daemon.log().contains(command), "{}", daemon.log());
    for (comm, status) in statuses(daemon.pid()) {
        assert_eq!(field(&status, "Uid"), "0 0 0 0", "{comm}");
        assert_eq!(field(&status, "Seccomp"), "2", "{comm}");
    }
    let missing = probes(&daemon)["daemon"]["protection"]["missing"].to_string();
    assert!(missing.contains(command), "{missing}");
    let (output, code) = run_memsensor_text(&["run", "--user", "a b"]);
    assert_eq!(code, Some(2), "{output}");
    assert!(output.contains("\"a b\" is not a name or a number"), "{output}");
}

fn run_memsensor_text(args: &[&str]) -> (String, Option<i32>) {
    let (code, text) = run_memsensor(args);
    (text, code)
}

#[test]
fn the_state_is_the_users_and_survives_restarts() {
    let mut daemon = Daemon::start("").expect("daemon");
    let dir = daemon.socket().parent().expect("a directory").to_owned();
    let (output, code) = daemon.ask(&["drain", "--reason", "test"]).expect("drain");
    assert_eq!(code, Some(0), "{output}");
    // As an earlier version, or the service manager, leaves it.
    let drain = dir.join("socket.drain.json");
    std::os::unix::fs::chown(&drain, Some(0), Some(0)).expect("chown");
    for _ in 0..2 {
        daemon.restart().expect("restart");
        assert!(daemon.get("/readyz", "").expect("answer").body.contains("drained"));
        for path in [&dir, &drain] {
            assert_eq!(fs::metadata(path).expect("it exists").uid(), DAEMON_UID, "{path:?}");
        }
        let socket = fs::metadata(daemon.socket()).expect("the socket");
        assert_eq!((socket.uid(), socket.mode() & 0o777), (0, 0o600), "only root can connect");
    }
    daemon.stop(Signal::TERM).expect("stop");
    assert!(!daemon.socket().exists(), "its user can remove the socket");
}

/// Puts something for a target at a path.
type Plant = fn(&std::path::Path, &std::path::Path) -> std::io::Result<()>;

/// Whoever can write to the directory must not get another file of root that way.
#[test]
fn a_directory_with_other_content_is_not_handed_over() {
    let mut daemon = Daemon::start("").expect("daemon");
    let dir = daemon.socket().parent().expect("a directory").to_owned();
    daemon.stop(Signal::TERM).expect("stop");
    std::os::unix::fs::chown(&dir, Some(0), Some(0)).expect("chown");
    let target = dir.with_file_name("config.toml");
    let planted = dir.join("socket.drain.json");
    let plants: [(Plant, bool); 3] = [
        (|target, at| symlink(target, at), false),
        (|target, at| fs::hard_link(target, at), true),
        (|target, at| fs::copy(target, at.with_extension("other")).map(drop), false),
    ];
    for (plant, handed_over) in plants {
        plant(&target, &planted).expect("planted");
        daemon.restart_after_end().expect("it serves");
        assert_eq!(fs::metadata(&target).expect("it exists").uid(), 0, "still root's");
        let owner = fs::metadata(&dir).expect("it exists").uid();
        assert_eq!(owner == DAEMON_UID, handed_over, "{}", daemon.log());
        let is_reported = || daemon.log().contains("give memsensor a directory of its own");
        if handed_over {
            assert!(!is_reported(), "{}", daemon.log());
        } else {
            wait_until("it is in the log", is_reported);
        }
        for (comm, status) in statuses(daemon.pid()) {
            let uid = DAEMON_UID.to_string();
            assert_eq!(field(&status, "Uid"), [uid.as_str(); 4].join(" "), "{comm}");
        }
        daemon.stop(Signal::TERM).expect("stop");
        std::os::unix::fs::chown(&dir, Some(0), Some(0)).expect("chown");
        for left in fs::read_dir(&dir).expect("list") {
            fs::remove_file(left.expect("an entry").path()).expect("remove");
        }
    }
}

/// The filter alone, on a thread that keeps uid 0 and all capabilities.
#[test]
fn the_filter_forbids_bpf_programs() {
    let settings = Config::default().kernel();
    load::load(&settings).expect("without the filter");
    let restricted = std::thread::spawn(move || {
        syscalls::restrict(Threads::This).expect("installed");
        load::load(&settings).map(drop)
    });
    let error = restricted.join().expect("no panic").expect_err("with the filter");
    assert!(format!("{error:#}").contains("os error 1"), "{error:#}");
}

/// Lines of the kernel's log on system calls that a filter refused to this process.
fn refusals(pid: u32) -> Vec<String> {
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = fs::OpenOptions::new().read(true).custom_flags(nonblocking).open("/dev/kmsg");
    let (mut file, mut record, mut found) = (file.expect("/dev/kmsg"), [0; 8192], Vec::new());
    loop {
        match file.read(&mut record) {
            Ok(len) => {
                let line = String::from_utf8_lossy(&record[..len]).into_owned();
                if line.contains("type=1326") && line.contains(&format!(" pid={pid} ")) {
                    found.push(line);
                }
            }
            // Records were overwritten before they were read.
            Err(e) if e.kind() == ErrorKind::BrokenPipe => {}
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::WouldBlock, "{e}");
                return found;
            }
        }
    }
}

/// Without a daemon of audit, which would take the records.
#[test]
fn a_refused_system_call_is_in_the_kernel_s_log() {
    let daemon = Daemon::start("").expect("daemon");
    daemon.metrics().expect("metrics");
    daemon.events().expect("events");
    assert_eq!(refusals(daemon.pid()), [""; 0], "ordinary work is allowed");
    let refused = std::thread::spawn(|| {
        syscalls::restrict(Threads::This).expect("installed");
        rustix::process::chroot("/").expect_err("refused")
    });
    assert_eq!(refused.join().expect("no panic"), rustix::io::Errno::PERM);
    let options = fs::read_to_string("/proc/cmdline").expect("cmdline");
    if !Path::new("/proc/self/loginuid").exists() || options.contains("audit=0") {
        println!("this kernel has no audit");
        assert_eq!(refusals(std::process::id()), [""; 0]);
        return;
    }
    let number = if cfg!(target_arch = "x86_64") { 161 } else { 51 };
    let is_named = |line: &String| line.contains(&format!(" syscall={number} "));
    wait_until("it is logged", || refusals(std::process::id()).iter().any(is_named));
}

#[test]
fn commands_of_operators_are_in_the_log_and_in_the_events() {
    let daemon = Daemon::start("").expect("daemon");
    daemon.ask(&["drain", "--reason", "kernel\nupdate"]).expect("drain");
    daemon.ask(&["undrain"]).expect("undrain");
    let is_command = |kind: &EventKind| matches!(kind, EventKind::Operator { .. });
    let events = daemon.wait_for_events(2, is_command).expect("two events");
    for (event, expected, reason) in [
        (&events[0], OperatorCommand::Drain, "kernel update"),
        (&events[1], OperatorCommand::Undrain, "no longer drained"),
    ] {
        let EventKind::Operator { command, uid, pid, comm, detail } = &event.kind else {
            panic!("{event:?}")
        };
        assert_eq!((*command, *uid, detail.as_str()), (expected, 0, reason));
        assert_eq!(comm.as_deref(), Some("memsensor"));
        let line = format!("{} by uid 0, pid {pid}, process \"memsensor\"", expected.label());
        assert!(daemon.log().contains(&line), "{line}: {}", daemon.log());
    }
    let http = daemon.get("/api/v1/events", "").expect("events").body;
    assert!(http.contains("\"event\":\"operator\",\"command\":\"drain\""), "{http}");
    let (lines, _) = daemon.ask(&["events"]).expect("events");
    assert!(lines.contains("drain by uid 0, "), "{lines}");
    let (last, code) = daemon.ask(&["event"]).expect("event");
    assert!(code == Some(1) && last.contains("no kill"), "{last}");
}

#[test]
fn another_user_cannot_give_commands_even_if_the_socket_is_open_to_all() {
    let daemon = Daemon::start("").expect("daemon");
    fs::set_permissions(daemon.socket(), fs::Permissions::from_mode(0o666)).expect("chmod");
    let dir = std::env::temp_dir().join(format!("memsensor-test-{}-any", std::process::id()));
    fs::copy(program("memsensor").expect("built"), &dir).expect("copy");
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).expect("chmod");
    let as_user = |uid: u32| {
        let mut command = Command::new(&dir);
        command.uid(uid).gid(uid).args(["undrain", "--socket"]).arg(daemon.socket());
        let out = command.output().expect("run");
        (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    let (code, error) = as_user(65534);
    assert_eq!(code, Some(1), "{error}");
    assert!(error.contains("only root may use this socket, not uid 65534"), "{error}");
    assert_eq!(as_user(DAEMON_UID).0, Some(0), "the daemon's own user");
    fs::remove_file(dir).expect("remove");
}
