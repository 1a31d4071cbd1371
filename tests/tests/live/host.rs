//! What memsensor needs of the kernel, what it does without it, and what it leaves behind.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    os::unix::process::CommandExt as _,
    process::Command,
    time::Duration,
};

use aya::programs::ProgramInfo;
use rustix::process::Signal;
use sensor_ebpf::{probes, spec::Program};
use sensor_tests::support::{
    counts::{has_event, vmstat},
    daemon::{Daemon, PATIENCE, get, parse},
    scope::{MIB, Scope, program},
};

use crate::{Running, config, killed, running_kernel, wait_until};

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

/// All loaded programs, by id.
fn loaded_programs() -> BTreeMap<u32, String> {
    let name = |p: &ProgramInfo| p.name_as_str().unwrap_or_default().to_owned();
    let programs = aya::programs::loaded_programs().filter_map(Result::ok);
    programs.map(|p| (p.id(), name(&p))).collect()
}

fn names(ids: &BTreeSet<u32>) -> BTreeSet<String> {
    let all = loaded_programs();
    ids.iter().map(|id| all.get(id).expect("it is loaded").clone()).collect()
}

fn programs() -> impl Iterator<Item = &'static Program> {
    probes::ALL.iter().flat_map(|probe| probe.programs)
}

/// Programs whose tracepoints this kernel has, from tracefs.
fn attachable() -> BTreeSet<String> {
    let can = |program: &&Program| has_event(program.event).expect("tracefs");
    programs().filter(can).map(|program| program.name.to_owned()).collect()
}

/// Programs at functions, and iterators. The kernel has no list of those.
fn at_functions() -> BTreeSet<String> {
    let is = |program: &&Program| {
        let (system, _) = program.event.split_once(':').expect("system:event");
        ["fentry", "fexit", "kprobe", "iter"].contains(&system)
    };
    programs().filter(is).map(|program| program.name.to_owned()).collect()
}

#[test]
fn no_program_or_socket_remains_however_it_ends() {
    for signal in [Signal::INT, Signal::TERM, Signal::KILL] {
        let mut daemon = Daemon::start("").expect("daemon");
        let ours = programs_of(daemon.pid());
        assert_eq!(&names(&ours) - &at_functions(), attachable(), "{signal:?}");
        let socket = daemon.socket();
        assert!(socket.exists());
        let status = daemon.stop(signal).expect("stop");
        if signal != Signal::KILL {
            assert!(status.success(), "{signal:?}: {status}");
            assert!(!socket.exists(), "the socket is removed");
        }
        // The kernel frees programs after a grace period.
        let end = std::time::Instant::now() + PATIENCE;
        while !ours.is_disjoint(&loaded_programs().into_keys().collect()) {
            assert!(std::time::Instant::now() < end, "{signal:?}: programs are still loaded");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// memsensor as the user nobody, without capabilities.
fn as_nobody(args: &[&str]) -> Command {
    let mut command = nobody(copy_for_all("memsensor"));
    command.args(args).env("RUST_LOG", "off");
    command
}

/// A command as the user nobody. The standard library drops root's groups when it changes the user,
/// and the kernel drops the capabilities.
fn nobody(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.uid(65534).gid(65534);
    command
}

/// Asserts that such a command has no groups of root and no capability.
fn assert_nobody_has_nothing() {
    let script = "while read -r line; do echo \"$line\"; done < /proc/self/status";
    let out = nobody("sh").args(["-c", script]).output().expect("sh");
    let status = String::from_utf8(out.stdout).expect("UTF-8");
    let nobody = ["65534"; 4].join(" ");
    for (name, value) in [("Uid", nobody.as_str()), ("Gid", &nobody), ("Groups", "")] {
        assert_eq!(field(&status, name).split_whitespace().collect::<Vec<_>>().join(" "), value);
    }
    for set in ["CapEff", "CapPrm", "CapAmb"] {
        assert_eq!(field(&status, set), NOTHING, "{set}");
    }
}

/// A field of /proc/PID/status.
fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let line = status.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name} in {status:?}")).trim()
}

/// A copy of a program that any user can run.
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
fn without_privileges_run_fails_and_names_them() {
    assert_nobody_has_nothing();
    let addrs = ["--listen", "127.0.0.1:0", "--agent-listen", "127.0.0.1:0"];
    let out = as_nobody(&["run"]).args(addrs).output().expect("run");
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(3), "{stderr}");
    for part in ["CAP_BPF", "CAP_PERFMON", "AmbientCapabilities"] {
        assert!(stderr.contains(part), "{stderr}");
    }
    assert_eq!(stderr.trim().lines().count(), 1, "{stderr}");
    let out = as_nobody(&["probes"]).output().expect("run");
    assert_eq!(out.status.code(), Some(3));
    std::fs::remove_file(copy_for_all("memsensor")).expect("remove");
}

