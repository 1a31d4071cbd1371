//! The workload that a cgroup belongs to, from its path: systemd unit, container with its runtime,
//! Kubernetes pod. Pure. Names that only a runtime's database has are not included.
//!
//! The conventions are those of systemd (units and slices), of the runtimes' systemd and cgroupfs
//! drivers (`docker-ID.scope` or `/docker/ID`), and of the kubelet
//! (`kubepods-burstable-podUID.slice` with `_` for `-`, or `/kubepods/burstable/podUID`). A runtime
//! that uses cgroupfs while the kubelet uses systemd has one directory
//! `kubepods-burstable-podUID.slice:cri-containerd:ID`. In kind, names begin with `kubelet-`.
//! The units of a machine (systemd-nspawn) are not the host's: the unit is that of the machine.
//!
//! Not here: names of pods (the daemon's `host/pods`).

use serde::{Deserialize, Serialize};

/// Unit, container and pod of a cgroup; each is absent if the path does not contain it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct WorkloadId {
    /// systemd unit on the host, e.g. `nginx.service`; absent for a container, whose unit contains
    /// only its id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// Id of the container, or its name if the runtime has no ids.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// `docker`, `containerd`, `cri-o`, `podman` or `lxc`; absent if the path does not show it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<String>,
    /// Uid of the Kubernetes pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// `namespace/name` of the pod. It is not in the path; the daemon looks it up by the uid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_name: Option<String>,
}

/// Prefixes of the scopes that runtimes create with systemd, and the runtime of each.
const SCOPE_PREFIXES: [(&str, &str); 7] = [
    ("docker-", "docker"),
    ("cri-containerd-", "containerd"),
    ("nerdctl-", "containerd"),
    ("crio-", "cri-o"),
    ("libpod-payload-", "podman"),
    ("libpod-", "podman"),
    ("lxc.payload.", "lxc"),
];

/// Directories that runtimes create without systemd, and the runtime of each.
const PARENTS: [(&str, &str); 4] =
    [("docker", "docker"), ("libpod_parent", "podman"), ("lxc", "lxc"), ("lxc.payload", "lxc")];

/// Names before the id where a runtime is asked for systemd's cgroups but uses cgroupfs
/// (`SLICE:NAME:ID`), and the runtime of each.
const COLON_NAMES: [(&str, &str); 5] = [
    ("cri-containerd", "containerd"),
    ("nerdctl", "containerd"),
    ("docker", "docker"),
    ("crio", "cri-o"),
    ("libpod", "podman"),
];

/// Suffixes of units that contain processes; slices do not.
const UNIT_SUFFIXES: [&str; 5] = [".service", ".scope", ".mount", ".socket", ".swap"];

impl WorkloadId {
    /// Parses a path below the root of the hierarchy.
    pub fn of(path: &str) -> Self {
        let mut workload = Self::default();
        let mut parent = "";
        for name in path.split('/').filter(|name| !name.is_empty()) {
            if let Some((slice, container, runtime)) = colons(name) {
                return Self {
                    pod: pod(slice).or(workload.pod),
                    container: Some(container.to_owned()),
                    runtime: Some(runtime.to_owned()),
                    ..Self::default()
                };
            }
            if let Some(uid) = pod(name) {
                workload.pod = Some(uid);
            } else if let Some((container, runtime)) = container(parent, name) {
                // Cgroups below are made inside of the container.
                workload.unit = None;
                workload.container = Some(container.to_owned());
                workload.runtime = runtime.map(str::to_owned);
                return workload;
            } else if UNIT_SUFFIXES
                .iter()
                .any(|suffix| name.len() > suffix.len() && name.ends_with(suffix))
            {
                workload.unit = Some(name.to_owned());
                if is_machine(name) {
                    // Units below are the machine's: `payload/system.slice/nginx.service`, without
                    // `payload` before systemd 238.
                    return workload;
                }
            }
            parent = name;
        }
        workload
    }
}

/// Id of a container, and its runtime if the name shows it.
fn container<'a>(parent: &str, name: &'a str) -> Option<(&'a str, Option<&'static str>)> {
    let stem = name.strip_suffix(".scope").unwrap_or(name);
    for (prefix, runtime) in SCOPE_PREFIXES {
        if let Some(id) = stem.strip_prefix(prefix) {
            // `crio-conmon-ID` and `libpod-conmon-ID` are supervisors of containers.
            let is_id = runtime == "lxc" && !id.is_empty() || is_hex(id);
            return is_id.then_some((id, Some(runtime)));
        }
    }
    if let Some((_, runtime)) = PARENTS.iter().find(|(dir, _)| *dir == parent)
        && (*runtime == "lxc" || is_hex(name))
    {
        return Some((name, Some(runtime)));
    }
    // `/kubepods/podUID/ID`, `/ecs/TASK/ID`: 64 digits are an id of an unknown runtime.
    (name.len() == 64 && is_hex(name)).then_some((name, None))
}

