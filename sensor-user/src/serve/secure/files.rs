//! Reads the files of secured listeners, and detects that they have changed. Not here: what is in
//! them.

use std::{fs::File, io::Read as _, os::unix::fs::MetadataExt as _, path::Path};

use anyhow::{Context as _, Result, ensure};

/// Longest file that is read: a bundle of certificates has a few kilobytes.
const MAX_FILE: u64 = 1024 * 1024;

/// What identifies the content of a file; `None` if there is none.
pub(super) type Version = Option<(u64, u64, i64, i64, u64)>;

/// The version of a file.
pub(super) fn version(path: &Path) -> Version {
    let file = std::fs::metadata(path).ok()?;
    Some((file.dev(), file.ino(), file.mtime(), file.mtime_nsec(), file.size()))
}

/// Reads a file of limited length.
pub(super) fn read(path: &Path) -> Result<Vec<u8>> {
    let read = || {
        let mut bytes = Vec::new();
        File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>(bytes)
    };
    let bytes = read().with_context(|| format!("read {}", path.display()))?;
    let is_short = u64::try_from(bytes.len()).is_ok_and(|len| len <= MAX_FILE);
    ensure!(is_short, "{} is longer than {MAX_FILE} bytes", path.display());
    Ok(bytes)
}
