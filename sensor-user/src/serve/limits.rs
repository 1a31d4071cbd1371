//! Accepts connections within bounds, fairly per address, until shutdown. `places` decides who has
//! a place.
//!
//! A connection that exceeds a rate waits in its place for the next period; one without a place is
//! closed. Each protocol sets a deadline for its connections.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::Duration,
};

use rustix::net::{self, SocketFlags};
use tokio::{
    io::unix::AsyncFd,
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::{Semaphore, watch},
    task::AbortHandle,
    time::Instant,
};
use tracing::{debug, error};

use super::{
    networks::Network,
    places::{Admission, Id, Places},
    state::{
        connections::{ConnectionCounts, Outcome},
        prefix::Prefix,
    },
};

/// See the constants below.
const PERIOD: Duration = Duration::from_millis(100);
/// Most connections that a listener serves at once per [`PERIOD`]. A hundred balancers that ask
/// four times a second are fewer. The daemon has real-time priority: without a limit, a flood of
/// connections would take a processor from all other processes.
const MAX_PER_PERIOD: u32 = 50;
/// The same for one address, so that it leaves half to others.
const MAX_PER_ADDRESS: u32 = 25;
/// Connections have their turn in this period or in one of the next: enough for as many as a listener
/// has places at most (512, `http.max_connections`).
const PERIODS: usize = 12;
/// Most connections that a listener takes from the backlog per [`PERIOD`], to be served or closed.
/// More than [`MAX_PER_PERIOD`]: the backlog is in order of arrival, and a client would wait there
/// behind a flood.
const MAX_ACCEPTED: u32 = 400;
/// Connections that may be closed in a row before other tasks run: some tens of microseconds.
const REFUSED_IN_A_ROW: u32 = 16;
/// Most likely there are no free descriptors: some are closed within this.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// Limits the rate of connections. A connection that exceeds a rate has its turn in a later period,
/// and counts there.
#[derive(Debug)]
struct RateLimit {
    period_start: Instant,
    accepted: u32,
    /// Connections with a turn in this period and in the next ones.
    turns: [u32; PERIODS],
    /// Connections of an address with a turn in this period or later.
    by_address: BTreeMap<Prefix, u32>,
}

impl RateLimit {
    fn new(now: Instant) -> Self {
        Self { period_start: now, accepted: 0, turns: [0; PERIODS], by_address: BTreeMap::new() }
    }

    /// Counts a connection that is accepted at `now`, to be served or closed.
    fn count_accepted(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.period_start).as_nanos();
        let periods = u32::try_from(elapsed / PERIOD.as_nanos()).unwrap_or(u32::MAX);
        if periods > 0 {
            self.period_start += PERIOD.saturating_mul(periods);
            self.accepted = 0;
            let ended = PERIODS.min(periods as usize);
            self.turns[..ended].fill(0);
            self.turns.rotate_left(ended);
            self.by_address.retain(|_, turns| {
                *turns = turns.saturating_sub(MAX_PER_ADDRESS.saturating_mul(periods));
                *turns > 0
            });
        }
        self.accepted += 1;
    }

    /// The period in which a connection of this address may be served: 0 is this one.
    fn turn(&self, prefix: Prefix) -> usize {
        let of_address = self.by_address.get(&prefix).copied().unwrap_or_default();
        let first = ((of_address / MAX_PER_ADDRESS) as usize).min(PERIODS - 1);
        let has_room = |period: &usize| self.turns[*period] < MAX_PER_PERIOD;
        (first..PERIODS).find(has_room).unwrap_or(PERIODS - 1)
    }

    /// When the turn begins; `None` if it is now.
    fn begin(&self, turn: usize) -> Option<Instant> {
        let periods = u32::try_from(turn).ok().filter(|periods| *periods > 0)?;
        Some(self.period_start + PERIOD.saturating_mul(periods))
    }

    /// Counts a connection that has this turn.
    fn count_served(&mut self, prefix: Prefix, turn: usize) {
        self.turns[turn] += 1;
        *self.by_address.entry(prefix).or_default() += 1;
    }

    /// The time of the next period, if no more may be accepted in this one: enough were, or a
    /// further one could only take the place of another that waits for the next period, too.
    fn pause(&self, is_full: impl FnOnce() -> bool) -> Option<Instant> {
        let is_enough = self.accepted >= MAX_ACCEPTED;
        (is_enough || (self.turns[0] >= MAX_PER_PERIOD && is_full()))
            .then(|| self.period_start + PERIOD)
    }
}

/// The places of one or more listeners.
#[derive(Debug)]
pub struct Gate {
    open: Mutex<Open>,
    counts: Arc<ConnectionCounts>,
}

#[derive(Debug)]
struct Open {
    places: Places,
    tasks: BTreeMap<Id, AbortHandle>,
}

