//! A small JSON file of ours beside the socket: what is to outlive a restart of the daemon. That place
//! is a tmpfs, so it does not outlive a reboot, after which the host is meant to begin anew.

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

/// What 32 scopes and the longest reason fill is a tenth of it.
const MAX_BYTES: u64 = 64 * 1024;
/// Whose files have no prefix: the socket's usual name.
const USUAL: &str = "memsensor";

/// Its path.
#[derive(Debug, Clone)]
pub struct StateFile(PathBuf);

impl StateFile {
    /// A file of this name in the socket's directory, which another daemon may have as well: the name
    /// of a socket other than the usual one is part of it.
    pub fn beside(socket: &Path, name: &str) -> Self {
        match socket.file_stem().and_then(|stem| stem.to_str()) {
            Some(stem) if stem != USUAL => Self(socket.with_file_name(format!("{stem}.{name}"))),
            _ => Self(socket.with_file_name(name)),
        }
    }

    /// What was written; none if there is no such file, or if it is damaged or not ours, which is logged.
    pub fn read<T: DeserializeOwned>(&self) -> Option<T> {
        let read = self.text().and_then(|text| {
            let value = text.map(|text| serde_json::from_slice(&text)).transpose();
            value.context("not what was written there")
        });
        read.unwrap_or_else(|e| {
            warn!("{} is as if it were not there: {e:#}", self.0.display());
            None
        })
    }

    /// The directory may be one where others write: nothing there is followed, waited for, or believed
    /// if another made it.
    fn text(&self) -> Result<Option<Vec<u8>>> {
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = fs::OpenOptions::new()
            .read(true)
            .custom_flags(flags.bits().cast_signed())
            .open(&self.0);
        let file = match opened {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            opened => opened.context("open")?,
        };
        let found = file.metadata().context("stat")?;
        ensure!(found.is_file(), "it is no regular file");
        let (owner, ours) = (found.uid(), rustix::process::geteuid().as_raw());
        ensure!(owner == ours, "it belongs to uid {owner}, and we are {ours}");
        let mut text = Vec::new();
        file.take(MAX_BYTES + 1).read_to_end(&mut text).context("read")?;
        ensure!(text.len() as u64 <= MAX_BYTES, "it is longer than {MAX_BYTES} bytes");
        Ok(Some(text))
    }

    /// Replaces it as a whole.
    pub fn write<T: Serialize>(&self, value: &T) -> Result<()> {
        let text = serde_json::to_vec(value)?;
        let new = self.0.with_extension("new");
        // Never through a link that somebody else put there.
        let _ = fs::remove_file(&new);
        let created = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new);
        let written = created.and_then(|mut to| to.write_all(&text));
        written
            .and_then(|()| fs::rename(&new, &self.0))
            .with_context(|| format!("write {}", self.0.display()))
    }

    /// Removes it, if it is there.
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
    fn it_holds_what_was_written_last() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = StateFile::beside(&dir.path().join("socket"), "a.json");
        assert_eq!(file.read::<u32>(), None);
        for n in [1, 2] {
            file.write(&n).expect("written");
            assert_eq!(file.read::<u32>(), Some(n));
        }
        assert_eq!(file.read::<String>(), None, "of another kind");
        file.remove().expect("removed");
        file.remove().expect("nothing to remove");
        assert_eq!(file.read::<u32>(), None);
        let nowhere = StateFile::beside(&dir.path().join("no/socket"), "a.json");
        let error = format!("{:#}", nowhere.write(&1).expect_err("no such directory"));
        assert!(error.contains("no/socket.a.json"), "{error}");
    }

    #[test]
    fn what_others_put_there_is_not_believed() {
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
        // Nobody writes to it: who waited would wait for ever.
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
            assert_eq!(file.read::<u32>(), None, "another's");
        }
    }

    #[test]
    fn daemons_beside_each_other_have_files_of_their_own() {
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
        }
    }
}
