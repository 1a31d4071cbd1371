//! What people call a cgroup: the systemd unit, the container and its runtime, the Kubernetes pod, all
//! from its path. Pure; nobody is asked, so names that are only in a runtime's database are not here.
//!
//! The conventions are those of systemd (units and slices), of the runtimes' systemd and cgroupfs drivers
//! (`docker-ID.scope` or `/docker/ID`), and of the kubelet (`kubepods-burstable-podUID.slice` with `_` for
//! `-`, or `/kubepods/burstable/podUID`).

use serde::{Deserialize, Serialize};

/// A cgroup as people know it. What its path does not say is absent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct WorkloadId {
    /// systemd's unit of the host, e.g. `nginx.service`; none for a container, whose unit says nothing
    /// that its id does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// A container's id, or its name where the runtime has no ids.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// `docker`, `containerd`, `cri-o`, `podman`, `lxc`; none where the path does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<String>,
    /// The uid of a Kubernetes pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// Its `namespace/name`, which the path does not say; the daemon's `host/pods` finds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_name: Option<String>,
}

/// What systemd's and the runtimes' names of scopes begin with, and whose they are.
const SCOPES: [(&str, &str); 6] = [
    ("docker-", "docker"),
    ("cri-containerd-", "containerd"),
    ("nerdctl-", "containerd"),
    ("crio-", "cri-o"),
    ("libpod-", "podman"),
    ("lxc.payload.", "lxc"),
];

/// Directories of runtimes that do without systemd.
const PARENTS: [(&str, &str); 4] =
    [("docker", "docker"), ("libpod_parent", "podman"), ("lxc", "lxc"), ("lxc.payload", "lxc")];

/// Suffixes of units that processes are in; a slice is none.
const UNITS: [&str; 5] = [".service", ".scope", ".mount", ".socket", ".swap"];

impl WorkloadId {
    /// From a path below the root of the hierarchy.
    pub fn of(path: &str) -> Self {
        let mut known = Self::default();
        let mut parent = "";
        for name in path.split('/').filter(|name| !name.is_empty()) {
            if let Some(uid) = pod(name) {
                known.pod = Some(uid);
            } else if let Some((container, runtime)) = container(parent, name) {
                // What is below is the container's own affair.
                known.unit = None;
                known.container = Some(container.to_owned());
                known.runtime = runtime.map(str::to_owned);
                return known;
            } else if UNITS.iter().any(|suffix| name.len() > suffix.len() && name.ends_with(suffix))
            {
                known.unit = Some(name.to_owned());
            }
            parent = name;
        }
        known
    }
}

/// A container's id, and whose it is if that shows.
fn container<'a>(parent: &str, name: &'a str) -> Option<(&'a str, Option<&'static str>)> {
    let stem = name.strip_suffix(".scope").unwrap_or(name);
    for (prefix, runtime) in SCOPES {
        if let Some(id) = stem.strip_prefix(prefix) {
            // `crio-conmon-ID` and `libpod-conmon-ID` are the container's supervisor.
            let is_id = runtime == "lxc" && !id.is_empty() || is_hex(id);
            return is_id.then_some((id, Some(runtime)));
        }
    }
    if let Some((_, runtime)) = PARENTS.iter().find(|(dir, _)| *dir == parent)
        && (*runtime == "lxc" || is_hex(name))
    {
        return Some((name, Some(runtime)));
    }
    // `/kubepods/podUID/ID`, `/ecs/TASK/ID`: 64 digits are an id, whosever it is.
    (name.len() == 64 && is_hex(name)).then_some((name, None))
}

/// Ids have 64 digits; some tools cut them to twelve.
fn is_hex(id: &str) -> bool {
    id.len() >= 12 && id.bytes().all(|b| b.is_ascii_hexdigit())
}

