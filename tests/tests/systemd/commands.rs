//! What the service answers, and the commands of the README, as root.

use std::net::{Ipv4Addr, SocketAddr};

use sensor_tests::support::daemon::{agent_check, get, parse};

use crate::service::{AGENT, HTTP, enter, http, memsensor, wait_until};

#[test]
fn all_ports_answer() {
    enter();
    wait_until("ready", || http("/readyz").status == 200);
    let series = parse(&http("/metrics").body);
    assert!(series.len() > 50, "{series:?}");
    assert_eq!(series.get("memsensor_bpf_maps_readable{maps=\"counters\"}"), Some(&1.0));
    let line = agent_check(AGENT, "").expect("agent-check");
    assert!(line.starts_with("up 100%") || line.contains("100%"), "{line:?}");
    let events = SocketAddr::from((Ipv4Addr::LOCALHOST, 9819));
    assert_eq!(get(events, "/api/v1/events", "").expect("events").status, 200);
    assert_eq!(get(HTTP, "/api/v1/events", "").expect("an answer").status, 404);
}

#[test]
fn the_commands_of_the_readme_work() {
    enter();
    wait_until("ready", || http("/readyz").status == 200);
    let (text, code) = memsensor(&["check"]);
    assert!(code == Some(0) && text.starts_with("MEMSENSOR OK - host is ready"), "{text}");
    for args in [&["probes"][..], &["explain"], &["events"], &["config", "defaults"]] {
        let (text, code) = memsensor(args);
        assert_eq!(code, Some(0), "{args:?}: {text}");
    }
    let (text, _) = memsensor(&["probes"]);
    assert!(text.contains("probes attached"), "{text}");
    let (text, code) = memsensor(&["drain", "--reason", "kernel update", "--for", "30m"]);
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(http("/readyz").status, 503);
    let (text, code) = memsensor(&["undrain"]);
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(http("/readyz").status, 200);
}