/// With `--allow-degraded` it serves without BPF: the state follows PSI or is unknown, and probes
/// are missing.
#[test]
fn without_privileges_it_can_run_degraded() {
    // A free port: the log, which would name it, is off.
    let addr = {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        free.local_addr().expect("addr")
    };
    // With the default socket, which an unprivileged user cannot create; it runs without it.
    let file = config("nobody.toml", "interval = \"100ms\"");
    let file = file.to_str().expect("UTF-8");
    let degraded = as_nobody(&["run", "--config", file, "--listen", &addr.to_string()])
        .args(["--agent-listen", "127.0.0.1:0", "--allow-degraded"])
        .spawn();
    let degraded = Running(degraded.expect("run"));
    let mut series = BTreeMap::new();
    wait_until("serves a sample", || {
        let response = get(addr, "/metrics", "");
        series = response.map(|response| parse(&response.body)).unwrap_or_default();
        series.keys().any(|s| s.starts_with("memsensor_last_sample"))
    });
    let ready = get(addr, "/readyz", "").expect("readyz");
    // PSI needs no privileges, so a verdict is possible with it.
    let psi = std::fs::read_to_string("/proc/pressure/memory").is_ok();
    let state = if psi { "\"measured_by\":\"psi\"" } else { "\"state\":\"unknown\"" };
    assert!(ready.status == 200 && ready.body.contains(state), "{ready:?}");
    assert_nothing_is_attached(&series);
    assert_kills_are_counted(addr);
    assert!(degraded.stop().success());
    std::fs::remove_file(file).expect("remove");
    std::fs::remove_file(copy_for_all("memsensor")).expect("remove");
}

/// Without probes vmstat counts the kills. A kill of a cgroup is not the host's, unless the host
/// also reclaimed directly.
fn assert_kills_are_counted(addr: std::net::SocketAddr) {
    let series = || parse(&get(addr, "/metrics", "").expect("metrics").body);
    let count = |series: &BTreeMap<String, f64>, oom_type: &str| {
        series[&format!("memsensor_oom_kills_total{{type=\"{oom_type}\"}}")]
    };
    // What was before the daemon's first sample counts as direct reclaim of the host.
    std::thread::sleep(Duration::from_secs(6));
    let (before, counted) = (vmstat().expect("vmstat"), series());
    let scope = Scope::new("unprobed", 16 * MIB).expect("scope");
    killed(&scope, &["anon", "32"]);
    let kills = vmstat().expect("vmstat")["oom_kill"] - before["oom_kill"];
    let mut after = BTreeMap::new();
    let rose = |after: &BTreeMap<String, f64>, oom_type| {
        count(after, oom_type) - count(&counted, oom_type)
    };
    wait_until("vmstat's kill is counted", || {
        after = series();
        rose(&after, "global") + rose(&after, "memcg") == kills as f64
    });
    let reclaims = |vmstat: &BTreeMap<String, u64>| {
        vmstat.iter().filter(|(name, _)| name.starts_with("allocstall_")).map(|(_, n)| n).sum()
    };
    let (then, now): (u64, u64) = (reclaims(&before), reclaims(&vmstat().expect("vmstat")));
    if then == now {
        assert_eq!(rose(&after, "memcg"), kills as f64, "{after:#?}");
        let ready = get(addr, "/readyz", "").expect("readyz").body;
        // Other programs of this machine may have caused kills before.
        let has_global = count(&after, "global") > 0.0;
        assert_eq!(ready.contains("\"oom_kill\""), has_global, "{ready}");
    } else {
        println!("the host reclaimed directly meanwhile: {} times", now - then);
    }
}

