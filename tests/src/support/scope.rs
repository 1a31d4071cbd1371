//! A cgroup with a memory limit, for one test: on v1, v2 or both, as the host has it.
//!
//! Where the memory controller is on v1 (a hybrid host), the limit is set there, and the processes
//! also enter a v2 group of the same name, because PSI is on v2. Dropping the scope kills its
//! processes and removes the groups.

use std::{
    ffi::OsStr,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use sensor_user::host::cgroup::mounts;

/// One mebibyte.
pub const MIB: u64 = 1 << 20;

/// A cgroup with a memory limit.
#[derive(Debug)]
pub struct Scope {
    /// First the group that memory is charged to; on a hybrid host then a v2 group, and others.
    groups: Vec<PathBuf>,
    /// Groups of the parent scope that processes of this one enter too.
    above: Vec<PathBuf>,
    /// Below the hierarchies' roots.
    path: PathBuf,
    v1: bool,
}

impl Scope {
    /// Makes a group named after the test with a limit in bytes and without swap.
    pub fn new(name: &str, limit: u64) -> Result<Self> {
        let scope = Self::with_swap(name, limit)?;
        scope.set_swap_limit(limit, 0)?;
        Ok(scope)
    }

    /// Makes a group named after the test with a limit in bytes; it may swap.
    pub fn with_swap(name: &str, limit: u64) -> Result<Self> {
        let v1 = mounts::memory_on_v1();
        let root = mounts::memory_root().context("no hierarchy with the memory controller")?;
        let name = format!("memsensor-test-{}-{name}", std::process::id());
        let mut scope = Self {
            groups: vec![root.join(&name)],
            above: Vec::new(),
            path: name.clone().into(),
            v1,
        };
        if v1 && let Some(unified) = mounts::unified_root() {
            scope.groups.push(unified.join(&name));
        }
        if !v1 {
            // Without the controller in the parent, the group would have no limit file.
            scope.enable("memory")?;
        }
        scope.make()?;
        // Before 5.11 a v1 group limits its descendants only with use_hierarchy; systemd sets it at
        // the root.
        let hierarchy = scope.memory().join("memory.use_hierarchy");
        if v1 && fs::read_to_string(&hierarchy).is_ok_and(|word| word.trim() == "0") {
            scope.write("memory.use_hierarchy", "1")?;
        }
        scope.set_limit(limit)?;
        Ok(scope)
    }

    /// Makes a child group without a limit. It must be dropped before this one.
    pub fn child(&self, name: &str) -> Result<Self> {
        if !self.v1 {
            let control = self.memory().join("cgroup.subtree_control");
            fs::write(&control, "+memory")
                .with_context(|| format!("enable memory in {}", control.display()))?;
        }
        // Groups of other controllers are not hierarchical on v1: children share them.
        let (own, above): (Vec<PathBuf>, Vec<PathBuf>) =
            self.groups.iter().cloned().partition(|group| self.has_memory_or_psi(group));
        let groups = own.iter().map(|group| group.join(name)).collect();
        let child = Self { groups, above, path: self.path.join(name), v1: self.v1 };
        child.make()?;
        Ok(child)
    }

    fn has_memory_or_psi(&self, group: &Path) -> bool {
        group == self.memory() || mounts::unified_root().is_some_and(|root| group.starts_with(root))
    }

    fn make(&self) -> Result<()> {
        for group in &self.groups {
            fs::create_dir(group).with_context(|| format!("mkdir {}", group.display()))?;
        }
        Ok(())
    }

    /// Sets the limit; lowering it makes the kernel reclaim at once.
    pub fn set_limit(&self, limit: u64) -> Result<()> {
        let file = if self.v1 { "memory.limit_in_bytes" } else { "memory.max" };
        self.write(file, &limit.to_string())
    }

    /// Sets the swap limit; v1 also needs the memory limit.
    pub fn set_swap_limit(&self, limit: u64, swap: u64) -> Result<()> {
        let (file, value) = if self.v1 {
            ("memory.memsw.limit_in_bytes", limit.saturating_add(swap))
        } else {
            ("memory.swap.max", swap)
        };
        // Absent where the kernel does not account swap.
        if self.memory().join(file).exists() {
            self.write(file, &value.to_string())?;
        }
        Ok(())
    }

    /// Writes a file of the memory group.
    pub fn write(&self, file: &str, value: &str) -> Result<()> {
        let path = self.memory().join(file);
        fs::write(&path, value).with_context(|| format!("write {value} to {}", path.display()))
    }

    /// Whether memory is charged on a v1 hierarchy.
    pub fn is_v1(&self) -> bool {
        self.v1
    }

    /// Enables a controller for groups of the v2 hierarchy.
    pub fn enable(&self, controller: &str) -> Result<()> {
        let root = self.memory().parent().context("a group has a parent")?;
        let control = root.join("cgroup.subtree_control");
        fs::write(&control, format!("+{controller}"))
            .with_context(|| format!("enable {controller} in {}", control.display()))
    }

    /// Adds a group of the same name in the v1 hierarchy of another controller.
    pub fn add_v1_group(&mut self, controller: &str) -> Result<PathBuf> {
        let mounts = fs::read_to_string("/proc/self/mounts").context("read /proc/self/mounts")?;
        let root = mounts.lines().find_map(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            let [_, at, "cgroup", options, ..] = words[..] else { return None };
            options.split(',').any(|o| o == controller).then(|| PathBuf::from(at))
        });
        let root = root.with_context(|| format!("no v1 hierarchy of {controller}"))?;
        let group = root.join(&self.path);
        fs::create_dir(&group).with_context(|| format!("mkdir {}", group.display()))?;
        self.groups.push(group.clone());
        Ok(group)
    }

    /// All its groups.
    pub fn groups(&self) -> &[PathBuf] {
        &self.groups
    }

    /// The group that memory is charged to.
    pub fn memory(&self) -> &Path {
        &self.groups[0]
    }

    /// The v2 group.
    pub fn unified(&self) -> &Path {
        self.groups.get(1).unwrap_or(&self.groups[0])
    }

    /// The cgroup id in BPF programs, of the group that memory is charged to.
    pub fn id(&self) -> Result<u64> {
        Ok(fs::metadata(self.memory())?.ino())
    }

    /// Its path as in events.
    pub fn path(&self) -> String {
        format!("/{}", self.path.display())
    }

    /// A command that enters the scope before it runs `program`.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("sh");
        let enter: Vec<_> = self
            .groups
            .iter()
            .chain(&self.above)
            .map(|g| format!("echo $$ > '{}/cgroup.procs'", g.display()))
            .collect();
        command.arg("-c").arg(format!("{} && exec \"$@\"", enter.join(" && ")));
        command.arg("sh").arg(program);
        command
    }

    fn kill_all(&self) {
        for group in &self.groups {
            let procs = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
            for pid in procs.lines().filter_map(|l| l.parse().ok()) {
                if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                }
            }
        }
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.groups.iter().any(|g| g.exists()) && Instant::now() < deadline {
            self.kill_all();
            for group in &self.groups {
                let _ = fs::remove_dir(group);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// A program that was built with the tests.
pub fn program(name: &str) -> Result<PathBuf> {
    let exe = std::env::current_exe().context("path of this test")?;
    let found = exe.ancestors().map(|dir| dir.join(name)).find(|path| path.is_file());
    let found = found.with_context(|| format!("{name} is not built: cargo build --workspace"))?;
    ensure!(found.is_absolute(), "{} is not absolute", found.display());
    Ok(found)
}