/// Slice, id and runtime of a directory `SLICE:NAME:ID`. The slice may be empty.
fn colons(name: &str) -> Option<(&str, &str, &'static str)> {
    let (rest, id) = name.rsplit_once(':')?;
    let (slice, name) = rest.rsplit_once(':')?;
    let (_, runtime) = COLON_NAMES.iter().find(|(known, _)| *known == name)?;
    let is_slice = slice.is_empty() || slice.strip_suffix(".slice").is_some();
    (is_slice && is_hex(id)).then_some((slice, id, *runtime))
}

/// Whether the unit contains a machine, as systemd-nspawn and systemd-machined name it.
fn is_machine(unit: &str) -> bool {
    let scope = unit.strip_suffix(".scope");
    unit.starts_with("systemd-nspawn@") || scope.is_some_and(|name| name.starts_with("machine-"))
}

/// Ids have 64 digits; some tools truncate them to twelve.
fn is_hex(id: &str) -> bool {
    id.len() >= 12 && id.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Uid of a pod: from `podUID`, or from a slice with `_` for `-`.
fn pod(name: &str) -> Option<String> {
    let uid = match name.strip_suffix(".slice") {
        Some(slice) if slice.starts_with("kubepods") || slice.contains("-kubepods") => {
            slice.rsplit_once("-pod")?.1.replace('_', "-")
        }
        Some(_) => return None,
        None => name.strip_prefix("pod")?.to_owned(),
    };
    // The uid of a static pod is a hash without dashes.
    let is_uid = uid.len() >= 32 && uid.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    is_uid.then_some(uid)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "0d3f1f6d9f0e4b2e8c5a7b6c1d2e3f405162738495a6b7c8d9e0f1a2b3c4d5e6";
    const UID: &str = "8ee5b3cd-1b2a-4c3d-9e8f-0a1b2c3d4e5f";

    fn assert_workloads(table: &[(&str, [&str; 4])]) {
        let uid_ = UID.replace('-', "_");
        let some = |text: &str| (!text.is_empty()).then(|| text.replace("ID", ID));
        for (path, [unit, container, runtime, pod]) in table {
            let path = path.replace("UID_", &uid_).replace("UID", UID).replace("ID", ID);
            let expected = WorkloadId {
                unit: some(unit),
                container: some(container),
                runtime: some(runtime),
                pod: (!pod.is_empty()).then(|| (*pod).to_owned()),
                pod_name: None,
            };
            assert_eq!(WorkloadId::of(&path), expected, "{path}");
        }
    }

    #[test]
    fn units_are_those_of_systemd() {
        let user = "/user.slice/user-1000.slice";
        assert_workloads(&[
            ("/", ["", "", "", ""]),
            ("/system.slice", ["", "", "", ""]),
            ("/system.slice/nginx.service", ["nginx.service", "", "", ""]),
            ("/system.slice/x.service/worker", ["x.service", "", "", ""]),
            (
                "/system.slice/system-getty.slice/getty@tty1.service",
                ["getty@tty1.service", "", "", ""],
            ),
            (&format!("{user}/session-3.scope"), ["session-3.scope", "", "", ""]),
            (&format!("{user}/user@1000.service/app.slice/x.service"), ["x.service", "", "", ""]),
        ]);
    }

    #[test]
    fn containers_are_those_of_their_runtimes() {
        assert_workloads(&[
            ("/system.slice/docker-ID.scope", ["", "ID", "docker", ""]),
            ("/system.slice/docker-ID.scope/system.slice/a.service", ["", "ID", "docker", ""]),
            ("/docker/ID", ["", "ID", "docker", ""]),
            ("/machine.slice/libpod-ID.scope/container", ["", "ID", "podman", ""]),
            ("/machine.slice/libpod-conmon-ID.scope", ["libpod-conmon-ID.scope", "", "", ""]),
            ("/lxc.payload.web", ["", "web", "lxc", ""]),
            ("/lxc/web", ["", "web", "lxc", ""]),
            ("/ecs/9781c248-0edd-4cdb-9a93-f63cb662a5d3/ID", ["", "ID", "", ""]),
        ]);
    }

    #[test]
    fn pods_are_those_of_the_kubelet() {
        let pod = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUID_.slice";
        let static_uid = ID.split_at(32).0;
        let static_pod = format!("/kubepods.slice/kubepods-pod{static_uid}.slice");
        assert_workloads(&[
            (&format!("{pod}/cri-containerd-ID.scope"), ["", "ID", "containerd", UID]),
            (&format!("{pod}/crio-ID.scope"), ["", "ID", "cri-o", UID]),
            ("/kubepods/besteffort/podUID/ID", ["", "ID", "", UID]),
            (&static_pod, ["", "", "", static_uid]),
        ]);
    }

    /// As in reports of users.
    #[test]
    fn mixed_drivers_and_nested_hosts_are_recognised() {
        let kind = "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/\
                    kubelet-kubepods-burstable-podUID_.slice";
        let in_docker = format!("/docker/{ID}{kind}/cri-containerd-ID.scope");
        let kubepods = "kubepods-burstable-podUID_.slice";
        let service = "/system.slice/containerd.service";
        assert_workloads(&[
            (&format!("{service}/{kubepods}:cri-containerd:ID"), ["", "ID", "containerd", UID]),
            (&format!("{service}/kubepods-podUID_.slice:crio:ID"), ["", "ID", "cri-o", UID]),
            (
                &format!("{service}/kubepods-besteffort-podUID.slice:cri-containerd:ID"),
                ["", "ID", "containerd", UID],
            ),
            ("/system.slice:docker:ID", ["", "ID", "docker", ""]),
            ("/system.slice/x.service/user.slice:libpod:ID", ["", "ID", "podman", ""]),
            (&format!("{kind}/cri-containerd-ID.scope"), ["", "ID", "containerd", UID]),
            ("/kubelet/kubepods/burstable/podUID/ID", ["", "ID", "", UID]),
            // The node itself is a container, and the pod inside of it is not the host's.
            (&in_docker, ["", "ID", "docker", ""]),
            ("/system.slice/web.service/libpod-payload-ID", ["", "ID", "podman", ""]),
            (
                "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope",
                ["", "ID", "podman", ""],
            ),
            ("/system.slice/x.service/libpod-payload-x", ["x.service", "", "", ""]),
        ]);
    }

    /// They are those of its own systemd.
    #[test]
    fn units_of_a_machine_are_the_machine_s() {
        let nspawn = "systemd-nspawn@shop.service";
        assert_workloads(&[
            (&format!("/machine.slice/{nspawn}"), [nspawn, "", "", ""]),
            (&format!("/machine.slice/{nspawn}/supervisor"), [nspawn, "", "", ""]),
            (
                &format!("/machine.slice/{nspawn}/payload/system.slice/nginx.service"),
                [nspawn, "", "", ""],
            ),
            (&format!("/machine.slice/{nspawn}/payload/docker/ID"), [nspawn, "", "", ""]),
            (
                "/machine.slice/machine-shop.scope/payload/system.slice/mysql.service",
                ["machine-shop.scope", "", "", ""],
            ),
            (
                "/machine.slice/machine-qemu\\x2d1\\x2dvm.scope/libvirt/emulator",
                ["machine-qemu\\x2d1\\x2dvm.scope", "", "", ""],
            ),
            (
                "/machine.slice/machine-old.scope/system.slice/a.service",
                ["machine-old.scope", "", "", ""],
            ),
            ("/system.slice/machine-id.service/payload/b.service", ["b.service", "", "", ""]),
        ]);
    }

    #[test]
    fn similar_names_are_not_containers_or_pods() {
        assert_workloads(&[
            ("/podcast", ["", "", "", ""]),
            ("/system.slice/docker-registry.service", ["docker-registry.service", "", "", ""]),
            ("/docker/buildkit", ["", "", "", ""]),
            ("/a.service:cri-containerd:ID", ["", "", "", ""]),
            ("/a.slice:other:ID", ["", "", "", ""]),
            ("/a.slice:docker:short", ["", "", "", ""]),
            ("/my-kubepods-pod1.slice", ["", "", "", ""]),
            ("/.service", ["", "", "", ""]),
        ]);
    }

    proptest! {
        /// Any user may choose the name of a cgroup: each reported name is a part of the path.
        #[test]
        fn every_name_is_a_part_of_the_path(
            path in "[a-f0-9_./-]{0,80}\
                |(/(docker|kubepods|pod[a-f0-9]{32}|[a-f0-9]{64}|.{0,9}\\.service\
                |a\\.slice:docker:[a-f0-9]{12}|machine-a\\.scope)){0,4}",
        ) {
            let WorkloadId { unit, container, pod, .. } = WorkloadId::of(&path);
            for name in [unit, container, pod].into_iter().flatten() {
                prop_assert!(!name.is_empty());
                prop_assert!(path.replace('_', "-").contains(&name.replace('_', "-")), "{name}");
            }
        }
    }
}