/// Probes are reported as missing with their reason, and their metrics are absent.
fn assert_nothing_is_attached(series: &BTreeMap<String, f64>) {
    let probes = ["memsensor_stall_seconds", "memsensor_reclaim", "memsensor_kill_signals"];
    let is_of_a_probe = |s: &String| probes.iter().any(|name| s.starts_with(name));
    assert!(!series.keys().any(is_of_a_probe), "{series:#?}");
    let attached: Vec<_> =
        series.iter().filter(|(s, _)| s.starts_with("memsensor_probe_attached")).collect();
    assert_eq!(attached.len(), programs().count(), "{attached:?}");
    assert!(attached.iter().all(|(_, v)| **v == 0.0), "{attached:?}");
    let info = series
        .keys()
        .find(|s| s.starts_with("memsensor_probe_info{probe=\"oom_kill\""))
        .expect("info");
    assert!(info.contains("state=\"missing\"") && info.contains("CAP_BPF"), "{info}");
}

/// Hides the kernel's BTF, or puts damaged BTF in its place, for one run of memsensor.
fn without_btf(content: Option<&[u8]>) -> (Option<i32>, String) {
    without_btf_at("127.0.0.1:0", content)
}

fn without_btf_at(listen: &str, content: Option<&[u8]>) -> (Option<i32>, String) {
    let damaged = config("btf", "");
    let hide = match content {
        None => "mount -t tmpfs none /sys/kernel/btf".to_owned(),
        Some(bytes) => {
            std::fs::write(&damaged, bytes).expect("write");
            format!("mount -o bind {} /sys/kernel/btf/vmlinux", damaged.display())
        }
    };
    let out = Command::new("unshare")
        .args(["-m", "sh", "-c", &format!("{hide} && exec \"$@\""), "sh"])
        .arg(program("memsensor").expect("memsensor"))
        .args(["run", "--listen", listen, "--agent-listen", "127.0.0.1:0"])
        .env("RUST_LOG", "off")
        .output()
        .expect("run");
    std::fs::remove_file(damaged).expect("remove");
    (out.status.code(), String::from_utf8_lossy(&out.stderr).trim().to_owned())
}

/// Nothing can be loaded without BTF, so that this error is the first.
#[test]
fn an_address_in_use_is_detected_before_loading() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let addr = taken.local_addr().expect("addr").to_string();
    let (code, stderr) = without_btf_at(&addr, None);
    assert_eq!(code, Some(4), "{stderr}");
    assert!(stderr.contains(&addr) && stderr.lines().count() == 1, "{stderr}");
}

#[test]
fn a_kernel_without_usable_btf_is_refused() {
    let (code, stderr) = without_btf(None);
    assert_eq!(code, Some(3), "{stderr}");
    for part in ["/sys/kernel/btf/vmlinux", "CONFIG_DEBUG_INFO_BTF", "--allow-degraded"] {
        assert!(stderr.contains(part), "{stderr}");
    }
    let whole = std::fs::read("/sys/kernel/btf/vmlinux").expect("BTF");
    for content in [&b"not BTF at all"[..], &whole[..whole.len() / 2]] {
        let (code, stderr) = without_btf(Some(content));
        assert_eq!(code, Some(3), "{stderr}");
        assert!(stderr.contains("BTF") && stderr.lines().count() == 1, "{stderr}");
    }
}

