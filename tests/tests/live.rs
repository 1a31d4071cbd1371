//! Real OOM kills and real reclaim on this kernel, and the daemon from outside.
//!
//! Each test makes its own cgroups and daemon and removes them. What memsensor says is compared
//! with what the kernel counts itself (vmstat, memory.stat) and with bpftrace on the same events.
//! Needs root. Run one at a time: the counts are the whole machine's.
#![allow(clippy::panic, clippy::float_cmp, reason = "tests fail by panicking; counts are whole")]

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write as _,
    net::TcpStream,
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use rustix::process::Signal;
use sensor_tests::{
    count::{Bpftrace, vmstat},
    daemon::{Daemon, PATIENCE, delta, get, parse},
    scope::{MIB, Scope, program},
};
use sensor_user::events::{Process, Scope as OomScope, What};

const OOM_KILLS: [&str; 2] =
    ["memsensor_oom_kills_total{scope=\"global\"}", "memsensor_oom_kills_total{scope=\"memcg\"}"];

fn hog(scope: &Scope, args: &[&str]) -> Command {
    let mut command = scope.command(program("hog").expect("hog"));
    command.args(args).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Runs a hog that must be killed; its process id.
fn killed(scope: &Scope, args: &[&str]) -> u32 {
    let mut child = hog(scope, args).spawn().expect("start hog");
    let pid = child.id();
    let status = child.wait().expect("wait");
    let signal = std::os::unix::process::ExitStatusExt::signal(&status);
    assert_eq!(signal, Some(9), "hog {args:?} ended with {status}, it should have been killed");
    pid
}

fn oom_kills_of_vmstat() -> f64 {
    vmstat().expect("vmstat")["oom_kill"] as f64
}

fn is_kill(what: &What) -> bool {
    matches!(what, What::OomKill { .. })
}

fn as_kill(what: &What) -> (OomScope, &Process, &Process) {
    let What::OomKill { scope, victim, trigger, .. } = what else { panic!("{what:?}") };
    (*scope, victim, trigger)
}

#[test]
fn an_oom_kill_is_found_everywhere() {
    let daemon = Daemon::start("").expect("daemon");
    let scope = Scope::new("kill", 32 * MIB).expect("scope");
    let (before, kernel_before) = (daemon.metrics().expect("metrics"), oom_kills_of_vmstat());
    let pid = killed(&scope, &["--adj", "321", "anon", "64"]);
    let events = daemon.wait_for_events(1, is_kill).expect("the kill");
    let after = daemon.metrics().expect("metrics");

    assert_eq!(oom_kills_of_vmstat() - kernel_before, 1.0);
    assert_eq!(delta(&before, &after, OOM_KILLS[0]).expect("global"), 0.0);
    assert_eq!(delta(&before, &after, OOM_KILLS[1]).expect("memcg"), 1.0);
    assert_eq!(events.len(), 1);
    let (oom, victim, trigger) = as_kill(&events[0].what);
    assert_eq!(oom, OomScope::Memcg);
    for process in [victim, trigger] {
        assert_eq!((process.pid, process.comm.as_str(), process.uid), (pid, "hog", 0));
        assert_eq!(process.cgroup_id, scope.id().expect("id"));
        assert_eq!(process.cgroup.as_deref(), Some(scope.path().as_str()));
        assert_eq!(process.oom_score_adj, 321);
    }
    let What::OomKill { memory, .. } = &events[0].what else { panic!() };
    assert!(memory.anon_bytes > 24 * MIB && memory.anon_bytes <= 32 * MIB, "{memory:?}");
    assert!(memory.virtual_bytes >= 64 * MIB, "{memory:?}");
    assert!(memory.page_tables_bytes > 0 && memory.page_tables_bytes < MIB, "{memory:?}");
    // Its memory came back, and the time is in the histogram.
    let exits = daemon.wait_for_events(1, |w| matches!(w, What::VictimExit { .. })).expect("exit");
    let What::VictimExit { pid: gone, seconds } = exits[0].what else { panic!() };
    assert_eq!(gone, pid);
    assert!(seconds > 0.0 && seconds < PATIENCE.as_secs_f64());
    let exits = delta(&before, &after, "memsensor_oom_victim_exit_seconds_count").expect("count");
    assert_eq!(exits, 1.0);
    // Limit reclaim came before it, and is a stall.
    let stall = "memsensor_stall_seconds_total{cause=\"memcg_reclaim\"}";
    assert!(delta(&before, &after, stall).expect("stall") > 0.0);
}

#[test]
fn the_victim_is_not_the_trigger() {
    let daemon = Daemon::start("").expect("daemon");
    let scope = Scope::new("trigger", 64 * MIB).expect("scope");
    let big = &["--adj", "1000", "--comm-hex", "626967", "anon", "44", "hold"];
    let mut victim = hog(&scope, big).stdout(Stdio::piped()).spawn().expect("victim");
    wait_for_line(&mut victim);
    // Small, but its allocation is what does not fit; by so little that the first pages of the victim
    // make room, or the kernel would kill once more while the rest is being freed.
    let small = &["--comm-hex", "736d616c6c", "anon", "22"];
    let mut trigger = hog(&scope, small).spawn().expect("trigger");
    let status = trigger.wait().expect("wait");
    assert!(status.success(), "the trigger lives: {status}");
    victim.wait().expect("wait");
    let events = daemon.wait_for_events(1, is_kill).expect("the kill");
    assert_eq!(events.len(), 1);
    let (_, found_victim, found_trigger) = as_kill(&events[0].what);
    assert_eq!((found_victim.pid, found_victim.comm.as_str()), (victim.id(), "big"));
    assert_eq!((found_trigger.pid, found_trigger.comm.as_str()), (trigger.id(), "small"));
    assert_eq!((found_victim.oom_score_adj, found_trigger.oom_score_adj), (1000, 0));
}

fn wait_for_line(child: &mut Child) {
    use std::io::BufRead as _;
    let mut line = String::new();
    let stdout = child.stdout.as_mut().expect("piped");
    std::io::BufReader::new(stdout).read_line(&mut line).expect("a line");
    assert!(!line.is_empty(), "the child ended before it said anything");
}

#[test]
fn parallel_kills_are_all_found_and_none_twice() {
    const SCOPES: usize = 8;
    const ROUNDS: usize = 3;
    let daemon = Daemon::start("").expect("daemon");
    let scopes: Vec<_> = (0..SCOPES)
        .map(|i| Scope::new(&format!("parallel{i}"), 16 * MIB).expect("scope"))
        .collect();
    let (before, kernel_before) = (daemon.metrics().expect("metrics"), oom_kills_of_vmstat());
    let mut expected = BTreeMap::new();
    for _ in 0..ROUNDS {
        let mut running: Vec<_> = scopes
            .iter()
            .map(|scope| (scope, hog(scope, &["anon", "32"]).spawn().expect("start hog")))
            .collect();
        for (scope, child) in &mut running {
            child.wait().expect("wait");
            expected.insert(child.id(), scope.path());
        }
    }
    let events = daemon.wait_for_events(SCOPES * ROUNDS, is_kill).expect("kills");
    let after = daemon.metrics().expect("metrics");
    let found: BTreeMap<_, _> = events
        .iter()
        .map(|event| as_kill(&event.what).1)
        .map(|victim| (victim.pid, victim.cgroup.clone().unwrap_or_default()))
        .collect();
    assert_eq!(found, expected);
    assert_eq!(events.len(), SCOPES * ROUNDS, "none twice");
    let kernel = oom_kills_of_vmstat() - kernel_before;
    assert_eq!(kernel, (SCOPES * ROUNDS) as f64);
    assert_eq!(delta(&before, &after, OOM_KILLS[1]).expect("memcg"), kernel);
    assert_eq!(delta(&before, &after, OOM_KILLS[0]).expect("global"), 0.0);
    assert_no_losses(&before, &after);
}

fn assert_no_losses(before: &BTreeMap<String, f64>, after: &BTreeMap<String, f64>) {
    for series in after.keys().filter(|s| s.starts_with("memsensor_events_lost_total")) {
        assert_eq!(delta(before, after, series).expect("series"), 0.0, "{series}");
    }
}

#[test]
fn a_fork_heavy_victim_and_a_threaded_one_agree_with_the_kernel() {
    let daemon = Daemon::start("").expect("daemon");
    let (before, kernel_before) = (daemon.metrics().expect("metrics"), oom_kills_of_vmstat());
    let forks = Scope::new("forks", 48 * MIB).expect("scope");
    // The parent waits for children of which several are killed; it may be killed as well.
    let mut parent = hog(&forks, &["forks", "24", "4"]).spawn().expect("forks");
    let threads = Scope::new("threads", 32 * MIB).expect("scope");
    let threaded = killed(&threads, &["threads", "16", "4"]);
    daemon.wait_for_events(2, is_kill).expect("kills");
    drop(forks);
    parent.wait().expect("wait");
    let kernel = oom_kills_of_vmstat() - kernel_before;
    let after = daemon.metrics().expect("metrics");
    assert!(kernel >= 2.0, "{kernel} kills");
    assert_eq!(delta(&before, &after, OOM_KILLS[1]).expect("memcg"), kernel);
    let events = daemon.events().expect("events");
    let victims: Vec<_> = events.iter().filter(|e| is_kill(&e.what)).collect();
    assert_eq!(victims.len() as f64, kernel, "an event for each");
    let of_threaded = victims.iter().filter(|e| as_kill(&e.what).1.pid == threaded).count();
    assert_eq!(of_threaded, 1, "one process with 16 threads is one kill");
}

#[test]
fn a_hostile_name_harms_no_output() {
    // Escape sequence, quote, backslash, newline, and bytes that are not UTF-8.
    const HOSTILE: &str = "1b5b324a225c0aff9b";
    let daemon = Daemon::start("").expect("daemon");
    let scope = Scope::new("hostile \"name\"\u{9b}", 16 * MIB).expect("scope");
    killed(&scope, &["--comm-hex", HOSTILE, "anon", "32"]);
    let events = daemon.wait_for_events(1, is_kill).expect("the kill");
    let (_, victim, _) = as_kill(&events[0].what);
    assert_eq!(victim.comm, "\u{1b}[2J\"\\\n\u{fffd}\u{fffd}");
    let memsensor = program("memsensor").expect("memsensor");
    for extra in [&[][..], &["--json"]] {
        let out = Command::new(&memsensor)
            .args(["events", "--socket"])
            .arg(daemon.socket())
            .args(extra)
            .output()
            .expect("events");
        let text = String::from_utf8(out.stdout).expect("UTF-8");
        let control = |c: char| c.is_control() && c != '\n';
        assert!(!text.is_empty() && !text.contains(control), "{text:?}");
        assert_eq!(text.lines().count(), daemon.events().expect("events").len(), "{text:?}");
    }
    assert_promtool_is_happy(&daemon);
}

fn assert_promtool_is_happy(daemon: &Daemon) {
    let classic = daemon.get("/metrics", "").expect("metrics");
    assert!(classic.head.contains("text/plain; version=0.0.4"), "{}", classic.head);
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start promtool (apt-get install prometheus)");
    promtool.stdin.take().expect("piped").write_all(classic.body.as_bytes()).expect("write");
    let Output { status, stdout, stderr } = promtool.wait_with_output().expect("promtool");
    let said = String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr);
    assert!(status.success() && said.is_empty(), "promtool: {said}");
}

