//! The record on disk of a running daemon: what it has after kills, restarts and faults of its disk.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use sensor_tests::support::{
    daemon::{DAEMON_UID, Daemon},
    scope::{MIB, Scope, program},
    undo::Undo,
};
use serde_json::Value;

use super::verdict::killed_apart;
use crate::{is_kill, killed, wait_until};

/// A directory for a record that is removed at the end.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let name = format!("memsensor-test-record-{}-{name}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        fs::create_dir_all(&dir).expect("a directory");
        Self(dir)
    }

    /// A configuration that records there, and judges this scope by its kills.
    fn config(&self, scope: &Scope) -> String {
        let (dir, path) = (self.0.display(), scope.path());
        format!(
            "record.directory = \"{dir}\"\nrecord.max_mib = 4\n[verdict]\nfall_per_second = 1.0\n\
             [[scope]]\nname = \"web\"\ncgroup = \"{path}\"\n"
        )
    }

    /// Runs a command on the record; returns its output.
    fn read(&self, words: &[&str]) -> String {
        let mut command = Command::new(program("memsensor").expect("memsensor"));
        let out = command.args(words).arg("--dir").arg(&self.0).output().expect("runs");
        let stderr = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success() && stderr.is_empty(), "{words:?}: {stderr}");
        String::from_utf8(out.stdout).expect("UTF-8")
    }

    fn events(&self) -> String {
        self.read(&["events", "--since", "1h"])
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn kills(daemon: &Daemon, least: usize) -> Vec<String> {
    let events = daemon.wait_for_events(least, is_kill).expect("kills");
    events.into_iter().map(|event| event.id).collect()
}

fn series(daemon: &Daemon, name: &str) -> f64 {
    daemon.metrics().expect("metrics").get(name).copied().unwrap_or(f64::NAN)
}

#[test]
fn kills_changes_and_answers_are_kept_over_restarts() {
    let (dir, scope) = (Dir::new("kept"), Scope::new("recorded", 16 * MIB).expect("scope"));
    let mut daemon = Daemon::judging(&dir.config(&scope)).expect("daemon");
    assert_eq!(daemon.agent_check("web\n").expect("agent"), "up 100%\n");
    killed_apart(&daemon, &scope);
    killed_apart(&daemon, &scope);
    wait_until("overloaded", || daemon.agent_check("web\n").expect("agent") == "up 0%\n");
    let before = kills(&daemon, 2);
    let first = format!("process {}", daemon.pid());
    wait_until("changes are logged", || daemon.log().contains("web: ready -> degraded, weight"));
    wait_until("the answer is recorded", || dir.events().contains(" was answered for web"));
    daemon.stop(Signal::KILL).expect("killed");
    daemon.restart_after_end().expect("again");
    assert_eq!(kills(&daemon, 2), before, "it lists the kills of before");
    daemon.restart().expect("once more");
    assert_eq!(kills(&daemon, 2), before);
    let text = dir.events();
    for (count, part) in [
        (2, "OOM kill (memcg)"),
        (1, "web: ready -> degraded, weight"),
        (1, "web: degraded -> overloaded, weight"),
        (1, "%; oom_kill (oom_kills_60s 1.000 of 1)"),
        (1, "127.0.0.1 was answered for web by agent: overloaded, weight 0"),
        (3, "memsensor started as process"),
        (1, first.as_str()),
        (1, "the one before had not ended in order"),
        (1, "memsensor ended"),
    ] {
        assert_eq!(text.matches(part).count(), count, "{part}: {text}");
    }
    let history = dir.read(&["history", "--json", "--step", "100ms"]);
    let steps = history.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let states: Vec<_> = steps.filter(|step| step["scope"] == "web").collect();
    let of = |state: &str| states.iter().filter(|step| step["state"] == state).count();
    assert!(of("ready") > 0 && of("degraded") > 5 && of("overloaded") > 5, "{history}");
    assert_prometheus_loads_it(&dir);
    let text = dir.read(&["postmortem"]);
    for part in
        ["| Scope | `web` |", "| Kills | 2 |", "at a limit, `hog`", "degraded -> overloaded"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
}

fn assert_prometheus_loads_it(dir: &Dir) {
    let (file, blocks) = (dir.0.with_extension("txt"), dir.0.with_extension("blocks"));
    fs::write(&file, dir.read(&["history", "--openmetrics", "--step", "1s"])).expect("written");
    let mut promtool = Command::new("promtool");
    promtool.args(["tsdb", "create-blocks-from", "openmetrics"]).arg(&file).arg(&blocks);
    let out = promtool.output().expect("promtool");
    let made = fs::read_dir(&blocks).map_or(0, Iterator::count);
    let _ = (fs::remove_file(&file), fs::remove_dir_all(&blocks));
    assert!(out.status.success() && made > 0, "{out:?}");
}

/// As many disks as file systems: full at the start, later with room.
#[test]
fn a_full_disk_stops_the_record_and_nothing_else() {
    let (dir, scope) = (Dir::new("full"), Scope::new("full", 16 * MIB).expect("scope"));
    let mut undo = Undo::new().expect("undo");
    undo.later("! mountpoint -q \"$1\" || umount \"$1\"", &[&dir.0]).expect("undo");
    let mount = |options: &str| {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", options, "memsensor-test"]).arg(&dir.0);
        assert!(mount.status().expect("mount").success(), "{options}");
    };
    mount("size=2M,mode=0700");
    let daemon = Daemon::judging(&dir.config(&scope)).expect("daemon");
    wait_until("it is logged", || daemon.log().contains("keeps no record until this is mended"));
    assert!(daemon.log().contains("allocate 4 MiB"), "{}", daemon.log());
    assert_eq!(series(&daemon, "memsensor_record_writable"), 0.0);
    killed(&scope, &["anon", "32"]);
    wait_until("the verdict works", || daemon.agent_check("web\n").expect("agent") == "up 50%\n");
    mount("remount,size=8M,mode=0700");
    wait_until("it can be written", || series(&daemon, "memsensor_record_writable") == 1.0);
    assert!(daemon.log().contains("the record can be written again"), "{}", daemon.log());
    let lost = series(&daemon, "memsensor_record_entries_lost_total{reason=\"write_error\"}");
    assert!(lost >= 1.0, "{lost}");
    wait_until("the loss is named", || dir.events().contains("the record could not be written"));
}

/// A disk that answers nothing, as a frozen file system does.
#[test]
fn a_disk_that_hangs_delays_no_answer_and_no_verdict() {
    let (dir, scope) = (Dir::new("hangs"), Scope::new("hangs", 16 * MIB).expect("scope"));
    let Some(_frozen) = Frozen::prepare(&dir.0) else { return };
    let daemon = Daemon::judging(&dir.config(&scope)).expect("daemon");
    assert_eq!(daemon.agent_check("web\n").expect("agent"), "up 100%\n");
    wait_until("it is written", || {
        series(&daemon, "memsensor_record_synced_timestamp_seconds") > 0.0
    });
    Frozen::set(&dir.0, true);
    killed(&scope, &["anon", "32"]);
    wait_until("the verdict works", || daemon.agent_check("web\n").expect("agent") == "up 50%\n");
    let lost = "memsensor_record_entries_lost_total{reason=\"slow_disk\"}";
    let mut slowest = Duration::ZERO;
    wait_until("looks are lost", || {
        let asked = Instant::now();
        assert_eq!(daemon.get("/readyz", "").expect("readyz").status, 200);
        slowest = slowest.max(asked.elapsed());
        series(&daemon, lost) > 0.0
    });
    println!("measured: slowest answer while the disk of the record hung: {slowest:?}");
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    Frozen::set(&dir.0, false);
    wait_until("the loss is named", || dir.events().contains("the disk was too slow"));
    assert!(dir.events().contains("web: ready -> degraded"), "{}", dir.events());
}

/// A file system of its own that can be frozen.
struct Frozen(#[allow(dead_code, reason = "it undoes")] Undo);

impl Frozen {
    /// `None` where there are no loop devices; the test is then not run.
    fn prepare(dir: &Path) -> Option<Self> {
        let image = dir.with_extension("image");
        let mut undo = Undo::new().expect("undo");
        undo.later("rm -f \"$1\"", &[&image]).expect("undo");
        fs::File::create(&image).expect("an image").set_len(64 << 20).expect("its size");
        let made = Command::new("mkfs.ext4").arg("-q").arg(&image).status();
        assert!(made.expect("mkfs.ext4").success());
        undo.later("! mountpoint -q \"$1\" || umount \"$1\"", &[dir]).expect("undo");
        let mounted = Command::new("mount").args(["-o", "loop"]).arg(&image).arg(dir).status();
        if !mounted.expect("mount").success() {
            println!("skipped: no loop device, so no disk that can hang");
            return None;
        }
        undo.later("fsfreeze -u \"$1\" || true", &[dir]).expect("undo");
        Some(Self(undo))
    }

    fn set(dir: &Path, frozen: bool) {
        let flag = if frozen { "-f" } else { "-u" };
        let done = Command::new("fsfreeze").arg(flag).arg(dir).status();
        assert!(done.expect("fsfreeze").success());
    }
}

/// All memory of the daemon is locked, so the record must need little.
#[test]
fn the_record_needs_at_most_512_kib_of_locked_memory() {
    let scope = Scope::new("measured", 16 * MIB).expect("scope");
    let locked = |config: &str| {
        let daemon = Daemon::judging(config).expect("daemon");
        for _ in 0..2 {
            killed_apart(&daemon, &scope);
        }
        kills(&daemon, 2);
        std::thread::sleep(Duration::from_secs(5));
        series(&daemon, "memsensor_locked_memory_bytes") / 1024.0
    };
    let dir = Dir::new("measured");
    let config = dir.config(&scope);
    let (_, no_record) = config.split_once("[verdict]").expect("the next table");
    let without = locked(&format!("[verdict]{no_record}"));
    let with = locked(&config);
    println!("measured: locked memory: {with:.0} KiB with a record, {without:.0} KiB without");
    assert!(with - without <= 512.0, "{with} KiB, {without} KiB without");
}

/// The files are memsensor's alone, and a directory with other files is left alone.
#[test]
fn the_directory_is_handed_over_only_if_it_is_memsensors() {
    use std::os::unix::fs::MetadataExt as _;
    let (dir, scope) = (Dir::new("owner"), Scope::new("owner", 16 * MIB).expect("scope"));
    let mut daemon = Daemon::judging(&dir.config(&scope)).expect("daemon");
    wait_until("it is written", || fs::read_dir(&dir.0).is_ok_and(|list| list.count() == 5));
    for entry in fs::read_dir(&dir.0).expect("a list") {
        let metadata = entry.expect("an entry").metadata().expect("its owner");
        assert_eq!((metadata.uid(), metadata.mode() & 0o7777), (DAEMON_UID, 0o600));
    }
    daemon.stop(Signal::TERM).expect("stop");
    fs::remove_dir_all(&dir.0).expect("removed");
    fs::create_dir(&dir.0).expect("made");
    fs::write(dir.0.join("notes.txt"), "mine").expect("written");
    daemon.restart_after_end().expect("it serves");
    wait_until("it is logged", || daemon.log().contains("so nothing is recorded"));
    assert_eq!(fs::metadata(&dir.0).expect("it exists").uid(), 0, "still root's");
    assert_eq!(series(&daemon, "memsensor_record_writable"), 0.0);
}
