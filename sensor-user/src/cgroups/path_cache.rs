//! The path of each cgroup by its id, also for a while after the cgroup is removed.
//!
//! Events of the kernel half keep the cache up to date ([`CgroupPathCache::apply`]), and a walk
//! finds the cgroups that they miss (`walker`). Paths stay in locked memory, and any user who may
//! create cgroups may create many of them with long names. So all paths together have a budget in
//! bytes, and each service or container a share of it (`path_budget`): removed cgroups make room for
//! existing ones, and a cgroup that does not fit then has no path. It is counted, and those that are
//! in the cache stay.
//!
//! Not here: locks and threads (`shared_paths`), and the unit, container or pod of a path
//! (`model/workload` of the core).

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use sensor_core::common::{bytes::decode, text::sanitize};
use sensor_ebpf::event::{CgroupGone, CgroupMade, PATH, Tag};

use super::path_budget::{PathBudget, Use};

/// Most bytes of all paths together. A path of a service has some 50 bytes, one of a container in
/// a pod 200.
const PATHS_BYTES: usize = 2 << 20;

/// Most existing cgroups in the cache: each takes up to 120 bytes beside its path.
const MAX_LIVE: usize = 32_768;

/// Longest path in the cache: a user may nest cgroups.
const MAX_PATH_BYTES: usize = 1024;

/// Most removed cgroups in the cache; the oldest is dropped first.
const MAX_REMOVED: usize = 4096;

/// The paths of cgroups in the hierarchy that memory is charged to. A path is in one of the maps
/// only, so its bytes count once.
#[derive(Debug)]
pub struct CgroupPathCache {
    live: HashMap<u64, Arc<str>>,
    budget: PathBudget,
    removed: HashMap<u64, Arc<str>>,
    removed_bytes: usize,
    /// Ids in `removed`, oldest first.
    removed_order: VecDeque<u64>,
    dropped: u64,
}

impl Default for CgroupPathCache {
    fn default() -> Self {
        Self {
            live: HashMap::new(),
            budget: PathBudget::new(Use { bytes: PATHS_BYTES, cgroups: MAX_LIVE }),
            removed: HashMap::new(),
            removed_bytes: 0,
            removed_order: VecDeque::new(),
            dropped: 0,
        }
    }
}

impl CgroupPathCache {
    /// Applies a record of the kernel half; returns false if it is of unknown kind or size.
    pub fn apply(&mut self, bytes: &[u8]) -> bool {
        match decode::<u32>(bytes) {
            Some(tag) if tag == Tag::CgroupMade as u32 => {
                let Some(made) = decode::<CgroupMade>(bytes) else { return false };
                // The length includes the NUL. A path that fills the buffer may be truncated.
                let len = usize::try_from(made.path_len).unwrap_or(PATH);
                if (2..PATH).contains(&len) {
                    let path = String::from_utf8_lossy(&made.path[..len - 1]);
                    self.insert(made.id, Arc::from(sanitize(&path)));
                }
                true
            }
            Some(tag) if tag == Tag::CgroupGone as u32 => {
                let Some(removed) = decode::<CgroupGone>(bytes) else { return false };
                self.remove(removed.id);
                true
            }
            _ => false,
        }
    }

    /// Adds a cgroup that a walk has found. Events during the walk take precedence: a removed
    /// cgroup stays removed, because ids are not reused.
    pub(super) fn add_walked(&mut self, id: u64, path: Arc<str>) {
        if !self.live.contains_key(&id) && !self.removed.contains_key(&id) {
            self.insert(id, path);
        }
    }

    /// Adds an existing cgroup if its path fits.
    fn insert(&mut self, id: u64, path: Arc<str>) {
        if let Some(old) = self.live.remove(&id) {
            self.budget.remove(&old);
        }
        if path.len() > MAX_PATH_BYTES || !self.budget.add(&path) {
            self.dropped = self.dropped.saturating_add(1);
            return;
        }
        self.live.insert(id, path);
        while self.bytes() > PATHS_BYTES && self.drop_oldest() {}
    }

    /// Marks a cgroup as removed; its path stays for a while.
    pub(super) fn remove(&mut self, id: u64) {
        let Some(path) = self.live.remove(&id) else { return };
        self.budget.remove(&path);
        if self.removed_order.len() >= MAX_REMOVED {
            self.drop_oldest();
        }
        self.removed_bytes += path.len();
        match self.removed.insert(id, path) {
            Some(old) => self.removed_bytes -= old.len(),
            None => self.removed_order.push_back(id),
        }
    }

    /// Drops the cgroup that was removed first; returns whether there was one.
    fn drop_oldest(&mut self) -> bool {
        let Some(oldest) = self.removed_order.pop_front() else { return false };
        let path = self.removed.remove(&oldest);
        self.removed_bytes -= path.map_or(0, |path| path.len());
        true
    }

    /// Bytes of all paths.
    const fn bytes(&self) -> usize {
        self.budget.used().bytes + self.removed_bytes
    }

    /// Number of existing cgroups.
    pub(super) fn len(&self) -> usize {
        self.live.len()
    }

    /// Ids of existing cgroups.
    pub(super) fn ids(&self) -> impl Iterator<Item = u64> {
        self.live.keys().copied()
    }

    /// The path of an id, if it is known.
    pub fn path(&self, id: u64) -> Option<Arc<str>> {
        self.live.get(&id).or_else(|| self.removed.get(&id)).cloned()
    }

