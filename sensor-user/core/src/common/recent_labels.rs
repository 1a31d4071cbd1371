//! Values of a label, bounded over time. A user who renames processes or creates cgroups would
//! otherwise make new series with each scrape, and a server that stores them keeps them all.

use std::{borrow::Borrow, collections::HashMap, hash::Hash};

/// The values that have a place, and when each was last used.
#[derive(Debug)]
pub struct RecentLabels<K> {
    /// How long a value that is not used keeps its place, in any unit of time.
    keep: u64,
    used: HashMap<K, u64>,
    /// When places were last freed.
    freed: Option<u64>,
}

impl<K: Hash + Eq> RecentLabels<K> {
    /// A value has its place for this time after it was last used.
    pub fn keeping(keep: u64) -> Self {
        Self { keep, used: HashMap::new(), freed: None }
    }

    /// Whether the value has one of `places`, or gets one. `make` makes the stored value.
    pub fn admit<Q: Hash + Eq + ?Sized>(
        &mut self,
        label: &Q,
        now: u64,
        places: usize,
        make: impl FnOnce() -> K,
    ) -> bool
    where
        K: Borrow<Q>,
    {
        if let Some(last) = self.used.get_mut(label) {
            *last = now;
            return true;
        }
        // Thousands of values may ask at the same moment.
        if self.used.len() >= places && self.freed != Some(now) {
            let keep = self.keep;
            self.used.retain(|_, last| now.saturating_sub(*last) < keep);
            self.freed = Some(now);
        }
        let has_room = self.used.len() < places;
        if has_room {
            self.used.insert(make(), now);
        }
        has_room
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_in_use_keeps_its_place_and_others_lose_theirs() {
        let mut labels = RecentLabels::<String>::keeping(10);
        let mut admit = |label: &str, now| labels.admit(label, now, 2, || label.to_owned());
        assert!(admit("a", 0) && admit("b", 0));
        assert!(!admit("c", 1));
        assert!(admit("a", 5));
        assert!(!admit("c", 9), "b was used nine ago");
        assert!(admit("c", 10));
        assert!(!admit("b", 10));
        assert!(admit("a", 10));
    }

    #[test]
    fn new_values_are_bounded_over_time() {
        let mut labels = RecentLabels::<u64>::keeping(100);
        let admitted = (0..10_000).filter(|n| labels.admit(n, *n, 7, || *n)).count();
        assert!(admitted <= 7 * 101, "{admitted}");
        assert!(admitted >= 7 * 90, "{admitted}");
        assert!(labels.used.len() <= 7);
    }
}
