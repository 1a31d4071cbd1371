//! The thread that writes files, so that no other waits for a disk: state and weight of each scope,
//! and the operator's drain. It also reads the files of the daemon's own process.
//!
//! After an upgrade on a recovering host, a scope must neither be ready at once nor lose the count
//! of its relapses. Not here: the drain itself (`serve/state/drain`).

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags};
use sensor_core::{
    common::{
        clock::{boot_id, since_boot_ns},
        state_file::StateFile,
    },
    model::snapshot::Sample,
    verdict::{scope::ScopeStates, state::VerdictState, weight::ScopeState},
};
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use crate::{
    host::own_process,
    publish::{
        control::Shutdown, own_process::PublishedProcess, sample::PublishedSample, wait::wait_for,
    },
    serve::state::drain::OperatorDrain,
};

/// Time between two comparisons with the saved states.
const INTERVAL: Duration = Duration::from_secs(1);
/// The file is written at least this often, so that its time is close to the end of the daemon.
const REWRITE_AFTER: Duration = Duration::from_mins(1);

/// Content of the file. States hold times of CLOCK_MONOTONIC, which are invalid after a reboot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct SavedStates {
    pub(crate) boot: String,
    /// CLOCK_BOOTTIME nanoseconds: after a suspend the states are old.
    at_ns: u64,
    scopes: ScopeStates,
}

impl SavedStates {
    fn now(scopes: ScopeStates) -> Self {
        Self { boot: boot_id(), at_ns: since_boot_ns(), scopes }
    }

    /// The states that are still valid. After a long time without a daemon the state of a scope is
    /// not known, and a new daemon starts with full weight; relapses and their times remain valid.
    pub(crate) fn valid(self, now_ns: u64, max_age: Duration) -> ScopeStates {
        let age = Duration::from_nanos(now_ns.saturating_sub(self.at_ns));
        let is_old = age > max_age.saturating_add(REWRITE_AFTER);
        let mut states = if self.boot == boot_id() { self.scopes } else { ScopeStates::new() };
        states.retain(|_, state| state.is_sound());
        for saved in states.values_mut().filter(|_| is_old) {
            let ScopeState { state, weight, .. } = ScopeState::default();
            *saved = ScopeState { state, weight, ..*saved };
        }
        states
    }
}

/// Reads the states that an earlier daemon of this boot saved; state and weight only if they are
/// not older than `max_age`.
pub fn read(file: &StateFile, max_age: Duration) -> ScopeStates {
    let saved: Option<SavedStates> = file.read();
    let states = saved.map(|saved| saved.valid(since_boot_ns(), max_age)).unwrap_or_default();
    for (scope, saved) in states.iter().filter(|(_, s)| s.state != VerdictState::Ready) {
        let (state, percent) = (saved.state.label(), saved.weight * 100.0);
        info!(scope, "starts as {state}, weight {percent:.0}%, as before the restart");
    }
    states
}

/// Saves the states when they change, and the drain on request. Runs on a thread of its own: a
/// write, even to tmpfs, may wait for memory.
#[derive(Debug)]
pub struct Store {
    /// The file of the states.
    pub file: StateFile,
    /// The drain, with its file.
    pub drain: Arc<OperatorDrain>,
    /// The last sample.
    pub sample: PublishedSample,
    /// Figures of the daemon's process: reading them opens files, which may wait for memory too.
    pub process: PublishedProcess,
    /// Ends the thread.
    pub shutdown: Arc<Shutdown>,
}

/// What was last written, and when.
#[derive(Debug)]
struct Written {
    states: Option<ScopeStates>,
    at: Instant,
    is_failing: bool,
}

impl Store {
    /// Saves until shutdown.
    pub fn run(self) {
        let mut written = Written { states: None, at: Instant::now(), is_failing: false };
        loop {
            self.drain.write_if_requested();
            self.process.store(Some(Arc::new(own_process::figures())));
            let stopping = self.shutdown.is_requested();
            if let Some(sample) = self.sample.load().as_ref() {
                self.save(states_of(sample), stopping, &mut written);
            }
            if stopping {
                return;
            }
            self.wait();
        }
    }

    fn save(&self, states: ScopeStates, stopping: bool, written: &mut Written) {
        let changed = written.states.as_ref() != Some(&states);
        if !stopping && !changed && written.at.elapsed() < REWRITE_AFTER {
            return;
        }
        match self.file.write(&SavedStates::now(states.clone())) {
            Ok(()) => {
                if written.is_failing {
                    info!("the verdict can be saved again");
                }
                *written = Written { states: Some(states), at: Instant::now(), is_failing: false };
            }
            Err(e) if !written.is_failing => {
                warn!(
                    "cannot save the verdict; after a restart every scope starts as ready: {e:#}"
                );
                written.is_failing = true;
            }
            Err(_) => {}
        }
    }

    /// Waits for the next comparison, for a drain, or for shutdown.
    fn wait(&self) {
        let mut events =
            [PollFd::new(&self.shutdown, PollFlags::IN), PollFd::new(&self.drain, PollFlags::IN)];
        // If interrupted, the next round comes early.
        wait_for(&mut events, INTERVAL);
    }
}

fn states_of(sample: &Sample) -> ScopeStates {
    let scopes = sample.scopes.iter();
    scopes.map(|scope| (scope.scope.to_string(), scope.verdict.position)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sound_states_of_this_boot_are_read() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = StateFile::beside(&dir.path().join("socket"), "verdict.json");
        let overloaded =
            ScopeState { state: VerdictState::Overloaded, weight: 0.0, ..ScopeState::default() };
        let odd = ScopeState { state: VerdictState::Ready, weight: 0.1, ..ScopeState::default() };
        let scopes = ScopeStates::from([("host".into(), overloaded), ("web".into(), odd)]);
        let max_age = Duration::from_mins(10);
        file.write(&SavedStates::now(scopes.clone())).expect("written");
        assert_eq!(read(&file, max_age), ScopeStates::from([("host".into(), overloaded)]));
        let another = SavedStates { boot: "another".into(), ..SavedStates::now(scopes) };
        file.write(&another).expect("written");
        assert_eq!(read(&file, max_age), ScopeStates::new());
    }

    #[test]
    fn an_old_state_is_dropped_and_its_relapses_are_kept() {
        let ready =
            ScopeState { overloaded_until_ns: Some(7), relapses: 3, ..ScopeState::default() };
        let overloaded = ScopeState { state: VerdictState::Overloaded, weight: 0.0, ..ready };
        let recovering = ScopeState { state: VerdictState::Degraded, weight: 0.1, ..ready };
        let (soon, late) = (REWRITE_AFTER / 2, REWRITE_AFTER * 2);
        for (saved, age, expected) in [
            (overloaded, soon, overloaded),
            (recovering, soon, recovering),
            (overloaded, late, ready),
            (recovering, late, ready),
            (ready, late, ready),
        ] {
            let states = SavedStates::now(ScopeStates::from([("host".into(), saved)]));
            let age_ns = u64::try_from(age.as_nanos()).expect("short");
            let now_ns = states.at_ns + age_ns;
            let valid = states.valid(now_ns, Duration::ZERO);
            assert_eq!(valid.get("host"), Some(&expected), "{saved:?} {age:?}");
        }
    }
}
