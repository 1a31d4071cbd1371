//! Files that may appear after the daemon starts: the statistics of ZFS, whose module may be loaded
//! later, and of zram devices, which may be added and removed.
//!
//! The sensing thread must not open files. Another thread opens them, again and again at a slow pace
//! ([`LateFilesOpener`]), and the sensing thread takes the open ones ([`OfferedFiles`]).
//!
//! Not here: their formats (`zfs`, `swap`).

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;

use super::{proc_file::ProcFile, zfs};

/// Time between two openings.
const INTERVAL: Duration = Duration::from_secs(30);

/// Most zram devices.
const MAX_ZRAM: usize = 32;

/// The files that exist.
#[derive(Debug, Default)]
pub struct LateFiles {
    /// Statistics of ZFS's cache.
    pub(super) arcstats: Option<ProcFile>,
    /// Names of zram devices, such as `zram0`, and their mm_stat.
    pub(super) zram: Vec<(String, ProcFile)>,
}

impl LateFiles {
    /// Opens the files below `root`, which is `/` except in tests.
    pub(super) fn open(root: &Path) -> Self {
        let arcstats = ProcFile::open(&root.join(zfs::ARCSTATS)).ok();
        let devices = fs::read_dir(root.join("sys/block")).into_iter().flatten().flatten();
        let mm_stat = |device: fs::DirEntry| {
            let name = device.file_name().into_string().ok().filter(|name| is_zram(name))?;
            Some((name, ProcFile::open(&device.path().join("mm_stat")).ok()?))
        };
        Self { arcstats, zram: devices.filter_map(mm_stat).take(MAX_ZRAM).collect() }
    }
}

/// Whether this is the name of a zram device: `zram` and a number.
pub(super) fn is_zram(name: &str) -> bool {
    name.strip_prefix("zram").is_some_and(|number| number.parse::<u32>().is_ok())
}

/// The files that were opened last, until the sensing thread takes them, and those that it had
/// before, until they are closed.
#[derive(Debug, Default)]
pub struct OfferedFiles {
    opened: ArcSwapOption<LateFiles>,
    replaced: ArcSwapOption<LateFiles>,
}

impl OfferedFiles {
    fn offer(&self, files: LateFiles) {
        self.close_replaced();
        self.opened.store(Some(Arc::new(files)));
    }

    fn close_replaced(&self) {
        self.replaced.store(None);
    }

    /// Replaces `files` by those that were opened since the last call. Never waits, and closes
    /// none: that is for the opener.
    pub(super) fn replace(&self, files: &mut LateFiles) {
        if let Some(opened) = self.opened.swap(None).and_then(Arc::into_inner) {
            self.replaced.store(Some(Arc::new(std::mem::replace(files, opened))));
        }
    }
}

/// Opens the files for the sensing thread. For a thread that may open files.
#[derive(Debug)]
pub struct LateFilesOpener {
    root: PathBuf,
    offered: Arc<OfferedFiles>,
    last: Instant,
}

impl LateFilesOpener {
    /// The files were just opened, so the next time is later.
    pub fn new(root: &Path, offered: Arc<OfferedFiles>) -> Self {
        Self { root: root.to_owned(), offered, last: Instant::now() }
    }

    /// Closes files that were replaced, and opens them anew if that is due.
    pub fn open_if_due(&mut self) {
        self.offered.close_replaced();
        if self.last.elapsed() >= INTERVAL {
            self.last = Instant::now();
            self.offered.offer(LateFiles::open(&self.root));
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Opens the files now.
    pub(in crate::host) fn open_now(root: &Path, offered: &OfferedFiles) {
        offered.offer(LateFiles::open(root));
    }

    #[test]
    fn only_zram_devices_are_zram() {
        for (name, expected) in
            [("zram0", true), ("zram12", true), ("zram", false), ("zramx", false), ("sda", false)]
        {
            assert_eq!(is_zram(name), expected, "{name}");
        }
    }

    #[test]
    fn offered_files_are_taken_once_and_are_the_newest() {
        let root = tempfile::tempdir().expect("a directory");
        let offered = OfferedFiles::default();
        let mut files = LateFiles::default();
        offered.replace(&mut files);
        assert!(files.zram.is_empty());
        open_now(root.path(), &offered);
        fs::create_dir_all(root.path().join("sys/block/zram3")).expect("mkdir");
        fs::write(root.path().join("sys/block/zram3/mm_stat"), "1 2 3").expect("write");
        open_now(root.path(), &offered);
        let names = |files: &LateFiles| -> Vec<_> {
            files.zram.iter().map(|(name, _)| name.clone()).collect()
        };
        for _ in 0..2 {
            offered.replace(&mut files);
            assert_eq!(names(&files), ["zram3"]);
        }
        open_now(root.path(), &offered);
        offered.replace(&mut files);
        let closed_later = offered.replaced.load();
        assert_eq!(closed_later.as_deref().map(names).as_deref(), Some(&["zram3".to_owned()][..]));
    }

    #[test]
    fn replaced_files_are_closed_before_the_next_opening() {
        let root = tempfile::tempdir().expect("a directory");
        let offered = Arc::new(OfferedFiles::default());
        let mut opener = LateFilesOpener::new(root.path(), Arc::clone(&offered));
        let mut files = LateFiles::open(root.path());
        open_now(root.path(), &offered);
        offered.replace(&mut files);
        assert!(offered.replaced.load().is_some());
        opener.open_if_due();
        assert!(offered.replaced.load().is_none(), "they stay open for 30 s more");
        assert!(offered.opened.load().is_none(), "the next opening is not due");
    }
}
