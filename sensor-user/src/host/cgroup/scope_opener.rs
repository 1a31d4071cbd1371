//! Opens the files of a scope's cgroup for the sensing thread, which opens none: opening waits for
//! memory and for locks of the kernel.
//!
//! Not here: how files are handed over (`handoff`), and what is read from them (`scope_files`).

use std::{
    collections::BTreeSet,
    os::fd::{AsFd, BorrowedFd},
    path::PathBuf,
    sync::Arc,
};

use anyhow::{Result, bail};
use sensor_core::verdict::reading::Reading;
use walkdir::DirEntryExt as _;

use super::{
    files::FileNames,
    limit_files::LimitFiles,
    mounts::{self, CgroupMounts},
    scope_files::{FileSource, OpenFiles, PsiFiles, ScopeFiles, is_populated},
};
use crate::{
    host::{handoff::Handoff, proc_file::ProcFile},
    publish::control::EventFd,
};

/// Files are opened again after at most this time: an ancestor's limit or the set of descendants
/// may have changed.
const REOPEN_NS: u64 = 60_000_000_000;
/// Most ids that are listed of a cgroup and its descendants.
const MAX_IDS: usize = 256;

/// Opens the files of one cgroup. Its path is relative to the mount points, e.g.
/// `/system.slice/nginx.service`.
#[derive(Debug)]
struct ScopeOpener {
    mounts: CgroupMounts,
    path: PathBuf,
    reopen_after_ns: u64,
    /// When files are opened again without a request.
    reopen_ns: u64,
    handoff: Arc<Handoff<OpenFiles>>,
}

/// Openers of all scopes.
#[derive(Debug)]
pub struct ScopeOpeners {
    openers: Vec<ScopeOpener>,
    /// Those of cgroups that come and go.
    dynamic: Vec<(Arc<str>, ScopeOpener)>,
    /// Removed ones, until the sensing thread has left their files.
    leaving: Vec<ScopeOpener>,
    wake: Arc<EventFd>,
}

impl ScopeOpeners {
    /// Without a scope.
    pub fn new() -> Result<Self> {
        let wake = Arc::new(EventFd::new()?);
        Ok(Self { openers: Vec::new(), dynamic: Vec::new(), leaving: Vec::new(), wake })
    }

    /// Adds a cgroup, which need not exist. Its files are opened by [`Self::serve`].
    pub fn add(&mut self, mounts: CgroupMounts, path: &str) -> ScopeFiles {
        let opener = ScopeOpener::new(mounts, path, &self.wake);
        let files = ScopeFiles::new(&opener.source(path.into()));
        self.openers.push(opener);
        files
    }

    /// Opens the files of these cgroups too, instead of those of the last call. Returns the sources
    /// of all of them; cgroups that stay keep theirs.
    pub fn set_dynamic(
        &mut self,
        mounts: &CgroupMounts,
        paths: &BTreeSet<Arc<str>>,
    ) -> Vec<FileSource> {
        let removed = self.dynamic.extract_if(.., |(path, _)| !paths.contains(path));
        self.leaving.extend(removed.map(|(_, opener)| opener));
        for path in paths {
            if !self.dynamic.iter().any(|(known, _)| known == path) {
                let opener = ScopeOpener::new(mounts.clone(), path, &self.wake);
                self.dynamic.push((Arc::clone(path), opener));
            }
        }
        self.dynamic.iter().map(|(path, opener)| opener.source(Arc::clone(path))).collect()
    }

    /// Opens files that are requested, or older than a minute.
    pub fn serve(&mut self, now_ns: u64) {
        self.wake.take();
        for opener in self.openers.iter_mut().chain(self.dynamic.iter_mut().map(|(_, o)| o)) {
            opener.serve(now_ns);
        }
        self.leaving.retain(|opener| {
            let is_left = Arc::strong_count(&opener.handoff) == 1;
            opener.handoff.close_replaced();
            !is_left
        });
    }
}

impl AsFd for ScopeOpeners {
    /// Readable while files are requested.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

impl ScopeOpener {
    fn new(mounts: CgroupMounts, path: &str, wake: &Arc<EventFd>) -> Self {
        Self {
            mounts,
            path: path.trim_start_matches('/').into(),
            reopen_after_ns: reopen_after_ns(path),
            reopen_ns: 0,
            handoff: Arc::new(Handoff::new(Arc::clone(wake))),
        }
    }

