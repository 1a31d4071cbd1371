//! Where each scope stood, kept over a restart of the daemon: one that is updated while its host
//! recovers must neither call it ready at once nor forget how often it relapsed.

use std::{collections::BTreeMap, path::Path, time::Duration};

use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use crate::{
    host::state_file::StateFile,
    sense::{Published, Wake},
    verdict::{State, pace::Position},
};

/// How often what is kept is looked at; it is written only if it changed.
const EVERY: Duration = Duration::from_secs(1);

/// By scope.
pub type Positions = BTreeMap<String, Position>;

/// What is in the file. Positions hold times of CLOCK_MONOTONIC, which mean nothing after a reboot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Kept {
    boot: String,
    scopes: Positions,
}

fn boot() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

fn file(socket: &Path) -> StateFile {
    StateFile::beside(socket, "verdict.json")
}

/// What an earlier daemon of this boot left.
pub fn read(socket: &Path) -> Positions {
    let kept: Option<Kept> = file(socket).read();
    let mut positions = kept.filter(|k| k.boot == boot()).map(|k| k.scopes).unwrap_or_default();
    positions.retain(|_, position| position.is_sound());
    for (scope, position) in positions.iter().filter(|(_, p)| p.state != State::Ready) {
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
    let mut failing = false;
    loop {
        let stopping = wake.is_stopped();
        if let Some(snapshot) = published.load().as_ref() {
            let scopes = snapshot.scopes.iter();
            let scopes: Positions =
                scopes.map(|j| (j.scope.to_string(), j.verdict.position)).collect();
            if last.as_ref() != Some(&scopes) {
                match file.write(&Kept { boot: boot(), scopes: scopes.clone() }) {
                    Ok(()) => (last, failing) = (Some(scopes), false),
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
        let draining = Position { state: State::Draining, weight: 0.0, ..Position::default() };
        let odd = Position { state: State::Ready, weight: 0.1, ..Position::default() };
        let scopes = Positions::from([("host".into(), draining), ("web".into(), odd)]);
        file(&socket).write(&Kept { boot: boot(), scopes: scopes.clone() }).expect("written");
        assert_eq!(read(&socket), Positions::from([("host".into(), draining)]));
        file(&socket).write(&Kept { boot: "another".into(), scopes }).expect("written");
        assert_eq!(read(&socket), Positions::new());
    }
}
