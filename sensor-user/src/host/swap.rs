//! What free swap is worth. A page in zram stays in memory, compressed: swapping out n bytes at a
//! ratio r makes room for n × (1 - 1/r). A disk takes all of it. So does a disk behind zswap: its
//! compressed pages are written to it when memory is short.
//!
//! Not here: swap on a file system in memory, or on a device that has zram below it. They are
//! counted as disks.

use super::{late_files::is_zram, proc_file::ProcFile};

/// The ratio that the kernel's documentation of zram expects
/// (Documentation/admin-guide/blockdev/zram.rst): the only one known before there are data.
const EXPECTED_RATIO: u64 = 2;

/// The ratio is computed as if this much had been stored at [`EXPECTED_RATIO`] before: the first few
/// pages say nothing, and the value must not jump.
const PRIOR_BYTES: u64 = 32 << 20;

/// Free swap, and the part of it that is room beside memory, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct SwapRoom {
    free: u64,
    room: u64,
}

impl SwapRoom {
    /// From a text of /proc/swaps and the mm_stat of zram devices.
    pub(crate) fn read(swaps: &str, zram: &mut [(String, ProcFile)]) -> Self {
        let mut sum = Self::default();
        for (name, free) in swaps.lines().skip(1).filter_map(parse_device) {
            let room = name.map_or(free, |name| {
                let file = zram.iter_mut().find(|(device, _)| device == name);
                let usage = file.and_then(|(_, file)| parse_mm_stat(file.read().ok()?));
                usage.unwrap_or_default().room(free)
            });
            sum.free = sum.free.saturating_add(free);
            sum.room = sum.room.saturating_add(room);
        }
        sum
    }

    /// The room in `swap_free` bytes, a later value of all free swap.
    pub(crate) fn of(self, swap_free: u64) -> u64 {
        if self.free == 0 { swap_free } else { scaled(swap_free, self.room, self.free) }
    }
}

