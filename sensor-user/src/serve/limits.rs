//! Accepts connections within a bound, until shutdown.
//!
//! A connection beyond the bound waits in the kernel's backlog, except one per listener. Each protocol sets a
//! deadline for its connections.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, UnixListener},
    sync::{Semaphore, watch},
    time::Instant,
};
use tracing::debug;

/// Connections that a listener takes in a [`TURN`]; more wait in the backlog. A hundred balancers that ask
/// four times a second are fewer. We run before everybody else on the host: a flood must not make us
/// take a processor for ourselves.
const PER_TURN: u32 = 50;
/// See [`PER_TURN`].
const TURN: Duration = Duration::from_millis(100);

/// Spreads connections over time.
struct Pace {
    turn: Instant,
    taken: u32,
}

impl Pace {
    /// Counts one at `now`; returns until when the next has to wait, if it has to.
    fn take(&mut self, now: Instant) -> Option<Instant> {
        if now >= self.turn + TURN {
            (self.turn, self.taken) = (now, 0);
        }
        self.taken += 1;
        (self.taken >= PER_TURN).then(|| self.turn + TURN)
    }
}

/// A listener of either family.
pub trait Accept: Send + 'static {
    /// An accepted connection.
    type Stream: Send + 'static;
    /// Waits for the next one.
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
    let mut pace = Pace { turn: Instant::now(), taken: 0 };
    loop {
        // The permit comes second: listeners share them, and an idle one must not hold any.
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
                if let Some(turn) = pace.take(Instant::now()) {
                    tokio::time::sleep_until(turn).await;
                }
            }
            Err(e) => {
                // Out of descriptors, most likely: wait for some to be closed rather than spin.
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
    fn a_turn_has_room_for_so_many() {
        let start = Instant::now();
        let mut pace = Pace { turn: start, taken: 0 };
        for turn in 0..3 {
            let now = start + turn * TURN;
            for n in 1..PER_TURN {
                assert_eq!(pace.take(now + Duration::from_micros(n.into())), None);
            }
            // A turn begins with its first connection.
            let first = if turn == 0 { now } else { now + Duration::from_micros(1) };
            assert_eq!(pace.take(now + TURN / 2), Some(first + TURN));
        }
    }
}
