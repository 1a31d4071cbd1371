//! Shutdown of the daemon's threads, and requests to the sensing thread for a scan of processes.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd};

use super::wait::wait_for;

/// An event that a thread can poll for.
#[derive(Debug)]
pub(crate) struct EventFd(OwnedFd);

impl EventFd {
    /// Not signalled yet.
    pub(crate) fn new() -> Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Self(eventfd(0, flags).context("eventfd")?))
    }

    /// Signals the event; never waits.
    pub(crate) fn signal(&self) {
        // The only error is a full counter, which wakes pollers too.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    /// Whether it was signalled since the last call.
    pub(crate) fn take(&self) -> bool {
        rustix::io::read(&self.0, &mut [0; 8]).is_ok()
    }

    /// Waits until it is signalled; returns false after the timeout or if interrupted.
    pub(crate) fn wait(&self, timeout: Duration) -> bool {
        wait_for(&mut [PollFd::new(&self.0, PollFlags::IN)], timeout)
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Ends all threads, also those that wait.
#[derive(Debug)]
pub struct Shutdown {
    requested: AtomicBool,
    event: EventFd,
}

impl Shutdown {
    /// Not requested yet.
    pub fn new() -> Result<Self> {
        Ok(Self { requested: AtomicBool::new(false), event: EventFd::new()? })
    }

    /// Whether threads must end.
    pub fn is_requested(&self) -> bool {
        self.requested.load(Ordering::Relaxed)
    }

    /// Waits for `time`, or until shutdown is requested.
    pub fn wait(&self, time: Duration) {
        // If interrupted, the caller checks again.
        self.event.wait(time);
    }

    /// Ends all threads.
    pub fn request(&self) {
        self.requested.store(true, Ordering::Relaxed);
        self.event.signal();
    }
}

impl AsFd for Shutdown {
    /// Readable once shutdown is requested.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.0.as_fd()
    }
}

/// A request for a scan of processes, which the sensing thread serves after its next verdict.
#[derive(Debug)]
pub struct RescanRequest(EventFd);

impl RescanRequest {
    /// Not requested yet.
    pub fn new() -> Result<Self> {
        Ok(Self(EventFd::new()?))
    }

    /// Requests a scan.
    pub fn request(&self) {
        self.0.signal();
    }

    /// Whether a scan was requested since the last call.
    pub fn take(&self) -> bool {
        self.0.take()
    }
}

impl AsFd for RescanRequest {
    /// Readable while a request is pending.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.0.as_fd()
    }
}
