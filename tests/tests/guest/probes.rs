//! One test per probe: makes its event happen for real, compares with the kernel's own trace, and
//! writes the cell of the table. A probe that this kernel cannot have gets a cell that says why;
//! that it really cannot is asserted in [`super::host`].

use std::{
    fs,
    process::Stdio,
    time::{Duration, Instant},
};

use sensor_tests::support::{
    counts::{Record, vmstat},
    daemon::{Daemon, PATIENCE},
    scope::{MIB, Scope, program},
};
use sensor_user::{
    events::{Scope as OomScope, What},
    top::Top,
};

use super::{
    cell, enter,
    host::{Kprobe, why_missing},
    number,
    pressure::{
        Holder, NoMglru, NoSwap, Reader, Sysctl, cache_thrash, out_of_memory, slow_disk,
        swap_thrash,
    },
    watch::{Watch, assert_about},
};

/// Whether there is nothing to test: the probe is not attached here, which its cell then says.
fn is_missing(probe: &str) -> bool {
    enter();
    let why = why_missing(probe);
    if let Some(why) = &why {
        cell(probe, "missing", why);
    }
    why.is_some()
}

fn once(_: &Record) -> f64 {
    1.0
}

fn field(name: &'static str) -> impl Fn(&Record) -> f64 {
    move |record| record.number(name).unwrap_or_else(|e| panic!("{e:#}")) as f64
}

fn tid(record: &Record) -> u64 {
    u64::from(record.tid)
}

fn is_kernel_thread(record: &Record) -> bool {
    let comm = record.comm.as_deref().unwrap_or_default();
    ["kswapd", "kcompactd", "khugepaged"].iter().any(|name| comm.starts_with(name))
}

/// The whole guest out of memory, and a cgroup at its limit.
#[test]
fn oom_kill() {
    if is_missing("oom_kill") {
        return;
    }
    let kills = |daemon: &Daemon, n| {
        daemon.wait_for_events(n, |w| matches!(w, What::OomKill { .. })).expect("kills")
    };
    let watch = Watch::start(&["oom:mark_victim"]);
    let global = out_of_memory();
    let scope = Scope::new("limit", 24 * MIB).expect("scope");
    let mut limited = scope.command(program("hog").expect("hog"));
    let mut limited = limited.args(["--adj", "500", "anon", "48"]).spawn().expect("hog");
    limited.wait().expect("wait");
    let events = kills(&watch.daemon, 2);
    let (_, seen) = watch.stop();

    assert_eq!(events.len(), 2, "{events:#?}");
    assert_eq!(seen.vmstat("oom_kill"), 2.0);
    for (event, pid, wanted, adj, label, constraint) in [
        (&events[0], global, OomScope::Global, 1000, "scope=\"global\"", "none"),
        (&events[1], limited.id(), OomScope::Memcg, 500, "scope=\"memcg\"", "memcg"),
    ] {
        let What::OomKill { scope: found, victim, memory, context, .. } = &event.what else {
            panic!()
        };
        // Single pages for a process, of any zone: every kernel here allows programs at functions.
        let context = context.as_ref().expect("what the allocation asked for");
        assert_eq!((context.order, context.constraint.as_str()), (0, constraint), "{event:#?}");
        assert_eq!((*found, victim.pid, victim.oom_score_adj), (wanted, pid, adj), "{event:#?}");
        assert_eq!((victim.comm.as_str(), victim.uid), ("hog", 0));
        assert!(memory.anon_bytes > 16 * MIB, "{memory:?}");
        assert_eq!(seen.went_up("memsensor_oom_kills_total", &[label]), 1.0, "{label}");
    }
    let What::OomKill { victim, trigger, .. } = &events[1].what else { panic!() };
    assert_eq!(victim.cgroup_id, scope.id().expect("id"));
    assert_eq!((trigger.pid, trigger.cgroup_id), (victim.pid, victim.cgroup_id));
    let marked = seen.records("mark_victim").into_iter().map(field("pid"));
    let expected = [global, limited.id()].map(f64::from);
    assert_eq!(marked.collect::<Vec<_>>(), expected, "by the kernel's own trace");
    cell(
        "oom_kill",
        "verified",
        "a global and a memcg kill: victims, trigger, scope, cgroup, constraint",
    );
}