/// Sets of capabilities as /proc/PID/status has them.
const NOTHING: &str = "0000000000000000";
const CAP_BPF: u64 = 1 << 39;
const CAP_IPC_LOCK: u64 = 1 << 14;

/// Before 5.19 `kernel.unprivileged_bpf_disabled` forbids all of bpf(2) without CAP_BPF, since then
/// only the creation of maps and programs (kernel/bpf/syscall.c). While it is 0, the daemon cannot
/// detect which of both holds.
fn keeps_cap_bpf() -> bool {
    let disabled = std::fs::read_to_string("/proc/sys/kernel/unprivileged_bpf_disabled");
    running_kernel().0 < (5, 19) || disabled.expect("the sysctl").trim() == "0"
}

#[test]
fn privileges_are_dropped_once_attached() {
    let daemon = Daemon::start("").expect("daemon");
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", daemon.pid())).expect("limits");
    let lock = limits.lines().find(|l| l.starts_with("Max locked memory")).expect("a limit");
    let lock_capability = if lock.contains("unlimited") { 0 } else { CAP_IPC_LOCK };
    let kept = lock_capability | if keeps_cap_bpf() { CAP_BPF } else { 0 };
    let kept = &*format!("{kept:016x}");
    for task in std::fs::read_dir(format!("/proc/{}/task", daemon.pid())).expect("threads") {
        let status =
            std::fs::read_to_string(task.expect("thread").path().join("status")).expect("status");
        // The thread of the log needs none.
        let kept = if field(&status, "Name") == "log" { NOTHING } else { kept };
        for (set, expected) in
            [("CapEff", kept), ("CapPrm", kept), ("CapInh", NOTHING), ("CapAmb", NOTHING)]
        {
            assert_eq!(field(&status, set), expected, "{set} of {}", field(&status, "Name"));
        }
        assert_eq!(field(&status, "NoNewPrivs"), "1");
    }
}

#[test]
fn metrics_of_a_disabled_probe_are_absent_and_others_work() {
    let config = "[probes]\nrequired = []\n\
                  disabled = [\"oom_kill\", \"throttle\", \"pfmemalloc_throttle\", \
                  \"kill_signal\"]";
    let daemon = Daemon::start(config).expect("daemon");
    let series = daemon.metrics().expect("metrics");
    let has = |name: &str| series.keys().any(|s| s.starts_with(name));
    assert!(!has("memsensor_oom_kills") && !has("memsensor_reclaim_throttle"));
    assert!(!has("memsensor_stall_seconds_total{cause=\"throttle\"}"));
    assert!(has("memsensor_stall_seconds_total{cause=\"direct_reclaim\"}"));
    assert!(!has("memsensor_events_lost_total{reason=\"rate_limited\"}"), "its probe is off");
    assert!(has("memsensor_events_lost_total{reason=\"ring_full\"}"));
    assert!(has("memsensor_probe_info{probe=\"throttle\",state=\"disabled\""));
    assert_eq!(series["memsensor_probe_attached{probe=\"oom_kill\",program=\"mark_victim\"}"], 0.0);
    assert_eq!(series["memsensor_probe_attached{probe=\"kswapd\",program=\"kswapd_wake\"}"], 1.0);
}

#[test]
fn skipped_events_are_exported_if_the_kernel_counts_them() {
    let daemon = Daemon::start("").expect("daemon");
    let infos = std::fs::read_dir(format!("/proc/{}/fdinfo", daemon.pid())).expect("descriptors");
    let infos = infos.flatten().filter_map(|info| std::fs::read_to_string(info.path()).ok());
    let programs: Vec<_> = infos.filter(|info| info.contains("\nprog_type:")).collect();
    assert!(!programs.is_empty(), "no program is loaded");
    // From 5.12 on.
    let counts = programs.iter().any(|info| info.contains("\nrecursion_misses:"));
    let series = daemon.metrics().expect("metrics");
    let exported = series.contains_key("memsensor_events_lost_total{reason=\"recursion\"}");
    assert_eq!(exported, counts, "{}", programs[0]);
}
