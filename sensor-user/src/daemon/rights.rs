//! Gives up rights after the start: changes the user, drops capabilities, and restricts files and
//! system calls. What cannot be set up does not stop the daemon; it is logged, and
//! `memsensor probes` shows it.
//!
//! Not here: how each of them works (`own_user`, `kernel/privilege`, `sandbox`, `syscalls`).

use std::{
    fs::DirBuilder,
    io::ErrorKind,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use anyhow::Result;
use tracing::{info, warn};

use super::{
    compose::KernelHalf,
    config::Config,
    hardening::Hardening,
    own_user::OwnUser,
    sandbox,
    syscalls::{self, Threads},
};
use crate::{kernel::privilege, serve::state::protection::Protection};

/// The user to change to, and what could not be set up.
#[derive(Debug)]
pub(super) struct Rights {
    user: Option<OwnUser>,
    missing: Vec<String>,
}

impl Rights {
    /// For the user that was found.
    pub(super) fn new(user: Result<Option<OwnUser>>) -> Self {
        let mut rights = Self { user: None, missing: Vec::new() };
        match user {
            Ok(user) => rights.user = user,
            Err(e) => rights.lacks(format!("a user of its own: {e:#}")),
        }
        rights
    }

    fn lacks(&mut self, what: String) {
        warn!("could not set up {what}");
        self.missing.push(what);
    }

    /// Makes the daemon's directories writable for the start, and creates that of the record.
    pub(super) fn take_directories(&mut self, config: &Config) {
        for Directory { path, .. } in directories(config) {
            let taken = self.user.as_ref().map(|user| user.take_directory(&path));
            if let Some(Err(e)) = taken {
                self.lacks(format!("the directory {} for the start: {e:#}", path.display()));
            }
        }
        let Some(dir) = config.record.directory() else { return };
        match DirBuilder::new().mode(0o700).create(&dir) {
            Err(e) if e.kind() != ErrorKind::AlreadyExists => {
                self.lacks(format!("the directory {} for the record: {e}", dir.display()));
            }
            _ => {}
        }
    }

    /// Changes the user of this thread, and drops its capabilities.
    pub(super) fn drop(
        &mut self,
        config: &Config,
        hardening: &Hardening,
        kernel: &KernelHalf,
    ) -> Result<()> {
        if let Some(user) = self.user.clone() {
            let name = &user.setting;
            let exist = directories(config).into_iter().filter(|dir| dir.path.exists());
            for Directory { path, without } in exist {
                if let Err(e) = user.hand_over(&path) {
                    let path = path.display();
                    self.lacks(format!(
                        "the directory {path} for the user {name}, so {without}: {e:#}; give \
                         memsensor a directory of its own"
                    ));
                }
            }
            match user.become_it() {
                Ok(()) => info!("changed to the user {name}"),
                Err(e) => self.lacks(format!("a user of its own: {e:#}")),
            }
        }
        let works = || kernel.reader.as_ref().is_none_or(|reader| reader.rows().is_ok());
        let kept = privilege::drop_all(hardening.needs(), works)?;
        info!("capabilities kept: {kept}");
        Ok(())
    }

    /// Restricts files for this thread, and system calls for all. Call it when all files that need
    /// more are open, and before threads are started. `files` are read again later.
    pub(super) fn restrict(mut self, config: &Config, files: &[PathBuf]) -> Protection {
        let write: Vec<_> = directories(config).into_iter().map(|dir| dir.path).collect();
        let landlock = sandbox::restrict(&write, files);
        match &landlock {
            Ok(version) => info!("files are restricted by Landlock ({version})"),
            Err(e) => self.lacks(format!("Landlock: {e}")),
        }
        match syscalls::restrict(Threads::All) {
            Ok(()) => info!("system calls are restricted by a seccomp filter"),
            Err(e) => self.lacks(format!("a seccomp filter: {e:#}")),
        }
        Protection { landlock: landlock.ok(), missing: self.missing }
    }
}

/// A directory in which the daemon writes.
struct Directory {
    path: PathBuf,
    /// What is missing if it cannot.
    without: &'static str,
}

/// The directory of the socket with the state files, and that of the record.
fn directories(config: &Config) -> Vec<Directory> {
    let state = Path::new(&config.socket).parent().map(Path::to_owned);
    let state = state.map(|path| Directory { path, without: "a drain may not survive a restart" });
    let record = config.record.directory();
    let record = record.map(|path| Directory { path, without: "nothing is recorded" });
    state.into_iter().chain(record).collect()
}
