//! Accepts connections within a bound, until shutdown.
//!
//! A connection beyond the bound waits in the kernel's backlog, except one per listener. Each
//! protocol sets a deadline for its connections.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, UnixListener},
    sync::{Semaphore, watch},
    time::Instant,
};
use tracing::debug;

/// Most connections that a listener accepts per [`PERIOD`]; more wait in the backlog. A hundred
/// balancers that poll four times a second open fewer. The daemon has real-time priority: without a
/// limit, a flood of connections would take a processor from all other processes.
const MAX_PER_PERIOD: u32 = 50;
/// See [`MAX_PER_PERIOD`].
const PERIOD: Duration = Duration::from_millis(100);

/// Limits the rate of connections.
struct RateLimit {
    period_start: Instant,
    accepted: u32,
}

impl RateLimit {
    /// Counts a connection at `now`. Returns the time of the next period if the limit is reached.
    fn count(&mut self, now: Instant) -> Option<Instant> {
        if now >= self.period_start + PERIOD {
            (self.period_start, self.accepted) = (now, 0);
        }
        self.accepted += 1;
        (self.accepted >= MAX_PER_PERIOD).then(|| self.period_start + PERIOD)
    }
}

/// A listener of either family.
pub trait Accept: Send + 'static {
    /// An accepted connection.
    type Stream: Send + 'static;
    /// Waits for the next connection.
    fn accept(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl Accept for TcpListener {
    type Stream = tokio::net::TcpStream;
    async fn accept(&self) -> io::Result<Self::Stream> {
        Self::accept(self).await.map(|(stream, _)| stream)
    }
}

impl Accept for UnixListener {
    type Stream = tokio::net::UnixStream;
    async fn accept(&self) -> io::Result<Self::Stream> {
        Self::accept(self).await.map(|(stream, _)| stream)
    }
}

/// Accepts and serves at most as many connections at a time as `permits` has, until `stop`.
pub async fn accept_loop<L, F>(
    listener: L,
    permits: Arc<Semaphore>,
    mut stop: watch::Receiver<bool>,
    serve: impl Fn(L::Stream) -> F,
) where
    L: Accept,
    F: Future<Output = ()> + Send + 'static,
{
    let mut rate_limit = RateLimit { period_start: Instant::now(), accepted: 0 };
    loop {
        // The permit comes second: listeners share permits, and an idle listener must not hold one.
        let next = async {
            let accepted = listener.accept().await;
            (accepted, Arc::clone(&permits).acquire_owned().await)
        };
        let (accepted, permit) = tokio::select! {
            next = next => next,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        match accepted {
            Ok(stream) => {
                let served = serve(stream);
                tokio::spawn(async move {
                    served.await;
                    drop(permit);
                });
                if let Some(next_period) = rate_limit.count(Instant::now()) {
                    tokio::time::sleep_until(next_period).await;
                }
            }
            Err(e) => {
                // Most likely there are no free descriptors: wait until some are closed.
                debug!("accept: {e}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_per_period_are_limited() {
        let start = Instant::now();
        let mut rate_limit = RateLimit { period_start: start, accepted: 0 };
        for period in 0..3 {
            let now = start + period * PERIOD;
            for n in 1..MAX_PER_PERIOD {
                assert_eq!(rate_limit.count(now + Duration::from_micros(n.into())), None);
            }
            // A period begins with its first connection.
            let first = if period == 0 { now } else { now + Duration::from_micros(1) };
            assert_eq!(rate_limit.count(now + PERIOD / 2), Some(first + PERIOD));
        }
    }
}
