//! Counters of `/proc/vmstat`: what was scanned, evicted, read again and swapped, and OOM kills.
//!
//! Not here: sizes (`memory`), and the counters of a cgroup (`cgroup/files`), which have the same
//! names.

use sensor_core::verdict::{
    attribution::{ByOrigin, Origins},
    reading::Reading,
};

use super::proc_file::numbers;

/// Counts of vmstat for kills that no probe sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KillCounts {
    /// OOM kills of any kind.
    pub kills: u64,
    /// Direct reclaims of the host, not of a cgroup.
    pub direct_reclaims: u64,
}

/// Fills in the counters of `/proc/vmstat`.
pub(crate) fn parse(text: &str, page: u64, reading: &mut Reading) {
    let names = [
        "workingset_refault_anon",
        "workingset_refault_file",
        "workingset_activate_file",
        "workingset_restore_file",
        "pgpgin",
        "pswpin",
        "pswpout",
        "pgscan_direct",
        "pgscan_kswapd",
        "pgsteal_direct",
        "pgsteal_kswapd",
    ];
    let values = numbers(text, names);
    let bytes = |pages: Option<u64>| pages.map(|n| n.saturating_mul(page));
    reading.refaulted_bytes = bytes(sum(&values[..2]));
    reading.lost_bytes = bytes(lost_pages(values[0], values[2], values[3]));
    reading.read_bytes = values[4].map(|kib| kib.saturating_mul(1024));
    reading.swapped_in_bytes = bytes(values[5]);
    reading.swapped_out_bytes = bytes(values[6]);
    reading.scanned_pages = sum(&values[7..9]);
    reading.reclaimed_pages = sum(&values[9..11]);
}

/// Counters of reclaim by origin: the host, or cgroups at their limits. Those of the host only are
/// counted `if (!cgroup_reclaim(sc))`, those by type of page always (mm/vmscan.c, since
/// 5.8).
pub(crate) fn parse_origins(vmstat: &str) -> Origins {
    let names = [
        "pgscan_kswapd",
        "pgscan_direct",
        "pgscan_khugepaged",
        "pgscan_proactive",
        "pgscan_anon",
        "pgscan_file",
        "pgsteal_kswapd",
        "pgsteal_direct",
        "pgsteal_khugepaged",
        "pgsteal_proactive",
        "pgsteal_anon",
        "pgsteal_file",
    ];
    let values = numbers(vmstat, names);
    let by_origin = |values: &[Option<u64>]| {
        let (host, all) = (sum(&values[..4])?, values[4]?.saturating_add(values[5]?));
        Some(ByOrigin { host, limits: all.saturating_sub(host) })
    };
    Origins {
        stall_ns: None,
        scanned_pages: by_origin(&values[..6]),
        evicted_pages: by_origin(&values[6..]),
    }
}

pub(crate) fn parse_kill_counts(vmstat: &str) -> Option<KillCounts> {
    // One per zone; which exist depends on the machine.
    let names = [
        "oom_kill",
        "allocstall_dma",
        "allocstall_dma32",
        "allocstall_normal",
        "allocstall_high",
        "allocstall_movable",
        "allocstall_device",
    ];
    let [kills, by_zone @ ..] = numbers(vmstat, names);
    Some(KillCounts { kills: kills?, direct_reclaims: sum(&by_zone)? })
}

/// See [`Reading::lost_bytes`]. With the multi-generational LRU, `activate` counts only pages of
/// mappings, and `restore` those that were read by calls (lru_gen_refault, mm/workingset.c).
pub(super) fn lost_pages(
    refaulted_anon: Option<u64>,
    activated_file: Option<u64>,
    restored_file: Option<u64>,
) -> Option<u64> {
    let file = activated_file?.max(restored_file.unwrap_or(0));
    Some(file.saturating_add(refaulted_anon.unwrap_or(0)))
}

fn sum(values: &[Option<u64>]) -> Option<u64> {
    let known = values.iter().flatten();
    known.copied().reduce(u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_of_pages_and_of_kib() {
        let mut reading = Reading::default();
        let text = "pgpgin 9\npswpin 1\npswpout 2\nworkingset_refault_anon 3\n\
                    workingset_refault_file 4\npgscan_kswapd 5\npgscan_direct 6\n\
                    pgsteal_kswapd 7\npgsteal_direct 8\n";
        parse(text, 4096, &mut reading);
        assert_eq!((reading.lost_bytes, reading.read_bytes), (None, Some(9 * 1024)));
        assert_eq!(reading.refaulted_bytes, Some(7 * 4096));
        assert_eq!(reading.swapped_in_bytes, Some(4096));
        assert_eq!((reading.scanned_pages, reading.reclaimed_pages), (Some(11), Some(15)));
        parse("workingset_refault_file 9\n", 4096, &mut reading);
        assert_eq!(reading.refaulted_bytes, Some(9 * 4096));
        assert_eq!(reading.swapped_in_bytes, None, "a kernel without swap");
    }

    #[test]
    fn direct_reclaims_are_summed_over_zones() {
        let text = "oom_kill 3\nallocstall_dma 1\nallocstall_dma32 2\nallocstall_normal 4\n\
                    allocstall_movable 8\nallocstall_device 16\nallocstall_other 99\n";
        let counts = KillCounts { kills: 3, direct_reclaims: 31 };
        assert_eq!(parse_kill_counts(text), Some(counts));
        assert_eq!(parse_kill_counts("oom_kill 3\n"), None);
        assert_eq!(parse_kill_counts("allocstall_dma 3\n"), None, "before 4.13");
    }

    #[test]
    fn lost_pages_are_anonymous_or_would_have_fitted() {
        for (case, anon, activated, restored, expected) in [
            ("the classic LRU", Some(1), Some(20), Some(10), Some(21)),
            (
                "the multi-generational LRU, files that are read",
                Some(1),
                Some(0),
                Some(10),
                Some(11),
            ),
            ("only kernels that count them", Some(1), None, None, None),
            ("without swap", None, Some(20), None, Some(20)),
        ] {
            assert_eq!(lost_pages(anon, activated, restored), expected, "{case}");
        }
    }

    #[test]
    fn reclaim_of_limits_is_the_rest() {
        let text = "pgscan_kswapd 10\npgscan_direct 5\npgscan_anon 20\npgscan_file 30\n\
                    pgsteal_kswapd 7\npgsteal_direct 1\npgsteal_khugepaged 2\n\
                    pgsteal_anon 4\npgsteal_file 5\n";
        let origins = parse_origins(text);
        assert_eq!(origins.scanned_pages, Some(ByOrigin { host: 15, limits: 35 }));
        // The counters are not read at one moment.
        assert_eq!(origins.evicted_pages, Some(ByOrigin { host: 10, limits: 0 }));
        assert_eq!(parse_origins("pgscan_kswapd 10\n"), Origins::default(), "before 5.8");
    }
}
