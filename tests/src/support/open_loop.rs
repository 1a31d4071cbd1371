//! Requests at a fixed rate, each on time whether or not earlier ones have completed, so that a
//! slow response does not delay others (no coordinated omission).

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use rustix::net::{self, AddressFamily, SocketFlags, SocketType};

/// A request and its outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request<T> {
    /// When it was due, since the start.
    pub at: Duration,
    /// Time from when it was due to its response or timeout.
    pub took: Duration,
    /// The response, or the error.
    pub outcome: Result<T, &'static str>,
}

/// Sends a request on its own connection; returns the bytes until the server closes it or they are
/// `complete`. Fails at the deadline `end`.
pub fn exchange(
    address: SocketAddr,
    request: &[u8],
    end: Instant,
    complete: impl Fn(&[u8]) -> bool,
) -> Result<Vec<u8>, &'static str> {
    let left = || {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() { Err("timeout") } else { Ok(left) }
    };
    let failed = |e: std::io::Error| match e.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => "timeout",
        _ => "connection lost",
    };
    let mut stream = TcpStream::connect_timeout(&address, left()?).map_err(failed)?;
    stream.write_all(request).map_err(failed)?;
    let mut response = Vec::with_capacity(4096);
    let mut chunk = [0; 4096];
    while !complete(&response) {
        stream.set_read_timeout(Some(left()?)).map_err(failed)?;
        match stream.read(&mut chunk).map_err(failed)? {
            0 => break,
            n => response.extend_from_slice(&chunk[..n]),
        }
    }
    Ok(response)
}

/// Asks from one of 200 addresses, as many balancers do: one address has a bounded share of the
/// connections.
pub fn ask_as_one_of_many(
    to: SocketAddr,
    request: &[u8],
    end: Instant,
) -> Result<Vec<u8>, &'static str> {
    static LAST: AtomicU32 = AtomicU32::new(0);
    let last = u8::try_from(LAST.fetch_add(1, Ordering::Relaxed) % 200).unwrap_or_default();
    let family = AddressFamily::INET;
    let socket = net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None);
    let socket = socket.map_err(|_| "no socket")?;
    net::bind(&socket, &SocketAddr::from(([127, 0, 1, last + 1], 0))).map_err(|_| "no address")?;
    net::connect(&socket, &to).map_err(|_| "refused")?;
    let mut stream = TcpStream::from(socket);
    let left = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    stream.set_read_timeout(Some(left)).map_err(|_| "no timeout")?;
    stream.write_all(request).map_err(|_| "reset while asking")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map_err(|e| match e.kind() {
        std::io::ErrorKind::WouldBlock => "timeout",
        _ => "reset while waiting",
    })?;
    if answer.is_empty() { Err("closed without an answer") } else { Ok(answer) }
}

/// Requests in progress.
#[derive(Debug)]
pub struct Traffic<T> {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    done: Arc<Mutex<Vec<Request<T>>>>,
}

impl<T: Send + 'static> Traffic<T> {
    /// Starts `rate` requests per second at `start`. `send` gets its deadline, `timeout` after it
    /// was due.
    pub fn start(
        rate: u32,
        timeout: Duration,
        start: Instant,
        send: impl Fn(Instant) -> Result<T, &'static str> + Send + Sync + 'static,
    ) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let done = Arc::new(Mutex::new(Vec::new()));
        let next = Arc::new(AtomicU64::new(0));
        let send = Arc::new(send);
        // A free thread takes the next due time. There are as many threads as requests that can
        // wait at once, so one is always free.
        let count = rate * u32::try_from(timeout.as_secs() + 1)?;
        let thread = |_| {
            let (stop, done, next) = (Arc::clone(&stop), Arc::clone(&done), Arc::clone(&next));
            let send = Arc::clone(&send);
            let builder = std::thread::Builder::new().stack_size(128 << 10);
            let send_on_time = move || {
                loop {
                    let turn = next.fetch_add(1, Ordering::Relaxed);
                    let at =
                        Duration::from_secs(1) * u32::try_from(turn).unwrap_or(u32::MAX) / rate;
                    while let Some(wait) = (start + at).checked_duration_since(Instant::now()) {
                        if stop.load(Ordering::Relaxed) {
                            return;
                        }
                        std::thread::park_timeout(wait);
                    }
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let outcome = send(start + at + timeout);
                    let request = Request { at, took: (start + at).elapsed(), outcome };
                    done.lock().unwrap_or_else(PoisonError::into_inner).push(request);
                }
            };
            builder.spawn(send_on_time).context("start a thread")
        };
        let threads = (0..count).map(thread).collect::<Result<_>>()?;
        Ok(Self { stop, threads, done })
    }

    /// Stops, waits for the last responses, and returns the requests in the order they were due.
    pub fn finish(self) -> Vec<Request<T>> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in &self.threads {
            thread.thread().unpark();
        }
        for thread in self.threads {
            let _ = thread.join();
        }
        let mut done =
            std::mem::take(&mut *self.done.lock().unwrap_or_else(PoisonError::into_inner));
        done.sort_by_key(|r| r.at);
        done
    }
}
