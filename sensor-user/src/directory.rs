//! What each cgroup is called: its path by its id, and for a while after it is gone.
//!
//! Learnt from a walk at the start and from then on from the kernel half ([`CgroupPathCache::take_in`]). An id
//! that is not known (a path that was cut, a ring that was full, a kernel without the tracepoints) has the
//! tree walked again ([`walk`]), but not for every such id, and never while the directory is held.
//!
//! Not here: what a path means to people ([`workload`](crate::identity)).

use std::{
    collections::{HashMap, VecDeque},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use sensor_ebpf::event::{CgroupGone, CgroupMade, PATH, Tag};

use crate::{
    events::{record, tame},
    host::cgroup,
};

/// Groups that are there and known. A path has some 100 bytes.
const MOST: usize = 65_536;

/// A longer path is not kept: it stays in locked memory, and whoever may make groups may nest them. What is
/// in such a group is told without a name, and counts among those that are omitted.
const LONGEST: usize = 1024;

/// Groups that are gone and known; the one that went first is forgotten first.
const MOST_GONE: usize = 4096;

/// Groups for which the directory is held at a time.
const AT_A_TIME: usize = 256;

/// Between two walks for the name of an event, which somebody waits for.
pub const SOON: Duration = Duration::from_secs(1);

/// The paths of all cgroups in the hierarchy that memory is charged to.
#[derive(Debug, Default)]
pub struct CgroupPathCache {
    /// Where that is mounted; nowhere without the memory controller.
    root: Option<PathBuf>,
    live: HashMap<u64, Arc<str>>,
    gone: HashMap<u64, Arc<str>>,
    /// Ids in `gone`, oldest first.
    left: VecDeque<u64>,
    walked_ns: Option<u64>,
}

/// One directory for all threads. It is held for a moment at a time, but a thread that must not wait
/// uses `try_lock`.
pub type SharedPaths = Arc<Mutex<CgroupPathCache>>;

/// Holds it for a moment.
pub fn locked(directory: &SharedPaths) -> MutexGuard<'_, CgroupPathCache> {
    directory.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Learns all that there are now, unless that was done so short a time ago; `now` is CLOCK_MONOTONIC
/// nanoseconds. Whether it did. A walk through ten thousand groups takes some tenths of a second, in which
/// others must be able to ask.
pub fn walk(directory: &SharedPaths, now: u64, every: Duration) -> bool {
    let Some((root, before)) = locked(directory).begin_walk(now, every) else { return false };
    let found = cgroup::all_below(&root).map(|(id, path)| (id, tame(&path)));
    let found = found.filter(|(_, path)| path.len() <= LONGEST).take(MOST);
    let found = found.map(|(id, path)| (id, Arc::from(path))).collect();
    end_walk(directory, &before, found);
    true
}

/// What was made or went while somebody walked is known already: an id is not used again.
fn end_walk(directory: &SharedPaths, before: &[u64], found: HashMap<u64, Arc<str>>) {
    let went = before.iter().filter(|id| !found.contains_key(id));
    in_pieces(directory, went, |directory, id| {
        if let Some(path) = directory.live.remove(id) {
            directory.leave(*id, path);
        }
    });
    in_pieces(directory, found, |directory, (id, path)| {
        if !directory.gone.contains_key(&id) && directory.live.len() < MOST {
            directory.live.insert(id, path);
        }
    });
}

/// What the groups of those ids are called, of which there may be many.
pub fn names(
    directory: &SharedPaths,
    ids: impl IntoIterator<Item = u64>,
) -> HashMap<u64, Arc<str>> {
    let mut names = HashMap::new();
    in_pieces(directory, ids, |directory, id| {
        names.extend(directory.path(id).map(|path| (id, path)));
    });
    names
}

/// Does that for each, and holds the directory for a few of them at a time: whoever does it may run after
/// everybody else, and an event waits for its name.
fn in_pieces<T>(
    directory: &SharedPaths,
    all: impl IntoIterator<Item = T>,
    mut each: impl FnMut(&mut CgroupPathCache, T),
) {
    let mut all = all.into_iter();
    loop {
        let piece: Vec<_> = all.by_ref().take(AT_A_TIME).collect();
        if piece.is_empty() {
            return;
        }
        let mut directory = locked(directory);
        for one in piece {
            each(&mut directory, one);
        }
    }
}

/// What the group of that id is called; if it is not known, after a walk.
pub fn find(directory: &SharedPaths, id: u64, now: u64) -> Option<Arc<str>> {
    let known = locked(directory).path(id);
    if known.is_some() || !walk(directory, now, SOON) {
        return known;
    }
    locked(directory).path(id)
}

impl CgroupPathCache {
    /// Knows nothing yet.
    pub fn new(root: Option<PathBuf>) -> Self {
        Self { root, ..Self::default() }
    }

    /// Where to walk, and which groups were there before; nothing if it is too early.
    fn begin_walk(&mut self, now: u64, every: Duration) -> Option<(PathBuf, Vec<u64>)> {
        let every = u64::try_from(every.as_nanos()).unwrap_or(u64::MAX);
        if self.walked_ns.is_some_and(|then| now < then.saturating_add(every)) {
            return None;
        }
        self.walked_ns = Some(now);
        Some((self.root.clone()?, self.live.keys().copied().collect()))
    }

    /// Takes in a record of the kernel half; false if it is none.
    pub fn take_in(&mut self, bytes: &[u8]) -> bool {
        match record::<u32>(bytes) {
            Some(tag) if tag == Tag::CgroupMade as u32 => {
                let Some(made) = record::<CgroupMade>(bytes) else { return false };
                // With its NUL. One that fills all the room may have been cut.
                let len = usize::try_from(made.path_len).unwrap_or(PATH);
                if (2..PATH).contains(&len) && self.live.len() < MOST {
                    let path = String::from_utf8_lossy(&made.path[..len - 1]);
                    self.live.insert(made.id, Arc::from(tame(&path)));
                }
                true
            }
            Some(tag) if tag == Tag::CgroupGone as u32 => {
                let Some(gone) = record::<CgroupGone>(bytes) else { return false };
                if let Some(path) = self.live.remove(&gone.id) {
                    self.leave(gone.id, path);
                }
                true
            }
            _ => false,
        }
    }

    fn leave(&mut self, id: u64, path: Arc<str>) {
        if self.left.len() >= MOST_GONE
            && let Some(oldest) = self.left.pop_front()
        {
            self.gone.remove(&oldest);
        }
        if self.gone.insert(id, path).is_none() {
            self.left.push_back(id);
        }
    }

    /// What is known.
    pub fn path(&self, id: u64) -> Option<Arc<str>> {
        self.live.get(&id).or_else(|| self.gone.get(&id)).cloned()
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::MetadataExt as _};

    use bytemuck::{Zeroable as _, bytes_of};

    use super::*;

    fn made(id: u64, path: &[u8]) -> CgroupMade {
        let mut made = CgroupMade { tag: Tag::CgroupMade as u32, id, ..CgroupMade::zeroed() };
        let len = path.len().min(PATH - 1);
        made.path[..len].copy_from_slice(&path[..len]);
        made.path_len = u32::try_from(len + 1).expect("short");
        made
    }

    fn gone(id: u64) -> CgroupGone {
        CgroupGone { tag: Tag::CgroupGone as u32, unused: 0, id }
    }

    #[test]
    fn a_group_has_its_name_also_when_it_is_gone() {
        let mut directory = CgroupPathCache::new(None);
        assert!(directory.take_in(bytes_of(&made(7, b"/system.slice/a.service"))));
        assert_eq!(directory.path(7).as_deref(), Some("/system.slice/a.service"));
        assert!(directory.take_in(bytes_of(&gone(7))));
        assert_eq!(directory.path(7).as_deref(), Some("/system.slice/a.service"));
        // One that was never known.
        assert!(directory.take_in(bytes_of(&gone(8))));
        assert_eq!(directory.path(8), None);
    }

    #[test]
    fn what_is_kept_is_bounded_and_the_latest() {
        let mut directory = CgroupPathCache::new(None);
        for id in 0..3 * MOST_GONE as u64 {
            directory.take_in(bytes_of(&made(id, b"/a")));
            directory.take_in(bytes_of(&gone(id)));
        }
        assert_eq!((directory.gone.len(), directory.left.len()), (MOST_GONE, MOST_GONE));
        assert_eq!(directory.path(2 * MOST_GONE as u64 - 1), None);
        assert!(directory.path(2 * MOST_GONE as u64).is_some());
        for id in 0..2 * MOST as u64 {
            directory.take_in(bytes_of(&made(id, b"/a")));
        }
        assert_eq!(directory.live.len(), MOST);
    }

    #[test]
    fn a_path_that_was_cut_or_not_read_is_not_believed() {
        let mut directory = CgroupPathCache::new(None);
        assert!(directory.take_in(bytes_of(&made(1, &[b'/'; 300]))));
        let mut unread = made(2, b"/x");
        unread.path_len = (-14i32).cast_unsigned();
        assert!(directory.take_in(bytes_of(&unread)));
        unread.path_len = 0;
        assert!(directory.take_in(bytes_of(&unread)));
        assert_eq!((directory.path(1), directory.path(2)), (None, None));
        for junk in [&b""[..], b"abc", &[4, 0, 0, 0], &[9; 400]] {
            assert!(!directory.take_in(junk), "{junk:?}");
        }
    }

    #[test]
    fn a_hostile_name_has_no_control_characters_of_eight_bits() {
        let mut directory = CgroupPathCache::new(None);
        directory.take_in(bytes_of(&made(1, b"/\xc2\x9b31m\x7f\xff")));
        let path = directory.path(1).expect("known");
        assert!(!path.chars().any(char::is_control), "{path:?}");
    }

    #[test]
    fn what_is_not_known_is_looked_for_but_not_each_time() {
        let dir = tempfile::tempdir().expect("tempdir");
        let id_of = |name: &str| {
            let path = dir.path().join(name);
            fs::create_dir_all(&path).expect("mkdir");
            fs::metadata(path).expect("stat").ino()
        };
        let directory =
            SharedPaths::new(Mutex::new(CgroupPathCache::new(Some(dir.path().to_owned()))));
        let soon = u64::try_from(SOON.as_nanos()).expect("short");
        let first = id_of("a/b");
        assert_eq!(find(&directory, first, 0).as_deref(), Some("/a/b"));
        let second = id_of("a/c");
        assert_eq!(find(&directory, second, soon - 1), None, "too early");
        fs::remove_dir(dir.path().join("a/b")).expect("rmdir");
        assert_eq!(find(&directory, second, soon).as_deref(), Some("/a/c"));
        let directory = locked(&directory);
        assert_eq!(directory.path(first).as_deref(), Some("/a/b"), "gone, and known");
        assert!(directory.gone.contains_key(&first) && !directory.live.contains_key(&first));
    }

    #[test]
    fn a_path_that_is_too_long_to_keep_is_skipped() {
        let dir = tempfile::tempdir().expect("tempdir");
        let (name, mut path) = ("x".repeat(255), dir.path().to_owned());
        let mut ids = Vec::new();
        for _ in 0..5 {
            path.push(&name);
            fs::create_dir(&path).expect("mkdir");
            ids.push(fs::metadata(&path).expect("stat").ino());
        }
        let directory =
            SharedPaths::new(Mutex::new(CgroupPathCache::new(Some(dir.path().to_owned()))));
        assert!(walk(&directory, 0, SOON));
        let directory = locked(&directory);
        let lens: Vec<_> =
            ids.iter().map(|id| directory.path(*id).map(|path| path.len())).collect();
        assert_eq!(lens, [Some(256), Some(512), Some(768), Some(LONGEST), None]);
    }

    /// Ids, none of which is asked for while the directory is held.
    fn unheld(directory: &SharedPaths, ids: std::ops::Range<u64>) -> impl Iterator<Item = u64> {
        ids.inspect(|id| assert!(directory.try_lock().is_ok(), "held for those before {id}"))
    }

    #[test]
    fn it_is_held_for_a_few_names_at_a_time() {
        let directory = SharedPaths::default();
        let many = 3 * AT_A_TIME as u64 + 1;
        in_pieces(&directory, unheld(&directory, 0..many), |directory, id| {
            directory.take_in(bytes_of(&made(id, b"/a")));
        });
        let known = names(&directory, unheld(&directory, 1..2 * many));
        assert_eq!(known.len() as u64, many - 1);
        let before: Vec<_> = (0..many).collect();
        let found = (many..2 * many).map(|id| (id, Arc::from("/b"))).collect();
        end_walk(&directory, &before, found);
        let directory = locked(&directory);
        assert_eq!((directory.live.len() as u64, directory.gone.len() as u64), (many, many));
    }

    #[test]
    fn what_changes_during_a_walk_stays_as_it_was_told() {
        let mut directory = CgroupPathCache::new(Some(PathBuf::from("/")));
        for (id, path) in [(1, b"/a"), (2, b"/b"), (3, b"/c")] {
            directory.take_in(bytes_of(&made(id, path)));
        }
        let (_, before) = directory.begin_walk(0, SOON).expect("due");
        // The walk passes, sees 2, which goes; does not see 3, which went unnoticed; and misses 4, which is
        // made behind it.
        directory.take_in(bytes_of(&gone(2)));
        directory.take_in(bytes_of(&made(4, b"/d")));
        let found = [(1, "/a"), (2, "/b"), (5, "/e")];
        let directory = SharedPaths::new(Mutex::new(directory));
        end_walk(&directory, &before, found.map(|(id, path)| (id, Arc::from(path))).into());
        let mut directory = locked(&directory);
        let live: std::collections::BTreeMap<_, _> =
            directory.live.iter().map(|(id, path)| (*id, &**path)).collect();
        assert_eq!(live, [(1, "/a"), (4, "/d"), (5, "/e")].into());
        assert_eq!(
            (directory.path(2).as_deref(), directory.path(3).as_deref()),
            (Some("/b"), Some("/c"))
        );
        assert!(directory.begin_walk(1, SOON).is_none());
    }
}
