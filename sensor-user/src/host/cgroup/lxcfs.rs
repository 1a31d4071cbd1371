//! Finds out which files of /proc are not the kernel's own: lxcfs mounts files of its own over them in
//! a container, with the container's sizes.
//!
//! Not here: what follows. Files that lxcfs does not replace are still those of the whole machine, so
//! the two do not fit together.

use std::{fs, os::unix::ffi::OsStrExt as _};

use super::mounts;

/// The replaced files about memory, by name.
pub fn replaced() -> Vec<&'static str> {
    fs::read(mounts::MOUNTS).map(|text| parse(&text)).unwrap_or_default()
}

/// The files that the verdict of the host is read from.
const FILES: [&str; 4] = ["/proc/meminfo", "/proc/pressure/memory", "/proc/vmstat", "/proc/swaps"];

fn parse(mounts: &[u8]) -> Vec<&'static str> {
    let is_mounted = |file: &&str| {
        mounts::all(mounts).any(|mount| {
            mount.kind == b"fuse.lxcfs" && mount.point.as_os_str().as_bytes() == file.as_bytes()
        })
    };
    FILES.into_iter().filter(is_mounted).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_lxcfs_are_found_by_the_kind_of_their_mount() {
        let mounts = b"proc /proc proc rw,nosuid 0 0\n\
            lxcfs /proc/cpuinfo fuse.lxcfs rw,nosuid,nodev,user_id=0,group_id=0,allow_other 0 0\n\
            lxcfs /proc/meminfo fuse.lxcfs rw,nosuid,nodev,user_id=0,group_id=0,allow_other 0 0\n\
            lxcfs /var/lib/lxcfs fuse.lxcfs rw,nosuid,nodev,user_id=0 0 0\n\
            tmpfs /proc/swaps tmpfs rw 0 0\n";
        assert_eq!(parse(mounts), ["/proc/meminfo"]);
        assert_eq!(parse(b"proc /proc proc rw 0 0\n"), [""; 0]);
    }
}
