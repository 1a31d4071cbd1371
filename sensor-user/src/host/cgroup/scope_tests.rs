//! Tests of a scope's files, with an opener that serves each request at once.

use std::{fs, ops::Deref, path::PathBuf, sync::LazyLock};

use sensor_core::verdict::reading::Reading;

use super::{
    mounts::CgroupMounts,
    scope_files::{ScopeFiles, Unread},
    scope_opener::ScopeOpeners,
};

/// A scope whose requests are served at once.
struct Served(ScopeFiles, ScopeOpeners);

impl Served {
    fn new(memory: PathBuf, v1: bool, unified: PathBuf) -> Self {
        let mut openers = ScopeOpeners::new().expect("an eventfd");
        let mounts = CgroupMounts { memory, v1, unified: Some(unified) };
        Self(openers.add(mounts, "/a/web"), openers)
    }

    fn read(&mut self, reading: &mut Reading, host: &Reading) -> Result<(), Unread> {
        self.0.read(reading, host).or_else(|_| {
            self.1.serve(reading.at_ns);
            self.0.read(reading, host)
        })
    }
}

impl Deref for Served {
    type Target = ScopeFiles;

    fn deref(&self) -> &ScopeFiles {
        &self.0
    }
}

static HOST: LazyLock<Reading> = LazyLock::new(|| Reading {
    some_ns: Some(1),
    full_ns: Some(1),
    total_bytes: Some(1 << 30),
    available_bytes: Some(512 << 20),
    unused_bytes: Some(256 << 20),
    swap_free_bytes: Some(64 << 20),
    ..Reading::default()
});

/// The cgroup `/a/web` with these files.
fn scope_files(v1: bool, files: &[(&str, &str)]) -> (tempfile::TempDir, Served) {
    let dir = tempfile::tempdir().expect("a directory");
    fs::create_dir_all(dir.path().join("a/web")).expect("mkdir");
    for (name, text) in files {
        fs::write(dir.path().join("a/web").join(name), text).expect("write");
    }
    let root = dir.path().to_path_buf();
    let scope = Served::new(root.clone(), v1, root);
    (dir, scope)
}

const MIB: u64 = 1 << 20;

const PRESSURE: &str =
    "some avg10=0 avg60=0 avg300=0 total=7\nfull avg10=0 avg60=0 avg300=0 total=5\n";

const V1_FILES: [(&str, &str); 4] = [
    ("memory.usage_in_bytes", "5"),
    ("memory.limit_in_bytes", "9223372036854771712"),
    ("memory.stat", "total_cache 1\n"),
    ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n"),
];

#[test]
fn v2_is_read_and_bounded_by_the_host() {
    let stat = format!(
        "file {}\nshmem {}\nslab_reclaimable 0\nworkingset_refault_anon 2\n\
         workingset_refault_file 3\npgscan 100\npgsteal 50\n",
        30 * MIB,
        10 * MIB
    );
    let pressure = "some avg10=0 avg60=0 avg300=0 total=7\nfull avg10=0 avg60=0 avg300=0 total=5\n";
    let (_dir, mut scope) = scope_files(
        false,
        &[
            ("memory.current", &(80 * MIB).to_string()),
            ("memory.max", &(100 * MIB).to_string()),
            ("memory.high", "max"),
            ("memory.swap.current", "0"),
            ("memory.swap.max", "max"),
            ("memory.stat", &stat),
            ("memory.events", "low 0\nhigh 0\nmax 9\noom 2\noom_kill 1\n"),
            ("memory.pressure", pressure),
        ],
    );
    let mut reading = Reading::default();
    scope.read(&mut reading, &HOST).expect("reads");
    assert_eq!(reading.total_bytes, Some(100 * MIB));
    assert_eq!(reading.available_bytes, Some(40 * MIB), "20 free, 20 of reclaimable cache");
    assert_eq!(reading.unused_bytes, Some(20 * MIB));
    assert_eq!(reading.swap_free_bytes, Some(64 * MIB), "the host's");
    assert_eq!(reading.full_ns, Some(5000));
    assert_eq!(reading.oom_kills, Some(0), "earlier kills do not count");
    assert_eq!(reading.refaulted_bytes, Some(5 * rustix::param::page_size() as u64));
    assert_eq!((reading.scanned_pages, reading.reclaimed_pages), (Some(100), Some(50)));
}

