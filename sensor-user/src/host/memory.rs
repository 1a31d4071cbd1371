//! The host's memory: /proc/vmstat, /proc/meminfo, /proc/zoneinfo, and PSI.
//!
//! Shares are of the memory that reclaim works with. The pool of huge pages is not part of it
//! (hugetlb, of all sizes): it is neither free nor reclaimable, but MemTotal includes it.

use std::{fs, path::Path, sync::Arc};

use super::{
    host_file::{HostFile, HostFileOpeners},
    late_files::{LateFiles, OfferedFiles},
    pressure,
    proc_file::{ProcFile, numbers},
    swap::SwapRoom,
    vmstat::{self, KillCounts},
    zfs,
};
use sensor_core::{
    model::oom_report::HostMemoryUsage,
    verdict::{attribution::Origins, reading::Reading},
};

/// Shortest time between two reads of /proc/zoneinfo: the kernel prints each zone with its lock held
/// and interrupts off (walk_zones_in_node, mm/vmstat.c), which delays every allocation. No rule uses
/// the value.
const ZONEINFO_NS: u64 = 15_000_000_000;

/// Shortest time between two reads of what changes slowly, under pressure too: the cache of ZFS, and
/// how much of free swap is in memory. A little less than the usual interval, so that a sample that
/// is early reads them too.
const SLOW_NS: u64 = 900_000_000;

/// The open files.
#[derive(Debug)]
pub struct HostMemory {
    vmstat: HostFile,
    meminfo: HostFile,
    zoneinfo: HostFile,
    /// The last value of zoneinfo, and when it was read.
    above_low: Option<(u64, Option<i64>)>,
    swaps: HostFile,
    late_files: LateFiles,
    offered: Arc<OfferedFiles>,
    /// The last values of `swaps` and `late_files`, and when they were read.
    slow: Option<(u64, SlowValues)>,
    kill_counts: Option<KillCounts>,
    origins: Origins,
    pressure: HostFile,
    io_pressure: HostFile,
}

/// Corrections of the values of meminfo.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct SlowValues {
    /// Memory that ZFS can give back, which MemAvailable does not include.
    zfs_bytes: u64,
    /// The part of free swap that is room beside memory.
    swap: SwapRoom,
}

impl HostMemory {
    /// Opens the files below `root`, which is `/` except in tests.
    pub fn open(root: &Path) -> Self {
        let open = |path: &str| HostFile::open(&root.join(path));
        Self {
            vmstat: open("proc/vmstat"),
            meminfo: open("proc/meminfo"),
            zoneinfo: open("proc/zoneinfo"),
            above_low: None,
            swaps: open("proc/swaps"),
            late_files: LateFiles::open(root),
            offered: Arc::default(),
            slow: None,
            kill_counts: None,
            origins: Origins::default(),
            pressure: open("proc/pressure/memory"),
            io_pressure: open("proc/pressure/io"),
        }
    }

    /// Whether the kernel measures pressure.
    pub const fn has_psi(&self) -> bool {
        self.pressure.exists()
    }

    /// Where a thread that may open files offers those that appear later.
    pub fn offered_files(&self) -> Arc<OfferedFiles> {
        Arc::clone(&self.offered)
    }

    /// Opens the files that could not be opened, for a thread that may open files.
    pub fn openers(&self) -> HostFileOpeners {
        let Self { vmstat, meminfo, zoneinfo, swaps, pressure, io_pressure, .. } = self;
        HostFileOpeners::of([vmstat, meminfo, zoneinfo, swaps, pressure, io_pressure])
    }

    /// The counts of kills at the last read; `None` if vmstat has none.
    pub fn kill_counts(&self) -> Option<KillCounts> {
        self.kill_counts
    }

    /// Counters of reclaim by origin, at the last read.
    pub fn origins(&self) -> Origins {
        self.origins
    }