#[test]
fn victim_exit() {
    if is_missing("victim_exit") {
        return;
    }
    let watch = Watch::start(&["oom:mark_victim", "sched:sched_process_exit"]);
    let pid = out_of_memory();
    let is_exit = |w: &What| matches!(w, What::VictimExit { .. });
    let exits = watch.daemon.wait_for_events(1, is_exit).expect("exit");
    let (_, seen) = watch.stop();
    let What::VictimExit { pid: gone, seconds, .. } = exits[0].what else { panic!() };
    assert_eq!((exits.len(), gone), (1, pid));
    assert_eq!(seen.went_up("memsensor_oom_victim_exit_seconds_count", &[]), 1.0);
    // Its memory is back before its parent hears of it, and after it was marked; the exit itself is
    // somewhere near.
    let marked = seen.records("mark_victim")[0].seconds;
    let exited = seen.records("sched_process_exit").into_iter().filter(|r| r.tid == pid);
    let exited = exited.map(|r| r.seconds).fold(f64::NAN, f64::max);
    assert!(seconds > 0.0 && seconds < PATIENCE.as_secs_f64(), "{seconds}");
    assert!((marked + seconds - exited).abs() < 2.0, "{marked} + {seconds}, exit at {exited}");
    cell("victim_exit", "verified", &format!("memory back after {seconds:.3} s"));
}

#[test]
fn direct_reclaim() {
    const BEGIN: &str = "mm_vmscan_direct_reclaim_begin";
    const END: &str = "mm_vmscan_direct_reclaim_end";
    if is_missing("direct_reclaim") {
        return;
    }
    let watch = Watch::start(&[&format!("vmscan:{BEGIN}"), &format!("vmscan:{END}")]);
    swap_thrash(1, 3);
    let (_, seen) = watch.stop();
    let n = seen.assert_between("memsensor_direct_reclaim_seconds_count", &[], END, once);
    let pages = "memsensor_direct_reclaim_pages_total";
    let pages = seen.assert_between(pages, &[], END, field("nr_reclaimed"));
    assert!(n >= 10.0 && pages > 0.0, "only {n} entries: the workload is too kind");
    assert!(seen.vmstat("pswpout") > 1000.0, "no swap thrash");
    let seconds = seen.went_up("memsensor_direct_reclaim_seconds_sum", &[]);
    assert_about(seconds, seen.seconds_inside(BEGIN, END, tid), n, "direct reclaim");
    let stalled = seen.went_up("memsensor_stall_seconds_total", &["cause=\"direct_reclaim\""]);
    assert!(stalled > 0.0 && stalled <= seconds + 1e-6, "{stalled} s of {seconds} s");
    let stalls = seen.vmstat("allocstall");
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
    assert!(status.expect("hog").success(), "page cache can always be given back");
    fs::remove_file("/tmp/limited").expect("remove the file");
    let (_, seen) = watch.stop();
    let n = seen.assert_between("memsensor_memcg_reclaim_seconds_count", &[], END, once);
    let pages = "memsensor_memcg_reclaim_pages_total";
    let pages = seen.assert_between(pages, &[], END, field("nr_reclaimed"));
    // Two of three passes find nothing of the 64 MiB in the 24: planted.
    assert!(n >= 10.0 && pages >= 10_000.0, "{n} entries, {pages} pages");
    let seconds = seen.went_up("memsensor_memcg_reclaim_seconds_sum", &[]);
    assert_about(seconds, seen.seconds_inside(BEGIN, END, tid), n, "limit reclaim");
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
    // It goes to sleep once it has made room.
    std::thread::sleep(Duration::from_secs(2));
    let (_, seen) = watch.stop();
    let node = ["node=\"0\""];
    let n = seen.assert_between("memsensor_kswapd_wakeups_total", &node, WAKE, |r| {
        f64::from(u8::from(field("nid")(r) == 0.0))
    });
    assert!(n >= 1.0, "kswapd slept through it");
    assert!(seen.vmstat("pgscan_kswapd") > 0.0, "it did not work");
    let active = seen.went_up("memsensor_kswapd_active_seconds_total", &node);
    let traced = seen.seconds_inside(WAKE, SLEEP, tid);
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
    let (_, seen) = watch.stop();
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
            let n = seen.assert_between(metric, &[&label], EVENT, value);
            assert!(n > 0.0, "no {of} page was looked at");
            pages.push(n);
        }
        let by_kswapd = |r: &Record| {
            let is_kswapd = r.comm.as_deref().is_some_and(|c| c.starts_with("kswapd"));
            if is_kswapd { field(name)(r) } else { 0.0 }
        };
        let n = seen.assert_between(metric, &["by=\"kswapd\""], EVENT, by_kswapd);
        assert!(n > 0.0, "kswapd scanned nothing");
    }
    let lowest = seen.records(EVENT).into_iter().map(field("priority")).fold(12.0, f64::min);
    assert_eq!(seen.after["memsensor_reclaim_priority_min"], lowest, "lowest priority");
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
    // Whether anybody is put to sleep depends on who comes when: try again, then otherwise.
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
    let (_, seen) = watch.stop();
    // The field's name is misspelt in the kernel.
    let slept = |r: &Record| field("usect_delayed")(r);
    let mut all = 0.0;
    for reason in ["writeback", "isolated", "noprogress", "congested"] {
        let flag = format!("VMSCAN_THROTTLE_{}", reason.to_uppercase());
        let of = |r: &Record| {
            let is = r.fields.get("reason").is_some_and(|value| *value == flag);
            // As the counter has it: nanoseconds, added up as whole numbers, shown in seconds.
            if is { slept(r) } else { 0.0 }
        };
        let label = format!("reason=\"{reason}\"");
        let ours = seen.went_up("memsensor_reclaim_throttle_seconds_total", &[&label]);
        let traced: f64 = seen.records(EVENT).into_iter().map(of).sum::<f64>() / 1e6;
        let exact = seen.skipped() == 0.0;
        assert!(ours <= traced + 1e-6, "{reason}: {ours} s, traced {traced} s");
        assert!(!exact || ours >= traced - 1e-6, "{reason}: {ours} s, traced {traced} s");
        all += ours;
    }
    let records = seen.records(EVENT);
    assert!(!records.is_empty() && all > 0.0, "nobody was throttled");
    let tasks = records.iter().filter(|r| !is_kernel_thread(r)).count();
    let stalled = seen.went_up("memsensor_stall_seconds_total", &["cause=\"throttle\""]);
    assert!(tasks == 0 || stalled > 0.0, "{tasks} tasks asleep and nobody stalled");
    let detail = format!("{} sleeps, {tasks} of them of tasks, {all:.2} s", records.len());
    cell("throttle", "verified", &detail);
}

