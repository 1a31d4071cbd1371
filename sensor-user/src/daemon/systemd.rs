//! Tells the supervisor (systemd, sd_notify(3)) that we are ready, and that we are alive: if a loop stands
//! still for long, it starts us anew.
//!
//! On a thread of its own: a supervisor that thrashes itself takes no messages, and who sends one waits.

use std::time::Duration;

use sd_notify::NotifyState;
use tracing::warn;

use crate::{
    deadlines::LoopLags,
    host::clock::monotonic_ns,
    sense::{Published, Wake},
};

/// How often we look whether there is something to tell, without a watchdog.
const LOOK: Duration = Duration::from_secs(1);

/// Whether anybody wants to be told.
pub fn is_wanted() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// Says ready at the first sample, and alive as long as both loops are, until told to stop.
pub fn tell(deadlines: &LoopLags, published: &Published, wake: &Wake) {
    let patience = sd_notify::watchdog_enabled();
    let mut ready = false;
    while !wake.is_stopped() {
        if !ready && published.load().is_some() {
            ready = send(NotifyState::Ready);
        }
        let since = |patience: Duration| {
            let patience = u64::try_from(patience.as_nanos()).unwrap_or(u64::MAX);
            monotonic_ns().saturating_sub(patience / 2)
        };
        if ready && patience.is_some_and(|patience| deadlines.alive_since(since(patience))) {
            send(NotifyState::Watchdog);
        }
        // Of the two halves of its patience the first is ours, to see a loop that stands; so one that
        // stands is started anew within one and a half.
        wake.wait(patience.map_or(LOOK, |patience| (patience / 4).min(LOOK)));
    }
    send(NotifyState::Stopping);
}

fn send(state: NotifyState) -> bool {
    let sent = sd_notify::notify(&[state]);
    if let Err(e) = &sent {
        warn!("cannot tell the supervisor: {e}");
    }
    sent.is_ok()
}
