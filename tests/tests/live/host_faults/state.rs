//! Directories of state that are full, read-only or gone, and a drain that cannot be saved.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use sensor_tests::support::{daemon::Daemon, failing_calls::FailingCalls, undo::Undo};

use super::{directory, readyz};
use crate::{config, run_memsensor, wait_until};

/// A directory on a tmpfs of 64 KiB of its own.
struct SmallDisk {
    dir: PathBuf,
    _undo: Undo,
}

impl SmallDisk {
    fn new(name: &str) -> Self {
        let dir = directory(name);
        let mut undo = Undo::new().expect("a shell");
        let clean = "umount \"$1\" 2>/dev/null; ! mountpoint -q \"$1\" && rm -rf \"$1\"";
        undo.later(clean, &[&dir]).expect("cleanup");
        mount(&["-t", "tmpfs", "-o", "size=64k", "tmpfs"], &dir);
        Self { dir, _undo: undo }
    }

    fn remount(&self, option: &str) {
        mount(&["-o", &format!("remount,{option}")], &self.dir);
    }

    fn filler(&self) -> PathBuf {
        self.dir.join("filler")
    }

    fn fill(&self) {
        let error = std::fs::write(self.filler(), vec![1; 128 << 10]).expect_err("it is full");
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    }
}

fn mount(args: &[&str], dir: &Path) {
    let status = Command::new("mount").args(args).arg(dir).status().expect("mount");
    assert!(status.success(), "mount {args:?} {}: {status}", dir.display());
}

/// Drains, and asserts that the drain is in effect and reported as not saved for this reason.
fn assert_unsaved_drain(daemon: &Daemon, reason: &str) {
    let (output, code) = daemon.ask(&["drain", "--reason", "test"]).expect("drain");
    assert_eq!(code, Some(1), "{output}");
    let told = output.contains("will not survive a restart") && output.contains(reason);
    assert!(told, "{reason:?} is missing: {output}");
    let (status, body) = readyz(daemon, "");
    assert_eq!((status, body["state"].as_str()), (503, Some("drained")), "{body}");
    assert_eq!(daemon.agent_check("").expect("agent"), "up 0%\n");
    daemon.metrics().expect("fresh samples");
}

fn assert_undrained(daemon: &Daemon) {
    daemon.ask(&["undrain"]).expect("undrain");
    assert_eq!(readyz(daemon, "").0, 200);
}

/// Drains, and asserts that the drain and the verdict outlive the daemon.
fn assert_saves(daemon: &mut Daemon) {
    let (output, code) = daemon.ask(&["drain", "--reason", "test"]).expect("drain");
    assert_eq!(code, Some(0), "{output}");
    daemon.restart().expect("restart");
    assert_eq!(readyz(daemon, "").1["state"], "drained");
    let log = daemon.log();
    assert!(!log.contains("ignoring state file"), "{log}");
    assert_undrained(daemon);
}

#[test]
fn a_full_or_read_only_directory_of_state_is_reported_and_the_verdict_goes_on() {
    let disk = SmallDisk::new("disk");
    let mut daemon = Daemon::in_directory(&disk.dir, &[], "");
    let daemon = daemon.as_mut().expect("daemon");
    let verdict = disk.dir.join("run/socket.verdict.json");
    wait_until("the verdict is saved", || verdict.exists());
    disk.fill();
    assert_unsaved_drain(daemon, "No space left on device");
    // The drain changes no verdict, so the file may be as it was.
    assert!(
        serde_json::from_slice::<serde_json::Value>(&std::fs::read(&verdict).expect("read"))
            .is_ok()
    );
    assert_undrained(daemon);
    std::fs::remove_file(disk.filler()).expect("remove");
    assert_saves(daemon);

    wait_until("the verdict is saved", || verdict.exists());
    disk.remount("ro");
    assert_unsaved_drain(daemon, "Read-only file system");
    assert_undrained(daemon);
    disk.remount("rw");
    assert_saves(daemon);
}

/// A host that is short of memory may have none for a thread.
#[test]
fn a_drain_is_saved_although_no_thread_can_be_started() {
    let mut daemon = Daemon::start("").expect("daemon");
    let failing = FailingCalls::begin(daemon.pid(), "clone,clone3", "EAGAIN", None);
    let failing = failing.expect("strace");
    let (output, code) = daemon.ask(&["drain", "--reason", "test"]).expect("drain");
    assert_eq!(code, Some(0), "{output}");
    failing.end().expect("strace");
    daemon.restart().expect("restart");
    assert_eq!(readyz(&daemon, "").1["state"], "drained");
}

#[test]
fn a_directory_of_the_socket_that_cannot_be_made_is_an_error_and_a_removed_one_is_not() {
    let dir = directory("gone");
    let mut daemon = Daemon::in_directory(&dir, &[], "").expect("daemon");
    std::fs::remove_dir_all(&dir).expect("remove");
    assert_eq!(daemon.get("/livez", "").expect("/livez").status, 200);
    daemon.metrics().expect("fresh samples");
    let (output, code) = daemon.ask(&["drain", "--reason", "test"]).expect("drain");
    assert!(code == Some(1) && output.contains("is memsensor running"), "{output}");
    assert!(daemon.stop(rustix::process::Signal::TERM).expect("stop").success());
    // It is saved at the end in any case.
    wait_until("the verdict cannot be saved", || daemon.log().contains("cannot save the verdict"));

    let socket = std::env::current_exe().expect("path of this test").join("run/socket");
    let text = format!("user = \"\"\nsocket = \"{}\"", socket.display());
    let file = config("gone.toml", &text);
    let args = ["run", "--config", file.to_str().expect("UTF-8"), "--listen", "127.0.0.1:0"];
    let args = args.into_iter().chain(["--agent-listen", "127.0.0.1:0"]);
    let (code, stderr) = run_memsensor(&args.collect::<Vec<_>>());
    std::fs::remove_file(file).expect("remove");
    assert_eq!(code, Some(1), "{stderr}");
    let names = stderr.contains(socket.to_str().expect("UTF-8"));
    assert!(names && stderr.contains("Not a directory"), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}