#[test]
fn compaction() {
    const BEGIN: &str = "mm_compaction_begin";
    const END: &str = "mm_compaction_end";
    if is_missing("compaction") {
        return;
    }
    // Memory full of single pages, so that huge ones must be made room for.
    let _file = cache_thrash(1);
    let holder = Holder::new(super::meminfo_mib("MemFree") / 2);
    let watch = Watch::start(&[&format!("compaction:{BEGIN}"), &format!("compaction:{END}")]);
    {
        let _pages = Sysctl::set("/proc/sys/vm/nr_hugepages", 60);
    }
    drop(holder);
    fs::write("/proc/sys/vm/compact_memory", "1").expect("compact");
    let (_, seen) = watch.stop();
    let by_task = |r: &Record| f64::from(u8::from(!is_kernel_thread(r)));
    let n = seen.assert_between("memsensor_compaction_stall_seconds_count", &[], END, by_task);
    assert!(n >= 1.0, "nothing was compacted");
    // The kernel prints its own names of the results.
    let results = ["not_suitable_zone", "skipped", "deferred", "no_suitable_page", "continue"];
    let others = ["complete", "partial_skipped", "contended", "success"];
    for result in results.iter().chain(&others) {
        let is = |r: &Record| r.fields.get("status").is_some_and(|status| status == result);
        let of = |r: &Record| if is(r) { by_task(r) } else { 0.0 };
        let label = format!("result=\"{result}\"");
        seen.assert_between("memsensor_compaction_results_total", &[&label], END, of);
    }
    assert_eq!(seen.went_up("memsensor_compaction_results_total", &[]), n, "each has a result");
    let seconds = seen.went_up("memsensor_compaction_stall_seconds_sum", &[]);
    // By thread: kernel threads compact too, but theirs is not counted.
    let traced = seen.seconds_inside(BEGIN, END, |r| if is_kernel_thread(r) { 0 } else { tid(r) });
    assert!(seconds <= traced * 1.1 + n * 100e-6, "{seconds} s, traced {traced} s");
    cell("compaction", "verified", &format!("{n} compactions of a zone, {seconds:.3} s"));
}

