//! The last scan of processes, and a way to wait for a newer one.

use std::{
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use sensor_core::model::memory_usage::MemoryUsage;

/// The last scan of processes; empty until the first.
#[derive(Debug, Default)]
pub struct PublishedUsage {
    last: ArcSwapOption<MemoryUsage>,
    /// Held for a moment only, by threads of the same priority.
    lock: Mutex<()>,
    published: Condvar,
}

impl PublishedUsage {
    /// The last scan.
    pub fn load(&self) -> Option<Arc<MemoryUsage>> {
        self.last.load_full()
    }

    /// Replaces the last scan, and wakes threads that wait for it. `None` after a scan that failed.
    pub fn store(&self, usage: Option<Arc<MemoryUsage>>) {
        self.last.store(usage);
        drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner));
        self.published.notify_all();
    }

    /// Waits until the last scan is `recent`, or until `timeout`; returns the last scan either way.
    pub fn wait_for(
        &self,
        recent: impl Fn(&MemoryUsage) -> bool,
        timeout: Duration,
    ) -> Option<Arc<MemoryUsage>> {
        let lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        let outdated = |(): &mut ()| self.load().is_none_or(|usage| !recent(&usage));
        let waited = self.published.wait_timeout_while(lock, timeout, outdated);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
        self.load()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(taken_ns: u64) -> Arc<MemoryUsage> {
        Arc::new(MemoryUsage { taken_ns, ..MemoryUsage::default() })
    }

    #[test]
    fn a_waiter_gets_the_scan_that_it_waits_for() {
        let published = Arc::new(PublishedUsage::default());
        published.store(Some(usage(1)));
        let waiter = Arc::clone(&published);
        let waiter = std::thread::spawn(move || {
            waiter.wait_for(|usage| usage.taken_ns >= 3, Duration::from_mins(1))
        });
        published.store(Some(usage(2)));
        published.store(Some(usage(3)));
        assert_eq!(waiter.join().expect("no panic").map(|usage| usage.taken_ns), Some(3));
    }

    #[test]
    fn a_waiter_gets_the_last_scan_after_its_timeout() {
        let published = PublishedUsage::default();
        let none = published.wait_for(|_| true, Duration::ZERO);
        assert_eq!(none, None);
        published.store(Some(usage(1)));
        let old = published.wait_for(|usage| usage.taken_ns >= 3, Duration::ZERO);
        assert_eq!(old.map(|usage| usage.taken_ns), Some(1));
    }
}
