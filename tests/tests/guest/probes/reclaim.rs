//! Reclaim and throttling.

use std::{
    fs,
    process::Stdio,
    time::{Duration, Instant},
};

use sensor_tests::support::{
    counts::{Record, vmstat},
    daemon::PATIENCE,
    scope::{MIB, Scope, program},
};

use super::{field, is_kernel_thread, is_missing, once, tid};
use crate::{
    cell,
    host::Kprobe,
    meminfo_mib,
    pressure::{
        Holder, NoMglru, NoSwap, Reader, Sysctl, cache_thrash, out_of_memory, slow_disk,
        swap_thrash,
    },
    watch::{Watch, assert_about},
};

#[test]
fn direct_reclaim() {
    const BEGIN: &str = "mm_vmscan_direct_reclaim_begin";
    const END: &str = "mm_vmscan_direct_reclaim_end";
    if is_missing("direct_reclaim") {
        return;
    }
    let watch = Watch::start(&[&format!("vmscan:{BEGIN}"), &format!("vmscan:{END}")]);
    swap_thrash(1, 3);
    let (_, observed) = watch.stop();
    let n = observed.assert_between("memsensor_direct_reclaim_seconds_count", &[], END, once);
    let pages = "memsensor_direct_reclaim_pages_total";
    let pages = observed.assert_between(pages, &[], END, field("nr_reclaimed"));
    assert!(n >= 10.0 && pages > 0.0, "only {n} entries: the workload is too small");
    assert!(observed.vmstat("pswpout") > 1000.0, "no swap thrash");
    let seconds = observed.went_up("memsensor_direct_reclaim_seconds_sum", &[]);
    assert_about(seconds, observed.seconds_inside(BEGIN, END, tid), n, "direct reclaim");
    let stalled = observed.went_up("memsensor_stall_seconds_total", &["cause=\"direct_reclaim\""]);
    assert!(stalled > 0.0 && stalled <= seconds + 1e-6, "{stalled} s of {seconds} s");
    let stalls = observed.vmstat("allocstall");
    assert!(stalls >= n, "vmstat allocstall went up by {stalls}, {n} entries counted");
    cell("direct_reclaim", "verified", &format!("{n} entries, {pages} pages, {seconds:.2} s"));
}

#[test]
fn memcg_reclaim() {
    const BEGIN: &str = "mm_vmscan_memcg_reclaim_begin";
    const END: &str = "mm_vmscan_memcg_reclaim_end";
    if is_missing("memcg_reclaim") {
        return;
    }
    let watch = Watch::start(&[&format!("vmscan:{BEGIN}"), &format!("vmscan:{END}")]);
    let scope = Scope::new("cache", 24 * MIB).expect("scope");
    let mut hog = scope.command(program("hog").expect("hog"));
    let status = hog.args(["file", "/tmp/limited", "64", "3"]).stdout(Stdio::null()).status();
    assert!(status.expect("hog").success(), "page cache is always reclaimable");
    fs::remove_file("/tmp/limited").expect("remove the file");
    let (_, observed) = watch.stop();
    let n = observed.assert_between("memsensor_memcg_reclaim_seconds_count", &[], END, once);
    let pages = "memsensor_memcg_reclaim_pages_total";
    let pages = observed.assert_between(pages, &[], END, field("nr_reclaimed"));
    // Two of three passes find no page of the 64 MiB in the 24 MiB.
    assert!(n >= 10.0 && pages >= 10_000.0, "{n} entries, {pages} pages");
    let seconds = observed.went_up("memsensor_memcg_reclaim_seconds_sum", &[]);
    assert_about(seconds, observed.seconds_inside(BEGIN, END, tid), n, "limit reclaim");
    cell("memcg_reclaim", "verified", &format!("{n} entries, {pages} pages, {seconds:.2} s"));
}

