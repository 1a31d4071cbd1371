//! Records of the kernel. The first byte selects the reader: `e` an event of the ring buffer, `c`
//! records on cgroups, each as long as the longest kind, `k` records of the kernel log, separated by
//! NUL.
#![no_main]

use libfuzzer_sys::{Corpus, fuzz_target};
use sensor_core::model::event::{Event, EventKind};
use sensor_ebpf::event::CgroupMade;
use sensor_fuzz::assert_printable;
use sensor_user::{
    cgroups::path_cache::CgroupPathCache, cli::format::event as show_event, fuzzing,
    oom::decode::decode,
};

fuzz_target!(|data: &[u8]| -> Corpus {
    match data.split_first() {
        Some((b'e', record)) => event(record),
        Some((b'c', records)) => cgroups(records),
        Some((b'k', records)) => kernel_log(records),
        _ => return Corpus::Reject,
    }
    Corpus::Keep
});

/// An event is printed and sent as JSON, which a client reads.
fn event(record: &[u8]) {
    let Some((_, kind)) = decode(record, 4096, "b") else { return };
    let json = serde_json::to_string(&kind).expect("an event becomes JSON");
    assert_printable(&json);
    let read: EventKind = serde_json::from_str(&json).expect("a client can read the JSON");
    // serde_json may round the last digit of a float.
    if !matches!(kind, EventKind::VictimExit { .. }) {
        assert_eq!(read, kind);
    }
    let event = Event { id: "b-1".into(), seq: 1, time: String::new(), kind, report: None };
    assert_printable(&show_event::line(&event));
    assert_printable(&show_event::report(&event));
}

fn cgroups(records: &[u8]) {
    let mut cache = CgroupPathCache::default();
    for record in records.chunks(size_of::<CgroupMade>()) {
        cache.apply(record);
        let id = record.get(8..16).and_then(|id| id.try_into().ok()).map(u64::from_ne_bytes);
        if let Some(path) = id.and_then(|id| cache.path(id)) {
            // JSON and terminals escape C0 themselves.
            assert_printable(&path.replace(|c: char| c < ' ', ""));
        }
    }
}

fn kernel_log(records: &[u8]) {
    let records = String::from_utf8_lossy(records);
    let kills = fuzzing::kernel_log(records.split('\0'));
    assert!(kills.len() <= fuzzing::MAX_PENDING);
    for kill in kills {
        assert!(kill.memcg.is_none_or(|path| path.starts_with('/')));
    }
}
