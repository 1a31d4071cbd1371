//! Walks the cgroup tree, on the thread `cgroups`, for paths that no event brought: of cgroups that
//! are older than the daemon, whose path is longer than a record, or whose record was lost.
//!
//! Not here: when an event needs a walk (`shared_paths`), and the pace (`walk_requests`).

use std::{collections::HashSet, path::Path, sync::Arc, time::Duration};

use rustix::time::{ClockId, clock_gettime};
use sensor_core::common::{clock::monotonic_ns, counter::nanos, text::sanitize};

use super::{
    path_cache::CgroupPathCache,
    shared_paths::{CgroupPaths, SharedPaths},
    walk_requests::{WALK_FOR_EVENT, next_walk_ns},
};
use crate::{
    host::cgroup::mounts::{self, MAX_WALK},
    publish::control::Shutdown,
};

/// Walks on request and at a limited pace.
#[derive(Debug)]
pub(super) struct Walker {
    paths: SharedPaths,
    /// Processor time and end (CLOCK_MONOTONIC) of the last walk, nanoseconds.
    last: Option<(u64, u64)>,
    /// Whether a request has not been served.
    requested: bool,
}

impl Walker {
    /// The first walk is due at once.
    pub(super) fn new(paths: SharedPaths) -> Self {
        Self { paths, last: None, requested: true }
    }

    /// Walks if the event thread has requested it and a walk is due.
    pub(super) fn serve(&mut self) {
        self.requested |= self.paths.requests.take();
        if self.requested {
            self.walk(WALK_FOR_EVENT);
        }
    }

    /// Walks if the last walk ended `gap` ago, and ten times its processor time; returns whether it
    /// did.
    pub(super) fn walk(&mut self, gap: Duration) -> bool {
        if self.due_ns(gap) > monotonic_ns() {
            return false;
        }
        let begun = processor_ns();
        self.requested = false;
        if let Some(root) = self.paths.root() {
            walk_below(&self.paths, root);
        }
        self.last = Some((processor_ns().saturating_sub(begun), monotonic_ns()));
        self.paths.requests.finish(self.due_ns(WALK_FOR_EVENT));
        true
    }

    fn due_ns(&self, gap: Duration) -> u64 {
        self.last.map_or(0, |(took, ended)| next_walk_ns(took, ended, gap))
    }

    /// Waits for a request, for shutdown, or until the timeout.
    pub(super) fn wait(&self, shutdown: &Shutdown, timeout: Duration) {
        if self.requested {
            let until = self.due_ns(WALK_FOR_EVENT).saturating_sub(monotonic_ns());
            shutdown.wait(timeout.min(Duration::from_nanos(until)));
        } else {
            self.paths.requests.wait(shutdown, timeout);
        }
    }
}

/// Processor time of this thread.
fn processor_ns() -> u64 {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).map_or(0, nanos)
}

/// Adds the cgroups that exist, and removes those that were in the cache before and do not exist.
fn walk_below(paths: &CgroupPaths, root: &Path) {
    let mut missing = known_ids(paths);
    let mut walked = 0;
    // The iterator runs, and the path is allocated, while the cache is not locked.
    let found = mounts::all_below(root).map(|(id, path)| {
        walked += 1;
        missing.remove(&id);
        (id, Arc::from(sanitize(&path)))
    });
    paths.in_batches(found, |cache, (id, path)| cache.add_walked(id, path));
    // A walk that was cut has not seen the rest.
    if walked < MAX_WALK {
        paths.in_batches(missing, CgroupPathCache::remove);
    }
}

/// The ids in the cache. The room is allocated before the cache is locked.
fn known_ids(paths: &CgroupPaths) -> HashSet<u64> {
    let known = paths.lock().len();
    let mut ids = Vec::with_capacity(known + known / 8);
    let room = ids.capacity();
    ids.extend(paths.lock().ids().take(room));
    ids.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::MetadataExt as _, path::PathBuf};

    use super::*;

    /// A tree of directories, and paths of cgroups there.
    struct Tree {
        dir: tempfile::TempDir,
        paths: SharedPaths,
    }

    impl Tree {
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("tempdir");
            let paths = CgroupPaths::new(Some(dir.path().to_owned())).expect("eventfd");
            Self { dir, paths: Arc::new(paths) }
        }

        fn make(&self, name: &str) -> u64 {
            let path = self.dir.path().join(name);
            fs::create_dir_all(&path).expect("mkdir");
            fs::metadata(path).expect("stat").ino()
        }

        fn path(&self, id: u64) -> Option<Arc<str>> {
            self.paths.lock().path(id)
        }
    }

    #[test]
    fn a_walk_finds_new_cgroups_and_removes_others() {
        let tree = Tree::new();
        let mut walker = Walker::new(Arc::clone(&tree.paths));
        let first = tree.make("a/b");
        walker.serve();
        assert_eq!(tree.path(first).as_deref(), Some("/a/b"), "the first walk needs no request");
        let second = tree.make("a/c");
        fs::remove_dir(tree.dir.path().join("a/b")).expect("rmdir");
        assert!(!walker.walk(WALK_FOR_EVENT) && tree.path(second).is_none(), "too early");
        walker.last = Some((0, 0));
        walker.serve();
        assert_eq!(tree.path(second), None, "no request");
        tree.paths.request_walk();
        walker.serve();
        assert_eq!(tree.path(second).as_deref(), Some("/a/c"));
        assert_eq!(tree.path(first).as_deref(), Some("/a/b"), "removed, but known");
        assert!(!tree.paths.lock().ids().any(|id| id == first));
    }

    #[test]
    fn a_request_stays_until_a_walk_is_due() {
        let tree = Tree::new();
        let mut walker = Walker::new(Arc::clone(&tree.paths));
        walker.serve();
        tree.paths.request_walk();
        walker.serve();
        assert!(walker.requested && !tree.paths.requests.take());
        let begun = monotonic_ns();
        walker.wait(&Shutdown::new().expect("eventfd"), Duration::from_millis(20));
        assert!(monotonic_ns() - begun >= 20_000_000, "it sleeps until a walk is due");
        walker.last = Some((0, 0));
        walker.serve();
        assert!(!walker.requested);
    }

    #[test]
    fn a_too_long_path_is_skipped() {
        let tree = Tree::new();
        let (name, mut path, mut ids) = ("x".repeat(255), PathBuf::new(), Vec::new());
        for _ in 0..5 {
            path.push(&name);
            ids.push(tree.make(path.to_str().expect("UTF-8")));
        }
        Walker::new(Arc::clone(&tree.paths)).serve();
        let lens: Vec<_> = ids.iter().map(|id| tree.path(*id).map(|path| path.len())).collect();
        assert_eq!(lens, [Some(256), Some(512), Some(768), Some(1024), None]);
        assert_eq!(tree.paths.lock().dropped(), 1);
    }

    #[test]
    fn the_cache_is_free_while_the_tree_is_walked() {
        let tree = Tree::new();
        for at in 0..200 {
            tree.make(&format!("g{at}"));
        }
        let walk = mounts::all_below(tree.dir.path());
        let unlocked = walk.inspect(|_| assert!(tree.paths.try_lock().is_some()));
        tree.paths.in_batches(unlocked, |cache, (id, path)| {
            cache.add_walked(id, Arc::from(path));
        });
        assert_eq!(known_ids(&tree.paths).len(), 201);
    }
}
