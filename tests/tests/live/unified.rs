//! A cgroup v2 group, for features that only v2 has: cgroup.kill, and freezing one thread.
//!
//! It needs no controller, so it also works on hosts with v1: where no v2 hierarchy is mounted, it
//! mounts one. Dropping it kills the processes inside.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// A v2 group.
pub(crate) struct Unified {
    group: PathBuf,
    /// Unmounted after the group was removed.
    _root: Root,
}

impl Unified {
    pub(crate) fn new(name: &str) -> Self {
        let root = Root::find();
        let group = root.path.join(format!("memsensor-test-{}-v2-{name}", std::process::id()));
        fs::create_dir(&group).unwrap_or_else(|e| panic!("mkdir {}: {e}", group.display()));
        Self { group, _root: root }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.group
    }

    /// A command that enters the group before it runs `program`.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("sh");
        let enter = format!("echo $$ > '{}/cgroup.procs' && exec \"$@\"", self.group.display());
        command.arg("-c").arg(enter).arg("sh").arg(program);
        command
    }

    fn kill_all(&self) {
        let procs = fs::read_to_string(self.group.join("cgroup.procs")).unwrap_or_default();
        for pid in procs.lines().filter_map(|l| Pid::from_raw(l.parse().ok()?)) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

impl Drop for Unified {
    fn drop(&mut self) {
        let end = Instant::now() + Duration::from_secs(10);
        while fs::remove_dir(&self.group).is_err() && Instant::now() < end {
            self.kill_all();
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// A mounted v2 hierarchy.
struct Root {
    path: PathBuf,
    ours: bool,
}

impl Root {
    fn find() -> Self {
        sensor_user::host::cgroup::mounts::unified_root()
            .map_or_else(Self::mount, |path| Self { path, ours: false })
    }

    /// Only where there is none: a second mount would change the options of the first.
    fn mount() -> Self {
        let path =
            std::env::temp_dir().join(format!("memsensor-test-{}-cgroup2", std::process::id()));
        fs::create_dir(&path).unwrap_or_else(|e| panic!("mkdir {}: {e}", path.display()));
        let root = Self { path, ours: true };
        let mount = Command::new("mount").args(["-t", "cgroup2", "none"]).arg(&root.path).status();
        assert!(mount.expect("start mount").success(), "mount cgroup2: see above");
        root
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        if self.ours {
            let _ = Command::new("umount").arg(&self.path).status();
            let _ = fs::remove_dir(&self.path);
        }
    }
}
