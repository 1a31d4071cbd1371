//! Files of cgroups that are opened for one reading: limits of a cgroup and all above it at the moment of
//! a kill, and the files of cgroups that have metrics. Both are rare, and there may be hundreds.

use std::{fs, path::Path};

use sensor_core::model::{cgroup_report::CgroupStats, oom_report::CgroupLimits};

use super::{
    files::{FileNames, MemoryStat, parse_bytes},
    mounts::CgroupMounts,
};
use crate::host::{pressure, proc_file::numbers};

/// Cgroups above one: a bound, not an expectation.
const MAX_DEPTH: usize = 32;

/// Limits and usage of the cgroup with that path and of all above it, its own first, without those that
/// no longer exist and without the root, which has no limits.
pub fn limits_above(mounts: &CgroupMounts, path: &str) -> Vec<CgroupLimits> {
    let above = Path::new(path).ancestors().filter(|path| path.parent().is_some());
    above.take(MAX_DEPTH).filter_map(|path| limits(mounts, path)).collect()
}

fn limits(mounts: &CgroupMounts, path: &Path) -> Option<CgroupLimits> {
    let below = path.strip_prefix("/").unwrap_or(path);
    let dir = mounts.memory.join(below);
    let bytes = |name: &str| parse_bytes(&fs::read_to_string(dir.join(name)).ok()?);
    let files = FileNames::of(mounts.v1);
    let current_bytes = Some(bytes(files.usage)?);
    let kills = fs::read_to_string(dir.join(files.oom_kills)).unwrap_or_default();
    let [oom_kills] = numbers(&kills, ["oom_kill"]);
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
        swap_bytes: bytes(files.swap_usage),
        swap_max_bytes: bytes(files.swap_limit),
        oom_kills,
        oomd_ooms: mark("user.oomd_ooms"),
        oomd_kills: mark("user.oomd_kill"),
    })
}

/// The cgroup with that path or, if it has no memory controller, the nearest above that has one: memory is
/// charged to that. On v2 a cgroup need not have it, for example those that a service makes for itself.
pub fn charged<'a>(mounts: &CgroupMounts, path: &'a str) -> &'a str {
    let is_there =
        |at: &str, name: &str| mounts.memory.join(at.trim_start_matches('/')).join(name).exists();
    let mut at = path;
    // One that no longer exists is reported under its own path.
    while !mounts.v1 && !is_there(at, "memory.current") && is_there(at, "") {
        match at.rsplit_once('/') {
            Some((above, _)) if !above.is_empty() => at = above,
            _ => return path,
        }
    }
    at
}

/// The files of the cgroup with that path, cgroups below it included; all `None` if it does not exist.
pub fn read_stats(mounts: &CgroupMounts, path: &str) -> CgroupStats {
    let below = path.trim_start_matches('/');
    let dir = mounts.memory.join(below);
    let text = |dir: &Path, name: &str| fs::read_to_string(dir.join(name)).ok();
    let number = |name: &str| parse_bytes(&text(&dir, name)?);
    let stat = text(&dir, "memory.stat").unwrap_or_default();
    let page = rustix::param::page_size() as u64;
    let psi = || {
        let text = text(&mounts.unified.as_ref()?.join(below), "memory.pressure")?;
        let totals = pressure::parse(&text).ok()?;
        Some([totals.some_ns, totals.full_ns])
    };
    let refaulted = MemoryStat::parse(&stat, mounts.v1).refaulted;
    let found = CgroupStats {
        refaulted_bytes: refaulted.map(|pages| pages.saturating_mul(page)),
        pressure_ns: psi(),
        ..CgroupStats::default()
    };
    if mounts.v1 {
        let [swap] = numbers(&stat, ["total_swap"]);
        // With a limit on memory and swap together, either may be the one that is hit.
        let hits = ["memory.failcnt", "memory.memsw.failcnt"].into_iter().filter_map(number);
        return CgroupStats {
            memory_bytes: number("memory.usage_in_bytes"),
            limit_bytes: number("memory.limit_in_bytes"),
            swap_bytes: swap,
            limit_hits: hits.reduce(u64::saturating_add),
            ..found
        };
    }
    let [hits] = numbers(&text(&dir, "memory.events").unwrap_or_default(), ["max"]);
    CgroupStats {
        memory_bytes: number("memory.current"),
        limit_bytes: number("memory.max"),
        swap_bytes: number("memory.swap.current"),
        limit_hits: hits,
        ..found
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
    fn each_group_tells_its_own_limits() {
        let dir = tempfile::tempdir().expect("tempdir");
        let events = "low 0\nhigh 5\nmax 7\noom 3\noom_kill 2\n";
        write(
            dir.path(),
            "a.slice",
            &[("memory.current", "500\n"), ("memory.max", "max\n"), ("memory.high", "600\n")],
        );
        let all = [
            ("memory.current", "300\n"),
            ("memory.max", "400\n"),
            ("memory.swap.current", "9\n"),
            ("memory.swap.max", "0\n"),
            ("memory.events", events),
        ];
        write(dir.path(), "a.slice/b.service", &all);
        let chain = limits_above(&mounts(dir.path(), false), "/a.slice/b.service");
        let [own, above] = &chain[..] else { panic!("{chain:?}") };
        assert_eq!((own.path.as_str(), own.current_bytes), ("/a.slice/b.service", Some(300)));
        assert_eq!((own.max_bytes, own.high_bytes, own.oom_kills), (Some(400), None, Some(2)));
        assert_eq!((own.swap_bytes, own.swap_max_bytes), (Some(9), Some(0)));
        assert_eq!((above.max_bytes, above.high_bytes), (None, Some(600)));
    }

    #[test]
    fn memory_is_charged_to_the_nearest_group_with_the_controller() {
        let dir = tempfile::tempdir().expect("tempdir");
        let current = [("memory.current", "1\n")];
        write(dir.path(), "a.slice/b.service", &current);
        write(dir.path(), "a.slice/b.service/own/deep", &[]);
        write(dir.path(), "a.slice/b.service/with", &current);
        write(dir.path(), "off/below", &[]);
        for (path, wanted) in [
            ("/a.slice/b.service", "/a.slice/b.service"),
            ("/a.slice/b.service/own/deep", "/a.slice/b.service"),
            ("/a.slice/b.service/with", "/a.slice/b.service/with"),
            ("/a.slice/b.service/gone", "/a.slice/b.service/gone"),
            ("/off/below", "/off/below"),
            ("/", "/"),
        ] {
            assert_eq!(charged(&mounts(dir.path(), false), path), wanted);
            assert_eq!(charged(&mounts(dir.path(), true), path), path, "v1");
        }
    }

    #[test]
    fn a_group_that_is_gone_leaves_those_above() {
        let dir = tempfile::tempdir().expect("tempdir");
        let files =
            [("memory.usage_in_bytes", "5"), ("memory.limit_in_bytes", "9223372036854771712")];
        write(dir.path(), "a", &files);
        let chain = limits_above(&mounts(dir.path(), true), "/a/gone");
        assert_eq!(chain.len(), 1);
        assert_eq!((chain[0].current_bytes, chain[0].max_bytes), (Some(5), None));
        assert_eq!(super::limits_above(&mounts(dir.path(), true), "/"), []);
    }
}
