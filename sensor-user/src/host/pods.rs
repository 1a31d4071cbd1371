//! The name of a Kubernetes pod by its uid, without the Kubernetes API: the kubelet keeps a pod's
//! logs in `/var/log/pods/NAMESPACE_NAME_UID` (pkg/kubelet/kuberuntime/helpers.go).

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    time::Duration,
};

use sensor_core::common::{counter::nanos, text::sanitize};

/// The kubelet's directory of logs.
pub const LOGS: &str = "/var/log/pods";

/// Most directory entries in one search; a node has a few hundred pods at most.
const MAX_ENTRIES: usize = 4096;

/// Most pods, and most uids without logs, in the cache.
const KEEP: usize = 512;

/// Time until a uid without logs is searched again: the kubelet creates the directory before it
/// starts a container of the pod.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// A cache of pod names: up to a hundred signals a second need one, and a search reads a directory.
#[derive(Debug)]
pub struct Pods {
    logs: PathBuf,
    /// Uid and name, oldest first. A uid is never reused.
    known: VecDeque<(String, String)>,
    /// Uids without logs, with the time of the search.
    absent: VecDeque<(String, u64)>,
}

impl Default for Pods {
    fn default() -> Self {
        Self { logs: LOGS.into(), known: VecDeque::new(), absent: VecDeque::new() }
    }
}

impl Pods {
    /// `namespace/name`, if the kubelet has or had logs of the pod; `now` is CLOCK_MONOTONIC
    /// nanoseconds.
    pub fn name_of(&mut self, uid: &str, now: u64) -> Option<String> {
        if let Some((_, name)) = self.known.iter().find(|(known, _)| known == uid) {
            return Some(name.clone());
        }
        self.absent.retain(|(_, searched)| now < searched.saturating_add(nanos(RETRY_AFTER)));
        if self.absent.iter().any(|(absent, _)| absent == uid) {
            return None;
        }
        let Some(name) = search(&self.logs, uid) else {
            push_bounded(&mut self.absent, (uid.to_owned(), now));
            return None;
        };
        push_bounded(&mut self.known, (uid.to_owned(), name.clone()));
        Some(name)
    }
}

/// Adds an item, and removes the oldest of more than [`KEEP`].
fn push_bounded<T>(queue: &mut VecDeque<T>, item: T) {
    if queue.len() >= KEEP {
        queue.pop_front();
    }
    queue.push_back(item);
}

/// Searches the directory of a pod's logs.
fn search(logs: &Path, uid: &str) -> Option<String> {
    let entries = std::fs::read_dir(logs).ok()?.flatten().take(MAX_ENTRIES);
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .find_map(|dir| name_in(&dir, uid))
}

/// The name of the pod with that uid, if the directory holds its logs.
pub(crate) fn name_in(dir: &str, uid: &str) -> Option<String> {
    let (namespace, rest) = dir.split_once('_')?;
    let (name, dir_uid) = rest.rsplit_once('_')?;
    (dir_uid == uid).then(|| sanitize(&format!("{namespace}/{name}")))
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
        assert_eq!(search(dir.path(), "8ee5b3cd").as_deref(), Some("default/web-7d4b"));
        assert_eq!(search(dir.path(), "ffff").as_deref(), Some("kube-system/etcd-node1"));
        assert_eq!(search(dir.path(), "b"), None);
        assert_eq!(search(Path::new("/no/such/directory"), "b"), None);
    }

    #[test]
    fn a_known_pod_is_cached_and_an_unknown_one_searched_again() {
        let dir = tempfile::tempdir().expect("tempdir");
        let logs = |name: &str| dir.path().join(name);
        let mut pods = Pods { logs: dir.path().to_owned(), ..Pods::default() };
        std::fs::create_dir(logs("default_web_1")).expect("mkdir");
        assert_eq!(pods.name_of("1", 0).as_deref(), Some("default/web"));
        std::fs::remove_dir(logs("default_web_1")).expect("rmdir");
        assert_eq!(pods.name_of("1", 1).as_deref(), Some("default/web"), "cached");
        let retry_ns = nanos(RETRY_AFTER);
        assert_eq!(pods.name_of("2", 0), None);
        std::fs::create_dir(logs("default_db_2")).expect("mkdir");
        assert_eq!(pods.name_of("2", retry_ns - 1), None, "too early");
        assert_eq!(pods.name_of("2", retry_ns).as_deref(), Some("default/db"));
    }

    #[test]
    fn the_cache_is_bounded() {
        let dir = tempfile::tempdir().expect("tempdir");
        let mut pods = Pods { logs: dir.path().to_owned(), ..Pods::default() };
        for uid in 0..=KEEP {
            let logs = dir.path().join(format!("a_b_{uid}"));
            std::fs::create_dir(&logs).expect("mkdir");
            assert_eq!(pods.name_of(&uid.to_string(), 0).as_deref(), Some("a/b"));
            std::fs::remove_dir(&logs).expect("rmdir");
            assert_eq!(pods.name_of(&format!("no{uid}"), 0), None);
        }
        assert_eq!((pods.known.len(), pods.absent.len()), (KEEP, KEEP));
        assert_eq!((&*pods.known[0].0, &*pods.absent[0].0), ("1", "no1"), "the oldest is removed");
    }
}
