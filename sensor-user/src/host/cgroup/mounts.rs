//! Mount points of the cgroup hierarchies, and a list of all cgroups.
//!
//! A cgroup's id, as the kernel half reports it, is the inode number of its directory.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use walkdir::DirEntryExt as _;

/// Most directories in one walk; usual hosts have far fewer.
pub const MAX_WALK: usize = 50_000;

/// Whether the memory controller is on a v1 hierarchy of this host.
pub fn memory_on_v1() -> bool {
    fs::read_to_string("/proc/cgroups").is_ok_and(|text| parse_memory_on_v1(&text))
}

/// Parses /proc/cgroups: a hierarchy id other than 0 means v1.
fn parse_memory_on_v1(cgroups: &str) -> bool {
    cgroups.lines().any(|line| {
        let mut words = line.split_whitespace();
        words.next() == Some("memory") && words.next().is_some_and(|id| id != "0")
    })
}

/// Mount point of the memory controller's hierarchy.
pub fn memory_root() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    parse_memory_root(&mounts, memory_on_v1())
}

/// Mount point of the v2 hierarchy.
pub fn unified_root() -> Option<PathBuf> {
    parse_memory_root(&fs::read_to_string("/proc/self/mounts").ok()?, false)
}

fn parse_memory_root(mounts: &str, v1: bool) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        let [_, mount_point, kind, options, ..] = words[..] else { return None };
        let matches = if v1 {
            kind == "cgroup" && options.split(',').any(|o| o == "memory")
        } else {
            kind == "cgroup2"
        };
        matches.then(|| PathBuf::from(mount_point))
    })
}

/// Mount points of the hierarchies that have files about memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupMounts {
    /// The memory controller.
    pub memory: PathBuf,
    /// Whether the memory controller is on v1.
    pub v1: bool,
    /// The v2 hierarchy, which has PSI even if the memory controller is on v1.
    pub unified: Option<PathBuf>,
}

impl CgroupMounts {
    /// Reads the mount points. An error if no hierarchy has the memory controller.
    pub fn find() -> Result<Self> {
        let memory = memory_root().context("no hierarchy with the memory controller")?;
        Ok(Self { memory, v1: memory_on_v1(), unified: unified_root() })
    }
}

/// Id and path below `root`, starting with `/`, of every cgroup; the root first.
pub fn all_below(root: &Path) -> impl Iterator<Item = (u64, String)> {
    walkdir::WalkDir::new(root)
        .into_iter()
        .filter_entry(|entry| entry.file_type().is_dir())
        .take(MAX_WALK)
        .filter_map(Result::ok)
        .filter_map(move |entry| {
            let below = entry.path().strip_prefix(root).ok()?;
            Some((entry.ino(), format!("/{}", below.to_string_lossy())))
        })
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, os::unix::fs::MetadataExt as _};

    use super::*;

    #[test]
    fn a_hierarchy_id_means_the_controller_is_on_v1() {
        let v1 = "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t3\t9\t1\nmemory\t9\t60\t1\n";
        let v2 = "#subsys_name\thierarchy\tnum_cgroups\tenabled\nmemory\t0\t60\t1\n";
        assert!(parse_memory_on_v1(v1));
        assert!(!parse_memory_on_v1(v2));
        assert!(!parse_memory_on_v1(""));
    }

    #[test]
    fn the_mount_of_the_memory_controller_is_found() {
        let mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
                      cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
                      cgroup /sys/fs/cgroup/memory cgroup rw,relatime,memory 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        let root = |v1| parse_memory_root(mounts, v1);
        assert_eq!(root(true), Some("/sys/fs/cgroup/memory".into()));
        assert_eq!(root(false), Some("/sys/fs/cgroup/unified".into()));
    }

    #[test]
    fn paths_are_found_by_inode() {
        let dir = tempfile::tempdir().expect("tempdir");
        let deep = dir.path().join("system.slice/nginx.service");
        fs::create_dir_all(&deep).expect("mkdir");
        let id = fs::metadata(&deep).expect("stat").ino();
        let root = fs::metadata(dir.path()).expect("stat").ino();
        let paths: BTreeMap<_, _> = all_below(dir.path()).collect();
        assert_eq!(paths.len(), 3);
        assert_eq!(
            (paths[&root].as_str(), paths[&id].as_str()),
            ("/", "/system.slice/nginx.service")
        );
    }
}
