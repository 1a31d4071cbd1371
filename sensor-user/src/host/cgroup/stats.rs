//! Files of cgroups that are opened for one reading: limits of a cgroup and its ancestors at the
//! moment of a kill, and the files of cgroups that have metrics. Readings are rare and cgroups may
//! be hundreds, so no file stays open.

use std::{fs, path::Path};

use sensor_core::model::{cgroup_report::CgroupStats, oom_report::CgroupLimits};

use super::{
    files::{FileNames, MemoryStat, parse_bytes, parse_populated},
    mounts::CgroupMounts,
};
use crate::host::{pressure, proc_file::numbers};

/// Most levels of a path that are read.
const MAX_DEPTH: usize = 32;

/// Limits and usage of the cgroup with that path and of its ancestors, its own first. Skips cgroups
/// that no longer exist, and the root, which has no limits.
pub fn limits_above(mounts: &CgroupMounts, path: &str) -> Vec<CgroupLimits> {
    let paths = Path::new(path).ancestors().filter(|path| path.parent().is_some());
    paths.take(MAX_DEPTH).filter_map(|path| limits(mounts, path)).collect()
}

/// Limits and usage of one cgroup; `None` if it does not exist.
pub fn limits(mounts: &CgroupMounts, path: &Path) -> Option<CgroupLimits> {
    let below = path.strip_prefix("/").unwrap_or(path);
    let dir = mounts.memory.join(below);
    let bytes = |name: &str| parse_bytes(&fs::read_to_string(dir.join(name)).ok()?);
    let files = FileNames::of(mounts.v1);
    let current_bytes = Some(bytes(files.usage)?);
    let kills = fs::read_to_string(dir.join(files.oom_kills)).unwrap_or_default();
    let [oom_kills, oom_group_kills] = numbers(&kills, ["oom_kill", "oom_group_kill"]);
    let stat = fs::read_to_string(dir.join("memory.stat")).unwrap_or_default();
    // v1 does not report slab.
    let kinds = if mounts.v1 {
        ["total_rss", "total_cache", "total_shmem", ""]
    } else {
        ["anon", "file", "shmem", "slab"]
    };
    let [anon_bytes, file_bytes, shmem_bytes, slab_bytes] = numbers(&stat, kinds);
    // systemd-oomd supports v2 only.
    let unified = mounts.unified.as_ref().map(|root| root.join(below));
    let mark = |name: &str| {
        let mut value = [0; 20];
        let len = rustix::fs::getxattr(unified.as_ref()?, name, &mut value).ok()?;
        std::str::from_utf8(value.get(..len)?).ok()?.parse().ok()
    };
    Some(CgroupLimits {
        path: path.to_string_lossy().into_owned(),
        current_bytes,
        max_bytes: bytes(files.limit),
        high_bytes: files.high.and_then(bytes),
        anon_bytes,
        file_bytes,
        shmem_bytes,
        slab_bytes,
        swap_bytes: bytes(files.swap_usage),
        swap_max_bytes: bytes(files.swap_limit),
        oom_kills,
        oom_group: files.oom_group.and_then(bytes).map(|value| value != 0),
        oom_group_kills,
        oomd_ooms: mark("user.oomd_ooms"),
        oomd_kills: mark("user.oomd_kill"),
    })
}

/// The cgroup that the memory of a cgroup is charged to: the cgroup itself or, if it has no memory
/// controller, the nearest ancestor that has one. On v2 a cgroup may lack the controller, for
/// example one that a service creates for itself.
pub fn charged<'a>(mounts: &CgroupMounts, path: &'a str) -> &'a str {
    let exists =
        |at: &str, name: &str| mounts.memory.join(at.trim_start_matches('/')).join(name).exists();
    let mut at = path;
    // A removed cgroup is reported under its own path.
    while !mounts.v1 && !exists(at, "memory.current") && exists(at, "") {
        match at.rsplit_once('/') {
            Some((parent, _)) if !parent.is_empty() => at = parent,
            _ => return path,
        }
    }
    at
}

