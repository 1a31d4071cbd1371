//! Listening sockets that the supervisor has opened and keeps over restarts of the daemon (systemd's
//! socket activation, sd_listen_fds(3)): clients then wait in the backlog, and none is refused.
//!
//! Not here: sockets that the daemon binds itself (`listeners`).

use std::{io, net::SocketAddr};

use anyhow::{Context as _, Result, bail};
use listenfd::ListenFd;
use tokio::net::TcpListener;

/// Inherited sockets that no listener has taken yet.
#[derive(Debug, Default)]
pub(super) struct Inherited(Vec<(SocketAddr, std::net::TcpListener)>);

impl Inherited {
    /// All that the supervisor has passed to this process.
    pub(super) fn from_supervisor() -> Result<Self> {
        let mut passed = ListenFd::from_env();
        let mut sockets = Vec::new();
        for index in 0..passed.len() {
            let listener = passed.take_tcp_listener(index).with_context(|| {
                format!(
                    "descriptor {} from the supervisor (LISTEN_FDS) is not a listening TCP \
                     socket: use ListenStream= with an address",
                    index + 3
                )
            })?;
            if let Some(listener) = listener {
                sockets.push((listener.local_addr()?, listener));
            }
        }
        Ok(Self(sockets))
    }

    /// The socket of one of these addresses, if there is one.
    pub(super) fn take(&mut self, addrs: &[SocketAddr]) -> Option<io::Result<TcpListener>> {
        let index = self.0.iter().position(|(local, _)| addrs.contains(local))?;
        let (_, listener) = self.0.swap_remove(index);
        Some(listener.set_nonblocking(true).and_then(|()| TcpListener::from_std(listener)))
    }

    /// An error if a socket is left: its clients would wait for ever.
    pub(super) fn finish(self, configured: &[SocketAddr]) -> Result<()> {
        let left: Vec<_> = self.0.iter().map(|(addr, _)| addr.to_string()).collect();
        if left.is_empty() {
            return Ok(());
        }
        let left = left.join(", ");
        let configured =
            configured.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(", ");
        bail!(
            "no listener for the socket {left} from the supervisor (LISTEN_FDS); memsensor is \
             configured for {configured}: make ListenStream= of the socket unit and [[listen]] \
             the same"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inherited() -> (SocketAddr, Inherited) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let addr = listener.local_addr().expect("an address");
        (addr, Inherited(vec![(addr, listener)]))
    }

    #[tokio::test]
    async fn a_socket_is_taken_by_its_address() {
        let (addr, mut sockets) = inherited();
        let other = SocketAddr::from(([127, 0, 0, 2], addr.port()));
        assert!(sockets.take(&[other]).is_none());
        let taken = sockets.take(&[other, addr]).expect("a match").expect("a listener");
        assert_eq!(taken.local_addr().expect("an address"), addr);
        assert!(sockets.take(&[addr]).is_none(), "once");
        sockets.finish(&[addr]).expect("nothing is left");
    }

    #[test]
    fn a_socket_without_a_listener_is_an_error_that_names_both() {
        let (addr, sockets) = inherited();
        let configured = SocketAddr::from(([0, 0, 0, 0], 9817));
        let error = sockets.finish(&[configured]).expect_err("it is left").to_string();
        assert!(error.contains(&addr.to_string()) && error.contains("0.0.0.0:9817"), "{error}");
    }
}