/// Retries while memory runs out, and the most rounds of one allocation without progress, both as the
/// kernel's trace has them.
fn retries_until_a_kill() -> (f64, f64) {
    let watch = Watch::with("window = \"60s\"", &["oom:reclaim_retry_zone", "oom:compact_retry"]);
    out_of_memory();
    let (_, seen) = watch.stop();
    let retries = seen.records("reclaim_retry_zone");
    let compactions = seen.records("compact_retry").len();
    let n = seen.went_up("memsensor_alloc_retries_total", &[]);
    let traced = (retries.len() + compactions) as f64;
    let skipped = seen.skipped();
    assert!(n <= traced && n + skipped >= traced, "{n} of {traced}, {skipped} skipped");
    let loops = retries.into_iter().map(field("no_progress_loops")).fold(0.0, f64::max);
    assert_eq!(seen.after["memsensor_alloc_no_progress_loops_max"], loops, "most rounds");
    (n, loops)
}

#[test]
fn alloc_retry() {
    if is_missing("alloc_retry") {
        return;
    }
    // Whether an allocation goes round without progress before a kill is luck.
    let (n, loops) = (0..5)
        .map(|_| retries_until_a_kill())
        .find(|(n, loops)| *n >= 1.0 && *loops >= 1.0)
        .expect("in one of five kills, rounds without progress");
    cell("alloc_retry", "verified", &format!("{n} retries, up to {loops} rounds without progress"));
}

/// earlyoom itself, as Debian ships it.
#[test]
fn kill_signal() {
    if is_missing("kill_signal") {
        return;
    }
    let watch = Watch::start(&["signal:signal_generate"]);
    let mut victim = super::hog(&["anon", "64", "hold"]).spawn().expect("hog");
    // It terminates below the first percentage and kills below the second: always below.
    let mut earlyoom = std::process::Command::new(program("earlyoom").expect("earlyoom"))
        .args(["-m", "99,99", "-s", "100,100", "-r", "0"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("start earlyoom");
    let status = victim.wait().expect("wait");
    earlyoom.kill().expect("stop earlyoom");
    earlyoom.wait().expect("wait");
    let is_kill = |w: &What| matches!(w, What::KillSignal { .. });
    let kills = watch.daemon.wait_for_events(1, is_kill).expect("the kill");
    let (_, seen) = watch.stop();
    let signal = std::os::unix::process::ExitStatusExt::signal(&status);
    assert_eq!(signal, Some(9), "earlyoom did not kill: {status}");
    let What::KillSignal { sender, target } = &kills[0].what else { panic!() };
    assert_eq!((sender.pid, sender.comm.as_str()), (earlyoom.id(), "earlyoom"));
    assert_eq!((target.pid, target.comm.as_str()), (victim.id(), "hog"));
    let of = |r: &Record| {
        let is = field("sig")(r) == 9.0 && r.comm.as_deref() == Some("earlyoom");
        f64::from(u8::from(is))
    };
    let label = ["sender=\"earlyoom\""];
    let n = seen.assert_between("memsensor_kill_signals_total", &label, "signal_generate", of);
    assert_eq!(seen.went_up("memsensor_oom_kills_total", &[]), 0.0, "it is no OOM kill");
    cell("kill_signal", "verified", &format!("{n} SIGKILL from earlyoom"));
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
        // More huge pages than there is memory.
        let _pages = Sysctl::set("/proc/sys/vm/nr_hugepages", 2000);
        assert!(number("/proc/sys/vm/nr_hugepages") < 2000);
    }
    let failed = vmstat().expect("vmstat")["htlb_buddy_alloc_fail"] - before;
    let (_, seen) = watch.stop();
    let n = seen.assert_between("memsensor_alloc_failures_total", &[], &kprobe.name, once);
    assert!(n >= 1.0 && failed >= 1, "{n} failures, {failed} by vmstat: nothing failed");
    cell("alloc_failure", "verified", &format!("{n} failures, {failed} of them of huge pages"));
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
        let _holder = Holder::new(super::meminfo_mib("MemAvailable").saturating_sub(120));
        // A reader that keeps all but the reserves full of page cache, and reserves that jump to
        // more than twice of what is free.
        let _reader = Reader::new(200);
        let slept = || vmstat().expect("vmstat")["pgscan_direct_throttle"];
        let before = slept();
        let end = Instant::now() + PATIENCE;
        while slept() < before + 10 && Instant::now() < end {
            let reserves = Sysctl::set("/proc/sys/vm/min_free_kbytes", 60 << 10);
            std::thread::sleep(Duration::from_millis(100));
            drop(reserves);
            std::thread::sleep(Duration::from_millis(300));
        }
    }
    let (_, seen) = watch.stop();
    let slept = seen.vmstat("pgscan_direct_throttle");
    let n = seen.records(&exit.name).len() as f64;
    assert!(slept >= 1.0 && n >= slept, "nobody slept: {slept} by vmstat, {n} entries");
    let seconds = seen.went_up("memsensor_pfmemalloc_throttle_seconds_total", &[]);
    let traced = seen.seconds_inside(&entry.name, &exit.name, tid);
    // Only who slept counts. The trace has also those who passed, each with the cost of tracing a
    // function, which in an emulated guest is some 40 us; and who slept waits twice for a CPU.
    let cost = (n - slept).max(0.0) * 100e-6 + slept * 0.002;
    let right = seconds > (traced - cost) * 0.5 && seconds < traced * 1.1 + 0.001;
    assert!(right, "{seconds} s asleep, the kernel traced {traced} s inside, {n} entries");
    let stalled = seen.went_up("memsensor_stall_seconds_total", &["cause=\"throttle\""]);
    assert!(stalled + 1e-6 >= seconds, "{seconds} s asleep, {stalled} s stalled");
    let detail = format!("{slept} sleeps by vmstat, {seconds:.2} s");
    cell("pfmemalloc_throttle", "verified", &detail);
}

