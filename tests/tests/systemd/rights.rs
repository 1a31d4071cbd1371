//! What the running service may do, as the kernel reports it, and what protects its memory.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use crate::service::{enter, main_pid, measured, memsensor, property, run, wait_until};

const MIB: u64 = 1 << 20;
const DIRECTORY: &str = "/run/memsensor";
const RECORD: &str = "/var/lib/memsensor";

/// The id of memsensor's user.
fn own_uid() -> u32 {
    let (text, _) = run("id", &["-u", "memsensor"]);
    text.trim().parse().unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// A field of a process's or a thread's status file.
fn field(status: &str, name: &str) -> String {
    let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value.unwrap_or_else(|| panic!("no {name}: {status}")).trim().to_owned()
}

#[test]
fn it_runs_as_its_user_without_capabilities() {
    enter();
    let uid = own_uid().to_string();
    let tasks = format!("/proc/{}/task", main_pid());
    for task in fs::read_dir(tasks).expect("its threads") {
        let file = task.expect("a thread").path().join("status");
        let status = fs::read_to_string(&file).expect("status");
        let uids = field(&status, "Uid");
        assert!(uids.split_whitespace().all(|word| word == uid), "{status}");
        assert_eq!(field(&status, "Groups"), "", "{status}");
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(field(&status, set), "0000000000000000", "{set}: {status}");
        }
        assert_eq!(field(&status, "NoNewPrivs"), "1", "{status}");
        assert_eq!(field(&status, "Seccomp"), "2", "{status}");
    }
}

#[test]
fn nothing_that_it_sets_up_itself_is_missing() {
    enter();
    let (text, code) = memsensor(&["probes"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("Landlock"), "{text}");
    assert!(!text.contains("could not set up"), "{text}");
}

#[test]
fn its_directory_and_its_files_are_its_own() {
    enter();
    let uid = own_uid();
    // The drain is written by the running daemon, the verdict within a second.
    let (text, code) = memsensor(&["drain", "--reason", "test"]);
    assert_eq!(code, Some(0), "{text}");
    let files = || -> Vec<PathBuf> {
        let entries = fs::read_dir(DIRECTORY).expect("its directory");
        entries.map(|entry| entry.expect("an entry").path()).collect()
    };
    wait_until("two state files", || {
        files().iter().filter(|file| file.extension().is_some_and(|e| e == "json")).count() == 2
    });
    let directory = fs::metadata(DIRECTORY).expect("its directory");
    assert_eq!((directory.uid(), directory.permissions().mode() & 0o777), (uid, 0o700));
    for file in files() {
        let metadata = fs::symlink_metadata(&file).expect("a file");
        // The socket stays root's: only root may send commands.
        let owner = if metadata.is_file() { uid } else { 0 };
        assert_eq!(metadata.uid(), owner, "{}", file.display());
        assert_eq!(metadata.permissions().mode() & 0o077, 0, "{}", file.display());
    }
}

#[test]
fn the_record_is_its_own_and_can_be_read() {
    enter();
    let segments = || fs::read_dir(RECORD).map_or(0, Iterator::count);
    wait_until("the record is allocated", || segments() == 65);
    let directory = fs::metadata(RECORD).expect("its directory");
    assert_eq!((directory.uid(), directory.permissions().mode() & 0o777), (own_uid(), 0o700));
    for entry in fs::read_dir(RECORD).expect("its directory") {
        let metadata = entry.expect("an entry").metadata().expect("its owner");
        assert_eq!((metadata.uid(), metadata.permissions().mode() & 0o777), (own_uid(), 0o600));
    }
    let (text, code) = memsensor(&["events", "--since", "1h"]);
    assert!(code == Some(0) && text.contains("memsensor started as process"), "{text}");
    let (text, code) = memsensor(&["history"]);
    assert!(code == Some(0) && text.starts_with("host of "), "{text}");
}

/// A number in a file of a cgroup.
fn number(group: &Path, file: &str) -> u64 {
    let path = group.join(file);
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.trim().parse().unwrap_or_else(|e| panic!("{}: {text:?}: {e}", path.display()))
}

#[test]
fn its_memory_is_protected_on_every_level() {
    enter();
    let group = property("ControlGroup");
    assert_eq!(group, "/memsensor.slice/memsensor.service");
    let slice = Path::new("/sys/fs/cgroup/memsensor.slice");
    let service = slice.join("memsensor.service");
    for group in [slice, &service] {
        assert_eq!(number(group, "memory.min"), 24 * MIB, "{}", group.display());
    }
    assert_eq!(number(&service, "memory.swap.max"), 0);
    assert_eq!(number(slice, "cpu.weight"), 10_000);
    let used = number(&service, "memory.current");
    measured(&format!("memory.current of the service: {:.1} MiB", used as f64 / MIB as f64));
    assert!(used < 24 * MIB, "{used} bytes are more than what is protected");
    let adj = format!("/proc/{}/oom_score_adj", main_pid());
    assert_eq!(fs::read_to_string(adj).expect("adj").trim(), "-999");
}
