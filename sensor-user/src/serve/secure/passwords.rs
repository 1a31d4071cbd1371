//! Checks passwords, off the answering thread: bcrypt takes a tenth of a second. The answering thread
//! puts a password into one of a few slots and looks for its outcome; a thread of normal priority
//! checks it (`keeper`). They share no lock. Passwords that were right are remembered by a keyed
//! hash, so that a scrape costs no bcrypt.
//!
//! Not here: who the users are (`credentials`).

use std::{
    collections::{BTreeSet, VecDeque},
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use anyhow::Result;
use arc_swap::ArcSwapOption;
use tokio::time::Instant;

use crate::{publish::control::EventFd, serve::state::prefix::Prefix};

/// Passwords that wait to be checked.
const MAX_WAITING: usize = 8;
/// Passwords that are remembered; the oldest is forgotten first.
const MAX_REMEMBERED: usize = 64;
/// Longest time for a check.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How often the answering thread looks for an outcome.
const POLL: Duration = Duration::from_millis(10);

const WAITING: u8 = 0;
const RIGHT: u8 = 1;
const WRONG: u8 = 2;

/// A keyed hash of user, password and the hash that it was checked against.
pub type Fingerprint = [u8; 32];

/// A password to check.
pub struct Claim {
    /// The bcrypt hash to compare it with.
    pub hash: String,
    /// Whether the user exists. The hash of another user is used otherwise: to be refused takes as
    /// long.
    pub is_user: bool,
    /// The password.
    pub password: Vec<u8>,
    /// What is remembered if it is right.
    pub fingerprint: Fingerprint,
}

impl Claim {
    /// Whether the password is right. Takes as long as the hash is costly.
    pub(crate) fn verify(&self) -> Result<bool> {
        Ok(bcrypt::verify(&self.password, &self.hash)? && self.is_user)
    }
}

impl std::fmt::Debug for Claim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Claim").finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Job {
    claim: Claim,
    outcome: AtomicU8,
}

/// Passwords on their way to the thread that checks them.
#[derive(Debug)]
pub struct Queue {
    slots: [ArcSwapOption<Job>; MAX_WAITING],
    event: EventFd,
}

impl Queue {
    /// Empty.
    pub fn new() -> Result<Arc<Self>> {
        let event = EventFd::new()?;
        Ok(Arc::new(Self { slots: std::array::from_fn(|_| ArcSwapOption::empty()), event }))
    }

    /// Signalled when a password comes.
    pub(super) fn event(&self) -> &EventFd {
        &self.event
    }

    /// Only the answering thread adds. `None` if all slots are taken.
    fn add(&self, claim: Claim) -> Option<Arc<Job>> {
        // A job that only its slot has was given up by its client.
        let is_free = |slot: &&ArcSwapOption<Job>| {
            slot.load().as_ref().is_none_or(|job| Arc::strong_count(job) == 1)
        };
        let slot = self.slots.iter().find(is_free)?;
        let job = Arc::new(Job { claim, outcome: AtomicU8::new(WAITING) });
        slot.store(Some(Arc::clone(&job)));
        self.event.signal();
        Some(job)
    }

    /// Checks all passwords that wait. It takes long: not for a thread of high priority.
    pub fn check_all(&self) {
        self.event.take();
        for slot in &self.slots {
            let Some(job) = slot.load_full() else { continue };
            // Its slot, this thread, and the client.
            if Arc::strong_count(&job) > 2 {
                let outcome = if job.claim.verify().unwrap_or(false) { RIGHT } else { WRONG };
                job.outcome.store(outcome, Ordering::Release);
            }
            // Another job may be there by now.
            slot.compare_and_swap(&job, None);
        }
    }
}

/// The outcome of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The password is right.
    Right,
    /// The password is wrong, or the user does not exist.
    Wrong,
    /// Too many passwords wait, or this address has one that waits.
    Busy,
}

/// The answering thread's half. Only this thread takes the lock, never across an await.
#[derive(Debug)]
pub struct Passwords {
    queue: Arc<Queue>,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    right: VecDeque<Fingerprint>,
    waiting: BTreeSet<Prefix>,
}

