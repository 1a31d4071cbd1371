//! A unit that exceeds its memory limit.

use sensor_core::model::event::{Event, EventKind};
use sensor_tests::support::scope::program;

use crate::service::{enter, memsensor, run, systemctl, wait_until};

#[test]
fn a_kill_in_a_unit_is_an_event_with_its_name() {
    enter();
    let hog = program("hog").expect("hog");
    let hog = hog.to_str().expect("UTF-8");
    let unit = ["--unit=greedy", "--property=MemoryMax=32M", "--property=MemorySwapMax=0"];
    let (text, code) = run("systemd-run", &[&unit[..], &["--wait", hog, "anon", "128"]].concat());
    assert_ne!(code, Some(0), "it was not killed: {text}");
    let kill = || {
        let (text, code) = memsensor(&["events", "--json"]);
        assert_eq!(code, Some(0), "{text}");
        let events = text.lines().map(|line| serde_json::from_str::<Event>(line).expect(line));
        let mut kills = events.filter_map(|event| match event.kind {
            EventKind::OomKill { victim, .. } if victim.comm == "hog" => Some(victim),
            _ => None,
        });
        kills.next()
    };
    wait_until("an event", || kill().is_some());
    let victim = kill().expect("an event");
    assert_eq!(victim.workload.unit.as_deref(), Some("greedy.service"), "{victim:?}");
    let (text, code) = memsensor(&["event"]);
    assert!(code == Some(0) && text.contains("greedy.service"), "{text}");
    systemctl(&["reset-failed"]);
}
