//! Compaction, and allocations that are retried or fail.

use std::fs;

use sensor_tests::support::counts::{Record, vmstat};

use super::{field, is_kernel_thread, is_missing, once, tid};
use crate::{
    cell,
    host::Kprobe,
    meminfo_mib, number,
    pressure::{Holder, Sysctl, cache_thrash, out_of_memory},
    watch::Watch,
};

#[test]
fn compaction() {
    const BEGIN: &str = "mm_compaction_begin";
    const END: &str = "mm_compaction_end";
    if is_missing("compaction") {
        return;
    }
    // Memory full of single pages, so that huge pages need compaction.
    let _file = cache_thrash(1);
    let holder = Holder::new(meminfo_mib("MemFree") / 2);
    let watch = Watch::start(&[&format!("compaction:{BEGIN}"), &format!("compaction:{END}")]);
    {
        let _pages = Sysctl::set("/proc/sys/vm/nr_hugepages", 60);
    }
    drop(holder);
    fs::write("/proc/sys/vm/compact_memory", "1").expect("compact");
    let (_, observed) = watch.stop();
    let by_task = |r: &Record| f64::from(u8::from(!is_kernel_thread(r)));
    let n = observed.assert_between("memsensor_compaction_stall_seconds_count", &[], END, by_task);
    assert!(n >= 1.0, "nothing was compacted");
    // The results as the kernel prints them.
    let results = ["not_suitable_zone", "skipped", "deferred", "no_suitable_page", "continue"];
    let others = ["complete", "partial_skipped", "contended", "success"];
    for result in results.iter().chain(&others) {
        let is = |r: &Record| r.fields.get("status").is_some_and(|status| status == result);
        let of = |r: &Record| if is(r) { by_task(r) } else { 0.0 };
        let label = format!("result=\"{result}\"");
        observed.assert_between("memsensor_compaction_results_total", &[&label], END, of);
    }
    assert_eq!(observed.went_up("memsensor_compaction_results_total", &[]), n, "each has a result");
    let seconds = observed.went_up("memsensor_compaction_stall_seconds_sum", &[]);
    // Per thread: kernel threads also compact, but are not counted.
    let traced =
        observed.seconds_inside(BEGIN, END, |r| if is_kernel_thread(r) { 0 } else { tid(r) });
    assert!(seconds <= traced * 1.1 + n * 100e-6, "{seconds} s, traced {traced} s");
    cell("compaction", "verified", &format!("{n} compactions of a zone, {seconds:.3} s"));
}

/// Number of retries while memory runs out, and the most loops of an allocation without progress.
/// Both are compared with the kernel's trace.
fn retries_until_a_kill() -> (f64, f64) {
    let watch = Watch::with("window = \"60s\"", &["oom:reclaim_retry_zone", "oom:compact_retry"]);
    out_of_memory();
    let (_, observed) = watch.stop();
    let retries = observed.records("reclaim_retry_zone");
    let compactions = observed.records("compact_retry").len();
    let n = observed.went_up("memsensor_alloc_retries_total", &[]);
    let traced = (retries.len() + compactions) as f64;
    let skipped = observed.skipped();
    assert!(n <= traced && n + skipped >= traced, "{n} of {traced}, {skipped} skipped");
    let loops = retries.into_iter().map(field("no_progress_loops")).fold(0.0, f64::max);
    assert_eq!(observed.after["memsensor_alloc_no_progress_loops_max"], loops, "most loops");
    (n, loops)
}

#[test]
fn alloc_retry() {
    if is_missing("alloc_retry") {
        return;
    }
    // Whether an allocation loops without progress before a kill depends on timing.
    let (n, loops) = (0..5)
        .map(|_| retries_until_a_kill())
        .find(|(n, loops)| *n >= 1.0 && *loops >= 1.0)
        .expect("loops without progress in one of five kills");
    cell("alloc_retry", "verified", &format!("{n} retries, up to {loops} loops without progress"));
}

#[test]
fn alloc_failure() {
    if is_missing("alloc_failure") {
        return;
    }
    let kprobe = Kprobe::new("p", "warn_alloc");
    let watch = Watch::start(&[&kprobe.event()]);
    let before = vmstat().expect("vmstat")["htlb_buddy_alloc_fail"];
    {
        // More huge pages than the memory of the guest.
        let _pages = Sysctl::set("/proc/sys/vm/nr_hugepages", 2000);
        assert!(number("/proc/sys/vm/nr_hugepages") < 2000);
    }
    let failed = vmstat().expect("vmstat")["htlb_buddy_alloc_fail"] - before;
    let (_, observed) = watch.stop();
    let n = observed.assert_between("memsensor_alloc_failures_total", &[], &kprobe.name, once);
    assert!(n >= 1.0 && failed >= 1, "{n} failures, {failed} by vmstat");
    cell("alloc_failure", "verified", &format!("{n} failures, {failed} of them of huge pages"));
}
