//! Small JSON files in the directory of the socket, for state that is kept over a restart of the
//! daemon. The directory is on a tmpfs: after a reboot the host starts without that state.
//!
//! Not here: the state itself (the daemon's `store` and `drain`).

use std::{
    fs,
    io::{ErrorKind, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use rustix::fs::OFlags;
use serde::{Serialize, de::DeserializeOwned};
use tracing::warn;

/// Longest file that is read: ten times the state of 32 scopes and the longest reason.
const MAX_BYTES: u64 = 64 * 1024;
/// Names of all state files, without the ending.
const NAMES: [&str; 2] = ["drain", "verdict"];
/// Stem of the default socket, whose files have no prefix.
const DEFAULT_STEM: &str = "memsensor";

/// A state file, by its path.
#[derive(Debug, Clone)]
pub struct StateFile(PathBuf);

impl StateFile {
    /// The file of this name for a socket. Several daemons may have their sockets in one directory,
    /// so the stem of a socket other than the default one is part of the file's name.
    pub fn beside(socket: &Path, name: &str) -> Self {
        match socket.file_stem().and_then(|stem| stem.to_str()) {
            Some(stem) if stem != DEFAULT_STEM => {
                Self(socket.with_file_name(format!("{stem}.{name}")))
            }
            _ => Self(socket.with_file_name(name)),
        }
    }

    /// Whether a file of this name, in the directory of a socket, is a state file or one that is
    /// being written.
    pub fn is_name_of_one(name: &str) -> bool {
        let stem = name.strip_suffix(".json").or_else(|| name.strip_suffix(".new"));
        stem.is_some_and(|stem| NAMES.contains(&stem.rsplit('.').next().unwrap_or_default()))
    }

    /// Reads the value. Returns `None` if there is no file; also, with a warning, if the file is
    /// damaged or belongs to another user.
    pub fn read<T: DeserializeOwned>(&self) -> Option<T> {
        let value = self.read_bytes().and_then(|bytes| {
            let value = bytes.map(|bytes| serde_json::from_slice(&bytes)).transpose();
            value.context("unexpected content")
        });
        value.unwrap_or_else(|e| {
            warn!("ignoring state file {}: {e:#}", self.0.display());
            None
        })
    }

    /// Other users may be able to write to the directory: it follows no link, does not block on a
    /// pipe, and rejects files of other users.
    fn read_bytes(&self) -> Result<Option<Vec<u8>>> {
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = fs::OpenOptions::new()
            .read(true)
            .custom_flags(flags.bits().cast_signed())
            .open(&self.0);
        let file = match opened {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            opened => opened.context("open")?,
        };
        let metadata = file.metadata().context("stat")?;
        ensure!(metadata.is_file(), "not a regular file");
        let (owner, uid) = (metadata.uid(), rustix::process::geteuid().as_raw());
        ensure!(owner == uid, "owned by uid {owner} instead of {uid}");
        let mut bytes = Vec::new();
        file.take(MAX_BYTES + 1).read_to_end(&mut bytes).context("read")?;
        ensure!(bytes.len() as u64 <= MAX_BYTES, "longer than {MAX_BYTES} bytes");
        Ok(Some(bytes))
    }

    /// Replaces the file atomically.
    pub fn write<T: Serialize>(&self, value: &T) -> Result<()> {
        let text = serde_json::to_vec(value)?;
        let new = self.0.with_extension("new");
        // Removed first, so that `create_new` creates a file of our own and follows no link.
        let _ = fs::remove_file(&new);
        let created = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new);
        let written = created.and_then(|mut to| to.write_all(&text));
        written
            .and_then(|()| fs::rename(&new, &self.0))
            .with_context(|| format!("write {}", self.0.display()))
    }

    /// Removes the file, if it exists.
    pub fn remove(&self) -> Result<()> {
        match fs::remove_file(&self.0) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                Err(e).with_context(|| format!("remove {}", self.0.display()))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_written_value_is_read() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = StateFile::beside(&dir.path().join("socket"), "a.json");
        assert_eq!(file.read::<u32>(), None);
        for n in [1, 2] {
            file.write(&n).expect("written");
            assert_eq!(file.read::<u32>(), Some(n));
        }
        assert_eq!(file.read::<String>(), None, "of another type");
        file.remove().expect("removed");
        file.remove().expect("nothing to remove");
        assert_eq!(file.read::<u32>(), None);
        let unwritable = StateFile::beside(&dir.path().join("no/socket"), "a.json");
        let error = format!("{:#}", unwritable.write(&1).expect_err("no such directory"));
        assert!(error.contains("no/socket.a.json"), "{error}");
    }

    #[test]
    fn files_of_other_types_or_users_are_ignored() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = StateFile::beside(&dir.path().join("memsensor.sock"), "a.json");
        let at = dir.path().join("a.json");
        file.write(&1).expect("written");
        assert_eq!(file.read::<u32>(), Some(1));
        fs::rename(&at, dir.path().join("elsewhere")).expect("moved");
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), &at).expect("linked");
        assert_eq!(file.read::<u32>(), None, "a link");
        fs::remove_file(&at).expect("removed");
        fs::write(&at, format!("{}1", " ".repeat(64 * 1024))).expect("written");
        assert_eq!(file.read::<u32>(), None, "too long");
        fs::remove_file(&at).expect("removed");
        // It has no writer: a blocking open would never return.
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &at, rustix::fs::FileType::Fifo, mode, 0)
            .expect("a pipe");
        assert_eq!(file.read::<u32>(), None, "a pipe");
        fs::remove_file(&at).expect("removed");
        fs::create_dir(&at).expect("mkdir");
        assert_eq!(file.read::<u32>(), None, "a directory");
        fs::remove_dir(&at).expect("removed");
        file.write(&2).expect("written");
        if std::os::unix::fs::chown(&at, Some(65534), None).is_ok() {
            assert_eq!(file.read::<u32>(), None, "of another user");
        }
    }

    #[test]
    fn each_socket_has_its_own_file() {
        let name = |socket: &str| {
            let file = StateFile::beside(Path::new(socket), "drain.json");
            file.0.to_str().map(str::to_owned)
        };
        for (socket, expected) in [
            ("/run/memsensor/memsensor.sock", "/run/memsensor/drain.json"),
            ("/run/memsensor/web.sock", "/run/memsensor/web.drain.json"),
            ("/run/memsensor/db", "/run/memsensor/db.drain.json"),
        ] {
            assert_eq!(name(socket).as_deref(), Some(expected));
            let name = expected.rsplit('/').next().expect("a name");
            assert!(StateFile::is_name_of_one(name), "{name}");
            assert!(StateFile::is_name_of_one(&name.replace(".json", ".new")), "{name}");
        }
        for other in ["shadow", "drain", "a.json", "drain.json.bak", "verdict.toml", ".json"] {
            assert!(!StateFile::is_name_of_one(other), "{other}");
        }
    }
}