    /// Reads all files into `reading`. A file that cannot be read leaves its part empty, so that
    /// the other parts do not become stale.
    pub fn read(&mut self, reading: &mut Reading) {
        let (page, now_ns) = (rustix::param::page_size() as u64, reading.at_ns);
        (self.kill_counts, self.origins) = (None, Origins::default());
        if let Some(text) = self.vmstat.read() {
            vmstat::parse(text, page, reading);
            self.kill_counts = vmstat::parse_kill_counts(text);
            self.origins = vmstat::parse_origins(text);
        }
        if let Some(text) = self.meminfo.read() {
            parse_meminfo(text, reading);
        }
        let slow = self.slow_values(now_ns);
        correct(reading, slow);
        reading.above_low_bytes = self.above_low_bytes(now_ns, page);
        let totals = |file: &mut HostFile| pressure::parse(file.read()?).ok();
        if let Some(totals) = totals(&mut self.pressure) {
            totals.fill(reading);
        }
        let io = totals(&mut self.io_pressure);
        reading.io_some_ns = io.map(|totals| totals.some_ns);
        reading.io_full_ns = io.map(|totals| totals.full_ns);
    }

    fn slow_values(&mut self, now_ns: u64) -> SlowValues {
        match self.slow {
            Some((read_ns, values)) if now_ns < read_ns.saturating_add(SLOW_NS) => values,
            _ => {
                self.offered.replace(&mut self.late_files);
                // Without its last value, memory would seem to fall while a file cannot be read.
                let last = self.slow.map(|(_, values)| values).unwrap_or_default();
                let LateFiles { arcstats, zram } = &mut self.late_files;
                let zfs_bytes = match arcstats.as_mut().map(ProcFile::read) {
                    Some(Ok(text)) => zfs::evictable(text).unwrap_or(0),
                    Some(Err(_)) => last.zfs_bytes,
                    None => 0,
                };
                let swaps = self.swaps.read();
                let swap = swaps.map_or(last.swap, |swaps| SwapRoom::read(swaps, zram));
                let values = SlowValues { zfs_bytes, swap };
                self.slow = Some((now_ns, values));
                values
            }
        }
    }

    fn above_low_bytes(&mut self, now_ns: u64, page: u64) -> Option<i64> {
        match self.above_low {
            Some((read_ns, bytes)) if now_ns < read_ns.saturating_add(ZONEINFO_NS) => bytes,
            _ => {
                let text = self.zoneinfo.read();
                let bytes = text.and_then(|text| parse_zoneinfo(text, page));
                self.above_low = Some((now_ns, bytes));
                bytes
            }
        }
    }
}

pub(crate) fn parse_meminfo(text: &str, reading: &mut Reading) {
    let values = numbers(text, ["MemTotal", "MemAvailable", "MemFree", "SwapFree", "Hugetlb"]);
    let values = values.map(|kib| kib.map(|n| n.saturating_mul(1024)));
    let [total, available, unused, swap, huge] = values;
    reading.total_bytes = total.map(|total| total.saturating_sub(huge.unwrap_or(0)));
    reading.available_bytes = available;
    reading.unused_bytes = unused;
    reading.swap_free_bytes = swap;
}

fn correct(reading: &mut Reading, slow: SlowValues) {
    if let Some(available) = &mut reading.available_bytes {
        *available = available.saturating_add(slow.zfs_bytes);
    }
    if let Some(free) = &mut reading.swap_free_bytes {
        *free = slow.swap.of(*free);
    }
}

/// What the host's memory is used for now.
pub fn usage() -> Option<HostMemoryUsage> {
    let arcstats = fs::read_to_string(Path::new("/").join(zfs::ARCSTATS)).ok();
    let zfs_arc_bytes = arcstats.and_then(|text| zfs::size(&text));
    let usage = parse_usage(&fs::read_to_string("/proc/meminfo").ok()?);
    Some(HostMemoryUsage { zfs_arc_bytes, ..usage })
}

pub(crate) fn parse_usage(meminfo: &str) -> HostMemoryUsage {
    let names = [
        "MemTotal",
        "MemAvailable",
        "AnonPages",
        "Shmem",
        "SReclaimable",
        "SUnreclaim",
        "PageTables",
        "KernelStack",
        "Percpu",
        "Hugetlb",
        "SwapTotal",
        "SwapFree",
    ];
    let bytes = numbers(meminfo, names).map(|kib| kib.map(|n| n.saturating_mul(1024)));
    HostMemoryUsage {
        total_bytes: bytes[0],
        available_bytes: bytes[1],
        anon_bytes: bytes[2],
        shmem_bytes: bytes[3],
        slab_reclaimable_bytes: bytes[4],
        slab_unreclaimable_bytes: bytes[5],
        page_tables_bytes: bytes[6],
        kernel_stack_bytes: bytes[7],
        percpu_bytes: bytes[8],
        hugetlb_bytes: bytes[9],
        zfs_arc_bytes: None,
        swap_total_bytes: bytes[10],
        swap_free_bytes: bytes[11],
    }
}

