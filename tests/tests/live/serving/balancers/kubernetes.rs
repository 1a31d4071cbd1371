//! The manifests, checked with Kubernetes' schema, and the pods' readiness script. Not here: a cluster.

use std::{cell::Cell, path::PathBuf, process::Command};

use sensor_tests::support::manifests::readiness_script;

use super::{
    HOSTS,
    faults::{Front, Traffic},
    tool,
};

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
        let service = self.ready.iter().position(Cell::get).map_or(99, |pod| pod);
        let script = readiness_script(&[
            ("localhost:8080", format!("{}:8080", address(pod))),
            ("http://web/", format!("http://{}:8080/", address(service))),
            ("/tmp/last-resort", self.dir.join(format!("pod-{pod}")).display().to_string()),
        ]);
        let mut command = Command::new("sh");
        command.arg("-c").arg(script.expect("the script")).env("NODE_IP", address(pod));
        let failures = match command.status().expect("start sh").success() {
            true => 0,
            false => self.failures[pod].get() + 1,
        };
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

#[test]
fn the_kubernetes_manifests_fit_the_schema() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../sensor-user/deploy/kubernetes.yaml");
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
    let text = std::fs::read_to_string(file).expect("the manifests");
    assert_eq!(text.matches("\nkind: ").count(), 3, "three objects");
    let (valid, output) = check(&text);
    assert!(valid, "{output}");
    let (valid, output) = check(&text.replace("readinessProbe:", "readynessProbe:"));
    assert!(!valid, "the check accepts a wrong key: {output}");
}
