//! The verdict with the whole guest under memory pressure.

use std::time::{Duration, Instant};

use sensor_tests::support::daemon::Daemon;

use super::{
    enter, note,
    pressure::{SlowSwap, SwapThrash},
};

/// Timeout of the recovery: longer than any window, on an emulated guest.
const BACK: Duration = Duration::from_secs(90);

#[test]
fn a_thrashing_host_is_overloaded_and_recovers() {
    enter();
    let daemon = Daemon::judging("[verdict]\nrecover_after = \"5s\"\nrise_per_second = 0.2\n");
    let daemon = daemon.expect("daemon");
    // The kernel's averages still contain earlier tests.
    wait_until_ready(&daemon);
    let slow = SlowSwap::new();
    let mut thrash = SwapThrash::start(2, 30);
    let started = Instant::now();
    let (mut overloaded, mut explanation) = (None, String::new());
    while thrash.is_running() {
        if daemon.agent_check("").is_ok_and(|line| line == "up 0%\n") {
            overloaded = Some(started.elapsed());
            break;
        }
        if started.elapsed() > Duration::from_secs(20) && explanation.is_empty() {
            explanation = daemon.ask(&["explain"]).expect("explain").0;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let overloaded = overloaded.unwrap_or_else(|| panic!("never overloaded: {explanation}"));
    let response = daemon.get("/readyz", "").expect("readyz");
    let (explanation, _) = daemon.ask(&["explain"]).expect("explain");
    assert!(response.status == 503, "{explanation}");
    note(&format!("overloaded after {:.1} s: {}", overloaded.as_secs_f64(), response.body.trim()));
    drop(thrash);
    drop(slow);
    note(&format!("ready again after {:.1} s of calm", wait_until_ready(&daemon).as_secs_f64()));
}

fn wait_until_ready(daemon: &Daemon) -> Duration {
    let calm = Instant::now();
    while daemon.agent_check("").expect("agent") != "up 100%\n" {
        let (explanation, _) = daemon.ask(&["explain"]).expect("explain");
        assert!(calm.elapsed() < BACK, "not ready: {explanation}");
        std::thread::sleep(Duration::from_millis(200));
    }
    calm.elapsed()
}