    fn source(&self, path: Arc<str>) -> FileSource {
        FileSource { path, v1: self.mounts.v1, handoff: Arc::clone(&self.handoff) }
    }

    fn serve(&mut self, now_ns: u64) {
        self.handoff.close_replaced();
        if !self.handoff.take_request() && now_ns < self.reopen_ns {
            return;
        }
        self.reopen_ns = now_ns.saturating_add(self.reopen_after_ns);
        self.handoff.publish(self.open().map_err(|e| format!("{e:#}").into()));
    }

    fn name(&self) -> String {
        format!("read the cgroup /{}", self.path.display())
    }

    fn open(&self) -> Result<OpenFiles> {
        let CgroupMounts { memory, v1, .. } = &self.mounts;
        let (dir, v1) = (memory.join(&self.path), *v1);
        let mut own = match LimitFiles::open(&dir, v1) {
            Err(_) if !v1 && dir.exists() && !dir.join("memory.stat").exists() => None,
            own => Some(own?),
        };
        let has_limit = |files: &mut LimitFiles| matches!(files.limit(), Ok(Some(_)));
        if self.path.as_os_str().is_empty() && !own.as_mut().is_some_and(has_limit) {
            bail!("{}: without a limit the root is the host itself", self.name());
        }
        let psi = self.open_psi();
        if own.is_none() && psi.pressure.is_none() {
            let why = mounts::why_no_controller(memory);
            bail!("{}: it has no memory.pressure, and {why}", self.name());
        }
        let paths = self.path.ancestors().skip(1).filter(|path| !path.as_os_str().is_empty());
        let ancestors = paths.filter_map(|path| LimitFiles::open(&memory.join(path), v1).ok());
        let ancestors =
            ancestors.filter_map(|mut files| has_limit(&mut files).then_some(files)).collect();
        let lists_descendants = psi.pressure.is_none();
        let ids = walkdir::WalkDir::new(&dir)
            .max_depth(if lists_descendants { usize::MAX } else { 0 })
            .into_iter()
            .filter_entry(|entry| entry.file_type().is_dir())
            .filter_map(|entry| Some(entry.ok()?.ino()))
            .take(MAX_IDS)
            .collect();
        let kills = ProcFile::open(&dir.join(FileNames::of(v1).oom_kills)).ok();
        let mut files = OpenFiles { ids, own, ancestors, kills, psi };
        // Buffers reach their size here, in this process and in the kernel. The sensing thread
        // reports an error.
        let _ = files.read(v1, &mut Reading::default(), &Reading::default());
        Ok(files)
    }

