//! The verdict with the whole guest under pressure: the night of the story, in small.

use std::time::{Duration, Instant};

use sensor_tests::support::daemon::Daemon;

use super::{
    enter, note,
    pressure::{SlowSwap, swap_thrash},
};

/// Longer than any window, and an emulated guest's patience.
const BACK: Duration = Duration::from_secs(90);

#[test]
fn a_thrashing_host_is_drained_and_comes_back() {
    enter();
    let daemon = Daemon::judging("[verdict]\nrecover_after = \"5s\"\nrise_per_second = 0.2\n");
    let daemon = daemon.expect("daemon");
    // It begins with what the kernel remembers, and what ran before was no calm.
    wait_until_ready(&daemon);
    let slow = SlowSwap::new();
    std::thread::scope(|scope| {
        let thrash = scope.spawn(|| swap_thrash(2, 30));
        let started = Instant::now();
        let (mut drained, mut worst) = (None, String::new());
        while !thrash.is_finished() {
            if daemon.agent_check("").is_ok_and(|line| line == "up 0%\n") {
                drained = Some(started.elapsed());
                break;
            }
            if started.elapsed() > Duration::from_secs(20) && worst.is_empty() {
                worst = daemon.ask(&["explain"]).expect("explain").0;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let drained = drained.unwrap_or_else(|| panic!("never drained: {worst}"));
        let answer = daemon.get("/readyz", "").expect("readyz");
        let (why, _) = daemon.ask(&["explain"]).expect("explain");
        assert!(answer.status == 503, "{why}");
        note(&format!("drained after {:.1} s: {}", drained.as_secs_f64(), answer.body.trim()));
    });
    drop(slow);
    note(&format!("back after {:.1} s of calm", wait_until_ready(&daemon).as_secs_f64()));
}

fn wait_until_ready(daemon: &Daemon) -> Duration {
    let calm = Instant::now();
    while daemon.agent_check("").expect("agent") != "up 100%\n" {
        let (why, _) = daemon.ask(&["explain"]).expect("explain");
        assert!(calm.elapsed() < BACK, "not ready: {why}");
        std::thread::sleep(Duration::from_millis(200));
    }
    calm.elapsed()
}