/// The uid of a pod: `podUID`, or as a slice with `_` for `-`.
fn pod(name: &str) -> Option<String> {
    let uid = match name.strip_suffix(".slice") {
        Some(slice) if slice.starts_with("kubepods") => {
            slice.rsplit_once("-pod")?.1.replace('_', "-")
        }
        Some(_) => return None,
        None => name.strip_prefix("pod")?.to_owned(),
    };
    // A static pod's is a hash, without dashes.
    let is_uid = uid.len() >= 32 && uid.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    is_uid.then_some(uid)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "0d3f1f6d9f0e4b2e8c5a7b6c1d2e3f405162738495a6b7c8d9e0f1a2b3c4d5e6";
    const UID: &str = "8ee5b3cd-1b2a-4c3d-9e8f-0a1b2c3d4e5f";

    #[test]
    fn paths_mean_what_their_makers_mean() {
        let uid_ = UID.replace('-', "_");
        let kube = "/kubepods.slice/kubepods-burstable.slice";
        let table = [
            ("/".to_owned(), "", "", "", ""),
            ("/system.slice/nginx.service".into(), "nginx.service", "", "", ""),
            (
                "/system.slice/system-getty.slice/getty@tty1.service".into(),
                "getty@tty1.service",
                "",
                "",
                "",
            ),
            ("/user.slice/user-1000.slice/session-3.scope".into(), "session-3.scope", "", "", ""),
            (
                "/user.slice/user-1000.slice/user@1000.service/app.slice/x.service".into(),
                "x.service",
                "",
                "",
                "",
            ),
            ("/system.slice/x.service/worker".into(), "x.service", "", "", ""),
            ("/system.slice".into(), "", "", "", ""),
            (format!("/system.slice/docker-{ID}.scope"), "", ID, "docker", ""),
            (
                format!("/system.slice/docker-{ID}.scope/system.slice/a.service"),
                "",
                ID,
                "docker",
                "",
            ),
            (format!("/docker/{ID}"), "", ID, "docker", ""),
            (format!("/machine.slice/libpod-{ID}.scope/container"), "", ID, "podman", ""),
            (
                format!("/machine.slice/libpod-conmon-{ID}.scope"),
                &*format!("libpod-conmon-{ID}.scope"),
                "",
                "",
                "",
            ),
            (
                format!("{kube}/kubepods-burstable-pod{uid_}.slice/cri-containerd-{ID}.scope"),
                "",
                ID,
                "containerd",
                UID,
            ),
            (
                format!("{kube}/kubepods-burstable-pod{uid_}.slice/crio-{ID}.scope"),
                "",
                ID,
                "cri-o",
                UID,
            ),
            (format!("/kubepods/besteffort/pod{UID}/{ID}"), "", ID, "", UID),
            (
                format!("/kubepods.slice/kubepods-pod{}.slice", ID.split_at(32).0),
                "",
                "",
                "",
                ID.split_at(32).0,
            ),
            ("/lxc.payload.web".into(), "", "web", "lxc", ""),
            ("/lxc/web".into(), "", "web", "lxc", ""),
            (format!("/ecs/9781c248-0edd-4cdb-9a93-f63cb662a5d3/{ID}"), "", ID, "", ""),
            // What only looks like one.
            ("/podcast".into(), "", "", "", ""),
            ("/system.slice/docker-registry.service".into(), "docker-registry.service", "", "", ""),
            ("/docker/buildkit".into(), "", "", "", ""),
            ("/.service".into(), "", "", "", ""),
        ];
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        for (path, unit, container, runtime, pod) in table {
            let wanted = WorkloadId {
                unit: some(unit),
                container: some(container),
                runtime: some(runtime),
                pod: some(pod),
                pod_name: None,
            };
            assert_eq!(WorkloadId::of(&path), wanted, "{path}");
        }
    }

    proptest! {
        /// Whoever makes a cgroup chooses its name: nothing of it is invented.
        #[test]
        fn every_name_is_a_part_of_the_path(path in "[a-f0-9_./-]{0,80}|(/(docker|kubepods|pod[a-f0-9]{32}|[a-f0-9]{64}|.{0,9}\\.service)){0,4}") {
            let WorkloadId { unit, container, pod, .. } = WorkloadId::of(&path);
            for name in [unit, container, pod].into_iter().flatten() {
                prop_assert!(!name.is_empty());
                prop_assert!(path.replace('_', "-").contains(&name.replace('_', "-")), "{name}");
            }
        }
    }
}
