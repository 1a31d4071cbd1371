//! Gives up rights after the start: changes the user, drops capabilities, and restricts files and
//! system calls. What cannot be set up does not stop the daemon; it is logged, and
//! `memsensor probes` shows it.
//!
//! Not here: how each of them works (`own_user`, `kernel/privilege`, `sandbox`, `syscalls`).

use std::path::{Path, PathBuf};

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

    /// Makes the directory of the socket writable for the start.
    pub(super) fn take_directory(&mut self, config: &Config) {
        let taken = self.user.as_ref().map(|user| user.take_directory(Path::new(&config.socket)));
        if let Some(Err(e)) = taken {
            self.lacks(format!("the directory of {} for the start: {e:#}", config.socket));
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
            if let Err(e) = user.hand_over(Path::new(&config.socket)) {
                self.lacks(format!(
                    "the directory of {} for the user {name}, so a drain may not survive a \
                     restart: {e:#}; give the socket a directory of its own",
                    config.socket
                ));
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
        let landlock = sandbox::restrict(Path::new(&config.socket), files);
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
