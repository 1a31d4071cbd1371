//! The manifests, checked with Kubernetes' schema. Not here: a cluster.

use std::process::Command;

use super::tool;

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
