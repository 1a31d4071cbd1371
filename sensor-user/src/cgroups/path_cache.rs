//! The path of each cgroup by its id, also for a while after the cgroup is removed.
//!
//! A walk at the start fills the cache, then events of the kernel half keep it up to date
//! ([`CgroupPathCache::apply`]). An unknown id (a truncated path, a full ring, a kernel without the
//! tracepoints) causes another walk ([`walk`]), at a limited rate, and never with the lock held.
//!
//! Not here: the unit, container or pod of a path (`model/workload` of the core).

use std::{
    collections::{HashMap, VecDeque},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use sensor_ebpf::event::{CgroupGone, CgroupMade, PATH, Tag};

use crate::host::cgroup::mounts;
use sensor_core::common::{bytes::decode, counter::nanos, text::sanitize};

/// Most existing cgroups in the cache. A path has about 100 bytes.
const MAX_LIVE: usize = 65_536;

/// Longest path in the cache: paths stay in locked memory, and any user who may create cgroups may
/// nest them. A cgroup with a longer path is reported without a path, and counts as omitted.
const MAX_PATH_BYTES: usize = 1024;

/// Most removed cgroups in the cache; the oldest is dropped first.
const MAX_REMOVED: usize = 4096;

/// Cgroups per lock of the cache.
const BATCH: usize = 256;

/// Shortest time between two walks for an event.
pub const WALK_FOR_EVENT: Duration = Duration::from_secs(1);

/// The paths of all cgroups in the hierarchy that memory is charged to.
#[derive(Debug, Default)]
pub struct CgroupPathCache {
    /// Mount point of the hierarchy; `None` without the memory controller.
    root: Option<PathBuf>,
    live: HashMap<u64, Arc<str>>,
    removed: HashMap<u64, Arc<str>>,
    /// Ids in `removed`, oldest first.
    removed_order: VecDeque<u64>,
    walked_ns: Option<u64>,
}

/// The cache of all threads. The lock is held for a moment at a time; a thread that must not wait
/// uses `try_lock`.
pub type SharedPaths = Arc<Mutex<CgroupPathCache>>;

/// Locks the cache.
pub fn lock(cache: &SharedPaths) -> MutexGuard<'_, CgroupPathCache> {
    cache.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads all cgroups that exist, unless the last walk was less than `every` ago; `now` is
/// CLOCK_MONOTONIC nanoseconds. Returns whether it did. A walk over ten thousand cgroups takes some
/// tenths of a second, during which the cache is not locked.
pub fn walk(cache: &SharedPaths, now: u64, every: Duration) -> bool {
    let Some((root, before)) = lock(cache).begin_walk(now, every) else { return false };
    let paths = mounts::all_below(&root).map(|(id, path)| (id, sanitize(&path)));
    let paths = paths.filter(|(_, path)| path.len() <= MAX_PATH_BYTES).take(MAX_LIVE);
    let walked = paths.map(|(id, path)| (id, Arc::from(path))).collect();
    end_walk(cache, &before, walked);
    true
}

/// Adds the cgroups of a walk, and retires those of `before` that it did not find. Events during
/// the walk have already added and removed cgroups; their ids are not reused.
fn end_walk(cache: &SharedPaths, before: &[u64], walked: HashMap<u64, Arc<str>>) {
    let removed = before.iter().filter(|id| !walked.contains_key(id));
    in_batches(cache, removed, |cache, id| {
        if let Some(path) = cache.live.remove(id) {
            cache.retire(*id, path);
        }
    });
    in_batches(cache, walked, |cache, (id, path)| {
        if !cache.removed.contains_key(&id) && cache.live.len() < MAX_LIVE {
            cache.live.insert(id, path);
        }
    });
}

/// The known paths of these ids.
pub fn paths(cache: &SharedPaths, ids: impl IntoIterator<Item = u64>) -> HashMap<u64, Arc<str>> {
    let mut paths = HashMap::new();
    in_batches(cache, ids, |cache, id| {
        paths.extend(cache.path(id).map(|path| (id, path)));
    });
    paths
}

/// Calls `each` for all items, and releases the lock after each batch: the caller may have the
/// lowest priority, and the event thread waits for paths.
fn in_batches<T>(
    cache: &SharedPaths,
    items: impl IntoIterator<Item = T>,
    mut each: impl FnMut(&mut CgroupPathCache, T),
) {
    let mut items = items.into_iter();
    loop {
        let batch: Vec<_> = items.by_ref().take(BATCH).collect();
        if batch.is_empty() {
            return;
        }
        let mut cache = lock(cache);
        for item in batch {
            each(&mut cache, item);
        }
    }
}

/// The path of the cgroup with that id; walks if it is not known.
pub fn find(cache: &SharedPaths, id: u64, now: u64) -> Option<Arc<str>> {
    let known = lock(cache).path(id);
    if known.is_some() || !walk(cache, now, WALK_FOR_EVENT) {
        return known;
    }
    lock(cache).path(id)
}

impl CgroupPathCache {
    /// An empty cache.
    pub fn new(root: Option<PathBuf>) -> Self {
        Self { root, ..Self::default() }
    }

    /// The root of the walk, and the ids that are in the cache; `None` if it is too early.
    fn begin_walk(&mut self, now: u64, every: Duration) -> Option<(PathBuf, Vec<u64>)> {
        if self.walked_ns.is_some_and(|then| now < then.saturating_add(nanos(every))) {
            return None;
        }
        self.walked_ns = Some(now);
        Some((self.root.clone()?, self.live.keys().copied().collect()))
    }

    /// Applies a record of the kernel half; returns false if it is of unknown kind or size.
    pub fn apply(&mut self, bytes: &[u8]) -> bool {
        match decode::<u32>(bytes) {
            Some(tag) if tag == Tag::CgroupMade as u32 => {
                let Some(made) = decode::<CgroupMade>(bytes) else { return false };
                // The length includes the NUL. A path that fills the buffer may be truncated.
                let len = usize::try_from(made.path_len).unwrap_or(PATH);
                if (2..PATH).contains(&len) && self.live.len() < MAX_LIVE {
                    let path = String::from_utf8_lossy(&made.path[..len - 1]);
                    self.live.insert(made.id, Arc::from(sanitize(&path)));
                }
                true
            }
            Some(tag) if tag == Tag::CgroupGone as u32 => {
                let Some(removed) = decode::<CgroupGone>(bytes) else { return false };
                if let Some(path) = self.live.remove(&removed.id) {
                    self.retire(removed.id, path);
                }
                true
            }
            _ => false,
        }
    }

    fn retire(&mut self, id: u64, path: Arc<str>) {
        if self.removed_order.len() >= MAX_REMOVED
            && let Some(oldest) = self.removed_order.pop_front()
        {
            self.removed.remove(&oldest);
        }
        if self.removed.insert(id, path).is_none() {
            self.removed_order.push_back(id);
        }
    }

    /// The path of an id, if it is known.
    pub fn path(&self, id: u64) -> Option<Arc<str>> {
        self.live.get(&id).or_else(|| self.removed.get(&id)).cloned()
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

    fn removed(id: u64) -> CgroupGone {
        CgroupGone { tag: Tag::CgroupGone as u32, unused: 0, id }
    }

    #[test]
    fn a_removed_cgroup_keeps_its_path() {
        let mut cache = CgroupPathCache::new(None);
        assert!(cache.apply(bytes_of(&made(7, b"/system.slice/a.service"))));
        assert_eq!(cache.path(7).as_deref(), Some("/system.slice/a.service"));
        assert!(cache.apply(bytes_of(&removed(7))));
        assert_eq!(cache.path(7).as_deref(), Some("/system.slice/a.service"));
        // A cgroup that was never known.
        assert!(cache.apply(bytes_of(&removed(8))));
        assert_eq!(cache.path(8), None);
    }

    #[test]
    fn the_cache_is_bounded_and_drops_the_oldest() {
        let mut cache = CgroupPathCache::new(None);
        for id in 0..3 * MAX_REMOVED as u64 {
            cache.apply(bytes_of(&made(id, b"/a")));
            cache.apply(bytes_of(&removed(id)));
        }
        assert_eq!((cache.removed.len(), cache.removed_order.len()), (MAX_REMOVED, MAX_REMOVED));
        assert_eq!(cache.path(2 * MAX_REMOVED as u64 - 1), None);
        assert!(cache.path(2 * MAX_REMOVED as u64).is_some());
        for id in 0..2 * MAX_LIVE as u64 {
            cache.apply(bytes_of(&made(id, b"/a")));
        }
        assert_eq!(cache.live.len(), MAX_LIVE);
    }

    #[test]
    fn truncated_and_unread_paths_are_skipped() {
        let mut cache = CgroupPathCache::new(None);
        assert!(cache.apply(bytes_of(&made(1, &[b'/'; 300]))));
        let mut unread = made(2, b"/x");
        unread.path_len = (-14i32).cast_unsigned();
        assert!(cache.apply(bytes_of(&unread)));
        unread.path_len = 0;
        assert!(cache.apply(bytes_of(&unread)));
        assert_eq!((cache.path(1), cache.path(2)), (None, None));
        for junk in [&b""[..], b"abc", &[4, 0, 0, 0], &[9; 400]] {
            assert!(!cache.apply(junk), "{junk:?}");
        }
    }

    #[test]
    fn paths_contain_no_control_characters() {
        let mut cache = CgroupPathCache::new(None);
        cache.apply(bytes_of(&made(1, b"/\xc2\x9b31m\x7f\xff")));
        let path = cache.path(1).expect("known");
        assert!(!path.chars().any(char::is_control), "{path:?}");
    }

    #[test]
    fn unknown_ids_cause_walks_at_a_limited_rate() {
        let dir = tempfile::tempdir().expect("tempdir");
        let id_of = |name: &str| {
            let path = dir.path().join(name);
            fs::create_dir_all(&path).expect("mkdir");
            fs::metadata(path).expect("stat").ino()
        };
        let cache = SharedPaths::new(Mutex::new(CgroupPathCache::new(Some(dir.path().to_owned()))));
        let next_ns = nanos(WALK_FOR_EVENT);
        let first = id_of("a/b");
        assert_eq!(find(&cache, first, 0).as_deref(), Some("/a/b"));
        let second = id_of("a/c");
        assert_eq!(find(&cache, second, next_ns - 1), None, "too early");
        fs::remove_dir(dir.path().join("a/b")).expect("rmdir");
        assert_eq!(find(&cache, second, next_ns).as_deref(), Some("/a/c"));
        let cache = lock(&cache);
        assert_eq!(cache.path(first).as_deref(), Some("/a/b"), "removed, but known");
        assert!(cache.removed.contains_key(&first) && !cache.live.contains_key(&first));
    }

    #[test]
    fn a_too_long_path_is_skipped() {
        let dir = tempfile::tempdir().expect("tempdir");
        let (name, mut path) = ("x".repeat(255), dir.path().to_owned());
        let mut ids = Vec::new();
        for _ in 0..5 {
            path.push(&name);
            fs::create_dir(&path).expect("mkdir");
            ids.push(fs::metadata(&path).expect("stat").ino());
        }
        let cache = SharedPaths::new(Mutex::new(CgroupPathCache::new(Some(dir.path().to_owned()))));
        assert!(walk(&cache, 0, WALK_FOR_EVENT));
        let cache = lock(&cache);
        let lens: Vec<_> = ids.iter().map(|id| cache.path(*id).map(|path| path.len())).collect();
        assert_eq!(lens, [Some(256), Some(512), Some(768), Some(MAX_PATH_BYTES), None]);
    }

    /// Ids; asserts that the cache is not locked when an id is requested.
    fn unlocked(cache: &SharedPaths, ids: std::ops::Range<u64>) -> impl Iterator<Item = u64> {
        ids.inspect(|id| assert!(cache.try_lock().is_ok(), "locked for the ids before {id}"))
    }

    #[test]
    fn the_lock_is_released_after_each_batch() {
        let cache = SharedPaths::default();
        let many = 3 * BATCH as u64 + 1;
        in_batches(&cache, unlocked(&cache, 0..many), |cache, id| {
            cache.apply(bytes_of(&made(id, b"/a")));
        });
        let known = paths(&cache, unlocked(&cache, 1..2 * many));
        assert_eq!(known.len() as u64, many - 1);
        let before: Vec<_> = (0..many).collect();
        let walked = (many..2 * many).map(|id| (id, Arc::from("/b"))).collect();
        end_walk(&cache, &before, walked);
        let cache = lock(&cache);
        assert_eq!((cache.live.len() as u64, cache.removed.len() as u64), (many, many));
    }

    #[test]
    fn events_during_a_walk_take_precedence() {
        let mut cache = CgroupPathCache::new(Some(PathBuf::from("/")));
        for (id, path) in [(1, b"/a"), (2, b"/b"), (3, b"/c")] {
            cache.apply(bytes_of(&made(id, path)));
        }
        let (_, before) = cache.begin_walk(0, WALK_FOR_EVENT).expect("due");
        // The walk finds 2, which is removed after that, and 5; it does not find 3, which was
        // removed without an event, and 4, which is created after the walk has passed its parent.
        cache.apply(bytes_of(&removed(2)));
        cache.apply(bytes_of(&made(4, b"/d")));
        let walked = [(1, "/a"), (2, "/b"), (5, "/e")];
        let cache = SharedPaths::new(Mutex::new(cache));
        end_walk(&cache, &before, walked.map(|(id, path)| (id, Arc::from(path))).into());
        let mut cache = lock(&cache);
        let live: std::collections::BTreeMap<_, _> =
            cache.live.iter().map(|(id, path)| (*id, &**path)).collect();
        assert_eq!(live, [(1, "/a"), (4, "/d"), (5, "/e")].into());
        assert_eq!((cache.path(2).as_deref(), cache.path(3).as_deref()), (Some("/b"), Some("/c")));
        assert!(cache.begin_walk(1, WALK_FOR_EVENT).is_none());
    }
}
