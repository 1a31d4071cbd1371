//! The thread `secure`, of normal priority: reads the files of secured listeners again when they
//! change, and checks passwords. The answering thread opens no file and runs no bcrypt.

use std::{
    os::fd::AsFd as _,
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags};

use super::{
    listener::{Security, State},
    passwords::Queue,
};
use crate::publish::{control::Shutdown, wait::wait_for};

/// Time between two looks at the files.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The work of the thread.
#[derive(Debug)]
pub struct Keeper {
    /// The secured listeners.
    pub listeners: Vec<Arc<Security>>,
    /// Passwords to check.
    pub queue: Arc<Queue>,
    /// Ends the thread.
    pub shutdown: Arc<Shutdown>,
}

impl Keeper {
    /// Works until shutdown.
    pub fn run(self) {
        let mut states: Vec<_> = self.listeners.iter().map(|_| State::new()).collect();
        let mut look = Instant::now() + LOOK_EVERY;
        while !self.shutdown.is_requested() {
            self.wait(look.saturating_duration_since(Instant::now()));
            self.queue.check_all();
            if Instant::now() < look {
                continue;
            }
            for (listener, state) in self.listeners.iter().zip(&mut states) {
                listener.reload(state);
            }
            look = Instant::now() + LOOK_EVERY;
        }
    }

    fn wait(&self, time: Duration) {
        let (queue, shutdown) = (self.queue.event().as_fd(), self.shutdown.as_fd());
        let mut fds = [queue, shutdown].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        // If interrupted, the loop looks again.
        wait_for(&mut fds, time);
    }
}