impl Passwords {
    /// Nothing is remembered yet.
    pub fn new(queue: Arc<Queue>) -> Arc<Self> {
        Arc::new(Self { queue, known: Mutex::default() })
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks a password of a client, one at a time for each address.
    pub async fn check(&self, peer: IpAddr, claim: Claim) -> Outcome {
        let fingerprint = claim.fingerprint;
        if self.known().right.contains(&fingerprint) {
            return Outcome::Right;
        }
        let Some(_turn) = Turn::take(self, Prefix::of(peer)) else { return Outcome::Busy };
        let Some(job) = self.queue.add(claim) else { return Outcome::Busy };
        let end = Instant::now() + TIMEOUT;
        while Instant::now() < end {
            match job.outcome.load(Ordering::Acquire) {
                RIGHT => {
                    self.remember(fingerprint);
                    return Outcome::Right;
                }
                WRONG => return Outcome::Wrong,
                _ => tokio::time::sleep(POLL).await,
            }
        }
        Outcome::Busy
    }

    fn remember(&self, fingerprint: Fingerprint) {
        let right = &mut self.known().right;
        if right.len() == MAX_REMEMBERED {
            right.pop_front();
        }
        right.push_back(fingerprint);
    }
}

/// An address has a password that waits, until this is dropped.
struct Turn<'a>(&'a Passwords, Prefix);

impl<'a> Turn<'a> {
    fn take(passwords: &'a Passwords, prefix: Prefix) -> Option<Self> {
        let is_first = passwords.known().waiting.insert(prefix);
        is_first.then_some(Self(passwords, prefix))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.known().waiting.remove(&self.1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bcrypt hash of `secret`, with the lowest cost.
    fn claim(password: &str, is_user: bool) -> Claim {
        let hash = bcrypt::hash_with_salt("secret", 4, [7; 16]).expect("a hash").to_string();
        let mut fingerprint = Fingerprint::default();
        fingerprint[0] = password.len().to_le_bytes()[0];
        Claim { hash, is_user, password: password.as_bytes().to_vec(), fingerprint }
    }

    fn peer(n: u8) -> IpAddr {
        IpAddr::from([127, 0, 0, n])
    }

    /// Checks a password while another thread works on the queue.
    async fn check(passwords: &Passwords, password: &str, is_user: bool) -> Outcome {
        let queue = Arc::clone(&passwords.queue);
        let worker = std::thread::spawn(move || {
            queue.event.wait(TIMEOUT);
            queue.check_all();
        });
        let outcome = passwords.check(peer(1), claim(password, is_user)).await;
        worker.join().expect("the worker ends");
        outcome
    }

    #[tokio::test]
    async fn only_the_password_of_a_user_is_right_and_it_is_remembered() {
        let passwords = Passwords::new(Queue::new().expect("a queue"));
        assert_eq!(check(&passwords, "wrong", true).await, Outcome::Wrong);
        assert_eq!(check(&passwords, "secret", false).await, Outcome::Wrong);
        assert_eq!(check(&passwords, "secret", true).await, Outcome::Right);
        // Without a worker.
        assert_eq!(passwords.check(peer(2), claim("secret", true)).await, Outcome::Right);
        assert!(passwords.known().waiting.is_empty());
        for n in 0..200 {
            passwords.remember([n; 32]);
        }
        assert_eq!(passwords.known().right.len(), MAX_REMEMBERED);
    }

    /// Nobody works on the queue.
    #[tokio::test(start_paused = true)]
    async fn an_address_has_one_password_in_the_queue_and_all_have_eight() {
        let passwords = Passwords::new(Queue::new().expect("a queue"));
        let spawn = |n| {
            let passwords = Arc::clone(&passwords);
            tokio::spawn(async move { passwords.check(peer(n), claim("wrong", true)).await })
        };
        let first: Vec<_> = (1..=8).map(spawn).collect();
        tokio::time::sleep(POLL).await;
        assert_eq!(passwords.check(peer(1), claim("again", true)).await, Outcome::Busy);
        assert_eq!(passwords.check(peer(9), claim("other", true)).await, Outcome::Busy);
        // A client that goes away gives its place back.
        first[0].abort();
        tokio::time::sleep(POLL).await;
        let added = passwords.queue.add(claim("other", true)).is_some();
        assert!(added && passwords.known().waiting.len() == 7);
        for check in first.into_iter().skip(1) {
            assert_eq!(check.await.expect("it ends"), Outcome::Busy, "after the timeout");
        }
    }
}
