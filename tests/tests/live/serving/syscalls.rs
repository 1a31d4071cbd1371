//! The threads that sense and answer make only system calls that cannot block them.

use std::{collections::BTreeMap, time::Duration};

use sensor_tests::lab::syscalls::run;

/// `cargo xtask thrash --syscalls` is the long form.
#[test]
fn sensing_and_answering_make_only_listed_system_calls() {
    let verdict = run::run(Duration::from_secs(8)).expect("a trace");
    let mut kinds = BTreeMap::<_, (usize, _)>::new();
    for (thread, call) in &verdict.violations {
        kinds.entry((thread, &call.name)).or_insert((0, call)).0 += 1;
    }
    assert!(kinds.is_empty(), "calls that are not on the list: {kinds:#?}");
    // Both threads worked, and both were traced.
    for call in [
        ("sense", "bpf"),
        ("sense", "pread64"),
        ("sense", "ppoll"),
        ("memsensor", "accept4"),
        ("memsensor", "epoll_wait"),
    ] {
        let count = verdict.counts.get(&(call.0, call.1.to_owned())).copied().unwrap_or_default();
        assert!(count >= 20, "{call:?}: {count} of {:#?}", verdict.counts);
    }
    println!("{:?}; {} waits for malloc", verdict.counts, verdict.malloc_waits);
}
