//! The shipped Kubernetes manifests, parsed.

use anyhow::{Context as _, Result, ensure};
use serde_yaml_ng::Value;

use crate::support::repository::repository;

/// The objects in `kubernetes.yaml`.
pub fn manifests() -> Result<Vec<Value>> {
    let path = repository().join("sensor-user/deploy/kubernetes.yaml");
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    text.split("\n---\n").map(|text| Ok(serde_yaml_ng::from_str(text)?)).collect()
}

/// The first container of the DaemonSet or of the Deployment.
pub fn container(kind: &str) -> Result<Value> {
    let manifest = manifests()?.into_iter().find(|manifest| manifest["kind"] == kind);
    let manifest = manifest.with_context(|| format!("no {kind}"))?;
    Ok(manifest["spec"]["template"]["spec"]["containers"][0].clone())
}

/// The readiness script of the application's pod, a program for `sh -c`, with these replacements.
/// Each must occur in it.
pub fn readiness_script(replacements: &[(&str, String)]) -> Result<String> {
    let command = &container("Deployment")?["readinessProbe"]["exec"]["command"];
    ensure!([&command[0], &command[1]] == ["sh", "-c"], "the probe is no shell script");
    let mut script = command[2].as_str().context("no script")?.to_owned();
    for (from, to) in replacements {
        ensure!(script.contains(from), "the script has no {from}");
        script = script.replace(from, to);
    }
    Ok(script)
}