#[test]
fn processes() {
    if is_missing("processes") {
        return;
    }
    let scope = Scope::new("holder", 64 * MIB).expect("scope");
    let mut hog = scope.command(program("hog").expect("hog"));
    let mut hog = hog.args(["anon", "32", "hold"]).stdout(Stdio::piped()).spawn().expect("hog");
    let daemon = Daemon::start("").expect("daemon");
    let end = Instant::now() + PATIENCE;
    let (found, told) = loop {
        let (said, _) = daemon.ask(&["top", "--json", "--most", "100"]).expect("top");
        let top: Top = serde_json::from_str(&said).expect("JSON");
        assert!(!top.who.from_proc, "{said}");
        let found = top.who.processes.into_iter().find(|p| p.pid == hog.id());
        match found.filter(|p| p.own_bytes >= 28 * MIB) {
            Some(found) => break (found, top.who.seen),
            None => assert!(Instant::now() < end, "never told whole: {said}"),
        }
        std::thread::sleep(Duration::from_millis(500));
    };
    let status = procfs::process::Process::new(hog.id().cast_signed()).and_then(|p| p.status());
    let status = status.expect("its status");
    let resident = status.rssanon.unwrap_or_default() + status.rssshmem.unwrap_or_default();
    hog.kill().expect("kill");
    hog.wait().expect("wait");
    // Before 6.2 each counter lags by up to 64 pages, since then by a batch for each processor.
    assert!(found.own_bytes.abs_diff(resident * 1024) <= MIB, "{found:?}, {resident} KiB by /proc");
    assert_eq!(found.cgroup, scope.id().expect("id"));
    let mib = found.own_bytes as f64 / MIB as f64;
    cell("processes", "verified", &format!("{told} processes, one of them with {mib:.1} MiB"));
}

#[test]
fn cgroups() {
    if is_missing("cgroups") {
        return;
    }
    let watch = Watch::start(&["cgroup:cgroup_mkdir", "cgroup:cgroup_rmdir"]);
    for i in 0..20 {
        let scope = Scope::new(&format!("named{i}"), 16 * MIB).expect("scope");
        if i == 19 {
            let mut limited = scope.command(program("hog").expect("hog"));
            limited.args(["--adj", "500", "anon", "32"]).status().expect("hog");
        }
    }
    let kills = watch.daemon.wait_for_events(1, |w| matches!(w, What::OomKill { .. }));
    let (_, seen) = watch.stop();
    let table = fs::read_to_string("/proc/cgroups").expect("/proc/cgroups");
    // 7.3 lists only what is on a v1 hierarchy.
    let line = table.lines().find(|l| l.starts_with("memory\t")).unwrap_or("memory\t0");
    let hierarchy: f64 = line.split('\t').nth(1).and_then(|id| id.parse().ok()).expect("its id");
    let ours = |r: &Record| f64::from(u8::from(field("root")(r) == hierarchy));
    let made = seen.assert_between("memsensor_cgroups_created_total", &[], "cgroup_mkdir", ours);
    let gone = seen.assert_between("memsensor_cgroups_removed_total", &[], "cgroup_rmdir", ours);
    assert!(made >= 20.0 && gone >= 20.0, "{made} made, {gone} removed");
    let What::OomKill { victim, .. } = &kills.expect("the kill")[0].what else { panic!() };
    let path = victim.cgroup.as_deref().unwrap_or_default();
    assert!(path.ends_with("-named19"), "{path:?}");
    cell("cgroups", "verified", &format!("{made} made, {gone} removed, and a kill's by name"));
}
