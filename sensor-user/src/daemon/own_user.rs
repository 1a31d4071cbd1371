//! The user that the daemon becomes after it has attached its programs, and the directories that this
//! user may write.
//!
//! User ids belong to threads, as capabilities do: each thread that is started before the change
//! changes its own.
//!
//! Not here: capabilities (`kernel/privilege`), and what else is forbidden (`sandbox`).

use std::{
    fs::File,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{errno::Errno, unistd};
use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, chownat, openat},
    process::geteuid,
    thread::{
        CapabilitySet, Gid, Uid, capabilities, set_keep_capabilities, set_thread_groups,
        set_thread_res_gid, set_thread_res_uid,
    },
};
use sensor_core::common::state_file::StateFile;

use crate::recorder::segments;

/// Longest name of a user (useradd(8)).
const MAX_NAME: usize = 32;

/// A user other than root, by its ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnUser {
    /// Name or number, as configured.
    pub setting: String,
    uid: u32,
    gid: u32,
}

/// Checks the setting.
pub fn check(setting: &str) -> Result<()> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "_-.$".contains(c);
    ensure!(
        setting.len() <= MAX_NAME && setting.chars().all(is_allowed),
        "user: {setting:?} is not a name or a number; \"\" keeps the user that starts memsensor"
    );
    Ok(())
}

impl OwnUser {
    /// Finds the configured user. `None` if this process is not root's, or is to stay root's.
    pub fn find(setting: &str) -> Result<Option<Self>> {
        if setting.is_empty() || !geteuid().is_root() {
            return Ok(None);
        }
        let known = match setting.parse() {
            Ok(uid) => unistd::User::from_uid(unistd::Uid::from_raw(uid)),
            Err(_) => unistd::User::from_name(setting),
        };
        let known = match known {
            // How the C library reports that there is no such user, or no file of users at all, as
            // in a container of one program (getpwnam(3)).
            Err(Errno::ENOENT | Errno::ESRCH | Errno::EBADF | Errno::EPERM) => None,
            known => known.with_context(|| format!("look up the user {setting}"))?,
        };
        let (uid, gid) = match (known, setting.parse::<u32>()) {
            (Some(user), _) => (user.uid.as_raw(), user.gid.as_raw()),
            (None, Ok(uid)) => (uid, uid),
            (None, Err(_)) => bail!(
                "no user {setting}; create it with `useradd --system --no-create-home --shell \
                 /usr/sbin/nologin {setting}`, or set `user = \"\"` to keep uid 0"
            ),
        };
        Ok((uid != 0).then(|| Self { setting: setting.to_owned(), uid, gid }))
    }

    /// Makes this user the one of the calling thread. Effective capabilities are lost, permitted
    /// ones are not.
    pub fn become_it(&self) -> Result<()> {
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        let has = capabilities(None)?.effective;
        ensure!(
            has.contains(CapabilitySet::SETUID | CapabilitySet::SETGID),
            "CAP_SETUID and CAP_SETGID are missing"
        );
        set_thread_groups(&[]).context("drop the groups")?;
        set_thread_res_gid(gid, gid, gid).with_context(|| format!("change to gid {gid}"))?;
        set_keep_capabilities(true).context("keep the permitted capabilities")?;
        set_thread_res_uid(uid, uid, uid).with_context(|| format!("change to uid {uid}"))
    }

    /// Makes a directory root's again, where only its owner may enter it or write in it: an earlier
    /// daemon has handed it over. Root with all capabilities does not need this.
    pub fn take_directory(&self, path: &Path) -> Result<()> {
        if capabilities(None)?.effective.contains(CapabilitySet::DAC_OVERRIDE) {
            return Ok(());
        }
        // Without the permission to read it.
        match open_directory(path, OFlags::PATH) {
            Ok(dir) if dir.metadata()?.uid() == self.uid => {
                Ok(chownat(&dir, "", Some(Uid::ROOT), None, AtFlags::EMPTY_PATH)?)
            }
            _ => Ok(()),
        }
    }

    /// Hands a directory to this user, with the state files and the record in it. The directory must
    /// have no other content, and the files must be root's: whatever else is there is not memsensor's
    /// to give away.
    pub fn hand_over(&self, path: &Path) -> Result<()> {
        let dir = open_directory(path, OFlags::empty())?;
        let metadata = dir.metadata()?;
        let (owner, mode) = (metadata.uid(), metadata.permissions().mode());
        ensure!(owner == 0 || owner == self.uid, "it belongs to uid {owner}");
        ensure!(mode & 0o022 == 0, "other users may write in it (mode {:03o})", mode & 0o777);
        let mut files = Vec::new();
        for entry in Dir::read_from(&dir)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            match entry.file_type() {
                _ if name == "." || name == ".." => {}
                FileType::Socket => {}
                // Of a file system of its own.
                FileType::Directory if name == "lost+found" => {}
                FileType::RegularFile if is_own(&name) => files.push(name),
                _ => bail!("it contains {name:?}, which is not memsensor's"),
            }
        }
        // Needs no permission to read the file.
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        for name in files {
            let file = File::from(openat(&dir, &name, flags, Mode::empty())?);
            let metadata = file.metadata()?;
            // A second link to the file would be handed over too.
            if metadata.is_file() && metadata.nlink() == 1 && metadata.uid() == 0 {
                self.give(&file)?;
            }
        }
        self.give(&dir)
    }

    fn give(&self, file: &File) -> Result<()> {
        let metadata = file.metadata()?;
        if (metadata.uid(), metadata.gid()) == (self.uid, self.gid) {
            // A file system that hangs may still be read.
            return Ok(());
        }
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        chownat(file, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)
            .context("change its owner (needs CAP_CHOWN)")
    }
}

/// Whether memsensor writes files of this name.
fn is_own(name: &str) -> bool {
    StateFile::is_name_of_one(name) || segments::is_name_of_one(name)
}

/// Opens a directory with these flags; does not follow a link in its place.
fn open_directory(dir: &Path, flags: OFlags) -> Result<File> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::DIRECTORY;
    let options =
        std::fs::OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(dir);
    options.with_context(|| format!("open {}", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_a_name_or_a_number() {
        for setting in ["memsensor", "998", "", "svc_mem-1.a", "machine$"] {
            check(setting).expect(setting);
        }
        for setting in ["a b", "a:b", "a\nb", "a/b", &"a".repeat(33)] {
            let error = check(setting).expect_err(setting).to_string();
            assert!(error.starts_with("user: "), "{error}");
        }
    }
}
