//! Requests at a fixed rate, each on time whether or not the others have been answered, so that a slow
//! answer delays nobody and hides nothing (no coordinated omission).

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request<T> {
    /// When it was due, since the beginning.
    pub at: Duration,
    /// From when it was due until its answer, or until the user gave up.
    pub took: Duration,
    /// What was answered, or what went wrong.
    pub outcome: Result<T, &'static str>,
}

/// One question, on a connection of its own: the answer until the other side hangs up or it is `whole`. Who has
/// none at `end` gives up.
pub fn exchange(
    address: SocketAddr,
    question: &[u8],
    end: Instant,
    whole: impl Fn(&[u8]) -> bool,
) -> Result<Vec<u8>, &'static str> {
    let left = || {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() { Err("no answer in time") } else { Ok(left) }
    };
    let failed = |e: std::io::Error| match e.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => "no answer in time",
        _ => "connection lost",
    };
    let mut stream = TcpStream::connect_timeout(&address, left()?).map_err(failed)?;
    stream.write_all(question).map_err(failed)?;
    let mut answer = Vec::with_capacity(4096);
    let mut chunk = [0; 4096];
    while !whole(&answer) {
        stream.set_read_timeout(Some(left()?)).map_err(failed)?;
        match stream.read(&mut chunk).map_err(failed)? {
            0 => break,
            n => answer.extend_from_slice(&chunk[..n]),
        }
    }
    Ok(answer)
}

/// Users who keep asking.
#[derive(Debug)]
pub struct Traffic<T> {
    stop: Arc<AtomicBool>,
    users: Vec<JoinHandle<()>>,
    done: Arc<Mutex<Vec<Request<T>>>>,
}

impl<T: Send + 'static> Traffic<T> {
    /// Begins at `start`: `rate` requests a second. `ask` gets the moment at which its user gives up,
    /// `patience` after it was due.
    pub fn start(
        rate: u32,
        patience: Duration,
        start: Instant,
        ask: impl Fn(Instant) -> Result<T, &'static str> + Send + Sync + 'static,
    ) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let done = Arc::new(Mutex::new(Vec::new()));
        let next = Arc::new(AtomicU64::new(0));
        let ask = Arc::new(ask);
        // Each user who is free takes the next moment that a request is due. There are enough for all
        // that can be waiting at once, and so one is always free.
        let enough = rate * u32::try_from(patience.as_secs() + 1)?;
        let user = |_| {
            let (stop, done, next) = (Arc::clone(&stop), Arc::clone(&done), Arc::clone(&next));
            let ask = Arc::clone(&ask);
            let builder = std::thread::Builder::new().stack_size(128 << 10);
            let ask_on_time = move || {
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
                    let outcome = ask(start + at + patience);
                    let request = Request { at, took: (start + at).elapsed(), outcome };
                    done.lock().unwrap_or_else(PoisonError::into_inner).push(request);
                }
            };
            builder.spawn(ask_on_time).context("start a user's thread")
        };
        let users = (0..enough).map(user).collect::<Result<_>>()?;
        Ok(Self { stop, users, done })
    }

    /// Ends it when all have their answers; the requests in the order they were due.
    pub fn finish(self) -> Vec<Request<T>> {
        self.stop.store(true, Ordering::Relaxed);
        for user in &self.users {
            user.thread().unpark();
        }
        for user in self.users {
            let _ = user.join();
        }
        let mut done =
            std::mem::take(&mut *self.done.lock().unwrap_or_else(PoisonError::into_inner));
        done.sort_by_key(|r| r.at);
        done
    }
}
