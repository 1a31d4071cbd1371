//! A scope whose cgroup comes and goes, and cgroups without number, made by a user without rights.

use std::{
    fs,
    os::unix::{fs::chown, process::CommandExt as _},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use procfs::process::Process;
use sensor_tests::support::{
    daemon::{Daemon, delta},
    scope::{MIB, Scope, program},
};

use super::{directory, figure, readyz, short_or_long};
use crate::wait_until;

/// The number of open descriptors.
fn descriptors(daemon: &Daemon) -> usize {
    let process = Process::new(daemon.pid().cast_signed()).expect("process");
    process.fd_count().expect("descriptors")
}

#[test]
fn a_cgroup_that_is_removed_and_made_in_a_loop_takes_no_traffic() {
    let scope = Scope::new("flickering", 64 * MIB).expect("scope");
    let config = format!("[[scope]]\nname = \"web\"\ncgroup = \"{}\"\n", scope.path());
    let daemon = Daemon::judging(&config).expect("daemon");
    wait_until("it is ready", || readyz(&daemon, "web").1["state"] == "ready");
    let (before, opened) = (daemon.metrics().expect("metrics"), descriptors(&daemon));
    let done = AtomicBool::new(false);
    let flicker = || {
        for _ in 0..short_or_long(2000, 50_000) {
            for group in scope.groups() {
                fs::remove_dir(group).expect("rmdir");
                fs::create_dir(group).expect("mkdir");
            }
        }
        done.store(true, Ordering::Relaxed);
    };
    let mut answers = 0;
    thread::scope(|threads| {
        let flickering = threads.spawn(flicker);
        while !done.load(Ordering::Relaxed) && !flickering.is_finished() {
            let (status, body) = readyz(&daemon, "web");
            let state = body["state"].as_str().unwrap_or_default();
            assert!(status == 200 && ["ready", "unknown"].contains(&state), "{body}");
            answers += 1;
        }
        flickering.join().expect("it has removed and made the cgroup");
    });
    assert!(answers > 0);
    wait_until("it is ready", || readyz(&daemon, "web").1["state"] == "ready");
    let after = daemon.metrics().expect("metrics");
    let lost = "memsensor_log_lines_lost_total";
    assert_eq!(delta(&before, &after, lost).expect("series"), 0.0, "a flood of the log");
    wait_until("no descriptor is left open", || descriptors(&daemon) <= opened);
}

/// CPU time of the process in seconds.
fn cpu(daemon: &Daemon) -> f64 {
    let stat = Process::new(daemon.pid().cast_signed()).and_then(|process| process.stat());
    let stat = stat.expect("stat");
    (stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64
}

/// Groups of a scope, removed on drop.
struct Crowd(Scope);

impl Crowd {
    fn new(count: u32) -> Self {
        let crowd = Self(Scope::new("crowd", 512 * MIB).expect("scope"));
        if !crowd.0.is_v1() {
            let control = crowd.0.memory().join("cgroup.subtree_control");
            fs::write(control, "+memory").expect("enable the memory controller");
        }
        for at in 0..count {
            fs::create_dir(crowd.0.memory().join(format!("g{at}"))).expect("mkdir");
        }
        crowd
    }

    /// The first groups, which user 65534 may change.
    fn delegated(&self, count: u32) -> Vec<PathBuf> {
        let group = |n| {
            let group = self.0.memory().join(format!("g{n}"));
            chown(&group, Some(65534), Some(65534)).expect("delegate");
            group
        };
        (0..count).map(group).collect()
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        for entry in fs::read_dir(self.0.memory()).into_iter().flatten().flatten() {
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// The seconds of CPU that it printed.
fn seconds_of(hog: Child) -> f64 {
    let output = hog.wait_with_output().expect("hog");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).trim().parse().expect("seconds")
}

/// The most locked memory that cgroups may cost: the paths (2 MiB), 32,768 entries of 80 bytes, and
/// as much again while a table grows or a walk lists them.
const MOST_LOCKED: f64 = (2 * 2 * MIB + 2 * 32_768 * 80) as f64;

/// A user to whom cgroups are delegated can make cgroups as fast as the kernel can.
#[test]
fn a_flood_of_cgroups_by_a_user_costs_the_user_more_than_the_daemon() {
    let (standing, flood) = (short_or_long(2000, 50_000), short_or_long(10_000, 300_000));
    // The kernel makes one at a time: more processes hardly make more.
    let makers = short_or_long(1, 4);
    let web = Scope::new("calm", 64 * MIB).expect("scope");
    let mut idle = web.command("sleep").arg("3600").spawn().expect("sleep");
    let config = format!("[[scope]]\nname = \"web\"\ncgroup = \"{}\"\n", web.path());
    let daemon = Daemon::judging(&config).expect("daemon");
    wait_until("it is ready", || readyz(&daemon, "web").1["state"] == "ready");
    let before = daemon.metrics().expect("metrics");
    let crowd = Crowd::new(standing);
    let subtrees = crowd.delegated(makers);
    let (begun, cpu_before) = (Instant::now(), cpu(&daemon));
    // The programs of the tests may be in a directory of another user.
    let dir = directory("for-all");
    fs::copy(program("hog").expect("hog"), dir.join("hog")).expect("copy");
    let spawn = |subtree: &PathBuf| {
        let mut hog = Command::new(dir.join("hog"));
        hog.arg("cgroups").arg(subtree).arg((flood / makers).to_string());
        hog.current_dir("/").stdout(Stdio::piped()).uid(65534).gid(65534);
        hog.spawn().expect("hog")
    };
    let mut hogs: Vec<_> = subtrees.iter().map(spawn).collect();
    let mut answers = 0;
    while hogs.iter_mut().any(|hog| hog.try_wait().expect("wait").is_none()) {
        let (status, body) = readyz(&daemon, "web");
        assert_eq!((status, body["state"].as_str()), (200, Some("ready")), "{body}");
        answers += 1;
        thread::sleep(Duration::from_millis(10));
    }
    let took = begun.elapsed().as_secs_f64();
    let ours = cpu(&daemon) - cpu_before;
    let theirs: f64 = hogs.into_iter().map(seconds_of).sum();
    assert!(answers > 0);
    let after = daemon.metrics().expect("metrics");
    let more = |series| delta(&before, &after, series).expect("series");
    let locked = more("memsensor_locked_memory_bytes");
    let lost = more("memsensor_events_lost_total{reason=\"cgroup_names_full\"}");
    figure(&format!(
        "{standing} cgroups, {:.0} made and removed a second for {took:.1} s by {makers} processes of \
         a user, which had {theirs:.2} s of CPU: the daemon had {ours:.2} s, {:.1} MiB more locked, {lost} records lost",
        f64::from(flood) / took,
        locked / MIB as f64,
    ));
    assert!(ours < theirs, "{ours} s of the daemon, {theirs} s of the user");
    assert!(locked < MOST_LOCKED, "{locked} bytes more locked memory");
    assert!(more("memsensor_cgroups_created_total") >= f64::from(flood), "not all were counted");
    fs::remove_dir_all(dir).expect("remove");
    idle.kill().expect("kill");
    idle.wait().expect("wait");
}
