//! Other daemons, kills, stops, and namespaces.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant, SystemTime},
};

use rustix::process::{Pid, Signal, kill_process};
use sensor_ebpf::probes;
use sensor_tests::support::{
    daemon::{Daemon, delta},
    scope::{MIB, Scope, program},
};

use super::{directory, figure, kill_of, readyz, short_or_long};
use crate::{config, hog, killed, run_memsensor, wait_until};

#[test]
fn a_second_daemon_does_not_disturb_the_first() {
    let dir = directory("first");
    let first = Daemon::in_directory(&dir, &[], "").expect("daemon");
    let before = first.metrics().expect("metrics");
    let [http, agent] = [0, 1].map(|at| first.listening[at].to_string());
    let socket = format!("socket = \"{}\"", first.socket().display());
    let other = format!("socket = \"{}\"", dir.join("other").display());
    let free = "127.0.0.1:0".to_owned();
    for (socket, http, agent, named) in [
        (&socket, &http, &agent, &http),
        (&other, &free, &agent, &agent),
        (&socket, &free, &free, &first.socket().display().to_string()),
    ] {
        let file = config("second.toml", socket);
        let file_name = file.to_str().expect("UTF-8");
        let args = ["run", "--config", file_name, "--listen", http, "--agent-listen", agent];
        let (code, stderr) = run_memsensor(&args);
        std::fs::remove_file(&file).expect("remove");
        assert_eq!(code, Some(4), "{stderr}");
        assert!(stderr.contains(named.as_str()) && stderr.lines().count() == 1, "{stderr}");
        assert_eq!(readyz(&first, "").0, 200);
        assert!(first.ask(&["drain", "--reason", "x"]).expect("drain").1 == Some(0));
        assert!(first.ask(&["undrain"]).expect("undrain").1 == Some(0));
    }
    let after = first.metrics().expect("metrics");
    for series in ["process_start_time_seconds", "memsensor_log_lines_lost_total"] {
        assert_eq!(delta(&before, &after, series).expect("series"), 0.0, "{series}");
    }
    drop(first);
    assert!(!dir.exists(), "the first daemon's files are left");
}

/// Programs of memsensor that are loaded, but held by no process.
fn orphans() -> BTreeSet<u32> {
    // The kernel keeps 15 bytes of a name.
    let names = probes::ALL.iter().flat_map(|probe| probe.programs);
    let names: BTreeSet<_> = names.map(|p| p.name[..p.name.len().min(15)].to_owned()).collect();
    let loaded = aya::programs::loaded_programs().filter_map(Result::ok);
    let ours = loaded.filter(|p| names.contains(p.name_as_str().unwrap_or_default()));
    let ours: BTreeSet<_> = ours.map(|program| program.id()).collect();
    let processes = procfs::process::all_processes().expect("/proc").flatten();
    let infos = processes
        .filter_map(|process| std::fs::read_dir(format!("/proc/{}/fdinfo", process.pid())).ok());
    let held = infos.flatten().flatten().filter_map(|info| {
        let info = std::fs::read_to_string(info.path()).ok()?;
        info.lines().find_map(|line| line.strip_prefix("prog_id:")?.trim().parse().ok())
    });
    &ours - &held.collect()
}

/// Numbers that differ in each run.
struct Random(u64);

impl Random {
    fn new() -> Self {
        let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock");
        println!("seed: {}", time.subsec_nanos());
        Self(u64::from(time.subsec_nanos()) | 1)
    }

    /// Below `most`, by xorshift.
    fn below(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % most
    }
}

fn start_in(dir: &Path) -> Child {
    let mut memsensor = Command::new(program("memsensor").expect("memsensor"));
    memsensor.args(["run", "--config"]).arg(dir.join("config.toml"));
    memsensor.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("start")
}

/// A cgroup that reclaims all the time, until this is dropped.
struct Load {
    scope: Scope,
    hog: Child,
    dir: PathBuf,
}

