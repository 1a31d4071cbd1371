//! What the files of a cgroup tell: of one and all above it at the moment of a kill, and of those that
//! have metrics. Opened for each look: either is rare, and there may be hundreds.

use std::{fs, path::Path};

use super::{
    memcg::{self, CgroupMounts},
    pressure,
    text::numbers,
};
use crate::{cgroups::CgroupStats, circumstances::CgroupLimits};

/// Groups above one: a bound, not an expectation.
const MOST: usize = 32;

/// Of the group of that path and all above it, its own first. One that is not there any more is left
/// out; the root is, too, for it has no limits.
pub fn chain(roots: &CgroupMounts, path: &str) -> Vec<CgroupLimits> {
    let above = Path::new(path).ancestors().filter(|path| path.parent().is_some());
    above.take(MOST).filter_map(|path| level(roots, path)).collect()
}

fn level(roots: &CgroupMounts, path: &Path) -> Option<CgroupLimits> {
    let dir = roots.memory.join(path.strip_prefix("/").unwrap_or(path));
    let number = |name: &str| memcg::number(&fs::read_to_string(dir.join(name)).ok()?);
    let kills = |name: &str| {
        let [kills] = numbers(&fs::read_to_string(dir.join(name)).ok()?, ["oom_kill"]);
        kills
    };
    // systemd-oomd knows only v2.
    let unified =
        roots.unified.as_ref().map(|root| root.join(path.strip_prefix("/").unwrap_or(path)));
    let mark = |name: &str| {
        let mut value = [0; 20];
        let len = rustix::fs::getxattr(unified.as_ref()?, name, &mut value).ok()?;
        std::str::from_utf8(value.get(..len)?).ok()?.parse().ok()
    };
    let (oomd_ooms, oomd_kills) = (mark("user.oomd_ooms"), mark("user.oomd_kill"));
    let path = path.to_string_lossy().into_owned();
    let level = if roots.v1 {
        CgroupLimits {
            path,
            current_bytes: number("memory.usage_in_bytes"),
            max_bytes: number("memory.limit_in_bytes"),
            high_bytes: None,
            swap_bytes: number("memory.memsw.usage_in_bytes"),
            swap_max_bytes: number("memory.memsw.limit_in_bytes"),
            oom_kills: kills("memory.oom_control"),
            oomd_ooms,
            oomd_kills,
        }
    } else {
        CgroupLimits {
            path,
            current_bytes: number("memory.current"),
            max_bytes: number("memory.max"),
            high_bytes: number("memory.high"),
            swap_bytes: number("memory.swap.current"),
            swap_max_bytes: number("memory.swap.max"),
            oom_kills: kills("memory.events"),
            oomd_ooms,
            oomd_kills,
        }
    };
    level.current_bytes.is_some().then_some(level)
}

/// The group of that path or, where it has no memory controller, the nearest above that has one: that is
/// what memory is charged to. On v2 a group need not have it, as those that a service makes for itself.
pub fn charged<'a>(roots: &CgroupMounts, path: &'a str) -> &'a str {
    let is_there =
        |at: &str, name: &str| roots.memory.join(at.trim_start_matches('/')).join(name).exists();
    let mut at = path;
    // One that is gone is told under its own name.
    while !roots.v1 && !is_there(at, "memory.current") && is_there(at, "") {
        match at.rsplit_once('/') {
            Some((above, _)) if !above.is_empty() => at = above,
            _ => return path,
        }
    }
    at
}

/// What the files of the group of that path tell, those below it included; nothing if it is not there.
pub fn found(roots: &CgroupMounts, path: &str) -> CgroupStats {
    let below = path.trim_start_matches('/');
    let dir = roots.memory.join(below);
    let text = |dir: &Path, name: &str| fs::read_to_string(dir.join(name)).ok();
    let number = |name: &str| memcg::number(&text(&dir, name)?);
    let stat = text(&dir, "memory.stat").unwrap_or_default();
    let page = rustix::param::page_size() as u64;
    let psi = || {
        let text = text(&roots.unified.as_ref()?.join(below), "memory.pressure")?;
        let totals = pressure::parse(&text).ok()?;
        Some([totals.some_ns, totals.full_ns])
    };
    let refaulted = memcg::refaulted_pages(&stat, roots.v1);
    let found = CgroupStats {
        refaulted_bytes: refaulted.map(|pages| pages.saturating_mul(page)),
        pressure_ns: psi(),
        ..CgroupStats::default()
    };
    if roots.v1 {
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

    fn roots(dir: &Path, v1: bool) -> CgroupMounts {
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
        let chain = chain(&roots(dir.path(), false), "/a.slice/b.service");
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
            assert_eq!(charged(&roots(dir.path(), false), path), wanted);
            assert_eq!(charged(&roots(dir.path(), true), path), path, "v1");
        }
    }

    #[test]
    fn a_group_that_is_gone_leaves_those_above() {
        let dir = tempfile::tempdir().expect("tempdir");
        let files =
            [("memory.usage_in_bytes", "5"), ("memory.limit_in_bytes", "9223372036854771712")];
        write(dir.path(), "a", &files);
        let chain = chain(&roots(dir.path(), true), "/a/gone");
        assert_eq!(chain.len(), 1);
        assert_eq!((chain[0].current_bytes, chain[0].max_bytes), (Some(5), None));
        assert_eq!(super::chain(&roots(dir.path(), true), "/"), []);
    }
}
