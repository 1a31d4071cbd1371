//! Accepting connections within a bound, until told to stop.
//!
//! A connection beyond the bound waits in the kernel's backlog, save for one per listener; one that is
//! served is never allowed to live long (each protocol sets its own deadline).

use std::{io, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, UnixListener},
    sync::{Semaphore, watch},
};
use tracing::debug;

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
            }
            Err(e) => {
                // Out of descriptors, most likely: wait for some to be closed rather than spin.
                debug!("accept: {e}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}