#[test]
fn both_formats_say_the_same() {
    let daemon = Daemon::start("bpf_stats = true").expect("daemon");
    assert_promtool_is_happy(&daemon);
    let open = daemon
        .get("/metrics", "application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
        .expect("metrics");
    assert!(open.head.contains("application/openmetrics-text; version=1.0.0"), "{}", open.head);
    assert!(open.body.ends_with("# EOF\n"));
    let classic = daemon.get("/metrics", "").expect("metrics");
    let series = |text: &str| parse(text).into_keys().collect::<BTreeSet<_>>();
    assert_eq!(series(&open.body), series(&classic.body));
    let all = series(&classic.body);
    let has = |name: &str| all.iter().any(|s| s.split('{').next() == Some(name));
    for name in CONTRACT {
        assert!(has(name), "{name} is missing");
    }
    println!("{} series", all.len());
}

/// The names that others rely on: renaming one is a breaking change.
const CONTRACT: &[&str] = &[
    "memsensor_oom_kills_total",
    "memsensor_oom_victim_exit_seconds_bucket",
    "memsensor_direct_reclaim_seconds_bucket",
    "memsensor_direct_reclaim_pages_total",
    "memsensor_memcg_reclaim_seconds_bucket",
    "memsensor_memcg_reclaim_pages_total",
    "memsensor_reclaiming_tasks",
    "memsensor_kswapd_wakeups_total",
    "memsensor_kswapd_active_seconds_total",
    "memsensor_reclaim_scanned_pages_total",
    "memsensor_reclaim_stolen_pages_total",
    "memsensor_reclaim_priority_min",
    "memsensor_reclaim_throttle_seconds_total",
    "memsensor_compaction_stall_seconds_bucket",
    "memsensor_alloc_retries_total",
    "memsensor_alloc_no_progress_loops_max",
    "memsensor_kill_signals_total",
    "memsensor_stall_seconds_total",
    "memsensor_probe_attached",
    "memsensor_probe_info",
    "memsensor_bpf_run_seconds_total",
    "memsensor_bpf_runs_total",
    "memsensor_bpf_map_bytes",
    "memsensor_events_lost_total",
    "memsensor_scrape_seconds",
    "memsensor_last_sample_timestamp_seconds",
    "memsensor_build_info",
    "process_cpu_seconds_total",
    "process_resident_memory_bytes",
    "process_open_fds",
    "process_max_fds",
    "process_start_time_seconds",
];

/// The sum of a counter over its labels.
fn sum(series: &BTreeMap<String, f64>, name: &str) -> f64 {
    series.iter().filter(|(s, _)| s.split('{').next() == Some(name)).map(|(_, v)| v).sum()
}

/// Limit reclaim of page cache: no OOM, our counts against the kernel's and bpftrace's.
#[test]
fn limit_reclaim_agrees_with_the_kernel_and_with_bpftrace() {
    let daemon = Daemon::start("").expect("daemon");
    let scope = Scope::new("cache", 24 * MIB).expect("scope");
    let file = std::env::temp_dir().join(format!("memsensor-test-cache-{}", std::process::id()));
    let path = file.to_str().expect("UTF-8");
    let bpftrace = Bpftrace::start(
        "tracepoint:vmscan:mm_vmscan_memcg_reclaim_end { @ends = count(); @pages = sum(args->nr_reclaimed); } \
         tracepoint:vmscan:mm_vmscan_lru_shrink_inactive { @scanned = sum(args->nr_scanned); @stolen = sum(args->nr_reclaimed); }",
    )
    .expect("bpftrace");
    let (before, kernel_before) = (daemon.metrics().expect("metrics"), vmstat().expect("vmstat"));
    let status = hog(&scope, &["file", path, "96", "6"]).status().expect("hog");
    let kernel_after = vmstat().expect("vmstat");
    let after = daemon.metrics().expect("metrics");
    let counted = bpftrace.stop().expect("bpftrace");
    std::fs::remove_file(&file).expect("remove the file");
    assert!(status.success(), "{status}: page cache can be reclaimed, nobody is killed");

    let went_up = |name: &str| sum(&after, name) - sum(&before, name);
    let kernel = |name: &str| (kernel_after[name] - kernel_before[name]) as f64;
    let ends = went_up("memsensor_memcg_reclaim_seconds_count");
    println!("{ends} limit reclaims, bpftrace: {counted:?}");
    assert!(ends > 100.0, "only {ends} limit reclaims: the workload is too kind");
    assert_eq!(ends, counted["ends"] as f64);
    assert_eq!(went_up("memsensor_memcg_reclaim_pages_total"), counted["pages"] as f64);
    let scanned = went_up("memsensor_reclaim_scanned_pages_total");
    let stolen = went_up("memsensor_reclaim_stolen_pages_total");
    assert_eq!((scanned, stolen), (counted["scanned"] as f64, counted["stolen"] as f64));
    assert_eq!(scanned, kernel("pgscan_anon") + kernel("pgscan_file"));
    assert_eq!(stolen, kernel("pgsteal_anon") + kernel("pgsteal_file"));
    assert_eq!(went_up("memsensor_oom_kills_total"), 0.0);
    // All of it was done by tasks at their limit, on the file LRU.
    let series = "memsensor_reclaim_stolen_pages_total{by=\"memcg\",lru=\"file\"}";
    assert_eq!(delta(&before, &after, series).expect("series"), stolen);
    // The buckets add up, and the stall clock has the same time.
    let seconds = went_up("memsensor_memcg_reclaim_seconds_sum");
    let stall = "memsensor_stall_seconds_total{cause=\"memcg_reclaim\"}";
    let throttle = "memsensor_stall_seconds_total{cause=\"throttle\"}";
    let stalled = delta(&before, &after, stall).expect("stall")
        + delta(&before, &after, throttle).expect("throttle");
    assert!((stalled - seconds).abs() < 1e-6, "{stalled} s stalled, {seconds} s in reclaim");
    let inf = "memsensor_memcg_reclaim_seconds_bucket{le=\"+Inf\"}";
    assert_eq!(delta(&before, &after, inf).expect("+Inf"), ends);
    assert_no_losses(&before, &after);
}

/// Anonymous memory at the limit, without swap: reclaim finds nothing and the kernel kills.
#[test]
fn an_anonymous_workload_agrees_with_bpftrace() {
    let daemon = Daemon::start("").expect("daemon");
    let scope = Scope::new("anon", 24 * MIB).expect("scope");
    let bpftrace = Bpftrace::start(
        "tracepoint:vmscan:mm_vmscan_memcg_reclaim_begin { @begins = count(); } \
         tracepoint:vmscan:mm_vmscan_memcg_reclaim_end { @ends = count(); } \
         tracepoint:oom:mark_victim { @victims = count(); }",
    )
    .expect("bpftrace");
    let before = daemon.metrics().expect("metrics");
    for _ in 0..5 {
        killed(&scope, &["anon", "48"]);
    }
    let after = daemon.metrics().expect("metrics");
    let counted = bpftrace.stop().expect("bpftrace");
    let ends = sum(&after, "memsensor_memcg_reclaim_seconds_count")
        - sum(&before, "memsensor_memcg_reclaim_seconds_count");
    assert_eq!((counted["begins"], counted["victims"]), (counted["ends"], 5));
    assert_eq!(ends, counted["ends"] as f64);
    assert_eq!(delta(&before, &after, OOM_KILLS[1]).expect("memcg"), 5.0);
    assert_eq!(after["memsensor_reclaiming_tasks{kind=\"memcg\"}"], 0.0);
    assert_no_losses(&before, &after);
}

#[test]
fn compaction_by_a_task_counts_and_kcompactd_does_not() {
    let daemon = Daemon::start("").expect("daemon");
    let bpftrace = Bpftrace::start(
        "tracepoint:compaction:mm_compaction_end /strncmp(comm, \"kcompactd\", 9) != 0/ { @ends = count(); }",
    )
    .expect("bpftrace");
    let before = daemon.metrics().expect("metrics");
    std::fs::write("/proc/sys/vm/compact_memory", "1").expect("compact");
    let after = daemon.metrics().expect("metrics");
    let counted = bpftrace.stop().expect("bpftrace");
    let went_up = |name: &str| sum(&after, name) - sum(&before, name);
    let ends = went_up("memsensor_compaction_stall_seconds_count");
    assert!(ends > 0.0, "nothing was compacted");
    assert_eq!(ends, counted["ends"] as f64);
    assert_eq!(went_up("memsensor_compaction_results_total"), ends, "each has a named result");
}

fn sleeper() -> Child {
    Command::new("sleep").arg("60").spawn().expect("sleep")
}

const EARLYOOM: &str = "memsensor_kill_signals_total{sender=\"earlyoom\"}";
const OTHER: &str = "memsensor_kill_signals_total{sender=\"other\"}";

#[test]
fn a_kill_by_an_oom_daemon_is_an_event_and_others_are_counted() {
    let daemon = Daemon::start("").expect("daemon");
    let before = daemon.metrics().expect("metrics");
    let hog = program("hog").expect("hog");
    let mut targets = [sleeper(), sleeper()];
    // "earlyoom" in hex; then a sender that nobody knows.
    let known = ["--comm-hex", "6561726c796f6f6d"];
    for (target, name) in targets.iter_mut().zip([&known[..], &[]]) {
        let killer =
            Command::new(&hog).args(name).args(["kill", &target.id().to_string()]).status();
        assert!(killer.expect("killer").success());
        target.wait().expect("wait");
    }
    let events = daemon.wait_for_events(1, |w| matches!(w, What::KillSignal { .. })).expect("kill");
    let What::KillSignal { sender, target } = &events[0].what else { panic!() };
    assert_eq!((sender.comm.as_str(), target.comm.as_str()), ("earlyoom", "sleep"));
    assert_eq!(target.pid, targets[0].id());
    let after = daemon.metrics().expect("metrics");
    assert_eq!(delta(&before, &after, EARLYOOM).expect("earlyoom"), 1.0);
    assert_eq!(delta(&before, &after, OTHER).expect("other"), 1.0);
    assert_eq!(events.len(), 1, "the other killer is counted only");
}

#[test]
fn the_kernel_s_own_sigkill_is_not_a_kill_signal_and_cgroup_kill_is() {
    let daemon = Daemon::start("").expect("daemon");
    let before = daemon.metrics().expect("metrics");
    let scope = Scope::new("sigkill", 16 * MIB).expect("scope");
    killed(&scope, &["anon", "32"]);
    let after_oom = daemon.metrics().expect("metrics");
    assert_eq!(delta(&before, &after_oom, OTHER).expect("other"), 0.0, "an OOM kill");
    let kill = scope.unified().join("cgroup.kill");
    assert!(kill.exists(), "{} is missing: a kernel before 5.14?", kill.display());
    let mut child =
        hog(&scope, &["anon", "1", "hold"]).stdout(Stdio::piped()).spawn().expect("hog");
    wait_for_line(&mut child);
    std::fs::write(&kill, "1").expect("cgroup.kill");
    child.wait().expect("wait");
    let after = daemon.metrics().expect("metrics");
    assert_eq!(delta(&after_oom, &after, OTHER).expect("other"), 1.0, "cgroup.kill by this test");
}

fn programs_of(pid: u32) -> BTreeSet<u32> {
    let dir = format!("/proc/{pid}/fdinfo");
    let infos = std::fs::read_dir(dir).expect("fdinfo").map(|e| e.expect("entry").path());
    infos
        .filter_map(|path| std::fs::read_to_string(path).ok())
        .filter_map(|info| {
            info.lines().find_map(|l| l.strip_prefix("prog_id:")?.trim().parse().ok())
        })
        .collect()
}

fn loaded_programs() -> BTreeSet<u32> {
    aya::programs::loaded_programs().filter_map(Result::ok).map(|p| p.id()).collect()
}

#[test]
fn nothing_stays_behind_however_it_ends() {
    for signal in [Signal::INT, Signal::TERM, Signal::KILL] {
        let mut daemon = Daemon::start("").expect("daemon");
        let ours = programs_of(daemon.pid());
        assert!(ours.len() >= 19 && ours.is_subset(&loaded_programs()), "{ours:?}");
        let socket = daemon.socket();
        assert!(socket.exists());
        let status = daemon.stop(signal).expect("stop");
        if signal != Signal::KILL {
            assert!(status.success(), "{signal:?}: {status}");
            assert!(!socket.exists(), "the socket is removed");
        }
        // The kernel frees programs after a grace period.
        let end = std::time::Instant::now() + PATIENCE;
        while !ours.is_disjoint(&loaded_programs()) {
            assert!(std::time::Instant::now() < end, "{signal:?}: programs are still loaded");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn run_memsensor(args: &[&str]) -> (Option<i32>, String) {
    let out = Command::new(program("memsensor").expect("memsensor"))
        .args(args)
        .env("RUST_LOG", "off")
        .output()
        .expect("run memsensor");
    (out.status.code(), String::from_utf8_lossy(&out.stderr).trim().to_owned())
}

/// Writes a configuration for a test and returns its path.
fn config(name: &str, text: &str) -> std::path::PathBuf {
    let path = std::env::temp_dir().join(format!("memsensor-test-{}-{name}", std::process::id()));
    std::fs::write(&path, text).expect("write");
    path
}

#[test]
fn what_goes_wrong_is_one_line_with_a_remedy_and_a_code() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let addr = taken.local_addr().expect("addr").to_string();
    let socket = config("socket", "");
    let free = config("free.toml", &format!("socket = \"{}\"", socket.display()));
    let (code, said) =
        run_memsensor(&["run", "--config", free.to_str().expect("UTF-8"), "--listen", &addr]);
    assert_eq!(code, Some(4), "{said}");
    assert!(
        said.contains(&addr) && said.contains("--listen") && said.lines().count() == 1,
        "{said}"
    );

    let bad = config("bad.toml", "listen = [\"0.0.0.0:9817\"]\nintervall = \"1s\"\n");
    for args in [
        ["run", "--config", bad.to_str().expect("UTF-8")],
        ["config", "check", bad.to_str().expect("UTF-8")],
    ] {
        let (code, said) = run_memsensor(&args);
        assert_eq!(code, Some(2), "{said}");
        for part in [bad.to_str().expect("UTF-8"), "line 2", "intervall", "interval"] {
            assert!(said.contains(part), "{said:?} does not say {part:?}");
        }
        assert_eq!(said.lines().count(), 1, "{said:?}");
    }

    let daemon = Daemon::start("").expect("daemon");
    let same = config(
        "same.toml",
        &format!("listen = [\"127.0.0.1:0\"]\nsocket = \"{}\"", daemon.socket().display()),
    );
    let (code, said) = run_memsensor(&["run", "--config", same.to_str().expect("UTF-8")]);
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains("another memsensor answers there"), "{said}");

    let (code, said) = run_memsensor(&["events", "--socket", "/nonexistent/socket"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("is memsensor running"), "{said}");
    for path in [free, bad, same, socket] {
        std::fs::remove_file(path).expect("remove");
    }
}

/// Runs memsensor without any capability and as nobody.
fn as_nobody(args: &[&str]) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all"])
        .arg("--inh-caps=-all")
        .arg(copy_for_all("memsensor"))
        .args(args)
        .env("RUST_LOG", "off");
    command
}

/// A copy of a program where everybody may run it.
fn copy_for_all(name: &str) -> std::path::PathBuf {
    use std::os::unix::fs::PermissionsExt as _;
    let copy = std::env::temp_dir().join(format!("memsensor-test-{}-bin", std::process::id()));
    if !copy.exists() {
        std::fs::copy(program(name).expect("built"), &copy).expect("copy");
        std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o755)).expect("chmod");
    }
    copy
}

