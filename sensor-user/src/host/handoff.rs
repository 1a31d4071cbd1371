//! Hands over open files from a thread that opens and closes them to the sensing thread, which does
//! neither. Atomic swaps: neither thread waits for the other.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use arc_swap::ArcSwapOption;

use crate::publish::control::EventFd;

/// What the two threads exchange.
#[derive(Debug)]
pub(super) struct Handoff<T> {
    /// The sensing thread cannot read the files that it has.
    requested: AtomicBool,
    opened: ArcSwapOption<T>,
    /// Files that newer ones have replaced.
    replaced: ArcSwapOption<T>,
    /// Why they could not be opened at the last attempt.
    failure: ArcSwapOption<Arc<str>>,
    wake: Arc<EventFd>,
}

/// The sensing thread's side.
impl<T> Handoff<T> {
    /// New files, if there are any.
    pub(super) fn take_opened(&self) -> Option<Arc<T>> {
        let has_some = self.opened.load().is_some();
        has_some.then(|| self.opened.swap(None)).flatten()
    }

    /// Leaves files to the opener, which has taken the last ones before it opened others.
    pub(super) fn give_back(&self, files: Arc<T>) {
        self.replaced.store(Some(files));
    }

    /// Requests new files.
    pub(super) fn request(&self) {
        self.requested.store(true, Ordering::Release);
        self.wake.signal();
    }

    /// Why there are no new files.
    pub(super) fn failure(&self) -> Option<Arc<str>> {
        self.failure.load().as_deref().cloned()
    }
}

/// The opener's side.
impl<T> Handoff<T> {
    /// Without files; requests signal `wake`.
    pub(super) fn new(wake: Arc<EventFd>) -> Self {
        Self {
            requested: AtomicBool::new(false),
            opened: ArcSwapOption::empty(),
            replaced: ArcSwapOption::empty(),
            failure: ArcSwapOption::empty(),
            wake,
        }
    }

    /// Closes the files that the sensing thread has given back.
    pub(super) fn close_replaced(&self) {
        self.replaced.store(None);
    }

    /// Whether files were requested since the last call.
    pub(super) fn take_request(&self) -> bool {
        self.requested.swap(false, Ordering::Acquire)
    }

    /// Hands over new files, or the reason why there are none.
    pub(super) fn publish(&self, files: Result<T, Arc<str>>) {
        match files {
            Ok(files) => {
                self.failure.store(None);
                self.opened.store(Some(Arc::new(files)));
            }
            Err(reason) => self.failure.store(Some(Arc::new(reason))),
        }
    }

    /// Whether it holds new files, and replaced ones.
    #[cfg(test)]
    pub(super) fn holds(&self) -> (bool, bool) {
        (self.opened.load().is_some(), self.replaced.load().is_some())
    }
}
