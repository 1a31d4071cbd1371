//! Where each scope stood, kept over a restart of the daemon: one that is updated while its host
//! recovers must neither call it ready at once nor forget how often it relapsed.

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use crate::{
    host::{
        clock::{boot_id, since_boot_ns},
        state_file::StateFile,
    },
    sense::{Published, Wake},
    verdict::{VerdictState, pace::ScopeState},
};

/// How often what is kept is looked at; it is written if it changed.
const EVERY: Duration = Duration::from_secs(1);
/// And anew after this, so that its time is that of the daemon's end, however it ended.
const ANEW: Duration = Duration::from_mins(1);

/// By scope.
pub type ScopeStates = BTreeMap<String, ScopeState>;

/// What is in the file. Positions hold times of CLOCK_MONOTONIC, which mean nothing after a reboot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct SavedState {
    boot: String,
    /// CLOCK_BOOTTIME: a host that slept for a night is not as it was.
    at_ns: u64,
    scopes: ScopeStates,
}

impl SavedState {
    fn now(scopes: ScopeStates) -> Self {
        Self { boot: boot_id(), at_ns: since_boot_ns(), scopes }
    }

    /// What still means something. After a while without a daemon nobody knows how a scope stands, and
    /// a fresh daemon takes no weight; how often it relapsed, and when, is as true as before.
    fn still_true(self, now_ns: u64, lasts: Duration) -> ScopeStates {
        let age_ns = now_ns.saturating_sub(self.at_ns);
        let is_old = Duration::from_nanos(age_ns) > lasts.saturating_add(ANEW);
        let mut positions = if self.boot == boot_id() { self.scopes } else { ScopeStates::new() };
        positions.retain(|_, position| position.is_sound());
        for position in positions.values_mut().filter(|_| is_old) {
            let ScopeState { state, weight, .. } = ScopeState::default();
            *position = ScopeState { state, weight, ..*position };
        }
        positions
    }
}

fn file(socket: &Path) -> StateFile {
    StateFile::beside(socket, "verdict.json")
}

/// What an earlier daemon of this boot left; where the scopes stood only if that is not longer ago than
/// `lasts`.
pub fn read(socket: &Path, lasts: Duration) -> ScopeStates {
    let kept: Option<SavedState> = file(socket).read();
    let positions = kept.map(|kept| kept.still_true(since_boot_ns(), lasts)).unwrap_or_default();
    for (scope, position) in positions.iter().filter(|(_, p)| p.state != VerdictState::Ready) {
        let (state, percent) = (position.state.label(), position.weight * 100.0);
        info!(scope, "goes on from {state}, weight {percent:.0}%");
    }
    positions
}

/// Keeps what is published until it is told to stop. On a thread of its own: a file, even on tmpfs, may
/// have to wait for memory.
pub fn keep(socket: &Path, published: &Published, wake: &Wake) {
    let file = file(socket);
    let mut last = None;
    let mut written = Instant::now();
    let mut failing = false;
    loop {
        let stopping = wake.is_stopped();
        if let Some(snapshot) = published.load().as_ref() {
            let scopes = snapshot.scopes.iter();
            let scopes: ScopeStates =
                scopes.map(|j| (j.scope.to_string(), j.verdict.position)).collect();
            if stopping || last.as_ref() != Some(&scopes) || written.elapsed() >= ANEW {
                match file.write(&SavedState::now(scopes.clone())) {
                    Ok(()) => (last, written, failing) = (Some(scopes), Instant::now(), false),
                    Err(e) if !failing => {
                        warn!("a restart will not know of a drain: {e:#}");
                        failing = true;
                    }
                    Err(_) => {}
                }
            }
        }
        if stopping {
            return;
        }
        wake.wait(EVERY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_of_this_boot_and_sound() {
        let dir = tempfile::tempdir().expect("a directory");
        let socket = dir.path().join("socket");
        let draining =
            ScopeState { state: VerdictState::Overloaded, weight: 0.0, ..ScopeState::default() };
        let odd = ScopeState { state: VerdictState::Ready, weight: 0.1, ..ScopeState::default() };
        let scopes = ScopeStates::from([("host".into(), draining), ("web".into(), odd)]);
        let lasts = Duration::from_mins(10);
        file(&socket).write(&SavedState::now(scopes.clone())).expect("written");
        assert_eq!(read(&socket, lasts), ScopeStates::from([("host".into(), draining)]));
        let another = SavedState { boot: "another".into(), ..SavedState::now(scopes) };
        file(&socket).write(&another).expect("written");
        assert_eq!(read(&socket, lasts), ScopeStates::new());
    }

    #[test]
    fn where_it_stood_is_soon_forgotten_and_relapses_are_not() {
        let ready = ScopeState { drained_until_ns: Some(7), relapses: 3, ..ScopeState::default() };
        let draining = ScopeState { state: VerdictState::Overloaded, weight: 0.0, ..ready };
        let coming_back = ScopeState { state: VerdictState::Degraded, weight: 0.1, ..ready };
        let (lasts, soon, late) = (Duration::ZERO, ANEW / 2, ANEW * 2);
        for (stood, since, found) in [
            (draining, soon, draining),
            (coming_back, soon, coming_back),
            (draining, late, ready),
            (coming_back, late, ready),
            (ready, late, ready),
        ] {
            let kept = SavedState::now(ScopeStates::from([("host".into(), stood)]));
            let since_ns = u64::try_from(since.as_nanos()).expect("short");
            let now_ns = kept.at_ns + since_ns;
            let positions = kept.still_true(now_ns, lasts);
            assert_eq!(positions.get("host"), Some(&found), "{stood:?} {since:?}");
        }
    }
}
