//! The host's memory: /proc/vmstat, /proc/meminfo, /proc/zoneinfo, and PSI.

use std::{fs, path::Path};

use tracing::debug;

use super::{
    pressure,
    proc_file::{ProcFile, numbers},
};
use sensor_core::{model::oom_report::HostMemoryUsage, verdict::reading::Reading};

/// Shortest time between two reads of /proc/zoneinfo: the kernel prints each zone with its lock held
/// and interrupts off (walk_zones_in_node, mm/vmstat.c), which delays every allocation. No rule uses
/// the value.
const ZONEINFO_NS: u64 = 15_000_000_000;

/// The open files. A file that cannot be opened leaves its part of a reading empty.
#[derive(Debug)]
pub struct HostMemory {
    vmstat: Option<ProcFile>,
    meminfo: Option<ProcFile>,
    zoneinfo: Option<ProcFile>,
    /// The last value of zoneinfo, and when it was read.
    above_low: Option<(u64, Option<i64>)>,
    pressure: Option<ProcFile>,
    io_pressure: Option<ProcFile>,
}

impl HostMemory {
    /// Opens the files below `root`, which is `/` except in tests.
    pub fn open(root: &Path) -> Self {
        let open = |path: &str| ProcFile::open(&root.join(path)).ok();
        // With psi=0 the files exist, but reading them fails.
        let readable = |path: &str| ProcFile::readable(&root.join(path));
        Self {
            vmstat: open("proc/vmstat"),
            meminfo: open("proc/meminfo"),
            zoneinfo: open("proc/zoneinfo"),
            above_low: None,
            pressure: readable("proc/pressure/memory"),
            io_pressure: readable("proc/pressure/io"),
        }
    }

    /// Whether the kernel measures pressure.
    pub fn has_psi(&self) -> bool {
        self.pressure.is_some()
    }

    /// Reads all files into `reading`. A file that cannot be read leaves its part empty, so that
    /// the other parts do not become stale.
    pub fn read(&mut self, reading: &mut Reading) {
        let page = rustix::param::page_size() as u64;
        if let Some(text) = read(&mut self.vmstat) {
            parse_vmstat(text, page, reading);
        }
        if let Some(text) = read(&mut self.meminfo) {
            parse_meminfo(text, reading);
        }
        reading.above_low_bytes = self.above_low_bytes(reading.at_ns, page);
        let totals = |file: &mut Option<ProcFile>| pressure::parse(read(file)?).ok();
        if let Some(totals) = totals(&mut self.pressure) {
            totals.fill(reading);
        }
        reading.io_full_ns = totals(&mut self.io_pressure).map(|totals| totals.full_ns);
    }

    fn above_low_bytes(&mut self, now_ns: u64, page: u64) -> Option<i64> {
        match self.above_low {
            Some((read_ns, bytes)) if now_ns < read_ns.saturating_add(ZONEINFO_NS) => bytes,
            _ => {
                let bytes = read(&mut self.zoneinfo).and_then(|text| parse_zoneinfo(text, page));
                self.above_low = Some((now_ns, bytes));
                bytes
            }
        }
    }
}

fn read(file: &mut Option<ProcFile>) -> Option<&str> {
    file.as_mut()?.read().inspect_err(|e| debug!("{e:#}")).ok()
}

fn sum(values: &[Option<u64>]) -> Option<u64> {
    let known = values.iter().flatten();
    known.copied().reduce(u64::saturating_add)
}

fn parse_vmstat(text: &str, page: u64, reading: &mut Reading) {
    // Kernels before 5.9 have only `workingset_refault`.
    let names = [
        "workingset_refault_anon",
        "workingset_refault_file",
        "workingset_refault",
        "pswpin",
        "pswpout",
        "pgscan_direct",
        "pgscan_kswapd",
        "pgsteal_direct",
        "pgsteal_kswapd",
    ];
    let values = numbers(text, names);
    let bytes = |pages: Option<u64>| pages.map(|n| n.saturating_mul(page));
    reading.refaulted_bytes = bytes(sum(&values[..3]));
    reading.swapped_in_bytes = bytes(values[3]);
    reading.swapped_out_bytes = bytes(values[4]);
    reading.scanned_pages = sum(&values[5..7]);
    reading.reclaimed_pages = sum(&values[7..9]);
}

fn parse_meminfo(text: &str, reading: &mut Reading) {
    let values = numbers(text, ["MemTotal", "MemAvailable", "MemFree", "SwapFree"]);
    let [total, available, unused, swap] = values.map(|kib| kib.map(|n| n.saturating_mul(1024)));
    reading.total_bytes = total;
    reading.available_bytes = available;
    reading.unused_bytes = unused;
    reading.swap_free_bytes = swap;
}

/// What the host's memory is used for now.
pub fn usage() -> Option<HostMemoryUsage> {
    Some(parse_usage(&fs::read_to_string("/proc/meminfo").ok()?))
}

fn parse_usage(meminfo: &str) -> HostMemoryUsage {
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
        swap_total_bytes: bytes[10],
        swap_free_bytes: bytes[11],
    }
}

/// Bytes of free memory above the low watermarks, summed over all zones.
fn parse_zoneinfo(text: &str, page: u64) -> Option<i64> {
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
    use super::*;

    #[test]
    fn vmstat_has_one_or_two_refault_counters() {
        let mut reading = Reading::default();
        let text = "pswpin 1\npswpout 2\nworkingset_refault_anon 3\nworkingset_refault_file 4\n\
                    pgscan_kswapd 5\npgscan_direct 6\npgsteal_kswapd 7\npgsteal_direct 8\n";
        parse_vmstat(text, 4096, &mut reading);
        assert_eq!(reading.refaulted_bytes, Some(7 * 4096));
        assert_eq!(reading.swapped_in_bytes, Some(4096));
        assert_eq!((reading.scanned_pages, reading.reclaimed_pages), (Some(11), Some(15)));
        parse_vmstat("workingset_refault 9\n", 4096, &mut reading);
        assert_eq!(reading.refaulted_bytes, Some(9 * 4096));
        assert_eq!(reading.swapped_in_bytes, None, "a kernel without swap");
    }

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
        let expected =
            Reading { swapped_in_bytes: Some(page), io_full_ns: Some(2000), ..Reading::default() };
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