#[test]
fn kswapd() {
    const WAKE: &str = "mm_vmscan_kswapd_wake";
    const SLEEP: &str = "mm_vmscan_kswapd_sleep";
    if is_missing("kswapd") {
        return;
    }
    let watch = Watch::start(&[&format!("vmscan:{WAKE}"), &format!("vmscan:{SLEEP}")]);
    drop(cache_thrash(3));
    // It sleeps after it has reclaimed enough.
    std::thread::sleep(Duration::from_secs(2));
    let (_, observed) = watch.stop();
    let node = ["node=\"0\""];
    let n = observed.assert_between("memsensor_kswapd_wakeups_total", &node, WAKE, |r| {
        f64::from(u8::from(field("nid")(r) == 0.0))
    });
    assert!(n >= 1.0, "kswapd did not wake up");
    assert!(observed.vmstat("pgscan_kswapd") > 0.0, "kswapd scanned nothing");
    let active = observed.went_up("memsensor_kswapd_active_seconds_total", &node);
    let traced = observed.seconds_inside(WAKE, SLEEP, tid);
    assert_about(active, traced, n, "kswapd awake");
    cell("kswapd", "verified", &format!("{n} wake-ups, {active:.2} s"));
}

#[test]
fn reclaim_scan() {
    const EVENT: &str = "mm_vmscan_lru_shrink_inactive";
    if is_missing("reclaim_scan") {
        return;
    }
    let watch = Watch::with("window = \"60s\"", &[&format!("vmscan:{EVENT}")]);
    drop(cache_thrash(2));
    swap_thrash(1, 2);
    let (_, observed) = watch.stop();
    let lru = |record: &Record| {
        let flags = record.fields.get("flags").map(String::as_str).unwrap_or_default();
        if flags.contains("RECLAIM_WB_FILE") { "file" } else { "anon" }
    };
    let mut pages = Vec::new();
    for (metric, name) in [
        ("memsensor_reclaim_scanned_pages_total", "nr_scanned"),
        ("memsensor_reclaim_stolen_pages_total", "nr_reclaimed"),
    ] {
        for of in ["anon", "file"] {
            let label = format!("lru=\"{of}\"");
            let value = |r: &Record| if lru(r) == of { field(name)(r) } else { 0.0 };
            let n = observed.assert_between(metric, &[&label], EVENT, value);
            assert!(n > 0.0, "no {of} page was scanned");
            pages.push(n);
        }
        let by_kswapd = |r: &Record| {
            let is_kswapd = r.comm.as_deref().is_some_and(|c| c.starts_with("kswapd"));
            if is_kswapd { field(name)(r) } else { 0.0 }
        };
        let n = observed.assert_between(metric, &["by=\"kswapd\""], EVENT, by_kswapd);
        assert!(n > 0.0, "kswapd scanned nothing");
    }
    let lowest = observed.records(EVENT).into_iter().map(field("priority")).fold(12.0, f64::min);
    assert_eq!(observed.after["memsensor_reclaim_priority_min"], lowest, "lowest priority");
    let [a, f, sa, sf] = pages[..] else { panic!("{pages:?}") };
    let detail =
        format!("scanned {a} anon and {f} file pages, stole {sa} and {sf}, priority {lowest}");
    cell("reclaim_scan", "verified", &detail);
}