#[test]
fn v1_limits_memory_and_swap_together() {
    let stat = format!(
        "cache 1\nshmem 1\ntotal_cache {}\ntotal_shmem {}\ntotal_workingset_refault_file 3\n",
        15 * MIB,
        5 * MIB
    );
    let (dir, mut scope) = scope_files(
        true,
        &[
            ("memory.usage_in_bytes", &(80 * MIB).to_string()),
            ("memory.limit_in_bytes", &(100 * MIB).to_string()),
            ("memory.memsw.usage_in_bytes", &(90 * MIB).to_string()),
            ("memory.memsw.limit_in_bytes", &(120 * MIB).to_string()),
            ("memory.stat", &stat),
            ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n"),
        ],
    );
    let mut reading = Reading::default();
    scope.read(&mut reading, &HOST).expect("reads");
    assert_eq!(reading.swap_free_bytes, Some(10 * MIB), "30 of both, 20 of them memory");
    assert_eq!(reading.oom_kills, Some(0));
    assert_eq!(
        reading.available_bytes,
        Some(30 * MIB),
        "20 free, 10 of cache including descendants"
    );
    assert_eq!(reading.full_ns, None, "PSI cannot be read");
    let write = |name: &str, text: &str| {
        fs::write(dir.path().join("a/web").join(name), text).expect("write");
    };
    for (counter, so_far) in [(6, 2), (6, 2), (0, 2), (1, 3), (2, 4)] {
        write("memory.oom_control", &format!("under_oom 0\noom_kill {counter}\n"));
        scope.read(&mut reading, &HOST).expect("reads");
        assert_eq!(reading.oom_kills, Some(so_far), "a new cgroup starts at 0");
    }
    write("memory.limit_in_bytes", "9223372036854771712");
    write("memory.memsw.limit_in_bytes", "9223372036854771712");
    scope.read(&mut reading, &HOST).expect("reads");
    assert_eq!(reading.total_bytes, HOST.total_bytes, "no limit but the host's size");
    assert_eq!(reading.swap_free_bytes, HOST.swap_free_bytes);
}

/// The kernel's file fails for a while, e.g. with ENOMEM.
#[test]
fn a_file_that_fails_leaves_only_its_part_empty() {
    let (dir, mut scope) = scope_files(true, &V1_FILES);
    let at = |name: &str| dir.path().join("a/web").join(name);
    let ancestor = [("memory.usage_in_bytes", "5"), ("memory.limit_in_bytes", "4096")];
    for (name, text) in ancestor.into_iter().chain([("memory.stat", "total_cache 1\n")]) {
        fs::write(dir.path().join("a").join(name), text).expect("write");
    }
    fs::write(at("cgroup.events"), "populated 1\n").expect("write");
    for name in ["memory.pressure", "io.pressure"] {
        fs::write(at(name), PRESSURE).expect("write");
    }
    let too_long = "x".repeat(10 << 20);
    let read = |scope: &mut Served| {
        let mut reading = Reading::default();
        scope.read(&mut reading, &HOST).expect("the cgroup exists");
        let Reading { full_ns, io_full_ns, oom_kills, total_bytes, .. } = reading;
        [full_ns, io_full_ns, oom_kills, total_bytes].map(|value| value.is_some())
    };
    assert_eq!(read(&mut scope), [true; 4]);
    for (name, expected) in [
        ("memory.pressure", [false, true, true, true]),
        ("io.pressure", [true, false, true, true]),
        ("memory.oom_control", [true, true, false, true]),
        ("memory.usage_in_bytes", [true, true, true, false]),
        ("memory.stat", [true, true, true, false]),
        // Without it the limit would seem to be the host's memory.
        ("../memory.limit_in_bytes", [true, true, true, false]),
    ] {
        let content = fs::read_to_string(at(name)).expect("read");
        fs::write(at(name), &too_long).expect("write");
        assert_eq!(read(&mut scope), expected, "{name}");
        let failure = scope.failure().map(|e| format!("{e:#}")).expect("a reason");
        assert!(failure.contains(name.trim_start_matches("../")), "{failure}");
        fs::write(at(name), content).expect("write");
        assert_eq!(read(&mut scope), [true; 4], "{name} can be read again");
        assert!(scope.failure().is_none());
    }
    // The host's memory is a limit too.
    let mut reading = Reading::default();
    scope.read(&mut reading, &Reading::default()).expect("reads");
    assert_eq!((reading.total_bytes, reading.full_ns), (None, Some(5000)));
}

