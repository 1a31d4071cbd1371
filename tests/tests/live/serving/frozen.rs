//! A frozen sensing thread: every interface must report it.

use std::{
    cell::RefCell,
    os::unix::{fs::PermissionsExt as _, net::UnixDatagram},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use sensor_tests::support::daemon::Daemon;

use super::agent_check;
use crate::{unified::Unified, wait_until};

/// Freezes only the sensing thread, in a threaded v2 group. The serving threads must report it.
#[test]
fn a_frozen_sensor_is_not_ready() {
    let daemon = Daemon::start("").expect("daemon");
    assert_eq!(daemon.get("/readyz", "").expect("readyz").status, 200);
    let tid = thread(&daemon, "sense");
    let value = |series| daemon.metrics().expect("metrics")[series];
    // On a busy machine it may have missed deadlines before.
    let misses = "memsensor_deadline_misses_total{loop=\"sense\"}";
    let before = value(misses);

    let freezer = Freezer::new(&daemon);
    freezer.freeze(&tid);
    wait_until("stale", || daemon.get("/readyz", "").expect("readyz").status == 503);
    let body = daemon.get("/readyz", "").expect("readyz").body;
    assert!(body.contains("\"state\":\"stale\""), "{body}");
    assert_eq!(agent_check(&daemon), "up 0%\n");
    assert_eq!(daemon.get("/livez", "").expect("livez").status, 200);
    assert_eq!(
        daemon.get("/metrics", "").expect("metrics").status,
        200,
        "the last sample, with its time"
    );
    freezer.thaw();
    wait_until("ready again", || daemon.get("/readyz", "").expect("readyz").status == 200);
    assert_eq!(agent_check(&daemon), "up 100%\n");
    let more = value(misses) - before;
    assert!(more >= 1.0, "{more}");
    let longest = value("memsensor_deadline_overrun_max_seconds{loop=\"sense\"}");
    assert!(longest >= 1.5, "it was frozen for at least two seconds: {longest}");
}

/// The watchdog is notified only while the sensing thread runs.
#[test]
fn a_frozen_sensor_does_not_notify_the_watchdog() {
    let path = std::env::temp_dir().join(format!("memsensor-notify-{}", std::process::id()));
    let socket = UnixDatagram::bind(&path).expect("bind");
    // As systemd's own: the daemon is not root's any more.
    let everyone = std::fs::Permissions::from_mode(0o777);
    std::fs::set_permissions(&path, everyone).expect("chmod");
    socket.set_read_timeout(Some(Duration::from_secs(3))).expect("timeout");
    let statuses = RefCell::new(Vec::new());
    let receive = || {
        loop {
            let mut buffer = [0; 64];
            let len = socket.recv(&mut buffer).ok()?;
            let text = String::from_utf8_lossy(&buffer[..len]).trim().to_owned();
            match text.strip_prefix("STATUS=") {
                Some(status) => statuses.borrow_mut().push(status.to_owned()),
                None => return Some(text),
            }
        }
    };
    let daemon = Daemon::supervised(&path, Duration::from_secs(1)).expect("daemon");
    assert_eq!(receive().as_deref(), Some("READY=1"));
    for _ in 0..5 {
        assert_eq!(receive().as_deref(), Some("WATCHDOG=1"));
    }
    let freezer = Freezer::new(&daemon);
    freezer.freeze(&thread(&daemon, "sense"));
    // Some messages are in flight, then there are none; systemd would restart the service.
    let more = std::iter::from_fn(receive).take(10).count();
    assert!(more < 10, "it notifies the watchdog while it is frozen");
    // Kubernetes has no watchdog, but asks for this.
    let livez = daemon.get("/livez", "").expect("livez");
    assert_eq!((livez.status, &*livez.body), (503, "the sensing loop is stuck\n"));
    freezer.thaw();
    wait_until("alive again", || daemon.get("/livez", "").expect("livez").status == 200);
    assert_eq!(receive().as_deref(), Some("WATCHDOG=1"), "after the thaw");
    let pid = Pid::from_raw(daemon.pid().cast_signed()).expect("a pid");
    kill_process(pid, Signal::TERM).expect("stop it");
    let last = std::iter::from_fn(receive).take(10).last();
    std::fs::remove_file(path).expect("remove");
    assert_eq!(last.as_deref(), Some("STOPPING=1\nSTATUS="));
    let statuses = statuses.into_inner();
    assert!(statuses[0].starts_with("host is "), "{statuses:?}");
    assert!(statuses.iter().any(|status| status == "host is stale, weight 0%"), "{statuses:?}");
}

/// The id of a thread of the daemon, by name.
pub(super) fn thread(daemon: &Daemon, name: &str) -> String {
    let threads = format!("/proc/{}/task", daemon.pid());
    let found = std::fs::read_dir(threads)
        .expect("threads")
        .map(|t| t.expect("thread").path())
        .find(|t| std::fs::read_to_string(t.join("comm")).is_ok_and(|c| c.trim() == name))
        .unwrap_or_else(|| panic!("no thread {name}"));
    found.file_name().expect("a tid").to_str().expect("digits").to_owned()
}

/// A v2 group with the daemon in it and a threaded child that can be frozen.
pub(super) struct Freezer {
    group: Unified,
    child: std::path::PathBuf,
}

impl Freezer {
    pub(super) fn new(daemon: &Daemon) -> Self {
        let group = Unified::new(&format!("freezer-{}", daemon.pid()));
        let write = |path: &std::path::Path, value: &str| {
            std::fs::write(path, value).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        };
        write(&group.path().join("cgroup.procs"), &daemon.pid().to_string());
        let child = group.path().join("frozen");
        std::fs::create_dir(&child).expect("mkdir");
        write(&child.join("cgroup.type"), "threaded");
        Self { group, child }
    }

    pub(super) fn freeze(&self, tid: &str) {
        std::fs::write(self.child.join("cgroup.threads"), tid).expect("move the thread");
        std::fs::write(self.child.join("cgroup.freeze"), "1").expect("freeze");
    }

    pub(super) fn thaw(&self) {
        std::fs::write(self.child.join("cgroup.freeze"), "0").expect("thaw");
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        let _ = std::fs::write(self.child.join("cgroup.freeze"), "0");
        // Back into the parent group, or the groups cannot be removed.
        let threads =
            std::fs::read_to_string(self.child.join("cgroup.threads")).unwrap_or_default();
        for tid in threads.lines() {
            let _ = std::fs::write(self.group.path().join("cgroup.threads"), tid);
        }
        let _ = std::fs::remove_dir(&self.child);
    }
}
