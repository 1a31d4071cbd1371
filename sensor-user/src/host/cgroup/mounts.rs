//! Mount points of the cgroup hierarchies, and a list of all cgroups.
//!
//! A cgroup's id, as the kernel half reports it, is the inode number of its directory.
//!
//! A mount point may be any bytes but NUL: one that is not UTF-8, or contains a space, must not hide
//! the others.

use std::{
    ffi::OsString,
    fs,
    os::unix::ffi::OsStringExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use walkdir::DirEntryExt as _;

/// The mounts of this process's mount namespace.
pub(super) const MOUNTS: &str = "/proc/self/mounts";

/// Most directories in one walk; usual hosts have far fewer.
pub const MAX_WALK: usize = 50_000;

/// Whether the memory controller is on a v1 hierarchy of this host.
pub fn memory_on_v1() -> bool {
    fs::read_to_string("/proc/cgroups").is_ok_and(|text| parse_memory_on_v1(&text))
}

/// Parses /proc/cgroups: a hierarchy id other than 0 means v1.
pub(crate) fn parse_memory_on_v1(cgroups: &str) -> bool {
    cgroups.lines().any(|line| {
        let mut words = line.split_whitespace();
        words.next() == Some("memory") && words.next().is_some_and(|id| id != "0")
    })
}

/// Mount point of the memory controller's hierarchy.
pub fn memory_root() -> Option<PathBuf> {
    parse_memory_root(&fs::read(MOUNTS).ok()?, memory_on_v1())
}

/// Mount point of the v2 hierarchy.
pub fn unified_root() -> Option<PathBuf> {
    parse_memory_root(&fs::read(MOUNTS).ok()?, false)
}

/// A mount.
#[derive(Debug)]
pub(super) struct Mount<'a> {
    /// Where.
    pub(super) point: PathBuf,
    /// The file system.
    pub(super) kind: &'a [u8],
    options: &'a [u8],
}

/// Parses lines `SOURCE MOUNT_POINT KIND OPTIONS 0 0`. The kernel separates the words by one space.
pub(super) fn all(mounts: &[u8]) -> impl Iterator<Item = Mount<'_>> {
    mounts.split(|byte| *byte == b'\n').filter_map(|line| {
        let words: Vec<_> = line.split(|byte| *byte == b' ').collect();
        let [_, point, kind, options, ..] = words[..] else { return None };
        Some(Mount { point: OsString::from_vec(unescape(point)).into(), kind, options })
    })
}

/// The mount point of v2, or of the memory controller on v1.
pub(crate) fn parse_memory_root(mounts: &[u8], v1: bool) -> Option<PathBuf> {
    let has_memory =
        |mount: &Mount| mount.options.split(|byte| *byte == b',').any(|o| o == b"memory");
    let matches = |mount: &Mount| {
        if v1 { mount.kind == b"cgroup" && has_memory(mount) } else { mount.kind == b"cgroup2" }
    };
    all(mounts).find(matches).map(|mount| mount.point)
}

/// Decodes `\ooo`, which the kernel writes for a space, a tab, a line feed, `#` and a backslash
/// (show_vfsmnt, fs/proc_namespace.c).
fn unescape(escaped: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(escaped.len());
    let mut rest = escaped;
    while let [first, ..] = rest {
        let code = match rest {
            [b'\\', high @ b'0'..=b'3', middle @ b'0'..=b'7', low @ b'0'..=b'7', ..] => {
                Some((high - b'0') << 6 | (middle - b'0') << 3 | (low - b'0'))
            }
            _ => None,
        };
        bytes.push(code.unwrap_or(*first));
        rest = rest.get(if code.is_some() { 4 } else { 1 }..).unwrap_or_default();
    }
    bytes
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
        let memory = memory_root().with_context(|| {
            format!("no cgroup hierarchy has the memory controller: {REMEDY_KERNEL}")
        })?;
        Ok(Self { memory, v1: memory_on_v1(), unified: unified_root() })
    }
}

/// Why cgroups may lack the controller although the kernel has the code.
const REMEDY_KERNEL: &str = "remove cgroup_disable=memory from the kernel's command line (on a \
                             Raspberry Pi, add cgroup_enable=memory)";

/// Why a cgroup on v2 lacks the memory controller, with the remedy. `root` is the mount point.
pub fn why_no_controller(root: &Path) -> String {
    let controllers = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
    if controllers.split_whitespace().any(|name| name == "memory") {
        return "the memory controller is not enabled in the cgroup.subtree_control of its parent \
                (systemd: MemoryAccounting=yes, or Delegate=yes above it)"
            .to_owned();
    }
    format!("the kernel's memory controller is disabled: {REMEDY_KERNEL}")
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

    const MOUNTS_OF_A_HOST: &[u8] = b"tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
        cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
        cgroup /sys/fs/cgroup/memory cgroup rw,relatime,memory 0 0\n\
        cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";

    #[test]
    fn the_mount_of_the_memory_controller_is_found() {
        let root = |v1| parse_memory_root(MOUNTS_OF_A_HOST, v1);
        assert_eq!(root(true), Some("/sys/fs/cgroup/memory".into()));
        assert_eq!(root(false), Some("/sys/fs/cgroup/unified".into()));
    }

    #[test]
    fn a_hostile_mount_point_does_not_hide_the_others() {
        for other in [
            &b"tmpfs /mnt/caf\xe9 tmpfs rw 0 0\n"[..],
            b"//nas/old\xff /mnt/old cifs rw 0 0\n",
            // Other white space is part of a name, and a name may contain the name of a type.
            "none /mnt\u{a0}cgroup2 tmpfs rw 0 0\n".as_bytes(),
            b"none /mnt\x0ccgroup2\x0crw tmpfs rw 0 0\n",
            b"cgroup2 /mnt\\040cgroup2 tmpfs rw 0 0\n",
            b"\n",
        ] {
            let mounts = [other, MOUNTS_OF_A_HOST].concat();
            let roots = [true, false].map(|v1| parse_memory_root(&mounts, v1));
            let expected = ["/sys/fs/cgroup/memory", "/sys/fs/cgroup/unified"];
            assert_eq!(roots, expected.map(|root| Some(root.into())), "{other:?}");
        }
    }

    #[test]
    fn escapes_of_a_mount_point_are_decoded() {
        for (escaped, expected) in [
            (&b"/mnt/a\\040b\\011c\\012\\134\\043"[..], &b"/mnt/a b\tc\n\\#"[..]),
            (b"/caf\xe9", b"/caf\xe9"),
            // Sequences that the kernel never writes.
            (b"/\\4000\\08\\", b"/\\4000\\08\\"),
        ] {
            let mounts = [b"none ", escaped, b" cgroup2 rw 0 0\n"].concat();
            let root = parse_memory_root(&mounts, false).map(PathBuf::into_os_string);
            assert_eq!(root.map(OsString::into_vec), Some(expected.to_vec()));
        }
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
