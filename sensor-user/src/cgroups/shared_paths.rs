//! The path cache as threads share it.
//!
//! Threads with real-time priority (`events`, `sense`) and one without it (`cgroups`) lock the
//! cache, and no lock of the standard library inherits priority. So the thread `cgroups` holds the
//! lock for a batch of paths at a time and prepares them before it locks, and a real-time thread
//! never blocks on the lock: it tries, for a bounded time, and can do without.
//!
//! Not here: what is in the cache (`path_cache`), and walks (`walker`).

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError},
    time::Duration,
};

use anyhow::Result;
use sensor_core::common::clock::monotonic_ns;

use super::{
    path_cache::CgroupPathCache,
    walk_requests::{Patience, WalkRequests},
};

/// Cgroups per lock of the cache on the thread without real-time priority.
pub(super) const BATCH: usize = 64;

/// How often a real-time thread tries to lock the cache, and how long it sleeps between two tries:
/// 10 ms together.
const TRIES: u32 = 40;
const TRY_AGAIN: Duration = Duration::from_micros(250);

/// The paths of all cgroups in the hierarchy that memory is charged to.
#[derive(Debug)]
pub struct CgroupPaths {
    /// Mount point of the hierarchy; `None` without the memory controller.
    root: Option<PathBuf>,
    cache: Mutex<CgroupPathCache>,
    pub(super) requests: WalkRequests,
}

/// The paths of all threads.
pub type SharedPaths = Arc<CgroupPaths>;

impl CgroupPaths {
    /// Without any path yet.
    pub fn new(root: Option<PathBuf>) -> Result<Self> {
        Ok(Self { root, cache: Mutex::default(), requests: WalkRequests::new()? })
    }

    /// Mount point of the hierarchy.
    pub(super) fn root(&self) -> Option<&Path> {
        self.root.as_deref()
    }

    /// Locks the cache. Only for the thread without real-time priority.
    pub(super) fn lock(&self) -> MutexGuard<'_, CgroupPathCache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locks the cache if it is free now.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, CgroupPathCache>> {
        match self.cache.try_lock() {
            Ok(cache) => Some(cache),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Locks the cache within 10 ms. The holder may have to wait for a processor; while this
    /// thread sleeps, it can get that of this thread.
    pub fn lock_soon(&self) -> Option<MutexGuard<'_, CgroupPathCache>> {
        for _ in 0..TRIES {
            let cache = self.try_lock();
            if cache.is_some() {
                return cache;
            }
            std::thread::sleep(TRY_AGAIN);
        }
        None
    }

    /// Requests a walk as soon as one is due. Never waits.
    pub fn request_walk(&self) {
        self.requests.request();
    }

    /// The known paths of these ids. Only for the thread without real-time priority.
    pub(super) fn of(&self, ids: impl IntoIterator<Item = u64>) -> HashMap<u64, Arc<str>> {
        let ids = ids.into_iter();
        let mut paths = HashMap::with_capacity(ids.size_hint().0);
        self.in_batches(ids, |cache, id| paths.extend(cache.path(id).map(|path| (id, path))));
        paths
    }

    /// Calls `each` for all items, and releases the lock after each batch.
    pub(super) fn in_batches<T>(
        &self,
        items: impl IntoIterator<Item = T>,
        mut each: impl FnMut(&mut CgroupPathCache, T),
    ) {
        let mut items = items.into_iter();
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            batch.extend(items.by_ref().take(BATCH));
            if batch.is_empty() {
                return;
            }
            let mut cache = self.lock();
            for item in batch.drain(..) {
                each(&mut cache, item);
            }
        }
    }
}

/// Finds paths for the event thread.
#[derive(Debug)]
pub struct PathFinder {
    paths: SharedPaths,
    patience: Patience,
}

impl PathFinder {
    /// Finds paths in these.
    pub fn new(paths: SharedPaths) -> Self {
        Self { paths, patience: Patience::default() }
    }

    /// The path of the cgroup with that id. If it is not known, waits a short time for a walk by
    /// the thread `cgroups`.
    pub fn find(&mut self, id: u64) -> Option<Arc<str>> {
        let Self { paths, patience } = self;
        let known = || paths.lock_soon().and_then(|cache| cache.path(id));
        let path = known();
        // An event has the id 0 if the kernel half could not read it.
        if path.is_some() || id == 0 || paths.root().is_none() {
            return path;
        }
        paths.requests.walk_for(patience, monotonic_ns, known)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn shared() -> CgroupPaths {
        CgroupPaths::new(Some(PathBuf::from("/none"))).expect("eventfd")
    }

    /// Ids; asserts that the cache is not locked when an id is requested.
    fn unlocked(
        paths: &CgroupPaths,
        ids: std::ops::Range<u64>,
    ) -> impl Iterator<Item = u64> + use<'_> {
        ids.inspect(|id| assert!(paths.try_lock().is_some(), "locked for the ids before {id}"))
    }

    #[test]
    fn the_lock_is_released_after_each_batch() {
        let paths = shared();
        let many = 3 * BATCH as u64 + 1;
        paths.in_batches(unlocked(&paths, 0..many), |cache, id| {
            cache.add_walked(id, Arc::from("/a"));
        });
        let known = paths.of(unlocked(&paths, 1..2 * many));
        assert_eq!(known.len() as u64, many - 1);
    }

    #[test]
    fn a_real_time_thread_does_without_a_lock_that_is_held() {
        let paths = Arc::new(shared());
        paths.in_batches([7], |cache, id| cache.add_walked(id, Arc::from("/a")));
        let mut finder = PathFinder::new(Arc::clone(&paths));
        let held = paths.lock();
        assert!(paths.try_lock().is_none() && paths.lock_soon().is_none());
        let begun = Instant::now();
        for _ in 0..3 {
            assert_eq!(finder.find(7), None);
        }
        // Each tries for 10 ms, and the first one waits 100 ms for a walk.
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        drop(held);
        assert_eq!(finder.find(7).as_deref(), Some("/a"));
    }

    #[test]
    fn no_walk_is_requested_where_none_would_help() {
        let paths = Arc::new(shared());
        assert_eq!(PathFinder::new(Arc::clone(&paths)).find(0), None);
        assert!(!paths.requests.take(), "an id that was not read");
        let paths = Arc::new(CgroupPaths::new(None).expect("eventfd"));
        assert_eq!(PathFinder::new(Arc::clone(&paths)).find(7), None);
        assert!(!paths.requests.take(), "no memory controller");
    }
}