impl Gate {
    /// At most `max` connections at a time.
    pub fn new(max: usize, counts: Arc<ConnectionCounts>) -> Arc<Self> {
        let open = Open { places: Places::new(max), tasks: BTreeMap::new() };
        Arc::new(Self { open: Mutex::new(open), counts })
    }

    /// Only the serving thread takes the lock, never across an await.
    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether no connection is open.
    pub fn is_empty(&self) -> bool {
        self.open().places.is_empty()
    }

    /// Whether all places are taken, each by another address.
    fn is_shared_out(&self) -> bool {
        self.open().places.is_shared_out()
    }

    /// A place for a connection, if there is one; closes the connection that had it.
    pub(crate) fn admit(self: &Arc<Self>, peer: IpAddr, may_replace: bool) -> Option<Ticket> {
        let mut open = self.open();
        let id = match open.places.admit(Prefix::of(peer), may_replace) {
            Admission::Admit(id) => id,
            Admission::Evict { admitted, evicted } => {
                if let Some(task) = open.tasks.remove(&evicted) {
                    task.abort();
                }
                admitted
            }
            Admission::Refuse => {
                self.counts.end(Outcome::Refused);
                return None;
            }
        };
        let outcome = Mutex::new(Outcome::Abandoned);
        Some(Ticket { gate: Arc::clone(self), id, peer, outcome })
    }

    /// Serves a connection, now or from `start` on, or closes it. Returns whether it is served.
    fn take<F>(
        self: &Arc<Self>,
        socket: OwnedFd,
        peer: IpAddr,
        start: Option<Instant>,
        serve: &impl Fn(TcpStream, Arc<Ticket>) -> F,
    ) -> bool
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let Some(ticket) = self.admit(peer, start.is_none()) else { return false };
        // Only now: the runtime's part of a connection costs more than to accept and close it.
        let Ok(stream) = TcpStream::from_std(socket.into()) else { return false };
        let (id, ticket) = (ticket.id, Arc::new(ticket));
        let served = serve(stream, Arc::clone(&ticket));
        let task = tokio::spawn(async move {
            if let Some(start) = start {
                let _queued = Gauge::new(&ticket.gate.counts, |counts| &counts.queued);
                tokio::time::sleep_until(start).await;
            }
            let _open = Gauge::new(&ticket.gate.counts, |counts| &counts.open);
            served.await;
        });
        self.open().tasks.insert(id, task.abort_handle());
        true
    }
}

/// Adds one to a count while it exists.
struct Gauge<'a>(&'a std::sync::atomic::AtomicU64);

