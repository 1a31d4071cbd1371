//! What remains when the service is stopped and started again.

use std::time::{Duration, Instant};

use crate::service::{SERVICE, enter, http, measured, memsensor, property, systemctl};

/// `TimeoutStopSec=` of the unit.
const STOP_LIMIT: Duration = Duration::from_secs(10);

#[test]
fn a_drain_survives_a_stop_and_a_start() {
    enter();
    let (text, code) = memsensor(&["drain", "--reason", "disk swap"]);
    assert_eq!(code, Some(0), "{text}");
    let start = Instant::now();
    systemctl(&["stop", SERVICE]);
    let took = start.elapsed();
    measured(&format!("systemctl stop: {:.2} s", took.as_secs_f64()));
    assert!(took < STOP_LIMIT, "{took:?}");
    let ended = ["Result", "ExecMainCode", "ExecMainStatus"].map(property);
    assert_eq!(ended, ["success", "1", "0"], "it did not exit by itself");
    systemctl(&["start", SERVICE]);
    let answer = http("/readyz").body;
    assert!(answer.contains("\"drained\"") && answer.contains("disk swap"), "{answer}");
    // The daemon must be able to change it as well.
    assert_eq!(memsensor(&["undrain"]).1, Some(0));
    systemctl(&["restart", SERVICE]);
    let answer = http("/readyz").body;
    assert!(!answer.contains("\"drained\""), "{answer}");
}
