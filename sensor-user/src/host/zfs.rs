//! The cache of ZFS (ARC). The kernel counts it as used memory, although it shrinks when memory is
//! short: MemAvailable does not include it.

/// Statistics of the cache, below `/`. Absent without the module.
pub(super) const ARCSTATS: &str = "proc/spl/kstat/zfs/arcstats";

/// Bytes of the cache, from arcstats.
pub(crate) fn size(arcstats: &str) -> Option<u64> {
    let [size] = values(arcstats, ["size"]);
    size
}

/// Bytes that the cache can give back: what OpenZFS's own shrinker reports to the kernel
/// (arc_evictable_memory, module/os/linux/zfs/arc_os.c): the part above `c_min` that is not in use.
/// htop and netdata count all above `c_min`. How fast it gives them back depends on the version:
/// before 2.4 `zfs_arc_shrinker_limit` allows some 160 MB per attempt of an allocation.
pub(crate) fn evictable(arcstats: &str) -> Option<u64> {
    let names = [
        "size",
        "c_min",
        "mru_evictable_data",
        "mru_evictable_metadata",
        "mfu_evictable_data",
        "mfu_evictable_metadata",
    ];
    let [size, min, clean @ ..] = values(arcstats, names);
    let above_min = size?.saturating_sub(min?);
    let clean = clean.into_iter().try_fold(0, |sum: u64, bytes| Some(sum.saturating_add(bytes?)));
    Some(clean.map_or(above_min, |clean| above_min.min(clean)))
}

/// Values of lines such as `size   4    123`: name, type, value.
fn values<const N: usize>(text: &str, names: [&str; N]) -> [Option<u64>; N] {
    let mut values = [None; N];
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some(name), Some(value)) = (words.next(), words.nth(1)) else { continue };
        if let Some(at) = names.iter().position(|n| *n == name) {
            values[at] = value.parse().ok();
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn arcstats(rows: &[(&str, u64)]) -> String {
        let mut text = "13 1 0x01 147 39984 1405644657 619562335795635\n\
                        name                            type data\n\
                        hits                            4    138399132\n"
            .to_owned();
        for (name, value) in rows {
            text.extend([name, " 4 ", &value.to_string(), "\n"]);
        }
        text
    }

    #[test]
    fn what_is_above_the_minimum_and_not_in_use_is_evictable() {
        let clean = |gib: [u64; 4]| {
            let kinds = ["mru_evictable_data", "mru_evictable_metadata"];
            let kinds = kinds.into_iter().chain(["mfu_evictable_data", "mfu_evictable_metadata"]);
            kinds.zip(gib.map(|n| n * GIB)).collect::<Vec<_>>()
        };
        for (about, size, c_min, evictable_gib, expected) in [
            ("all is clean", 20, 1, Some([10, 1, 8, 1]), 19),
            ("half is in use", 20, 1, Some([4, 1, 4, 1]), 10),
            ("all is in use", 20, 1, Some([0, 0, 0, 0]), 0),
            ("at the minimum", 4, 4, Some([2, 0, 2, 0]), 0),
            ("below the minimum", 3, 4, Some([2, 0, 1, 0]), 0),
            ("an old version", 20, 1, None, 19),
        ] {
            let mut rows = vec![("size", size * GIB), ("c_min", c_min * GIB), ("c_max", 25 * GIB)];
            rows.extend(evictable_gib.map(clean).into_iter().flatten());
            assert_eq!(evictable(&arcstats(&rows)), Some(expected * GIB), "{about}");
        }
    }

    #[test]
    fn a_text_without_the_sizes_has_no_value() {
        for text in ["", "size\n", "size 4\n", "size 4 x\nc_min 4 1\n", "size 4 1\n", "c_min 4 1\n"]
        {
            assert_eq!(evictable(text), None, "{text:?}");
        }
        assert_eq!(size(&arcstats(&[("compressed_size", 1), ("size", 7)])), Some(7));
        assert_eq!(evictable("size 4 99999999999999999999\nc_min 4 1\n"), None, "too large");
    }
}