/// `n * numerator / denominator`; `denominator` must not be 0.
fn scaled(n: u64, numerator: u64, denominator: u64) -> u64 {
    let scaled = u128::from(n) * u128::from(numerator) / u128::from(denominator);
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

/// The name, if it is a zram device, and the free bytes of a line such as
/// `/dev/zram0  partition  8388604  0  100`.
fn parse_device(line: &str) -> Option<(Option<&str>, u64)> {
    let mut words = line.split_ascii_whitespace();
    let (path, kind) = (words.next()?, words.next()?);
    let mut kib = || words.next()?.parse::<u64>().ok();
    let (size, used) = (kib()?, kib()?);
    let name = path.rsplit('/').next().filter(|name| kind == "partition" && is_zram(name));
    Some((name, size.saturating_sub(used).saturating_mul(1024)))
}

/// Use of a zram device, in bytes.
#[derive(Debug, Default)]
pub(crate) struct ZramUsage {
    /// Data before compression.
    original: u64,
    /// Memory that they occupy.
    used: u64,
    /// Most memory that the device may occupy; 0 is no limit.
    limit: u64,
}

/// Parses `orig_data_size compr_data_size mem_used_total mem_limit ...`.
pub(crate) fn parse_mm_stat(text: &str) -> Option<ZramUsage> {
    let mut words = text.split_ascii_whitespace().map(|word| word.parse().ok());
    let original = words.next()??;
    let used = words.nth(1)??;
    Some(ZramUsage { original, used, limit: words.next()?? })
}

impl ZramUsage {
    /// Memory that becomes free if `free` bytes are swapped out to the device.
    pub(crate) fn room(&self, free: u64) -> u64 {
        // The ratio is original / used.
        let original = self.original.saturating_add(PRIOR_BYTES);
        let used = self.used.saturating_add(PRIOR_BYTES / EXPECTED_RATIO);
        let fits = match self.limit {
            0 => free,
            limit => free.min(scaled(limit.saturating_sub(self.used), original, used)),
        };
        scaled(fits, original.saturating_sub(used), original)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;
    const HEADER: &str = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n";

    /// mm_stat files of devices, and the directory that they are in.
    fn files(texts: &[(&str, &str)]) -> (tempfile::TempDir, Vec<(String, ProcFile)>) {
        let dir = tempfile::tempdir().expect("a directory");
        let open = |(name, text): &(&str, &str)| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).expect("write");
            ((*name).to_owned(), ProcFile::open(&path).expect("opens"))
        };
        let files = texts.iter().map(open).collect();
        (dir, files)
    }

    fn mm_stat(original_gib: u64, used_gib: u64, limit_gib: u64) -> String {
        let [original, used, limit] = [original_gib, used_gib, limit_gib].map(|n| n * GIB);
        format!("{original:8} {used} {used} {limit} {used} 0 0 0 0\n")
    }

    #[test]
    fn swap_on_zram_is_worth_what_compression_gains() {
        let zram = "/dev/zram0 partition 8388608 0 100\n";
        let disk = "/dev/vda2 partition 8388608 0 -2\n";
        let file = "/swap\\040file file 8388608 0 -3\n";
        for (about, swaps, stat, expected) in [
            ("no swap", String::new(), mm_stat(0, 0, 0), 1.0),
            ("a disk", disk.to_owned(), mm_stat(0, 0, 0), 1.0),
            ("a file", file.to_owned(), mm_stat(0, 0, 0), 1.0),
            ("no data yet", zram.to_owned(), mm_stat(0, 0, 0), 0.5),
            ("it cannot be read", zram.to_owned(), "nonsense".to_owned(), 0.5),
            ("a ratio of 4", zram.to_owned(), mm_stat(400, 100, 0), 0.75),
            ("a ratio of 1", zram.to_owned(), mm_stat(100, 100, 0), 0.0),
            ("more memory than data", zram.to_owned(), mm_stat(100, 300, 0), 0.0),
            ("half of it, by its limit", zram.to_owned(), mm_stat(400, 100, 101), 0.375),
            ("nothing, by its limit", zram.to_owned(), mm_stat(400, 100, 100), 0.0),
            ("both", [zram, disk].concat(), mm_stat(0, 0, 0), 0.75),
            ("a partition on zram", zram.replace("zram0", "zram0p1"), mm_stat(9, 9, 0), 1.0),
            ("a file of that name", "/zram0 file 8 0 0\n".to_owned(), mm_stat(9, 9, 0), 1.0),
        ] {
            let (_dir, mut files) = files(&[("zram0", &stat)]);
            let room = SwapRoom::read(&[HEADER, &swaps].concat(), &mut files).of(1 << 30);
            let share = room as f64 / f64::from(1 << 30);
            assert!((share - expected).abs() < 0.002, "{about}: {share}, not {expected}");
        }
    }

    #[test]
    fn a_device_without_an_open_file_has_the_expected_ratio() {
        let swaps = [HEADER, "/dev/zram7 partition 8 4 100\n"].concat();
        assert_eq!(SwapRoom::read(&swaps, &mut []).of(100), 50);
    }

    #[test]
    fn full_devices_have_no_say() {
        let swaps = [HEADER, "/dev/zram0 partition 8 8 100\n/dev/sda partition 8 4 1\n"].concat();
        let (_dir, mut files) = files(&[("zram0", &mm_stat(9, 9, 0))]);
        assert_eq!(SwapRoom::read(&swaps, &mut files).of(4096), 4096);
    }

    #[test]
    fn no_number_overflows() {
        let most = u64::MAX;
        let stat = format!("{most} {most} {most} {most}\n");
        let (_dir, mut files) = files(&[("zram0", &stat)]);
        let swaps = format!("{HEADER}/dev/zram0 partition {most} 0 1\n/x file {most} 0 1\n");
        assert_eq!(SwapRoom::read(&swaps, &mut files).of(most), most);
        for junk in ["", "\n\n", "h\n/dev/zram0\n", "h\nx partition y z\n", "h\nx file -1 2\n"] {
            assert_eq!(SwapRoom::read(junk, &mut files), SwapRoom::default(), "{junk:?}");
        }
    }
}