/// Bytes of free memory above the low watermarks, summed over all zones.
pub(crate) fn parse_zoneinfo(text: &str, page: u64) -> Option<i64> {
    let (mut above, mut seen) = (0i64, false);
    let mut free = 0i64;
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let (name, value) = (words.next(), words.next());
        match (name, value, words.next()) {
            // "  pages free     3954"
            (Some("pages"), Some("free"), Some(n)) => free = n.parse().unwrap_or(0),
            (Some("low"), Some(n), None) => {
                above = above.saturating_add(free.saturating_sub(n.parse().unwrap_or(0)));
                (free, seen) = (0, true);
            }
            _ => {}
        }
    }
    seen.then(|| above.saturating_mul(page.cast_signed()))
}

#[cfg(test)]
mod tests {
    use super::{super::late_files::tests::open_now, *};

    #[test]
    fn an_unreadable_file_leaves_only_its_part_empty() {
        let dir = tempfile::tempdir().expect("a directory");
        let write = |name: &str, text: &str| {
            let path = dir.path().join("proc").join(name);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("mkdir");
            std::fs::write(path, text).expect("write");
        };
        write("vmstat", "pswpin 1\n");
        write("zoneinfo", &"x".repeat(10 << 20));
        write("pressure/memory", "nonsense");
        write(
            "pressure/io",
            "some avg10=0 avg60=0 avg300=0 total=1\nfull avg10=0 avg60=0 avg300=0 total=2\n",
        );
        let mut memory = HostMemory::open(dir.path());
        let mut reading = Reading::default();
        memory.read(&mut reading);
        let page = rustix::param::page_size() as u64;
        let expected = Reading {
            swapped_in_bytes: Some(page),
            io_some_ns: Some(1000),
            io_full_ns: Some(2000),
            ..Reading::default()
        };
        assert_eq!(reading, expected);
    }

    #[test]
    fn meminfo_is_in_kib() {
        let mut reading = Reading::default();
        parse_meminfo(
            "MemTotal: 100 kB\nMemFree: 5 kB\nMemAvailable:  50 kB\nSwapFree: 0 kB\n",
            &mut reading,
        );
        assert_eq!(reading.total_bytes, Some(102_400));
        assert_eq!(reading.available_bytes, Some(51_200));
        assert_eq!(reading.unused_bytes, Some(5120));
        assert_eq!(reading.swap_free_bytes, Some(0));
    }

    /// A root with these files, and MemTotal 16 GiB, MemAvailable 1 GiB, SwapFree 8 GiB.
    fn root_with(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a directory");
        let meminfo = "MemTotal: 16777216 kB\nMemAvailable: 1048576 kB\nSwapFree: 8388608 kB\n";
        for (path, text) in [("proc/meminfo", meminfo)].iter().chain(files) {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("mkdir");
            fs::write(path, text).expect("write");
        }
        dir
    }

    fn read_at(memory: &mut HostMemory, millis: u64) -> Reading {
        let mut reading = Reading { at_ns: millis * 1_000_000, ..Reading::default() };
        memory.read(&mut reading);
        reading
    }

    #[test]
    fn shares_are_of_the_memory_without_huge_pages() {
        for (huge, expected) in [("Hugetlb: 70 kB\n", 30), ("", 100), ("Hugetlb: 200 kB\n", 0)] {
            let mut reading = Reading::default();
            let text = format!("MemTotal: 100 kB\nHugePages_Total: 9\nHugepagesize: 7 kB\n{huge}");
            parse_meminfo(&text, &mut reading);
            assert_eq!(reading.total_bytes, Some(expected * 1024), "{huge:?}");
        }
    }

    #[test]
    fn the_cache_of_zfs_above_its_minimum_is_available() {
        let root = root_with(&[(zfs::ARCSTATS, "size 4 7516192768\nc_min 4 1073741824\n")]);
        let reading = read_at(&mut HostMemory::open(root.path()), 1000);
        assert_eq!(reading.available_bytes, Some(7 << 30), "1 GiB, and 6 of ZFS");
        assert_eq!(reading.total_bytes, Some(16 << 30));
    }