impl Load {
    fn new(name: &str) -> Self {
        let scope = Scope::new(name, 24 * MIB).expect("scope");
        let dir = directory(&format!("{name}-data"));
        let file = dir.join("file");
        let args = ["file", file.to_str().expect("UTF-8"), "64", "100000"];
        let hog = hog(&scope, &args).spawn().expect("hog");
        Self { scope, hog, dir }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.hog.kill();
        let _ = self.hog.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// At any moment of the start and of the run, while its cgroup reclaims.
#[test]
fn a_daemon_that_is_killed_at_random_leaves_nothing_behind() {
    let kills = short_or_long(10, 200);
    let load = Load::new("killed-daemon");
    let dir = directory("killed");
    let settings = format!("[[scope]]\nname = \"web\"\ncgroup = \"{}\"\n", load.scope.path());
    let first = Daemon::in_directory(&dir, &[], &settings).expect("daemon");
    let config = std::fs::read(dir.join("config.toml")).expect("read");
    drop(first);
    std::fs::create_dir_all(dir.join("run")).expect("mkdir");
    std::fs::write(dir.join("config.toml"), config).expect("write");
    let mut random = Random::new();
    let begun = Instant::now();
    for at in 0..kills {
        let mut daemon = start_in(&dir);
        std::thread::sleep(Duration::from_millis(random.below(1500)));
        assert_eq!(daemon.try_wait().expect("wait"), None, "kill {at}: it ended by itself");
        daemon.kill().expect("kill");
        daemon.wait().expect("wait");
    }
    figure(&format!("{kills} kills of the daemon in {:.0?}", begun.elapsed()));
    let mut after = Daemon::in_directory(&dir, &[], &settings).expect("it starts");
    assert_eq!(readyz(&after, "web").1["scope"], "web");
    assert!(!after.log().contains("ignoring state file"), "{}", after.log());
    assert!(after.stop(Signal::TERM).expect("stop").success());
    let left: Vec<_> = std::fs::read_dir(dir.join("run")).expect("list").flatten().collect();
    let left: BTreeSet<_> = left.iter().map(|e| e.file_name().into_string()).collect();
    let expected = ["socket.verdict.json", "socket.verdict.new"];
    let expected = expected.map(|name| Ok(name.to_owned()));
    assert!(left.is_subset(&expected.into()), "{left:?}");
    // The kernel frees programs after a grace period.
    wait_until("no program is left", || orphans().is_empty());
}

/// As on a host whose hypervisor stops it.
#[test]
fn after_a_stop_of_everything_no_traffic_is_lost() {
    let scope = Scope::new("stopped", 64 * MIB).expect("scope");
    let mut load = hog(&scope, &["anon", "32", "loop", "600"]).spawn().expect("hog");
    let settings = format!("[[scope]]\nname = \"web\"\ncgroup = \"{}\"\n", scope.path());
    let daemon = Daemon::judging(&settings).expect("daemon");
    wait_until("it is ready", || readyz(&daemon, "web").1["state"] == "ready");
    let before = daemon.metrics().expect("metrics");
    let signal = |signal| {
        for pid in [load.id(), daemon.pid()] {
            let pid = Pid::from_raw(pid.cast_signed()).expect("a pid");
            kill_process(pid, signal).expect("signal");
        }
    };
    let stopped = Duration::from_secs(short_or_long(4, 60));
    signal(Signal::STOP);
    std::thread::sleep(stopped);
    signal(Signal::CONT);
    let begun = Instant::now();
    let mut states = Vec::new();
    while begun.elapsed() < Duration::from_secs(3) {
        let (_, body) = readyz(&daemon, "web");
        states.push((body["state"].as_str().expect("a state").to_owned(), body));
        std::thread::sleep(Duration::from_millis(20));
    }
    for (state, body) in &states {
        assert!(["stale", "ready"].contains(&state.as_str()), "{body}");
        let stalled = body["signals"]["some_share_10s"].as_f64().unwrap_or(0.0);
        assert!(stalled < 0.5, "a stall that nobody had: {body}");
    }
    assert_eq!(states.last().expect("states").0, "ready");
    let stale = states.iter().filter(|(state, _)| state == "stale").count();
    figure(&format!("stopped for {stopped:?}: {stale} of {} answers are stale", states.len()));
    let after = daemon.metrics().expect("metrics");
    let stalls = after.keys().filter(|series| series.starts_with("memsensor_stall_seconds_total"));
    for series in stalls {
        let more = delta(&before, &after, series).expect("series");
        assert!(more < stopped.as_secs_f64() / 2.0, "{series}: {more} s more");
    }
    load.kill().expect("kill");
    load.wait().expect("wait");
}

/// Runs a shell command in namespaces of its own, then becomes the daemon.
fn in_namespaces(dir: &Path, unshare: &[&str], command: &str, config: &str) -> Daemon {
    let script = format!("{command} && exec \"$@\"");
    let wrapper = [&["unshare"], unshare, &["sh", "-c", &*script, "sh"]].concat();
    Daemon::in_directory(dir, &wrapper, config).expect("daemon")
}

/// The daemon keeps no capability that would show it the processes of others.
#[test]
fn hidden_processes_are_reported_all_the_same() {
    let dir = directory("hidepid");
    let mount = "mount -t proc -o hidepid=2 proc /proc";
    let daemon = in_namespaces(&dir, &["--mount"], mount, "");
    assert_eq!(readyz(&daemon, "").1["measured_by"], "psi");
    let scope = Scope::new("hidden", 64 * MIB).expect("scope");
    let mut other = hog(&scope, &["anon", "16", "hold"]).spawn().expect("hog");
    wait_until("top shows it", || {
        daemon
            .ask(&["top", "--once", "--json", "-n", "500"])
            .expect("top")
            .0
            .contains(&scope.path())
    });
    let pid = killed(&scope, &["anon", "128"]);
    assert!(!kill_of(&daemon, pid).report.expect("a report").cgroups.is_empty());
    let metrics = daemon.metrics().expect("metrics");
    assert!(metrics.contains_key("process_resident_memory_bytes"), "{metrics:?}");
    other.kill().expect("kill");
    other.wait().expect("wait");
}

/// The present time, as in events.
fn now() -> String {
    let date = Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%S"]).output().expect("date");
    String::from_utf8(date.stdout).expect("UTF-8").trim().to_owned()
}

/// The kernel half has the clock of the host; a day is added to that of the daemon.
#[test]
fn a_time_namespace_changes_no_time() {
    let dir = directory("timens");
    let unshare = ["--time", "--monotonic", "86400", "--boottime", "86400"];
    let daemon = in_namespaces(&dir, &unshare, "true", "");
    let before = daemon.metrics().expect("metrics");
    let load = Load::new("timens");
    let begun = now();
    let kill = kill_of(&daemon, killed(&load.scope, &["anon", "32"]));
    let time = &kill.time[..begun.len()];
    assert!(*begun <= *time && *time <= *now(), "{begun} {time} {}", now());
    for _ in 0..10 {
        let after = daemon.metrics().expect("metrics");
        for series in after.keys().filter(|s| s.starts_with("memsensor_stall_seconds_total")) {
            let more = delta(&before, &after, series).expect("series");
            assert!(more < 3600.0, "{series}: {more} s");
        }
    }
    let usage = daemon.ask(&["top", "--once", "--json", "-n", "500"]).expect("top").0;
    assert!(usage.contains(&load.scope.path()), "{usage}");
}
