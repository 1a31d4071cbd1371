//! Work that opens files or takes locks, for commands of operators: the serving thread does neither,
//! and starts no threads.
//!
//! Not here: the drain, which the thread `store` saves.

use std::sync::mpsc::{Receiver, Sender, channel};

use anyhow::{Context as _, Result};
use tokio::sync::oneshot;

type Job = Box<dyn FnOnce() + Send>;

/// Hands work to the thread `commands`; cheap to clone. Bounded by the number of clients that may
/// give commands.
#[derive(Debug, Clone)]
pub struct Background(Sender<Job>);

/// The work, for its thread.
#[derive(Debug)]
pub struct Jobs(Receiver<Job>);

impl Background {
    /// Both ends.
    pub fn new() -> (Self, Jobs) {
        let (sender, jobs) = channel();
        (Self(sender), Jobs(jobs))
    }

    /// Does `work` on the thread, and waits for its result.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        let (reply, result) = oneshot::channel();
        let job = Box::new(move || _ = reply.send(work()));
        self.0.send(job).ok().context("the thread commands has ended: see the log")?;
        result.await.context("the thread commands has ended: see the log")
    }
}

impl Jobs {
    /// Works until all other ends are dropped.
    pub fn run(self) {
        for job in self.0 {
            job();
        }
    }
}