    fn open_psi(&self) -> PsiFiles {
        let Some(root) = &self.mounts.unified else { return PsiFiles::default() };
        let dir = root.join(&self.path);
        let events = self.mounts.v1.then(|| ProcFile::open(&dir.join("cgroup.events")).ok());
        let twin = events.flatten().map(|mut events| {
            let populated = is_populated(&mut events);
            (events, populated)
        });
        if self.mounts.v1 && !twin.as_ref().is_some_and(|(_, populated)| *populated) {
            return PsiFiles { twin, ..PsiFiles::default() };
        }
        // With psi=0 the file exists, but reading it fails.
        let psi = |name: &str| ProcFile::readable(&dir.join(name));
        PsiFiles { twin, pressure: psi("memory.pressure"), io_pressure: psi("io.pressure") }
    }
}

/// The limit of the root of the hierarchy, in bytes. The kernel's own root has none: a limit shows that
/// this is a cgroup namespace (cgroup_namespaces(7)), as in a container.
pub fn root_limit(mounts: &CgroupMounts) -> Option<u64> {
    LimitFiles::open(&mounts.memory, mounts.v1).ok()?.limit().ok()?
}

/// Between half of [`REOPEN_NS`] and all of it, by the path: the files of all scopes must not be
/// opened within the same second.
fn reopen_after_ns(path: &str) -> u64 {
    // FNV-1a.
    let hash = path.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    REOPEN_NS / 2 + hash % (REOPEN_NS / 2)
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    #[test]
    fn scopes_are_not_opened_again_in_the_same_second() {
        let mut seconds: Vec<_> = (0..32)
            .map(|i| reopen_after_ns(&format!("/system.slice/web-{i}.service")) / 1_000_000_000)
            .collect();
        assert!(seconds.iter().all(|s| (30..60).contains(s)), "{seconds:?}");
        seconds.sort_unstable();
        let most = seconds.chunk_by(|a, b| a == b).map(<[u64]>::len).max();
        assert!(most <= Some(4), "{seconds:?}");
    }

    /// A v2 hierarchy whose cgroup `/web` may be made, and its scope.
    fn scope() -> (tempfile::TempDir, ScopeOpeners, ScopeFiles) {
        let root = tempfile::tempdir().expect("a directory");
        let memory = root.path().to_path_buf();
        let mounts = CgroupMounts { memory: memory.clone(), v1: false, unified: Some(memory) };
        let mut openers = ScopeOpeners::new().expect("an eventfd");
        let files = openers.add(mounts, "/web");
        (root, openers, files)
    }

    #[test]
    fn the_root_counts_only_with_a_limit() {
        let root = tempfile::tempdir().expect("a directory");
        let memory = root.path().to_path_buf();
        let mounts = CgroupMounts { memory: memory.clone(), v1: false, unified: Some(memory) };
        let mut openers = ScopeOpeners::new().expect("an eventfd");
        let files = openers.add(mounts.clone(), "/");
        let is_read = |openers: &mut ScopeOpeners, mut files: ScopeFiles| {
            openers.serve(0);
            files.read(&mut Reading::default(), &Reading::default()).is_ok()
        };
        write_files(root.path());
        fs::write(root.path().join("memory.max"), "max").expect("write");
        fs::write(root.path().join("memory.high"), "max").expect("write");
        assert_eq!(root_limit(&mounts), None);
        assert!(!is_read(&mut openers, files));
        fs::write(root.path().join("memory.max"), "9").expect("write");
        assert_eq!(root_limit(&mounts), Some(9));
        let files = openers.add(mounts, "/");
        assert!(is_read(&mut openers, files));
    }

    fn make(root: &tempfile::TempDir) {
        fs::create_dir(root.path().join("web")).expect("mkdir");
        write_files(&root.path().join("web"));
    }

    fn write_files(dir: &Path) {
        for (name, text) in [
            ("memory.current", "5"),
            ("memory.max", "9"),
            ("memory.high", "max"),
            ("memory.stat", "file 0\n"),
            (
                "memory.pressure",
                "some avg10=0 avg60=0 avg300=0 total=7\nfull avg10=0 avg60=0 avg300=0 total=5\n",
            ),
        ] {
            fs::write(dir.join(name), text).expect("write");
        }
    }

    #[test]
    fn only_the_opener_opens_and_closes() {
        let (root, mut openers, mut files) = scope();
        make(&root);
        let read = |files: &mut ScopeFiles, second: u64| {
            let mut reading = Reading { at_ns: second * 1_000_000_000, ..Reading::default() };
            let host = Reading { total_bytes: Some(100), ..Reading::default() };
            files.read(&mut reading, &host).map(|()| reading.total_bytes)
        };
        let unread = read(&mut files, 1).expect_err("not opened");
        assert!(unread.is_pending && unread.reason.contains("/web"), "{unread:?}");
        assert!(read(&mut files, 2).is_err_and(|unread| unread.is_pending));
        assert!(read(&mut files, 3).is_err_and(|unread| !unread.is_pending), "for two seconds");
        openers.serve(4_000_000_000);
        assert_eq!(read(&mut files, 4), Ok(Some(9)));
        // A minute later: the old files are closed by the opener, not when they are replaced.
        openers.serve(64_000_000_000);
        let handoff = Arc::clone(&openers.openers[0].handoff);
        assert_eq!(handoff.holds(), (true, false));
        assert_eq!(read(&mut files, 65), Ok(Some(9)));
        assert_eq!(handoff.holds(), (false, true));
        openers.serve(65_000_000_000);
        assert_eq!(handoff.holds(), (false, false));
    }

    #[test]
    fn a_cgroup_that_appears_is_opened_on_request() {
        let (root, mut openers, mut files) = scope();
        openers.serve(0);
        let mut reading = Reading::default();
        let mut read = || files.read(&mut reading, &Reading::default());
        let unread = read().expect_err("no such cgroup");
        assert!(!unread.is_pending && unread.reason.contains("web/memory."), "{unread:?}");
        make(&root);
        openers.serve(1);
        assert_eq!(read(), Ok(()));
    }
}
