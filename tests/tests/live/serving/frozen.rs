//! A sensing thread that stands still: what is served must say so.

use sensor_tests::daemon::Daemon;

use super::agent_check;
use crate::{unified::Unified, wait_until};

/// Freezes the sensing thread alone, in a threaded v2 group: what is served must say so, from
/// threads that do not depend on it.
#[test]
fn a_frozen_sensor_is_not_ready() {
    let daemon = Daemon::start("").expect("daemon");
    assert_eq!(daemon.get("/readyz", "").expect("readyz").status, 200);
    let threads = format!("/proc/{}/task", daemon.pid());
    let sense = std::fs::read_dir(threads)
        .expect("threads")
        .map(|t| t.expect("thread").path())
        .find(|t| std::fs::read_to_string(t.join("comm")).is_ok_and(|c| c.trim() == "sense"))
        .expect("the sensing loop has a thread of its own");
    let tid = sense.file_name().expect("a tid").to_str().expect("digits").to_owned();

    let freezer = Freezer::new(&daemon);
    freezer.freeze(&tid);
    wait_until("stale", || daemon.get("/readyz", "").expect("readyz").status == 503);
    let body = daemon.get("/readyz", "").expect("readyz").body;
    assert!(body.contains("\"state\":\"stale\""), "{body}");
    assert_eq!(agent_check(&daemon), "down#memsensor-stale\n");
    assert_eq!(daemon.get("/livez", "").expect("livez").status, 200);
    assert_eq!(daemon.get("/metrics", "").expect("metrics").status, 200, "old numbers, and dated");
    freezer.thaw();
    wait_until("ready again", || daemon.get("/readyz", "").expect("readyz").status == 200);
    assert_eq!(agent_check(&daemon), "up 100%\n");
}

/// A v2 group with the daemon in it and a threaded child that can be frozen.
struct Freezer {
    group: Unified,
    child: std::path::PathBuf,
}

impl Freezer {
    fn new(daemon: &Daemon) -> Self {
        let group = Unified::new("freezer");
        let write = |path: &std::path::Path, value: &str| {
            std::fs::write(path, value).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        };
        write(&group.path().join("cgroup.procs"), &daemon.pid().to_string());
        let child = group.path().join("frozen");
        std::fs::create_dir(&child).expect("mkdir");
        write(&child.join("cgroup.type"), "threaded");
        Self { group, child }
    }

    fn freeze(&self, tid: &str) {
        std::fs::write(self.child.join("cgroup.threads"), tid).expect("move the thread");
        std::fs::write(self.child.join("cgroup.freeze"), "1").expect("freeze");
    }

    fn thaw(&self) {
        std::fs::write(self.child.join("cgroup.freeze"), "0").expect("thaw");
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        let _ = std::fs::write(self.child.join("cgroup.freeze"), "0");
        // Back into the parent group, or neither can be removed.
        let threads =
            std::fs::read_to_string(self.child.join("cgroup.threads")).unwrap_or_default();
        for tid in threads.lines() {
            let _ = std::fs::write(self.group.path().join("cgroup.threads"), tid);
        }
        let _ = std::fs::remove_dir(&self.child);
    }
}
