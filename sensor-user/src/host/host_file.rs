//! A file of the host that is read at every sample. While it cannot be read, its part of the sample
//! is missing, and the log says so once.
//!
//! Not here: files of a scope (`cgroup/scope_files`), whose cgroup may come and go.

use std::{
    io,
    path::{Path, PathBuf},
};

use rustix::io::Errno;
use tracing::{error, info};

use super::proc_file::ProcFile;

/// Time between two attempts to open a file. Opening takes memory, which a host may lack.
const REOPEN_NS: u64 = 10_000_000_000;

/// The file, which the kernel may not have.
#[derive(Debug)]
pub(super) struct HostFile {
    path: PathBuf,
    file: Option<ProcFile>,
    /// When to open it again; `None` if the kernel does not have it.
    reopen_ns: Option<u64>,
    is_failing: bool,
}

impl HostFile {
    /// Opens and reads the file: with psi=0, files of PSI exist, but cannot be read.
    pub(super) fn open(path: &Path) -> Self {
        let mut this =
            Self { path: path.to_owned(), file: None, reopen_ns: Some(0), is_failing: false };
        this.reopen(0);
        this
    }

    /// Whether the kernel has the file. It may be unreadable for the moment.
    pub(super) const fn exists(&self) -> bool {
        self.file.is_some() || self.reopen_ns.is_some()
    }

    /// The present content, if the file can be read. `now` is CLOCK_MONOTONIC.
    pub(super) fn read(&mut self, now: u64) -> Option<&str> {
        if self.file.is_none() && self.reopen_ns.is_some_and(|at| now >= at) {
            self.reopen(now);
        }
        match self.file.as_mut()?.read() {
            Ok(text) => {
                log_change(&self.path, &mut self.is_failing, None);
                Some(text)
            }
            Err(e) => {
                log_change(&self.path, &mut self.is_failing, Some(&e));
                None
            }
        }
    }

    fn reopen(&mut self, now: u64) {
        let opened = ProcFile::open(&self.path).and_then(|mut file| {
            match file.read() {
                Err(e) if is_missing(&e) => Err(e),
                // The file stays open, and may be readable later.
                _ => Ok(file),
            }
        });
        match opened {
            Ok(file) => self.file = Some(file),
            Err(e) if is_missing(&e) => self.reopen_ns = None,
            Err(e) => {
                self.reopen_ns = Some(now.saturating_add(REOPEN_NS));
                log_change(&self.path, &mut self.is_failing, Some(&e));
            }
        }
    }
}

/// Whether the kernel has no such file, or does not fill it.
fn is_missing(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<io::Error>();
    io.and_then(Errno::from_io_error).is_some_and(|e| matches!(e, Errno::NOENT | Errno::OPNOTSUPP))
}

/// Logs the first failure and the end of a run of failures.
fn log_change(path: &Path, is_failing: &mut bool, failure: Option<&anyhow::Error>) {
    match failure {
        Some(e) if !*is_failing => {
            error!("what {} measures is missing in the samples: {e:#}", path.display());
        }
        None if *is_failing => info!("{} can be read again", path.display()),
        _ => {}
    }
    *is_failing = failure.is_some();
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_that_cannot_be_opened_at_start_is_opened_later() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("meminfo");
        // A loop of links: ELOOP, where a kernel under pressure has ENOMEM.
        std::os::unix::fs::symlink(&path, &path).expect("link");
        let mut file = HostFile::open(&path);
        assert!(file.exists());
        assert_eq!(file.read(1), None);
        fs::remove_file(&path).expect("remove");
        fs::write(&path, "MemTotal: 1 kB\n").expect("write");
        assert_eq!(file.read(REOPEN_NS - 1), None, "not at each sample");
        assert_eq!(file.read(REOPEN_NS + 1), Some("MemTotal: 1 kB\n"));
    }

    #[test]
    fn a_file_that_the_kernel_does_not_have_is_no_failure() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("pressure");
        let mut file = HostFile::open(&path);
        assert!(!file.exists() && !file.is_failing);
        fs::write(&path, "x").expect("write");
        assert_eq!(file.read(2 * REOPEN_NS), None, "it is not searched again");
    }

    #[test]
    fn a_file_that_fails_for_a_while_is_read_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("vmstat");
        // Longer than any file of the kernel: an error of the read.
        fs::write(&path, "x".repeat(10 << 20)).expect("write");
        let mut file = HostFile::open(&path);
        assert_eq!(file.read(1), None);
        assert!(file.is_failing);
        fs::write(&path, "pswpin 1\n").expect("write");
        assert_eq!(file.read(2), Some("pswpin 1\n"));
        assert!(!file.is_failing);
    }
}