    /// How often a path was not kept: it was too long, or the cache or its share of it was full.
    pub(super) const fn dropped(&self) -> u64 {
        self.dropped
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

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

    /// Bytes of all paths, counted from the maps; asserts that no id is in both.
    fn counted(cache: &CgroupPathCache) -> usize {
        assert!(cache.live.keys().all(|id| !cache.removed.contains_key(id)), "in both maps");
        assert_eq!(cache.removed.len(), cache.removed_order.len());
        cache.live.values().chain(cache.removed.values()).map(|path| path.len()).sum()
    }

    /// A user with a delegated subtree fills it.
    #[test]
    fn a_flood_in_one_service_leaves_names_for_others() {
        let mut cache = CgroupPathCache::default();
        let user = "/user.slice/user-1000.slice/user@1000.service";
        for id in 1..100_000 {
            cache.insert(id, Arc::from(format!("{user}/{id:0900}")));
        }
        cache.apply(bytes_of(&made(1 << 32, b"/system.slice/later.service")));
        assert_eq!(cache.path(1 << 32).as_deref(), Some("/system.slice/later.service"));
        assert!(cache.path(1).is_some() && cache.path(99_999).is_none());
        assert_eq!(cache.bytes(), counted(&cache));
    }

    #[test]
    fn a_removed_cgroup_keeps_its_path() {
        let mut cache = CgroupPathCache::default();
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
        let mut cache = CgroupPathCache::default();
        for id in 0..3 * MAX_REMOVED as u64 {
            cache.apply(bytes_of(&made(id, b"/a")));
            cache.apply(bytes_of(&removed(id)));
        }
        assert_eq!((cache.removed.len(), cache.removed_order.len()), (MAX_REMOVED, MAX_REMOVED));
        assert_eq!(cache.path(2 * MAX_REMOVED as u64 - 1), None);
        assert!(cache.path(2 * MAX_REMOVED as u64).is_some());
        // The kernel does not reuse ids.
        for id in (1 << 32)..(1 << 32) + 2 * MAX_LIVE as u64 {
            cache.apply(bytes_of(&made(id, format!("/{id:x}").as_bytes())));
        }
        assert_eq!(cache.live.len(), MAX_LIVE);
        assert_eq!(cache.dropped(), MAX_LIVE as u64);
        assert_eq!(cache.bytes(), counted(&cache));
    }

    #[test]
    fn a_flood_of_long_paths_stays_within_the_budget() {
        const FLOOD: u64 = 100_000;
        let path: Arc<str> = Arc::from(format!("/{}", "x".repeat(MAX_PATH_BYTES - 1)));
        let mut cache = CgroupPathCache::default();
        cache.apply(bytes_of(&made(1, b"/system.slice/nginx.service")));
        for id in 2..FLOOD {
            cache.insert(id, Arc::from(&*path));
            if id % 3 > 0 {
                cache.remove(id);
            }
            assert!(cache.bytes() <= PATHS_BYTES, "{id}: {}", cache.bytes());
        }
        assert_eq!(cache.bytes(), counted(&cache));
        assert!(cache.dropped() > FLOOD / 4, "{}", cache.dropped());
        assert_eq!(cache.path(1).as_deref(), Some("/system.slice/nginx.service"), "it was there");
        // Half is taken by existing cgroups, all of one name, so most removed ones had to go.
        let room = PATHS_BYTES / MAX_PATH_BYTES;
        assert!(cache.removed.len() <= room / 2 + 1, "{}", cache.removed.len());
        // Room again after the flood.
        for id in 2..FLOOD {
            cache.remove(id);
        }
        cache.apply(bytes_of(&made(FLOOD, b"/new.service")));
        assert_eq!(cache.path(FLOOD).as_deref(), Some("/new.service"));
        assert!(cache.bytes() <= PATHS_BYTES);
    }

    #[test]
    fn removed_cgroups_make_room_for_existing_ones() {
        let path = |id: u64| Arc::from(format!("/{id:0width$}", width = MAX_PATH_BYTES - 1));
        let room = (PATHS_BYTES / MAX_PATH_BYTES) as u64;
        let mut cache = CgroupPathCache::default();
        for id in 0..room {
            cache.insert(id, path(id));
            cache.remove(id);
        }
        assert!(cache.path(0).is_some(), "all fit");
        cache.insert(room, path(room));
        assert_eq!((cache.path(0), cache.path(room)), (None, Some(path(room))));
        assert!(cache.path(1).is_some());
        assert_eq!((cache.dropped(), cache.bytes()), (0, counted(&cache)));
    }

    #[test]
    fn truncated_and_unread_paths_are_skipped() {
        let mut cache = CgroupPathCache::default();
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
        let mut cache = CgroupPathCache::default();
        cache.apply(bytes_of(&made(1, b"/\xc2\x9b31m\x7f\xff")));
        let path = cache.path(1).expect("known");
        assert!(!path.chars().any(char::is_control), "{path:?}");
    }

    #[test]
    fn events_during_a_walk_take_precedence() {
        let mut cache = CgroupPathCache::default();
        for (id, path) in [(1, &b"/a"[..]), (2, b"/b")] {
            cache.apply(bytes_of(&made(id, path)));
        }
        // The walk has read 2, which is removed before the walk adds it.
        cache.apply(bytes_of(&removed(2)));
        for (id, path) in [(1, "/a"), (2, "/b"), (5, "/e")] {
            cache.add_walked(id, Arc::from(path));
        }
        let live: BTreeMap<_, _> = cache.live.iter().map(|(id, path)| (*id, &**path)).collect();
        assert_eq!(live, [(1, "/a"), (5, "/e")].into());
        assert_eq!(cache.path(2).as_deref(), Some("/b"));
        assert_eq!(cache.bytes(), counted(&cache));
    }
}
