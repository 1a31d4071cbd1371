//! `memsensor events --since`: what happened, in order, across restarts and boots: kills and commands
//! of operators as in `memsensor events`, changes of state, starts and ends of the daemon, and losses.

use std::{fmt::Write as _, path::Path, time::SystemTime};

use anyhow::Result;
use sensor_core::{
    common::text::Sentence,
    record::content::{Answer, Content, Life, Missing},
};
use serde_json::{Value, json};

use super::part::{self, Range};
use crate::{
    cli::format::event as show_event,
    history::{timeline::Timeline, times},
    recorder::{archive::Entry, changes},
};

/// The events of a part of a record, as text or as JSON.
pub fn read(dir: &Path, since: &str, until: &str, json: bool) -> Result<String> {
    let range = Range::parse(since, until, SystemTime::now())?;
    let timeline = part::read(dir, range)?;
    Ok(if json { json_lines(&timeline) } else { text(&timeline) })
}

/// One line per event.
pub fn text(timeline: &Timeline) -> String {
    let mut out = String::new();
    let mut lives = Lives::default();
    for entry in &timeline.entries {
        for line in lines(entry, &mut lives) {
            let _ = writeln!(out, "{line}");
        }
    }
    if out.is_empty() { "nothing happened between these times\n".to_owned() } else { out }
}

/// One JSON object per event.
pub fn json_lines(timeline: &Timeline) -> String {
    let mut out = String::new();
    for object in timeline.entries.iter().filter_map(object) {
        let _ = writeln!(out, "{object}");
    }
    out
}

/// The last start and the last boot that were seen.
#[derive(Debug, Default)]
struct Lives {
    boot: Option<[u8; 16]>,
    is_running: bool,
}

fn lines(entry: &Entry, lives: &mut Lives) -> Vec<String> {
    let mut all = Vec::new();
    let time = times::rfc3339(entry.time.wall_ns);
    let is_new_boot = lives.boot.replace(entry.time.boot).is_some_and(|b| b != entry.time.boot);
    if is_new_boot {
        let lost = if lives.is_running { "; memsensor had not ended in order" } else { "" };
        all.push(format!("{time}  the host was booted{lost}"));
        lives.is_running = false;
    }
    let text = match &entry.content {
        Content::Event(event) => {
            all.push(show_event::line(event));
            return all;
        }
        Content::Change(change) => changes::line(change, None),
        Content::Life(Life::Started { pid }) => {
            let lost =
                if lives.is_running { "; the one before had not ended in order" } else { "" };
            lives.is_running = true;
            format!("memsensor started as process {pid}{lost}")
        }
        Content::Life(Life::Ended) => {
            lives.is_running = false;
            "memsensor ended".to_owned()
        }
        Content::Missing(missing) => missing_text(missing),
        Content::Answer(Answer { client, scope, protocol, state, weight }) => {
            format!("{client} was answered for {scope} by {protocol}: {state}, weight {weight}")
        }
        Content::Look(_) | Content::Usage(_) | Content::Schema(_) => return all,
    };
    all.push(format!("{time}  {}", Sentence(&text)));
    all
}

fn missing_text(missing: &Missing) -> String {
    let Missing { records: [looks, scans, others], because } = missing;
    format!("missing: {looks} looks, {scans} scans, {others} other entries: {because}")
}

/// An entry as JSON; events are as `memsensor events --json` prints them.
fn object(entry: &Entry) -> Option<Value> {
    let with = |name: &str, value: Value| {
        let mut object = json!({ "event": name, "time": times::rfc3339(entry.time.wall_ns) });
        if let (Some(object), Value::Object(fields)) = (object.as_object_mut(), value) {
            object.extend(fields);
        }
        Some(object)
    };
    match &entry.content {
        Content::Event(event) => serde_json::to_value(event).ok(),
        Content::Change(change) => with("state_change", serde_json::to_value(change).ok()?),
        Content::Life(Life::Started { pid }) => with("daemon_started", json!({ "pid": pid })),
        Content::Life(Life::Ended) => with("daemon_ended", json!({})),
        Content::Missing(missing) => with("record_missing", serde_json::to_value(missing).ok()?),
        Content::Answer(answer) => with("answer", serde_json::to_value(answer).ok()?),
        Content::Look(_) | Content::Usage(_) | Content::Schema(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use sensor_core::{
        record::{
            content::{Change, Look},
            frame::RecordTime,
        },
        verdict::state::VerdictState,
    };

    use super::*;

    fn timeline(contents: Vec<(u8, Content)>) -> Timeline {
        let entry = |(n, (boot, content)): (i64, _)| Entry {
            time: RecordTime {
                boot: [boot; 16],
                boottime_ns: 0,
                wall_ns: 1_764_299_520_000_000_000 + n * 1_000_000_000,
            },
            content,
        };
        let entries = (0..).zip(contents).map(entry).collect();
        Timeline { entries, ..Timeline::default() }
    }

    fn change() -> Content {
        Content::Change(Change {
            scope: "host\u{1b}[2J".into(),
            from: VerdictState::Ready,
            to: VerdictState::Overloaded,
            weight: 0.0,
            rules: Vec::new(),
        })
    }

    #[test]
    fn starts_ends_and_boots_have_lines_of_their_own() {
        let started = |pid| Content::Life(Life::Started { pid });
        let timeline = timeline(vec![
            (1, started(7)),
            (1, change()),
            (1, started(8)),
            (1, Content::Life(Life::Ended)),
            (1, started(9)),
            (2, Content::Look(Look::default())),
            (2, started(5)),
        ]);
        let text = text(&timeline);
        let expected = [
            "2025-11-28T03:12:00.000Z  memsensor started as process 7",
            "2025-11-28T03:12:01.000Z  host\\u{1b}[2J: ready -> overloaded, weight 0%",
            "2025-11-28T03:12:02.000Z  memsensor started as process 8; the one before had not ended in order",
            "2025-11-28T03:12:03.000Z  memsensor ended",
            "2025-11-28T03:12:04.000Z  memsensor started as process 9",
            "2025-11-28T03:12:05.000Z  the host was booted; memsensor had not ended in order",
            "2025-11-28T03:12:06.000Z  memsensor started as process 5",
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
        let json = json_lines(&timeline);
        let second: Value =
            serde_json::from_str(json.lines().nth(1).expect("a line")).expect("JSON");
        assert_eq!(
            (&second["event"], &second["to"]),
            (&json!("state_change"), &json!("overloaded"))
        );
        assert_eq!(json.lines().count(), 6, "{json}");
    }
}