#[test]
fn throttle() {
    const EVENT: &str = "mm_vmscan_throttled";
    if is_missing("throttle") {
        return;
    }
    let watch = Watch::start(&[&format!("vmscan:{EVENT}")]);
    // Throttling depends on timing: several attempts, in two ways.
    let _no_mglru = NoMglru::new();
    for attempt in 0..6 {
        if attempt % 2 == 0 {
            slow_disk();
        } else {
            out_of_memory();
        }
        let series = watch.daemon.metrics().expect("metrics");
        let slept = |(name, value): (&String, &f64)| {
            name.starts_with("memsensor_reclaim_throttle_seconds_total") && *value > 0.0
        };
        if series.iter().any(slept) {
            break;
        }
    }
    let (_, observed) = watch.stop();
    // The field's name is misspelt in the kernel.
    let slept = |r: &Record| field("usect_delayed")(r);
    let mut all = 0.0;
    for reason in ["writeback", "isolated", "noprogress", "congested"] {
        let flag = format!("VMSCAN_THROTTLE_{}", reason.to_uppercase());
        let of = |r: &Record| {
            let is = r.fields.get("reason").is_some_and(|value| *value == flag);
            // The counter sums whole nanoseconds and is exported in seconds.
            if is { slept(r) } else { 0.0 }
        };
        let label = format!("reason=\"{reason}\"");
        let ours = observed.went_up("memsensor_reclaim_throttle_seconds_total", &[&label]);
        let traced: f64 = observed.records(EVENT).into_iter().map(of).sum::<f64>() / 1e6;
        let exact = observed.skipped() == 0.0;
        assert!(ours <= traced + 1e-6, "{reason}: {ours} s, traced {traced} s");
        assert!(!exact || ours >= traced - 1e-6, "{reason}: {ours} s, traced {traced} s");
        all += ours;
    }
    let records = observed.records(EVENT);
    assert!(!records.is_empty() && all > 0.0, "no task was throttled");
    let tasks = records.iter().filter(|r| !is_kernel_thread(r)).count();
    let stalled = observed.went_up("memsensor_stall_seconds_total", &["cause=\"throttle\""]);
    assert!(tasks == 0 || stalled > 0.0, "{tasks} tasks slept without a stall");
    let detail = format!("{} sleeps, {tasks} of them of tasks, {all:.2} s", records.len());
    cell("throttle", "verified", &detail);
}

#[test]
fn pfmemalloc_throttle() {
    if is_missing("pfmemalloc_throttle") {
        return;
    }
    let entry = Kprobe::new("p", "throttle_direct_reclaim");
    let exit = Kprobe::new("r", "throttle_direct_reclaim");
    let watch = Watch::start(&[&entry.event(), &exit.event()]);
    {
        let _no_swap = NoSwap::new();
        let _holder = Holder::new(meminfo_mib("MemAvailable").saturating_sub(120));
        // A reader fills the page cache, and the reserves rise to more than twice the free memory.
        let _reader = Reader::new(200);
        let slept = || vmstat().expect("vmstat")["pgscan_direct_throttle"];
        let before = slept();
        let end = Instant::now() + PATIENCE;
        while slept() < before + 10 && Instant::now() < end {
            // kswapd has freed memory for the high reserves. On a slow machine the reader needs
            // more than a moment to use it again.
            if meminfo_mib("MemFree") > 20 {
                std::thread::sleep(Duration::from_millis(20));
                continue;
            }
            let reserves = Sysctl::set("/proc/sys/vm/min_free_kbytes", 60 << 10);
            std::thread::sleep(Duration::from_millis(100));
            drop(reserves);
        }
    }
    let (_, observed) = watch.stop();
    let slept = observed.vmstat("pgscan_direct_throttle");
    let n = observed.records(&exit.name).len() as f64;
    assert!(slept >= 1.0 && n >= slept, "no task slept: {slept} by vmstat, {n} entries");
    let seconds = observed.went_up("memsensor_pfmemalloc_throttle_seconds_total", &[]);
    let traced = observed.seconds_inside(&entry.name, &exit.name, tid);
    // Only sleeping tasks count. The trace also has tasks that passed, each with the cost of
    // tracing a function (about 40 us in an emulated guest), and a sleeping task waits twice for a
    // CPU.
    let cost = (n - slept).max(0.0) * 100e-6 + slept * 0.002;
    let in_bounds = seconds > (traced - cost) * 0.5 && seconds < traced * 1.1 + 0.001;
    assert!(in_bounds, "{seconds} s asleep, the kernel traced {traced} s inside, {n} entries");
    let stalled = observed.went_up("memsensor_stall_seconds_total", &["cause=\"throttle\""]);
    assert!(stalled + 1e-6 >= seconds, "{seconds} s asleep, {stalled} s stalled");
    let detail = format!("{slept} sleeps by vmstat, {seconds:.2} s");
    cell("pfmemalloc_throttle", "verified", &detail);
}
