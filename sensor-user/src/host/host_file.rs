//! A file of the host that is read at every sample. While it cannot be read, its part of the sample
//! is missing, and the log says so once.
//!
//! Not here: files of a scope (`cgroup/scope_files`), whose cgroup may come and go.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwapOption;
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
    /// Where its opener leaves it, if it could not be opened at the start.
    awaited: Option<Arc<ArcSwapOption<ProcFile>>>,
    is_failing: bool,
}

impl HostFile {
    /// Opens and reads the file: with psi=0, files of PSI exist, but cannot be read.
    pub(super) fn open(path: &Path) -> Self {
        let mut this = Self { path: path.to_owned(), file: None, awaited: None, is_failing: false };
        match open_readable(path) {
            Ok(file) => this.file = Some(file),
            Err(e) if is_missing(&e) => {}
            Err(e) => {
                this.awaited = Some(Arc::default());
                log_change(path, &mut this.is_failing, Some(&e));
            }
        }
        this
    }

    /// Whether the kernel has the file. It may be unreadable for the moment.
    pub(super) const fn exists(&self) -> bool {
        self.file.is_some() || self.awaited.is_some()
    }

    /// Opens the file later, if it could not be opened at the start.
    pub(super) fn opener(&self) -> Option<HostFileOpener> {
        let opened = Arc::clone(self.awaited.as_ref()?);
        Some(HostFileOpener { path: self.path.clone(), opened, reopen_ns: None })
    }

    /// The present content, if the file can be read. Opens none.
    pub(super) fn read(&mut self) -> Option<&str> {
        if let Some(opened) = self.awaited.as_ref().and_then(|awaited| awaited.swap(None)) {
            // The opener keeps no reference.
            self.file = Arc::into_inner(opened);
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
}

/// Opens a file for the sensing thread, which opens none.
#[derive(Debug)]
pub(super) struct HostFileOpener {
    path: PathBuf,
    opened: Arc<ArcSwapOption<ProcFile>>,
    /// When to try next; `None` before the first call.
    reopen_ns: Option<u64>,
}

impl HostFileOpener {
    /// Tries to open the file if that is due. Returns whether it has to be tried again.
    fn serve(&mut self, now_ns: u64) -> bool {
        // It was tried at the start.
        let reopen_ns = *self.reopen_ns.get_or_insert(now_ns.saturating_add(REOPEN_NS));
        if now_ns < reopen_ns {
            return true;
        }
        self.reopen_ns = Some(now_ns.saturating_add(REOPEN_NS));
        match open_readable(&self.path) {
            Ok(file) => {
                self.opened.store(Some(Arc::new(file)));
                false
            }
            Err(e) => !is_missing(&e),
        }
    }
}

/// Openers of the host's files that could not be opened at the start.
#[derive(Debug, Default)]
pub struct HostFileOpeners(Vec<HostFileOpener>);

impl HostFileOpeners {
    /// For these files.
    pub(super) fn of<'a>(files: impl IntoIterator<Item = &'a HostFile>) -> Self {
        Self(files.into_iter().filter_map(HostFile::opener).collect())
    }

    /// Opens files that are due. For a thread that may open files.
    pub fn serve(&mut self, now_ns: u64) {
        self.0.retain_mut(|opener| opener.serve(now_ns));
    }
}

/// Opens the file, unless the kernel does not have it. It may be unreadable for the moment: then it
/// stays open. The buffer reaches its size here.
fn open_readable(path: &Path) -> anyhow::Result<ProcFile> {
    let mut file = ProcFile::open(path)?;
    match file.read() {
        Err(e) if is_missing(&e) => Err(e),
        _ => Ok(file),
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
        let mut openers = HostFileOpeners::of([&file]);
        assert!(file.exists());
        openers.serve(1);
        assert_eq!(file.read(), None);
        openers.serve(1 + REOPEN_NS);
        assert_eq!((file.read(), openers.0.len()), (None, 1), "it is still a loop");
        fs::remove_file(&path).expect("remove");
        fs::write(&path, "MemTotal: 1 kB\n").expect("write");
        assert_eq!(file.read(), None, "the sensing thread opens nothing");
        openers.serve(2 * REOPEN_NS);
        assert_eq!(file.read(), None, "not within ten seconds");
        openers.serve(1 + 2 * REOPEN_NS);
        assert_eq!(file.read(), Some("MemTotal: 1 kB\n"));
        assert!(openers.0.is_empty() && !file.is_failing);
        assert_eq!(file.read(), Some("MemTotal: 1 kB\n"), "it stays open");
    }

    #[test]
    fn a_file_that_the_kernel_does_not_have_is_no_failure() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("pressure");
        let mut file = HostFile::open(&path);
        assert!(!file.exists() && !file.is_failing);
        assert!(HostFileOpeners::of([&file]).0.is_empty(), "it is not searched again");
        assert_eq!(file.read(), None);
    }

    #[test]
    fn a_file_that_fails_for_a_while_is_read_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("vmstat");
        // Longer than any file of the kernel: an error of the read.
        fs::write(&path, "x".repeat(10 << 20)).expect("write");
        let mut file = HostFile::open(&path);
        assert_eq!(file.read(), None);
        assert!(file.is_failing);
        fs::write(&path, "pswpin 1\n").expect("write");
        assert_eq!(file.read(), Some("pswpin 1\n"));
        assert!(!file.is_failing);
    }
}
