//! The name of a Kubernetes pod by its uid, without asking an API: the kubelet keeps a pod's logs in
//! `/var/log/pods/NAMESPACE_NAME_UID` (pkg/kubelet/kuberuntime/helpers.go).

use std::path::Path;

use crate::events::tame;

/// Where the kubelet keeps logs.
pub const LOGS: &str = "/var/log/pods";

/// Pods that are looked at; a node has a few hundred at most.
const MOST: usize = 4096;

/// `namespace/name`, if the kubelet has logs of it.
pub fn name_of(logs: &Path, uid: &str) -> Option<String> {
    let entries = std::fs::read_dir(logs).ok()?.flatten().take(MOST);
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).find_map(|dir| {
        let (namespace, rest) = dir.split_once('_')?;
        let (name, of) = rest.rsplit_once('_')?;
        (of == uid).then(|| tame(&format!("{namespace}/{name}")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_found_by_its_uid() {
        let dir = tempfile::tempdir().expect("tempdir");
        for name in ["default_web-7d4b_8ee5b3cd", "kube-system_etcd-node1_ffff", "junk", "a_b"] {
            std::fs::create_dir(dir.path().join(name)).expect("mkdir");
        }
        assert_eq!(name_of(dir.path(), "8ee5b3cd").as_deref(), Some("default/web-7d4b"));
        assert_eq!(name_of(dir.path(), "ffff").as_deref(), Some("kube-system/etcd-node1"));
        assert_eq!(name_of(dir.path(), "b"), None);
        assert_eq!(name_of(Path::new("/no/such/directory"), "b"), None);
    }
}
