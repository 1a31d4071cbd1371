//! Files and names of cgroups. The first byte selects the reader: `1` and `2` memory.stat of v1 and
//! v2, `n` a number, `e` events, `w` a path as that of a workload, `d` a directory of a pod's logs
//! and a uid, `g` a pattern and a path, each on a line.
#![no_main]

use libfuzzer_sys::{Corpus, fuzz_target};
use sensor_core::{common::text::is_at_or_below, model::workload::WorkloadId};
use sensor_fuzz::assert_printable;
use sensor_user::{
    fuzzing,
    host::{
        cgroup::{
            files::{MemoryStat, parse_bytes, parse_populated},
            path,
        },
        proc_file::numbers,
    },
};

fuzz_target!(|data: &[u8]| -> Corpus {
    let Some((reader, content)) = data.split_first() else { return Corpus::Reject };
    let mut bytes = content.to_vec();
    let text = fuzzing::text(&mut bytes);
    let (first, second) = text.split_once('\n').unwrap_or((text, ""));
    match reader {
        b'1' | b'2' => drop(MemoryStat::parse(text, *reader == b'1')),
        b'n' => {
            assert!(parse_bytes(text).is_none_or(|bytes| bytes < u64::MAX / 4), "a limit");
        }
        b'e' => drop((parse_populated(text), numbers(text, ["oom_kill", "max", "under_oom"]))),
        b'w' => workload(text),
        b'd' => {
            if let Some(name) = fuzzing::pod_name(first, second) {
                assert!(name.contains('/'));
                // JSON and terminals escape C0 themselves.
                assert_printable(&name.replace(|c: char| c < ' ', ""));
            }
        }
        b'g' => pattern(first, second),
        _ => return Corpus::Reject,
    }
    Corpus::Keep
});

/// The parts of a workload are parts of its path, and a path that is accepted has the kernel's form.
fn workload(text: &str) {
    let WorkloadId { unit, container, pod, .. } = WorkloadId::of(text);
    for part in [unit, container].into_iter().flatten() {
        assert!(!part.is_empty() && text.contains(&part));
    }
    assert!(pod.is_none_or(|uid| uid.len() >= 32));
    if path::check(text).is_ok() {
        assert!(text.starts_with('/') && !text.ends_with('/') && !text.contains("//"));
    }
}

fn pattern(pattern: &str, path: &str) {
    let Some((matches, deepest)) = fuzzing::pattern(pattern, path) else { return };
    if let Some(deepest) = deepest {
        assert!(is_at_or_below(path, deepest));
    }
    if matches && path.starts_with('/') && !path.ends_with('/') {
        assert_eq!(deepest, Some(path));
    }
}
