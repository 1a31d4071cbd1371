//! The manifests, checked with Kubernetes' schema, and the pods' readiness script. Not here: a cluster.

use std::{cell::Cell, net::TcpListener, path::PathBuf, process::Command};

use sensor_tests::support::{
    daemon::get,
    manifests::{container, readiness_script},
    scope::{MIB, Scope, program},
};

use super::{
    HOSTS,
    faults::{Front, Traffic},
    shipped, tool,
};
use crate::{Running, wait_until};

/// A pod on each host, whose readiness script runs when it is asked for.
pub(super) struct Pods {
    dir: PathBuf,
    ready: [Cell<bool>; HOSTS],
    failures: [Cell<u32>; HOSTS],
}

impl Pods {
    pub(super) fn new() -> Self {
        let dir = std::env::temp_dir().join(format!("memsensor-pods-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("mkdir");
        let ready = [const { Cell::new(true) }; HOSTS];
        Self { dir, ready, failures: [const { Cell::new(0) }; HOSTS] }
    }

    /// Runs the script of a pod. The Service is a pod that is ready, or nothing.
    fn probe(&self, pod: usize) {
        let address = |n| format!("127.2.0.{}", 11 + n);
        let service = self.ready.iter().position(Cell::get).unwrap_or(99);
        let script = readiness_script(&[
            ("localhost:8080", format!("{}:8080", address(pod))),
            ("http://web/", format!("http://{}:8080/", address(service))),
            ("/tmp/last-resort", self.dir.join(format!("pod-{pod}")).display().to_string()),
        ]);
        let mut command = Command::new("sh");
        command.arg("-c").arg(script.expect("the script")).env("NODE_IP", address(pod));
        let success = command.status().expect("start sh").success();
        let failures = if success { 0 } else { self.failures[pod].get() + 1 };
        self.failures[pod].set(failures);
        // As the kubelet with `failureThreshold: 2`.
        self.ready[pod].set(failures == 0 || (failures < 2 && self.ready[pod].get()));
    }
}

impl Front for Pods {
    fn name(&self) -> &'static str {
        "Kubernetes"
    }

    fn traffic(&self) -> Traffic {
        (0..HOSTS).for_each(|pod| self.probe(pod));
        match self.ready.each_ref().map(Cell::get) {
            [true, true] => Traffic::Both,
            [true, false] => Traffic::First,
            [false, true] => Traffic::Second,
            [false, false] => Traffic::Neither,
        }
    }
}

impl Drop for Pods {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// The peak is at the start, when BTF is parsed.
#[test]
fn the_daemon_starts_within_half_of_the_pods_memory_limit() {
    let pod = container("DaemonSet").expect("the DaemonSet");
    let limit = pod["resources"]["limits"]["memory"].as_str().expect("a memory limit");
    let limit: u64 = limit.strip_suffix("Mi").and_then(|mib| mib.parse().ok()).expect("in MiB");
    let scope = Scope::new("pod", limit * MIB).expect("scope");
    let (ip, free) = ("127.0.0.1", TcpListener::bind("127.0.0.1:0").expect("bind"));
    let addr = free.local_addr().expect("address");
    drop(free);
    let dir = std::env::temp_dir().join(format!("memsensor-pod-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("mkdir");
    let config = dir.join("config.toml");
    std::fs::write(&config, format!("socket = \"{}/socket\"\n", dir.display())).expect("write");
    let mut command = scope.command(program("memsensor").expect("memsensor"));
    command.args(["run", "--listen", &addr.to_string(), "--agent-listen", &format!("{ip}:0")]);
    command.arg("--config").arg(&config).env("RUST_LOG", "off");
    let daemon = Running(command.spawn().expect("start memsensor"));
    wait_until("ready", || get(addr, "/livez", "").is_ok_and(|a| a.status == 200));
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.0.id()));
    let status = status.expect("its status");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.strip_suffix("kB"));
    let peak: u64 = peak.and_then(|kib| kib.trim().parse().ok()).expect("a peak");
    println!("peak {peak} KiB of a debug build, limit {limit} MiB");
    drop(daemon);
    let _ = std::fs::remove_dir_all(&dir);
    assert!(peak < limit * 1024 / 2, "{peak} KiB, the limit is {limit} MiB");
}

#[test]
fn the_kubernetes_manifests_fit_the_schema() {
    let validate = tool("kubernetes-validate");
    let check = |text: &str| {
        let dir = std::env::temp_dir().join(format!("memsensor-k8s-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("mkdir");
        let copy = dir.join("manifest.yaml");
        std::fs::write(&copy, text).expect("write");
        let out = Command::new(&validate).arg("--strict").arg(&copy).output();
        let out = out.expect("start kubernetes-validate (cargo xtask setup --tests)");
        let _ = std::fs::remove_dir_all(&dir);
        let output = [out.stdout, out.stderr].concat();
        (out.status.success(), String::from_utf8_lossy(&output).into_owned())
    };
    let policy = shipped("kubernetes-network-policy.yaml");
    let text = shipped("kubernetes.yaml");
    for (text, objects) in [(&policy, 2), (&text, 3)] {
        assert_eq!(text.matches("\nkind: ").count(), objects, "{text}");
        let (valid, output) = check(text);
        assert!(valid, "{output}");
    }
    let (valid, output) = check(&text.replace("readinessProbe:", "readynessProbe:"));
    assert!(!valid, "the check accepts a wrong key: {output}");
}