#[test]
fn without_privileges_it_says_which_and_serves_blind_only_if_told() {
    let out = as_nobody(&["run", "--listen", "127.0.0.1:0"]).output().expect("run");
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(3), "{said}");
    for part in ["CAP_BPF", "CAP_PERFMON", "AmbientCapabilities"] {
        assert!(said.contains(part), "{said}");
    }
    assert_eq!(said.trim().lines().count(), 1, "{said}");
    let out = as_nobody(&["probes"]).output().expect("run");
    assert_eq!(out.status.code(), Some(3));

    // Degraded: a port of its own choosing cannot be read from a silent log, so take a free one.
    let addr = {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        free.local_addr().expect("addr")
    };
    // With the default socket, which nobody may not make: then without it.
    let file = config("nobody.toml", "interval = \"100ms\"");
    let file = file.to_str().expect("UTF-8");
    let mut blind =
        as_nobody(&["run", "--config", file, "--listen", &addr.to_string(), "--allow-degraded"])
            .spawn()
            .expect("run");
    let end = std::time::Instant::now() + PATIENCE;
    let series = loop {
        let answer = get(addr, "/metrics", "").map(|a| parse(&a.body));
        match answer {
            Ok(series) if series.keys().any(|s| s.starts_with("memsensor_last_sample")) => {
                break series;
            }
            _ => assert!(std::time::Instant::now() < end, "never answered"),
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    let ready = get(addr, "/readyz", "").expect("readyz");
    assert!(ready.status == 200 && ready.body.contains("\"state\":\"blind\""), "{ready:?}");
    let pid = rustix::process::Pid::from_child(&blind);
    rustix::process::kill_process(pid, Signal::TERM).expect("stop");
    assert!(blind.wait().expect("wait").success());
    std::fs::remove_file(file).expect("remove");
    std::fs::remove_file(copy_for_all("memsensor")).expect("remove");
    // Not measured is absent, and says why.
    assert!(!series.keys().any(|s| s.starts_with("memsensor_oom_kills_total")), "{series:#?}");
    let attached: Vec<_> =
        series.iter().filter(|(s, _)| s.starts_with("memsensor_probe_attached")).collect();
    assert!(attached.len() >= 19 && attached.iter().all(|(_, v)| **v == 0.0), "{attached:?}");
    let info = series
        .keys()
        .find(|s| s.starts_with("memsensor_probe_info{probe=\"oom_kill\""))
        .expect("info");
    assert!(info.contains("state=\"missing\"") && info.contains("CAP_BPF"), "{info}");
}

/// Hides the kernel's BTF, or puts damaged BTF in its place, for one run of memsensor.
fn without_btf(content: Option<&[u8]>) -> (Option<i32>, String) {
    let damaged = config("btf", "");
    let hide = match content {
        None => "mount -t tmpfs none /sys/kernel/btf".to_owned(),
        Some(bytes) => {
            std::fs::write(&damaged, bytes).expect("write");
            format!("mount --bind {} /sys/kernel/btf/vmlinux", damaged.display())
        }
    };
    let out = Command::new("unshare")
        .args(["--mount", "sh", "-c", &format!("{hide} && exec \"$@\""), "sh"])
        .arg(program("memsensor").expect("memsensor"))
        .args(["run", "--listen", "127.0.0.1:0"])
        .env("RUST_LOG", "off")
        .output()
        .expect("run");
    std::fs::remove_file(damaged).expect("remove");
    (out.status.code(), String::from_utf8_lossy(&out.stderr).trim().to_owned())
}

#[test]
fn a_kernel_without_usable_btf_is_refused_and_not_guessed_at() {
    let (code, said) = without_btf(None);
    assert_eq!(code, Some(3), "{said}");
    for part in ["/sys/kernel/btf/vmlinux", "CONFIG_DEBUG_INFO_BTF", "--allow-degraded"] {
        assert!(said.contains(part), "{said}");
    }
    let whole = std::fs::read("/sys/kernel/btf/vmlinux").expect("BTF");
    for content in [&b"not BTF at all"[..], &whole[..whole.len() / 2]] {
        let (code, said) = without_btf(Some(content));
        assert_eq!(code, Some(3), "{said}");
        assert!(said.contains("BTF") && said.lines().count() == 1, "{said}");
    }
}

#[test]
fn privileges_are_dropped_once_attached() {
    let daemon = Daemon::start("").expect("daemon");
    for task in std::fs::read_dir(format!("/proc/{}/task", daemon.pid())).expect("threads") {
        let status =
            std::fs::read_to_string(task.expect("thread").path().join("status")).expect("status");
        let field = |name: &str| {
            let line = status.lines().find_map(|l| l.strip_prefix(name)).expect(name);
            line.trim_start_matches(':').trim().to_owned()
        };
        for set in ["CapEff", "CapPrm", "CapInh", "CapAmb"] {
            assert_eq!(field(set), "0000000000000000", "{set} of {}", field("Name"));
        }
        assert_eq!(field("NoNewPrivs"), "1");
    }
}

#[test]
fn a_probe_that_is_switched_off_is_absent_and_the_others_work() {
    let config = "[probes]\nrequired = []\ndisabled = [\"oom_kill\", \"throttle\"]";
    let daemon = Daemon::start(config).expect("daemon");
    let series = daemon.metrics().expect("metrics");
    let has = |name: &str| series.keys().any(|s| s.starts_with(name));
    assert!(!has("memsensor_oom_kills") && !has("memsensor_reclaim_throttle"));
    assert!(!has("memsensor_stall_seconds_total{cause=\"throttle\"}"));
    assert!(has("memsensor_stall_seconds_total{cause=\"direct_reclaim\"}"));
    assert!(has("memsensor_probe_info{probe=\"throttle\",state=\"disabled\""));
    assert_eq!(series["memsensor_probe_attached{probe=\"oom_kill\",program=\"mark_victim\"}"], 0.0);
    assert_eq!(series["memsensor_probe_attached{probe=\"kswapd\",program=\"kswapd_wake\"}"], 1.0);
}

#[test]
fn silent_and_slow_clients_harm_nobody() {
    let daemon =
        Daemon::start("[http]\nmax_connections = 4\nhead_timeout = \"1s\"").expect("daemon");
    let addr = daemon.listening[0];
    // As many as may be open, none of which ever sends a whole head.
    let mut slow: Vec<_> = (0..4).map(|_| TcpStream::connect(addr).expect("connect")).collect();
    for stream in &mut slow {
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost:").expect("write");
    }
    let answer = daemon.get("/readyz", "").expect("an answer once the slow ones are dropped");
    assert_eq!(answer.status, 200);
    // The agent-check has connections of its own, and never waits for what a client says.
    let silent: Vec<_> =
        (0..32).map(|_| TcpStream::connect(daemon.listening[1]).expect("connect")).collect();
    assert_eq!(agent_check(&daemon), "up ready 100%\n");
    drop((slow, silent));
    let head = format!("GET /metrics HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "a".repeat(1 << 20));
    let mut large = TcpStream::connect(addr).expect("connect");
    // It may hang up before all is written.
    let _ = large.write_all(head.as_bytes());
    assert_eq!(daemon.get("/livez", "").expect("still alive").status, 200);
}

/// Clients that ask and never read, as many as may be connected, and more questions than answers fit
/// into their buffers.
#[test]
fn clients_that_do_not_read_are_dropped() {
    let daemon = Daemon::start("[http]\nmax_connections = 4\ndeadline = \"1s\"").expect("daemon");
    let deaf: Vec<_> = (0..8)
        .map(|_| {
            let mut stream = TcpStream::connect(daemon.listening[0]).expect("connect");
            // It may hang up before all is written.
            let _ =
                stream.write_all("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(400).as_bytes());
            stream
        })
        .collect();
    assert_eq!(daemon.get("/readyz", "").expect("an answer once they are dropped").status, 200);
    drop(deaf);
}

#[test]
fn an_idle_listener_holds_no_connection_of_another() {
    let daemon = Daemon::start("[http]\nmax_connections = 1").expect("daemon");
    // The daemon's own tests ask one listener only; give it a second by the command line.
    let (a, b) = {
        let free = || std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        let (a, b) = (free(), free());
        (a.local_addr().expect("addr"), b.local_addr().expect("addr"))
    };
    drop(daemon);
    let socket = std::env::temp_dir().join(format!("memsensor-test-{}-two", std::process::id()));
    let file = config(
        "two.toml",
        &format!("socket = \"{}\"\n[http]\nmax_connections = 1", socket.display()),
    );
    let mut two = Command::new(program("memsensor").expect("memsensor"))
        .args(["run", "--config", file.to_str().expect("UTF-8")])
        .args(["--listen", &a.to_string(), "--listen", &b.to_string()])
        .env("RUST_LOG", "off")
        .spawn()
        .expect("run");
    wait_until("ready", || get(a, "/readyz", "").is_ok_and(|answer| answer.status == 200));
    for _ in 0..3 {
        assert_eq!(get(a, "/readyz", "").expect("first").status, 200);
    }
    assert_eq!(get(b, "/readyz", "").expect("second").status, 200);
    let pid = rustix::process::Pid::from_child(&two);
    rustix::process::kill_process(pid, Signal::TERM).expect("stop");
    assert!(two.wait().expect("wait").success());
    std::fs::remove_file(file).expect("remove");
}

#[test]
fn the_daemon_outlives_the_reader_of_its_log() {
    let addr = {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        free.local_addr().expect("addr")
    };
    let socket = std::env::temp_dir().join(format!("memsensor-test-{}-log", std::process::id()));
    let file = config("log.toml", &format!("socket = \"{}\"", socket.display()));
    let mut daemon = Command::new(program("memsensor").expect("memsensor"))
        .args(["run", "--config", file.to_str().expect("UTF-8"), "--listen", &addr.to_string()])
        .stderr(Stdio::piped())
        .spawn()
        .expect("run");
    drop(daemon.stderr.take());
    wait_until("ready", || get(addr, "/readyz", "").is_ok_and(|answer| answer.status == 200));
    let pid = rustix::process::Pid::from_child(&daemon);
    rustix::process::kill_process(pid, Signal::TERM).expect("stop");
    let status = daemon.wait().expect("wait");
    assert!(status.success(), "{status}");
    std::fs::remove_file(file).expect("remove");
}

#[test]
fn output_that_nobody_reads_is_no_error() {
    let memsensor = program("memsensor").expect("memsensor");
    for command in ["probes", "config defaults"] {
        let script = format!("{} {command} | true; exit ${{PIPESTATUS[0]}}", memsensor.display());
        let out = Command::new("bash").args(["-c", &script]).output().expect("bash");
        let said = String::from_utf8_lossy(&out.stderr);
        assert_eq!((out.status.code(), said.as_ref()), (Some(0), ""), "{command}");
    }
}

#[test]
fn a_file_in_the_place_of_the_socket_is_left_alone() {
    let precious = config("precious", "do not delete");
    let file = config("precious.toml", &format!("socket = \"{}\"", precious.display()));
    let (code, said) = run_memsensor(&[
        "run",
        "--config",
        file.to_str().expect("UTF-8"),
        "--listen",
        "127.0.0.1:0",
    ]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("is no socket"), "{said}");
    assert_eq!(std::fs::read_to_string(&precious).expect("still there"), "do not delete");
    for path in [precious, file] {
        std::fs::remove_file(path).expect("remove");
    }
}

fn agent_check(daemon: &Daemon) -> String {
    use std::io::Read as _;
    let mut stream = TcpStream::connect(daemon.listening[1]).expect("connect");
    stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
    let mut line = String::new();
    stream.read_to_string(&mut line).expect("a line and the end");
    line
}

/// Freezes the sensing thread alone, in a threaded v2 group: what is served must say so, from
/// threads that do not depend on it.
#[test]
fn a_frozen_sensor_is_not_ready() {
    let daemon = Daemon::start("").expect("daemon");
    assert_eq!(daemon.get("/readyz", "").expect("readyz").status, 200);
    let threads = format!("/proc/{}/task", daemon.pid());
    let sense = std::fs::read_dir(threads)
        .expect("threads")
        .map(|t| t.expect("thread").path())
        .find(|t| std::fs::read_to_string(t.join("comm")).is_ok_and(|c| c.trim() == "sense"))
        .expect("the sensing loop has a thread of its own");
    let tid = sense.file_name().expect("a tid").to_str().expect("digits").to_owned();

    let freezer = Freezer::new(&daemon);
    freezer.freeze(&tid);
    wait_until("stale", || daemon.get("/readyz", "").expect("readyz").status == 503);
    let body = daemon.get("/readyz", "").expect("readyz").body;
    assert!(body.contains("\"state\":\"stale\""), "{body}");
    assert_eq!(agent_check(&daemon), "down#memsensor-stale\n");
    assert_eq!(daemon.get("/livez", "").expect("livez").status, 200);
    assert_eq!(daemon.get("/metrics", "").expect("metrics").status, 200, "old numbers, and dated");
    freezer.thaw();
    wait_until("ready again", || daemon.get("/readyz", "").expect("readyz").status == 200);
    assert_eq!(agent_check(&daemon), "up ready 100%\n");
}

fn wait_until(what: &str, done: impl Fn() -> bool) {
    let end = std::time::Instant::now() + PATIENCE;
    while !done() {
        assert!(std::time::Instant::now() < end, "never {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A v2 group with the daemon in it and a threaded child that can be frozen.
struct Freezer {
    scope: Scope,
    child: std::path::PathBuf,
}

impl Freezer {
    fn new(daemon: &Daemon) -> Self {
        let scope = Scope::new("freezer", 1 << 40).expect("scope");
        let write = |path: &std::path::Path, value: &str| {
            std::fs::write(path, value).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        };
        write(&scope.unified().join("cgroup.procs"), &daemon.pid().to_string());
        let child = scope.unified().join("frozen");
        std::fs::create_dir(&child).expect("mkdir");
        write(&child.join("cgroup.type"), "threaded");
        Self { scope, child }
    }

    fn freeze(&self, tid: &str) {
        std::fs::write(self.child.join("cgroup.threads"), tid).expect("move the thread");
        std::fs::write(self.child.join("cgroup.freeze"), "1").expect("freeze");
    }

    fn thaw(&self) {
        std::fs::write(self.child.join("cgroup.freeze"), "0").expect("thaw");
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        let _ = std::fs::write(self.child.join("cgroup.freeze"), "0");
        // Back into the parent group, or neither can be removed.
        let threads =
            std::fs::read_to_string(self.child.join("cgroup.threads")).unwrap_or_default();
        for tid in threads.lines() {
            let _ = std::fs::write(self.scope.unified().join("cgroup.threads"), tid);
        }
        let _ = std::fs::remove_dir(&self.child);
    }
}
