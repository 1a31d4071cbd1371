//! Notifies the supervisor (systemd, sd_notify(3)): ready at the first sample, alive as long as the
//! loops run, and the host's state for `systemctl status`. If a loop hangs, the supervisor's
//! watchdog restarts the daemon.
//!
//! Runs on a thread of its own: a supervisor that thrashes receives no messages, and the sender
//! blocks.

use std::{sync::Arc, time::Duration};

use sd_notify::NotifyState;
use sensor_core::{
    common::{clock::monotonic_ns, counter::nanos},
    model::readiness::TrafficHealth,
};
use tracing::warn;

use crate::{
    publish::{control::Shutdown, loop_lag::WATCHDOG},
    serve::state::app::AppState,
};

/// The index of the host among the scopes.
const HOST: usize = 0;

/// Time between two checks, without a watchdog.
const INTERVAL: Duration = Duration::from_secs(1);

/// The thread that notifies the supervisor.
#[derive(Debug)]
pub struct Supervisor {
    /// The first sample makes the daemon ready; the loops' times, and the state of the host.
    pub state: AppState,
    /// Ends the thread.
    pub shutdown: Arc<Shutdown>,
}

impl Supervisor {
    /// Whether there is a supervisor to notify.
    pub fn is_present() -> bool {
        std::env::var_os("NOTIFY_SOCKET").is_some()
    }

    /// The watchdog's time: the supervisor's, or that of the unit where there is none.
    pub fn watchdog() -> Duration {
        sd_notify::watchdog_enabled().unwrap_or(WATCHDOG)
    }

    /// Sends notifications until shutdown.
    pub fn run(self) {
        let watchdog = sd_notify::watchdog_enabled();
        let lags = &self.state.published.lags;
        let (mut ready, mut last_status) = (false, None);
        while !self.shutdown.is_requested() {
            if !ready && self.state.published.sample.load().is_some() {
                ready = send(&[NotifyState::Ready]);
            }
            // A hanging loop is detected after half of the watchdog's time at the latest, so the
            // restart comes after one and a half at the latest.
            let since = |time: Duration| monotonic_ns().saturating_sub(nanos(time) / 2);
            if ready && watchdog.is_some_and(|time| lags.alive_since(since(time))) {
                send(&[NotifyState::Watchdog]);
            }
            let status = status(self.state.health(HOST));
            if ready && last_status.as_ref() != Some(&status) {
                send(&[NotifyState::Status(&status)]);
                last_status = Some(status);
            }
            self.shutdown.wait(watchdog.map_or(INTERVAL, |time| (time / 4).min(INTERVAL)));
        }
        // systemd would show the last status of a stopped service.
        send(&[NotifyState::Stopping, NotifyState::Status("")]);
    }
}

/// The line in `systemctl status`.
fn status(health: TrafficHealth) -> String {
    format!("host is {}, weight {:.0}%", health.state.label(), health.weight * 100.0)
}

fn send(states: &[NotifyState]) -> bool {
    let sent = sd_notify::notify(states);
    if let Err(e) = &sent {
        warn!("cannot notify the supervisor: {e}");
    }
    sent.is_ok()
}