/// Reads the files of the cgroup with that path, which include its descendants; all `None` if the
/// cgroup does not exist.
pub fn read_stats(mounts: &CgroupMounts, path: &str) -> CgroupStats {
    let below = path.trim_start_matches('/');
    let dir = mounts.memory.join(below);
    let text = |dir: &Path, name: &str| fs::read_to_string(dir.join(name)).ok();
    let number = |name: &str| parse_bytes(&text(&dir, name)?);
    let stat = text(&dir, "memory.stat").unwrap_or_default();
    let page = rustix::param::page_size() as u64;
    let psi = || {
        let dir = mounts.unified.as_ref()?.join(below);
        // Where memory is on v1, processes need not be in the v2 cgroup with the same path.
        if mounts.v1 && !parse_populated(&text(&dir, "cgroup.events")?) {
            return None;
        }
        let text = text(&dir, "memory.pressure")?;
        let totals = pressure::parse(&text).ok()?;
        Some([totals.some_ns, totals.full_ns])
    };
    let refaulted = MemoryStat::parse(&stat, mounts.v1).refaulted;
    let common = CgroupStats {
        refaulted_bytes: refaulted.map(|pages| pages.saturating_mul(page)),
        pressure_ns: psi(),
        ..CgroupStats::default()
    };
    if mounts.v1 {
        let [swap] = numbers(&stat, ["total_swap"]);
        // v1 limits memory, and memory and swap together; either limit may be hit.
        let hits = ["memory.failcnt", "memory.memsw.failcnt"].into_iter().filter_map(number);
        return CgroupStats {
            memory_bytes: number("memory.usage_in_bytes"),
            limit_bytes: number("memory.limit_in_bytes"),
            swap_bytes: swap,
            limit_hits: hits.reduce(u64::saturating_add),
            ..common
        };
    }
    let [hits] = numbers(&text(&dir, "memory.events").unwrap_or_default(), ["max"]);
    CgroupStats {
        memory_bytes: number("memory.current"),
        limit_bytes: number("memory.max"),
        swap_bytes: number("memory.swap.current"),
        limit_hits: hits,
        ..common
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn write(dir: &Path, path: &str, files: &[(&str, &str)]) {
        let dir = dir.join(path);
        fs::create_dir_all(&dir).expect("mkdir");
        for (name, text) in files {
            fs::write(dir.join(name), text).expect("write");
        }
    }

    fn mounts(dir: &Path, v1: bool) -> CgroupMounts {
        CgroupMounts { memory: PathBuf::from(dir), v1, unified: None }
    }

    #[test]
    fn each_level_has_its_own_limits() {
        let dir = tempfile::tempdir().expect("tempdir");
        let events = "low 0\nhigh 5\nmax 7\noom 3\noom_kill 2\noom_group_kill 1\n";
        write(
            dir.path(),
            "a.slice",
            &[("memory.current", "500\n"), ("memory.max", "max\n"), ("memory.high", "600\n")],
        );
        let files = [
            ("memory.current", "300\n"),
            ("memory.max", "400\n"),
            ("memory.swap.current", "9\n"),
            ("memory.swap.max", "0\n"),
            ("memory.events", events),
            ("memory.oom.group", "1\n"),
        ];
        write(dir.path(), "a.slice/b.service", &files);
        let limits = limits_above(&mounts(dir.path(), false), "/a.slice/b.service");
        let [own, parent] = &limits[..] else { panic!("{limits:?}") };
        assert_eq!((own.path.as_str(), own.current_bytes), ("/a.slice/b.service", Some(300)));
        assert_eq!((own.max_bytes, own.high_bytes, own.oom_kills), (Some(400), None, Some(2)));
        assert_eq!((own.swap_bytes, own.swap_max_bytes), (Some(9), Some(0)));
        assert_eq!((own.oom_group, own.oom_group_kills), (Some(true), Some(1)));
        assert_eq!((parent.max_bytes, parent.high_bytes), (None, Some(600)));
        assert_eq!((parent.oom_group, parent.oom_group_kills), (None, None));
    }

    /// Memory in tmpfs belongs to no process.
    #[test]
    fn the_kinds_of_memory_are_read() {
        let dir = tempfile::tempdir().expect("tempdir");
        let v1 = "cache 1\nrss 1\nshmem 1\ntotal_cache 60\ntotal_rss 7\ntotal_shmem 50\n";
        let files = [("memory.usage_in_bytes", "70"), ("memory.stat", v1)];
        write(dir.path(), "a", &files);
        let v2 = "anon 7\nfile 60\nshmem 50\nslab_reclaimable 1\nslab_unreclaimable 2\nslab 3\n";
        write(dir.path(), "b", &[("memory.current", "70"), ("memory.stat", v2)]);
        for (path, slab) in [("/a", None), ("/b", Some(3))] {
            let limits = limits_above(&mounts(dir.path(), path == "/a"), path);
            let [own] = &limits[..] else { panic!("{limits:?}") };
            let kinds = [own.anon_bytes, own.file_bytes, own.shmem_bytes, own.slab_bytes];
            assert_eq!(kinds, [Some(7), Some(60), Some(50), slab], "{path}");
        }
    }

    #[test]
    fn memory_is_charged_to_the_nearest_cgroup_with_the_controller() {
        let dir = tempfile::tempdir().expect("tempdir");
        let current = [("memory.current", "1\n")];
        write(dir.path(), "a.slice/b.service", &current);
        write(dir.path(), "a.slice/b.service/own/deep", &[]);
        write(dir.path(), "a.slice/b.service/with", &current);
        write(dir.path(), "off/below", &[]);
        for (path, expected) in [
            ("/a.slice/b.service", "/a.slice/b.service"),
            ("/a.slice/b.service/own/deep", "/a.slice/b.service"),
            ("/a.slice/b.service/with", "/a.slice/b.service/with"),
            ("/a.slice/b.service/removed", "/a.slice/b.service/removed"),
            ("/off/below", "/off/below"),
            ("/", "/"),
        ] {
            assert_eq!(charged(&mounts(dir.path(), false), path), expected);
            assert_eq!(charged(&mounts(dir.path(), true), path), path, "v1");
        }
    }

    #[test]
    fn limits_of_ancestors_are_read_after_a_removal() {
        let dir = tempfile::tempdir().expect("tempdir");
        let files =
            [("memory.usage_in_bytes", "5"), ("memory.limit_in_bytes", "9223372036854771712")];
        write(dir.path(), "a", &files);
        let limits = limits_above(&mounts(dir.path(), true), "/a/removed");
        assert_eq!(limits.len(), 1);
        assert_eq!((limits[0].current_bytes, limits[0].max_bytes), (Some(5), None));
        assert_eq!(limits_above(&mounts(dir.path(), true), "/"), []);
    }
    #[test]
    fn psi_of_an_empty_v2_twin_is_no_measure() {
        let dir = tempfile::tempdir().expect("tempdir");
        let pressure =
            "some avg10=0 avg60=0 avg300=0 total=7\nfull avg10=0 avg60=0 avg300=0 total=5\n";
        for (v1, events, expected) in [
            (true, "populated 0\nfrozen 0\n", None),
            (true, "populated 1\nfrozen 0\n", Some([7000, 5000])),
            (false, "populated 0\nfrozen 0\n", Some([7000, 5000])),
        ] {
            let files = [("cgroup.events", events), ("memory.pressure", pressure)];
            write(dir.path(), "unified/a", &files);
            let unified = Some(dir.path().join("unified"));
            let mounts = CgroupMounts { unified, ..mounts(dir.path(), v1) };
            assert_eq!(read_stats(&mounts, "/a").pressure_ns, expected, "{v1} {events}");
        }
    }
}
