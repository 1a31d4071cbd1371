//! Segments of a record, which may be another host's: they are read, and what was read is made into
//! every output of `memsensor history`, `events --since` and `postmortem`. The first byte selects the form: `s` a
//! segment as it is, `f` frames of a kind, a length and a payload each, which get a right checksum so
//! that the payloads reach their decoders.
#![no_main]

use libfuzzer_sys::{Corpus, fuzz_target};
use sensor_core::record::{
    codec::Decoder,
    content::Content,
    frame::{Frame, Frames, RecordTime},
};
use sensor_core::verdict::policy::Policy;
use sensor_fuzz::assert_printable;
use sensor_user::{
    cli::past::events,
    history::{
        output::{self, Form},
        series::series,
        timeline::Timeline,
    },
    postmortem::{document, incident::Wanted, report::report},
    recorder::archive::Entry,
};

fuzz_target!(|data: &[u8]| -> Corpus {
    match data.split_first() {
        Some((b's', segment)) => read(segment),
        Some((b'f', frames)) => read(&framed(frames)),
        _ => return Corpus::Reject,
    }
    Corpus::Keep
});

/// Frames whose payloads are parts of `bytes`.
fn framed(mut bytes: &[u8]) -> Vec<u8> {
    let mut segment = Vec::new();
    let mut n = 0;
    while let [kind, len, clock, rest @ ..] = bytes {
        let (payload, rest) = rest.split_at(usize::from(*len).min(rest.len()));
        n += i64::from(clock.cast_signed());
        let boot = [*clock & 1; 16];
        let time = RecordTime { boot, boottime_ns: n.unsigned_abs() << 30, wall_ns: n << 30 };
        Frame { kind: *kind, version: 1, time, payload }.append(&mut segment);
        bytes = rest;
    }
    segment
}

fn read(segment: &[u8]) {
    let (mut frames, mut decoder) = (Frames::of(segment), Decoder::default());
    let (mut timeline, mut end) = (Timeline::default(), 0);
    for frame in frames.by_ref() {
        end += frame.size();
        match decoder.decode(&frame) {
            Ok(Content::Schema(schema)) => timeline.schema = schema,
            // As for the commands, which read up to now.
            Ok(content) if (0..1 << 61).contains(&frame.time.wall_ns) => {
                timeline.entries.push(Entry { time: frame.time, content });
            }
            Ok(_) => {}
            Err(reason) => drop(reason.to_string()),
        }
    }
    let lost = frames.damage().map_or(0, |damage| damage.lost_bytes);
    assert!(end == frames.offset() && end + lost <= segment.len());
    show(&timeline);
    explain(&timeline);
}

fn explain(timeline: &Timeline) {
    let Some(report) = report(timeline, Wanted::Whole, &Policy::default()) else { return };
    assert_printable(&document::markdown(&report));
    let page = document::page(&report);
    assert_eq!(page.matches("<code>").count(), page.matches("</code>").count());
    assert!(!page.contains("<script"), "{page}");
    serde_json::to_string(&report).expect("JSON");
}

fn show(timeline: &Timeline) {
    assert_printable(&events::text(timeline));
    for line in events::json_lines(timeline).lines() {
        serde_json::from_str::<serde_json::Value>(line).expect("JSON");
    }
    // Few steps: a fuzzer finds times that are centuries apart.
    let Some(series) = series(timeline, 1 << 40).filter(|all| all.len() < 100) else { return };
    assert_printable(&output::write(Form::Text, &series, &timeline.schema));
    let open_metrics = output::write(Form::OpenMetrics, &series, &timeline.schema);
    assert!(open_metrics.ends_with("# EOF\n"));
    let csv = output::write(Form::Csv, &series, &timeline.schema);
    let cells = |line: &str| line.split(',').count();
    let first = csv.lines().next().map_or(0, cells);
    assert!(csv.lines().all(|line| cells(line) == first), "{csv}");
    for line in output::write(Form::Json, &series, &timeline.schema).lines() {
        serde_json::from_str::<serde_json::Value>(line).expect("JSON");
    }
}