#[test]
fn limits_of_ancestors_bound_a_cgroup() {
    let files_of = |dir: &str, max: &str, high: &str, current: u64, swap: &str| {
        [
            (format!("{dir}memory.max"), max.to_owned()),
            (format!("{dir}memory.high"), high.to_owned()),
            (format!("{dir}memory.current"), (current * MIB).to_string()),
            (format!("{dir}memory.stat"), "file 0\n".to_owned()),
            (format!("{dir}memory.swap.current"), "0".to_owned()),
            (format!("{dir}memory.swap.max"), swap.to_owned()),
        ]
    };
    let mib = |n: u64| (n * MIB).to_string();
    for (limit, own, parent, total, available, swap) in [
        ("none", ["max", "max", "max"], ["max", "max", "max"], 1024, 512, 64),
        ("its own", [&mib(200), "max", &mib(9)], ["max", "max", "max"], 200, 120, 9),
        ("high", [&mib(200), &mib(100), "max"], ["max", "max", "max"], 100, 20, 64),
        ("the parent's", [&mib(200), "max", "max"], [&mib(150), "max", &mib(5)], 150, 30, 5),
    ] {
        let files = [
            files_of("", own[0], own[1], 80, own[2]),
            files_of("../", parent[0], parent[1], 120, parent[2]),
        ]
        .concat();
        let files: Vec<_> = files.iter().map(|(n, t)| (n.as_str(), t.as_str())).collect();
        let (_dir, mut scope) = scope_files(false, &files);
        let mut reading = Reading::default();
        scope.read(&mut reading, &HOST).expect("reads");
        let headroom = [reading.total_bytes, reading.available_bytes, reading.swap_free_bytes];
        let expected = [total, available, swap].map(|n| Some(n * MIB));
        assert_eq!(headroom, expected, "limit: {limit}");
    }
}

#[test]
fn huge_pages_that_are_charged_do_not_count() {
    let stat = format!("file 0\nhugetlb {}\n", 60 * MIB);
    let (_dir, mut scope) = scope_files(
        false,
        &[
            ("memory.max", &(100 * MIB).to_string()),
            ("memory.high", "max"),
            ("memory.current", &(80 * MIB).to_string()),
            ("memory.stat", &stat),
        ],
    );
    let mut reading = Reading::default();
    scope.read(&mut reading, &HOST).expect("reads");
    assert_eq!(reading.total_bytes, Some(40 * MIB));
    assert_eq!(reading.available_bytes, Some(20 * MIB));
}

#[test]
fn a_missing_cgroup_is_an_error_with_its_path() {
    for v1 in [false, true] {
        let (dir, mut scope) = scope_files(v1, &[]);
        fs::remove_dir(dir.path().join("a/web")).expect("rmdir");
        let error = scope.read(&mut Reading::default(), &HOST).expect_err("nothing to read");
        assert!(error.reason.contains("a/web/memory."), "{error:?}");
    }
}

