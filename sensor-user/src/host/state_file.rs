//! A small JSON file of ours beside the socket: what is to outlive a restart of the daemon. That place
//! is a tmpfs, so it does not outlive a reboot, after which the host is meant to begin anew.

use std::{
    fs,
    io::{ErrorKind, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde::{Serialize, de::DeserializeOwned};
use tracing::warn;

/// Its path.
#[derive(Debug, Clone)]
pub struct StateFile(PathBuf);

impl StateFile {
    /// A file of this name in the socket's directory.
    pub fn beside(socket: &Path, name: &str) -> Self {
        Self(socket.with_file_name(name))
    }

    /// What was written; none if there is no such file, or if it is damaged, which is logged.
    pub fn read<T: DeserializeOwned>(&self) -> Option<T> {
        let text = fs::read(&self.0).ok()?;
        let read = serde_json::from_slice(&text);
        read.inspect_err(|e| warn!("{} is not what was written there: {e}", self.0.display())).ok()
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
        assert!(error.contains("no/a.json"), "{error}");
    }
}
