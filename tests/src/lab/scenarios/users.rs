//! The users of a real service: requests at a fixed rate, each due at a fixed time, also while
//! earlier ones are still waiting, so that a wait counts for all requests due meanwhile.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Result;
use sensor_core::common::clock::monotonic_ns;

use super::{
    probe::{PERIOD, Request},
    services::clients::{Client, TIMEOUT},
};
use crate::support::random::Random;

/// Connections; more requests than these wait for a free one, as in a pool.
const CONNECTIONS: u64 = 16;
/// A request that cannot connect waits so long before it fails.
const RECONNECT: Duration = Duration::from_millis(50);

/// Asks until `stop`; returns the requests in the order they were due. A request that fails is never
/// served.
pub fn ask(
    stop: &AtomicBool,
    connect: &(dyn Fn() -> Result<Box<dyn Client>> + Sync),
) -> Vec<Request> {
    let next = AtomicU64::new(0);
    let begin = monotonic_ns();
    let done = Mutex::new(Vec::new());
    std::thread::scope(|threads| {
        for seed in 0..CONNECTIONS {
            let (next, done) = (&next, &done);
            threads.spawn(move || {
                // The clients' own waits for a CPU are not the service's.
                let _ = rustix::process::setpriority_process(None, -12);
                let mut user = User { connect, client: None, random: Random::seeded(seed) };
                let mut requests = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let due = begin + next.fetch_add(1, Ordering::Relaxed) * PERIOD;
                    let wait = Duration::from_nanos(due.saturating_sub(monotonic_ns()));
                    std::thread::sleep(wait);
                    requests.push(user.request(due));
                }
                done.lock().unwrap_or_else(PoisonError::into_inner).append(&mut requests);
            });
        }
    });
    let mut requests = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    requests.sort_unstable_by_key(|request| request.due);
    requests
}

struct User<'a> {
    connect: &'a (dyn Fn() -> Result<Box<dyn Client>> + Sync),
    client: Option<Box<dyn Client>>,
    random: Random,
}

impl User<'_> {
    fn request(&mut self, due: u64) -> Request {
        let late = Duration::from_nanos(monotonic_ns().saturating_sub(due)) >= TIMEOUT;
        if !late && self.served().is_ok() {
            return Request { due, done: monotonic_ns() };
        }
        Request { due, done: u64::MAX }
    }

    fn served(&mut self) -> Result<()> {
        let mut client = match self.client.take() {
            Some(client) => client,
            None => (self.connect)().inspect_err(|_| std::thread::sleep(RECONNECT))?,
        };
        client.ask(&mut self.random)?;
        self.client = Some(client);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    struct Fails(u32);

    impl Client for Fails {
        fn ask(&mut self, _: &mut Random) -> Result<()> {
            self.0 += 1;
            if self.0.is_multiple_of(3) {
                bail!("the third")
            }
            Ok(())
        }
    }

    #[test]
    fn a_request_that_fails_is_not_served_and_the_next_one_connects_again() {
        let stop = AtomicBool::new(false);
        let requests = std::thread::scope(|threads| {
            let asked = threads.spawn(|| ask(&stop, &|| Ok(Box::new(Fails(0)))));
            std::thread::sleep(Duration::from_millis(500));
            stop.store(true, Ordering::Relaxed);
            asked.join().expect("joined")
        });
        let failed = requests.iter().filter(|request| request.done == u64::MAX).count();
        assert!((requests.len() / 5..=requests.len() / 2).contains(&failed), "{failed}");
        assert!(requests.is_sorted_by_key(|request| request.due), "in order");
    }
}