#[test]
fn a_cgroup_without_the_memory_controller_is_measured_by_its_psi() {
    let (dir, mut scope) = scope_files(false, &[("memory.pressure", PRESSURE)]);
    for (name, text) in [
        ("a/memory.max", (100 * MIB).to_string()),
        ("a/memory.high", "max".to_owned()),
        ("a/memory.current", (30 * MIB).to_string()),
        ("a/memory.stat", "file 0\n".to_owned()),
    ] {
        fs::write(dir.path().join(name), text).expect("write");
    }
    let mut reading = Reading::default();
    scope.read(&mut reading, &HOST).expect("reads");
    assert_eq!((reading.full_ns, reading.refaulted_bytes), (Some(5000), None));
    assert_eq!(reading.total_bytes, Some(100 * MIB), "the parent's limit");
    assert!(!scope.lacks_psi());
}

#[test]
fn a_missing_controller_is_named_with_the_remedy() {
    for (controllers, remedy) in
        [("cpu io memory pids", "cgroup.subtree_control"), ("cpu pids", "cgroup_disable=memory")]
    {
        let (dir, mut scope) = scope_files(false, &[]);
        fs::write(dir.path().join("cgroup.controllers"), controllers).expect("write");
        let error = scope.read(&mut Reading::default(), &HOST).expect_err("no PSI").reason;
        assert!(error.contains("memory controller") && error.contains(remedy), "{error}");
        assert!(error.contains("/a/web"), "{error}");
    }
}

/// The v1 cgroup `/a/web`, and the v2 cgroup with the same path and these events.
fn hybrid(events: &str) -> (tempfile::TempDir, Served) {
    let (dir, _) = scope_files(true, &V1_FILES);
    let unified = dir.path().join("unified");
    fs::create_dir_all(unified.join("a/web")).expect("mkdir");
    for name in ["memory.pressure", "io.pressure"] {
        fs::write(unified.join("a/web").join(name), PRESSURE).expect("write");
    }
    fs::write(unified.join("a/web/cgroup.events"), events).expect("write");
    let scope = Served::new(dir.path().to_path_buf(), true, unified);
    (dir, scope)
}

#[test]
fn psi_of_a_v2_twin_counts_only_while_processes_are_in_it() {
    let (dir, mut scope) = hybrid("populated 0\nfrozen 0\n");
    for (events, expected) in [
        ("populated 0\nfrozen 0\n", None),
        ("populated 1\nfrozen 0\n", Some(5000)),
        ("populated 0\nfrozen 0\n", None),
    ] {
        fs::write(dir.path().join("unified/a/web/cgroup.events"), events).expect("write");
        let mut reading = Reading::default();
        scope.read(&mut reading, &HOST).expect("reads");
        assert_eq!((reading.full_ns, reading.io_full_ns), (expected, expected), "{events}");
        assert_eq!(scope.lacks_psi(), expected.is_none());
    }
}

#[test]
fn descendants_are_listed_only_without_psi() {
    for (events, ids) in [("populated 1\n", 1), ("populated 0\n", 2)] {
        let (dir, mut scope) = hybrid(events);
        fs::create_dir(dir.path().join("a/web/worker")).expect("mkdir");
        scope.read(&mut Reading::default(), &HOST).expect("reads");
        assert_eq!(scope.ids().len(), ids, "{events}");
    }
}

/// With `oom_kill_disable`, tasks at the limit sleep until memory is free.
#[test]
fn time_out_of_memory_without_a_kill_is_stalled_time() {
    let (dir, mut scope) = hybrid("populated 1\n");
    let mut seconds = 0;
    let mut read = |under_oom: u32| {
        let text = format!("oom_kill_disable 1\nunder_oom {under_oom}\noom_kill 0\n");
        fs::write(dir.path().join("a/web/memory.oom_control"), text).expect("write");
        seconds += 1;
        let mut reading = Reading { at_ns: seconds * 1_000_000_000, ..Reading::default() };
        scope.read(&mut reading, &HOST).expect("reads");
        (reading.full_ns, scope.hang_ns())
    };
    for (under_oom, hung_seconds) in [(0, 0), (1, 0), (1, 1), (1, 2), (0, 2), (1, 2), (1, 3)] {
        let hang_ns = hung_seconds * 1_000_000_000;
        assert_eq!(read(under_oom), (Some(5000 + hang_ns), hang_ns));
    }
}