impl<'a> Gauge<'a> {
    fn new(
        counts: &'a ConnectionCounts,
        of: impl Fn(&'a ConnectionCounts) -> &'a std::sync::atomic::AtomicU64,
    ) -> Self {
        let count = of(counts);
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Gauge<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The place of a connection, until it is dropped.
#[derive(Debug)]
pub struct Ticket {
    gate: Arc<Gate>,
    id: Id,
    peer: IpAddr,
    outcome: Mutex<Outcome>,
}

impl Ticket {
    /// The client's address.
    pub fn peer(&self) -> IpAddr {
        self.peer
    }

    /// The request is complete: the connection is no longer closed for another one.
    pub fn set_active(&self) {
        self.gate.open().places.set_active(self.id);
        self.set(Outcome::Served);
    }

    /// The answer is complete, and the client has not closed the connection yet.
    pub fn set_answered(&self) {
        self.gate.open().places.set_answered(self.id);
    }

    /// The connection ends at a deadline.
    pub fn set_timed_out(&self) {
        self.set(Outcome::TimedOut);
    }

    fn set(&self, outcome: Outcome) {
        *self.outcome.lock().unwrap_or_else(PoisonError::into_inner) = outcome;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut open = self.gate.open();
        open.tasks.remove(&self.id);
        let was_open = open.places.release(self.id);
        drop(open);
        let outcome = *self.outcome.get_mut().unwrap_or_else(PoisonError::into_inner);
        let is_served = outcome == Outcome::Served;
        self.gate.counts.end(if was_open || is_served { outcome } else { Outcome::Evicted });
    }
}

/// Accepts and serves connections that have a place, until `stop`. Those of peers that are in none
/// of the networks in `allow` are closed.
pub async fn accept_tcp<F>(
    listener: TcpListener,
    allow: Vec<Network>,
    gate: Arc<Gate>,
    mut stop: watch::Receiver<bool>,
    serve: impl Fn(TcpStream, Arc<Ticket>) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = match listener.into_std().and_then(register) {
        Ok(listener) => listener,
        Err(e) => {
            error!("cannot accept connections: {e}");
            return;
        }
    };
    let mut rate_limit = RateLimit::new(Instant::now());
    let mut refused_in_a_row = 0;
    loop {
        let ready = tokio::select! {
            ready = listener.readable() => ready,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        let accepted = ready.map(|mut ready| ready.try_io(|listener| accept(listener.get_ref())));
        let (socket, peer) = match accepted {
            Ok(Err(_would_block)) => continue,
            Ok(Ok(Ok(accepted))) => accepted,
            Ok(Ok(Err(e))) | Err(e) => {
                wait_after(&e).await;
                continue;
            }
        };
        rate_limit.count_accepted(Instant::now());
        let is_served = if allow.iter().any(|network| network.contains(peer)) {
            let turn = rate_limit.turn(Prefix::of(peer));
            let is_served = gate.take(socket, peer, rate_limit.begin(turn), &serve);
            if is_served {
                rate_limit.count_served(Prefix::of(peer), turn);
            }
            is_served
        } else {
            gate.counts.end(Outcome::Refused);
            false
        };
        refused_in_a_row = if is_served { 0 } else { refused_in_a_row + 1 };
        if let Some(next_period) = rate_limit.pause(|| gate.is_shared_out()) {
            tokio::time::sleep_until(next_period).await;
            // Those that have waited for it come first.
            tokio::task::yield_now().await;
        }
        // A request that has come is read before its connection could be evicted. Closing others
        // must not keep the thread either.
        if is_served || refused_in_a_row >= REFUSED_IN_A_ROW {
            refused_in_a_row = 0;
            tokio::task::yield_now().await;
        }
    }
}

#[allow(
    deprecated,
    reason = "unsound only for a type that may close its descriptor early; `register` is unsafe"
)]
fn register(listener: std::net::TcpListener) -> io::Result<AsyncFd<std::net::TcpListener>> {
    AsyncFd::new(listener)
}

/// Accepts a connection: without the runtime, which most connections of a flood never need.
fn accept(listener: &std::net::TcpListener) -> io::Result<(OwnedFd, IpAddr)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (socket, peer) = net::acceptfrom_with(listener, flags)?;
    let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
    let peer = peer.ok_or_else(|| io::Error::other("a connection without an address"))?;
    Ok((socket, peer.ip().to_canonical()))
}

/// Accepts and serves at most as many connections at a time as `permits` has, until `stop`. More
/// wait in the backlog: only root connects.
pub async fn accept_unix<F>(
    listener: UnixListener,
    permits: Arc<Semaphore>,
    mut stop: watch::Receiver<bool>,
    serve: impl Fn(UnixStream) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    loop {
        let next = async {
            let permit = Arc::clone(&permits).acquire_owned().await;
            (listener.accept().await, permit)
        };
        let (accepted, permit) = tokio::select! {
            next = next => next,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        match accepted {
            Ok((stream, _)) => {
                let served = serve(stream);
                tokio::spawn(async move {
                    served.await;
                    drop(permit);
                });
            }
            Err(e) => wait_after(&e).await,
        }
    }
}

async fn wait_after(error: &io::Error) {
    debug!("accept: {error}");
    tokio::time::sleep(ACCEPT_RETRY).await;
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpSocket,
    };

    use super::*;

    fn prefix(n: u8) -> Prefix {
        Prefix::of(IpAddr::from([127, 0, 0, n]))
    }

    /// Takes a turn as a connection that has a place.
    fn take(limit: &mut RateLimit, n: u8, now: Instant) -> usize {
        limit.count_accepted(now);
        let turn = limit.turn(prefix(n));
        limit.count_served(prefix(n), turn);
        turn
    }

    #[test]
    fn an_address_cannot_use_all_of_a_period() {
        let start = Instant::now();
        let mut limit = RateLimit::new(start);
        for n in 0..60 {
            let turn = take(&mut limit, 1, start);
            assert_eq!(turn, (n / MAX_PER_ADDRESS) as usize, "{n}");
            let begin = limit.begin(turn).unwrap_or(start);
            assert_eq!(begin, start + PERIOD * (n / MAX_PER_ADDRESS));
        }
        for n in 0..30 {
            let turn = take(&mut limit, 2, start + PERIOD / 2);
            assert_eq!(turn, (n / MAX_PER_ADDRESS) as usize, "another address has room now: {n}");
        }
        assert_eq!(limit.pause(|| false), None);
        assert_eq!(limit.pause(|| true), Some(start + PERIOD), "all places are taken");
        // The first address waits with 35 for the next two periods, and the second one with five.
        let later = start + PERIOD;
        assert_eq!(take(&mut limit, 1, later), 1, "behind those that wait");
        assert_eq!(take(&mut limit, 2, later), 0);
        assert_eq!(take(&mut limit, 3, later), 0, "a new address");
        for n in 3..MAX_ACCEPTED {
            limit.count_accepted(later);
            assert_eq!(limit.pause(|| false).is_some(), n + 1 == MAX_ACCEPTED, "{n}");
        }
        limit.count_accepted(start + 100 * PERIOD);
        assert!(limit.by_address.is_empty() && limit.turns == [0; PERIODS], "all turns are over");
    }

    #[test]
    fn a_period_is_bounded_for_any_number_of_addresses() {
        let now = Instant::now();
        let mut limit = RateLimit::new(now);
        // As many as there may be places, two of each address.
        for (n, address) in (0..512).zip((0..=255).cycle()) {
            assert_eq!(take(&mut limit, address, now), n / MAX_PER_PERIOD as usize);
        }
        assert!(limit.turns.iter().all(|turns| *turns <= MAX_PER_PERIOD), "{limit:?}");
    }

    async fn connected(listener: &TcpListener) -> (TcpStream, TcpStream) {
        let addr = listener.local_addr().expect("an address");
        let (client, server) = tokio::join!(TcpStream::connect(addr), listener.accept());
        (client.expect("connected"), server.expect("accepted").0)
    }

    fn fd(stream: TcpStream) -> OwnedFd {
        stream.into_std().expect("a socket").into()
    }

    #[test]
    fn an_accepted_connection_has_its_address_and_does_not_block() {
        let listener = std::net::TcpListener::bind("[::]:0").expect("bound");
        let port = listener.local_addr().expect("an address").port();
        let _client = std::net::TcpStream::connect(("127.0.0.1", port)).expect("connected");
        let (socket, peer) = accept(&listener).expect("accepted");
        assert_eq!(peer, IpAddr::from([127, 0, 0, 1]), "not as an IPv6 address");
        let read = rustix::io::read(&socket, &mut [0; 1]);
        assert_eq!(read, Err(rustix::io::Errno::AGAIN));
    }

    /// As after a start that took seconds.
    #[tokio::test]
    async fn a_backlog_of_many_clients_is_answered() {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(([127, 0, 0, 1], 0).into()).expect("bound");
        let listener = socket.listen(1024).expect("the backlog of memsensor.socket");
        let addr = listener.local_addr().expect("an address");
        let gate = Gate::new(64, Arc::default());
        let (_stop, stopping) = watch::channel(false);
        let mut clients = Vec::new();
        for n in 1..=250 {
            let socket = TcpSocket::new_v4().expect("a socket");
            socket.bind(([127, 0, 1, n], 0).into()).expect("bound");
            let mut client = socket.connect(addr).await.expect("connected");
            client.write_all(b"?").await.expect("sent");
            clients.push(client);
        }
        let answer = |mut stream: TcpStream, ticket: Arc<Ticket>| async move {
            if stream.read_u8().await.is_ok() {
                ticket.set_active();
                let _ = stream.write_all(b"!").await;
            }
        };
        let all = vec!["0.0.0.0/0".parse().expect("a network")];
        tokio::spawn(accept_tcp(listener, all, gate, stopping, answer));
        for (n, mut client) in clients.into_iter().enumerate() {
            let answer = tokio::time::timeout(Duration::from_secs(9), client.read_u8()).await;
            assert_eq!(answer.expect("in time").ok(), Some(b'!'), "{n}");
        }
    }

    #[tokio::test]
    async fn an_evicted_connection_is_closed_and_counted() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let counts = Arc::new(ConnectionCounts::default());
        let gate = Gate::new(1, Arc::clone(&counts));
        let peer = IpAddr::from([127, 0, 0, 1]);
        let never = |stream, ticket: Arc<Ticket>| async move {
            let _held: (TcpStream, _) = (stream, ticket);
            std::future::pending::<()>().await;
        };
        let (mut first, server) = connected(&listener).await;
        gate.take(fd(server), peer, None, &never);
        tokio::task::yield_now().await;
        assert_eq!(counts.open.load(Ordering::Relaxed), 1);
        let (mut refused, server) = connected(&listener).await;
        gate.take(fd(server), peer, Some(Instant::now() + PERIOD), &never);
        assert_eq!(refused.read(&mut [0]).await.ok(), Some(0), "over its rate");
        let (_second, server) = connected(&listener).await;
        gate.take(fd(server), peer, None, &never);
        assert_eq!(first.read(&mut [0]).await.ok(), Some(0), "evicted");
        tokio::task::yield_now().await;
        assert_eq!(counts.open.load(Ordering::Relaxed), 1);
        assert!(!gate.is_empty());
        let ended = Outcome::ALL.map(|outcome| counts.ended(outcome));
        assert_eq!(ended, [0, 1, 1, 0, 0]);
    }
}
