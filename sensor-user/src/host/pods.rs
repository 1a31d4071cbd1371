//! The name of a Kubernetes pod by its uid, without asking an API: the kubelet keeps a pod's logs in
//! `/var/log/pods/NAMESPACE_NAME_UID` (pkg/kubelet/kuberuntime/helpers.go).

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    time::Duration,
};

use sensor_core::common::text::sanitize;

/// Where the kubelet keeps logs.
const LOGS: &str = "/var/log/pods";

/// Pods that are looked at; a node has a few hundred at most.
const MOST: usize = 4096;

/// Pods that are remembered.
const KEEP: usize = 512;

/// A pod that has no logs is not looked for again for so long: the kubelet makes their directory before it
/// starts anything of the pod.
const ABSENT: Duration = Duration::from_secs(5);

/// The names of pods. A hundred signals a second may ask for them, and a look reads a whole directory.
#[derive(Debug)]
pub struct Pods {
    logs: PathBuf,
    /// By uid, which is of one pod for ever; oldest first.
    known: VecDeque<(String, String)>,
    /// Uids that had no logs, and when.
    absent: VecDeque<(String, u64)>,
}

impl Default for Pods {
    fn default() -> Self {
        Self { logs: LOGS.into(), known: VecDeque::new(), absent: VecDeque::new() }
    }
}

impl Pods {
    /// `namespace/name`, if the kubelet has, or had, logs of it; `now` is CLOCK_MONOTONIC nanoseconds.
    pub fn name_of(&mut self, uid: &str, now: u64) -> Option<String> {
        if let Some((_, name)) = self.known.iter().find(|(of, _)| of == uid) {
            return Some(name.clone());
        }
        let absent = u64::try_from(ABSENT.as_nanos()).unwrap_or(u64::MAX);
        self.absent.retain(|(_, then)| now < then.saturating_add(absent));
        if self.absent.iter().any(|(of, _)| of == uid) {
            return None;
        }
        let Some(name) = look(&self.logs, uid) else {
            keep(&mut self.absent, (uid.to_owned(), now));
            return None;
        };
        keep(&mut self.known, (uid.to_owned(), name.clone()));
        Some(name)
    }
}

fn keep<T>(all: &mut VecDeque<T>, one: T) {
    if all.len() >= KEEP {
        all.pop_front();
    }
    all.push_back(one);
}

fn look(logs: &Path, uid: &str) -> Option<String> {
    let entries = std::fs::read_dir(logs).ok()?.flatten().take(MOST);
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).find_map(|dir| {
        let (namespace, rest) = dir.split_once('_')?;
        let (name, of) = rest.rsplit_once('_')?;
        (of == uid).then(|| sanitize(&format!("{namespace}/{name}")))
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
        assert_eq!(look(dir.path(), "8ee5b3cd").as_deref(), Some("default/web-7d4b"));
        assert_eq!(look(dir.path(), "ffff").as_deref(), Some("kube-system/etcd-node1"));
        assert_eq!(look(dir.path(), "b"), None);
        assert_eq!(look(Path::new("/no/such/directory"), "b"), None);
    }

    #[test]
    fn a_pod_is_looked_for_once_and_one_without_logs_now_and_then() {
        let dir = tempfile::tempdir().expect("tempdir");
        let logs = |name: &str| dir.path().join(name);
        let mut pods = Pods { logs: dir.path().to_owned(), ..Pods::default() };
        std::fs::create_dir(logs("default_web_1")).expect("mkdir");
        assert_eq!(pods.name_of("1", 0).as_deref(), Some("default/web"));
        std::fs::remove_dir(logs("default_web_1")).expect("rmdir");
        assert_eq!(pods.name_of("1", 1).as_deref(), Some("default/web"), "not looked for again");
        let again = u64::try_from(ABSENT.as_nanos()).expect("short");
        assert_eq!(pods.name_of("2", 0), None);
        std::fs::create_dir(logs("default_db_2")).expect("mkdir");
        assert_eq!(pods.name_of("2", again - 1), None, "too early");
        assert_eq!(pods.name_of("2", again).as_deref(), Some("default/db"));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
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
        assert_eq!((&*pods.known[0].0, &*pods.absent[0].0), ("1", "no1"), "the latest");
    }
}