    #[test]
    fn files_that_appear_later_are_used_when_they_are_offered() {
        let root = root_with(&[("proc/swaps", "Filename\n/dev/zram0 partition 8388608 0 100\n")]);
        let mut memory = HostMemory::open(root.path());
        assert_eq!(read_at(&mut memory, 1000).swap_free_bytes, Some(4 << 30), "2:1 is assumed");
        for (path, text) in [
            ("sys/block/zram0/mm_stat", "1099511627776 0 274877906944 0 0 0 0 0 0\n"),
            (zfs::ARCSTATS, "size 4 7516192768\nc_min 4 1073741824\n"),
        ] {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("mkdir");
            fs::write(path, text).expect("write");
        }
        assert_eq!(read_at(&mut memory, 3000).swap_free_bytes, Some(4 << 30), "no file is opened");
        open_now(root.path(), &memory.offered_files());
        let reading = read_at(&mut memory, 5000);
        let swap = reading.swap_free_bytes.expect("measured");
        assert!(swap.abs_diff(6 << 30) < 1 << 20, "4:1 is measured: {swap}");
        assert_eq!(reading.available_bytes, Some(7 << 30));
    }

    #[test]
    fn slow_values_are_read_once_a_second_at_most() {
        let root = root_with(&[(zfs::ARCSTATS, "")]);
        let mut memory = HostMemory::open(root.path());
        for (millis, size_gib, expected_gib) in
            [(5000, 2_u64, 2), (5100, 4, 2), (5899, 4, 2), (5900, 4, 4), (6000, 9, 4), (7000, 9, 9)]
        {
            let text = format!("size 4 {}\nc_min 4 0\n", size_gib << 30);
            fs::write(root.path().join(zfs::ARCSTATS), text).expect("write");
            let available = read_at(&mut memory, millis).available_bytes;
            assert_eq!(available, Some((1 + expected_gib) << 30), "at {millis} ms");
        }
    }

    #[test]
    fn zoneinfo_is_read_every_15_seconds_at_most() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("proc/zoneinfo");
        fs::create_dir_all(path.parent().expect("a parent")).expect("mkdir");
        let write = |free: u64| {
            fs::write(&path, format!("  pages free     {free}\n        low      20\n"))
                .expect("write");
        };
        write(100);
        let mut memory = HostMemory::open(dir.path());
        let page = rustix::param::page_size().cast_signed() as i64;
        for (millis, free, expected) in
            [(7000, 100, 80), (7100, 50, 80), (21_900, 50, 80), (22_000, 50, 30), (22_100, 90, 30)]
        {
            write(free);
            let mut reading = Reading { at_ns: millis * 1_000_000, ..Reading::default() };
            memory.read(&mut reading);
            assert_eq!(reading.above_low_bytes, Some(expected * page), "at {millis} ms");
        }
    }

    #[test]
    fn every_kind_of_memory_has_its_bytes() {
        let meminfo = "MemTotal: 100 kB\nMemAvailable: 1 kB\nAnonPages: 2 kB\nShmem: 3 kB\n\
            ShmemHugePages: 99 kB\nSReclaimable: 4 kB\nSUnreclaim: 5 kB\nPageTables: 6 kB\n\
            KernelStack: 7 kB\nPercpu: 8 kB\nHugetlb: 9 kB\nSwapTotal: 11 kB\nSwapFree: 10 kB\n";
        let usage = serde_json::to_value(parse_usage(meminfo)).expect("serialises");
        for (key, kib) in [
            ("total_bytes", 100),
            ("available_bytes", 1),
            ("anon_bytes", 2),
            ("shmem_bytes", 3),
            ("slab_reclaimable_bytes", 4),
            ("slab_unreclaimable_bytes", 5),
            ("page_tables_bytes", 6),
            ("kernel_stack_bytes", 7),
            ("percpu_bytes", 8),
            ("hugetlb_bytes", 9),
            ("swap_total_bytes", 11),
            ("swap_free_bytes", 10),
        ] {
            assert_eq!(usage[key], kib * 1024, "{key}");
        }
    }

    #[test]
    fn watermarks_are_summed_over_zones() {
        let zone = |free, low| {
            format!(
                "Node 0, zone Normal\n  per-node stats\n      nr_free 1\n  \
                 pages free     {free}\n        boost    0\n        min      10\n        \
                 low      {low}\n        high     40\n"
            )
        };
        let text = [zone(100, 20), zone(5, 20)].concat();
        assert_eq!(parse_zoneinfo(&text, 4096), Some((80 - 15) * 4096));
        assert_eq!(parse_zoneinfo("", 4096), None);
    }
}
