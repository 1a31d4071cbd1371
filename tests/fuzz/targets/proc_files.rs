//! Files below /proc. The first byte selects the reader: `h` vmstat, meminfo and zoneinfo, `p`
//! pressure, `m` mounts, `c` cgroups, `s` stat, status and cgroup of a process, `z` ZFS's arcstats,
//! swaps and zram's mm_stat.
#![no_main]

use libfuzzer_sys::{Corpus, fuzz_target};
use sensor_user::{fuzzing, host::pressure};

fuzz_target!(|data: &[u8]| -> Corpus {
    let Some((reader, content)) = data.split_first() else { return Corpus::Reject };
    // As `ProcFile` reads them.
    let mut bytes = content.to_vec();
    let text = fuzzing::text(&mut bytes);
    match reader {
        b'h' => drop(fuzzing::host_memory(text)),
        b'p' => {
            if let Ok(totals) = pressure::parse(text) {
                for before in totals.before {
                    assert!(before[0] <= totals.some_ns && before[1] <= totals.full_ns);
                }
            }
        }
        b'm' => drop(fuzzing::mounts(content)),
        b'c' => drop(fuzzing::memory_on_v1(text)),
        b'z' => swap_and_zfs(text),
        b's' => drop(fuzzing::process(content)),
        _ => return Corpus::Reject,
    }
    Corpus::Keep
});

/// What is worth something is a part of the whole.
fn swap_and_zfs(text: &str) {
    let free = 64 << 30;
    let (swap, zram) = fuzzing::swap_room(text, free);
    assert!(swap <= free && zram.is_none_or(|room| room <= free));
    if let [Some(size), Some(evictable)] = fuzzing::zfs_cache(text) {
        assert!(evictable <= size);
    }
}
