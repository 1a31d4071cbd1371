//! A flood of connections from one address of this machine: silent ones, slow ones, many new ones,
//! and ones that never read.

use std::{
    collections::VecDeque,
    io::Write as _,
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use rustix::net::{self, AddressFamily, SocketFlags, SocketType, sockopt};

/// The flood's address.
const SOURCE: [u8; 4] = [127, 0, 0, 2];

/// Size of the flood.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Silent connections that it holds to each listener.
    pub silent: usize,
    /// New connections per second, over both listeners.
    pub connects: u32,
    /// Connections that send a byte of a head every [`SLOW_BYTE`].
    pub slow: usize,
    /// Connections that request `/metrics` and never read.
    pub deaf: usize,
}

impl Size {
    /// That of the goal.
    pub const LARGE: Self = Self { silent: 500, connects: 2000, slow: 100, deaf: 100 };
}

/// Time between two bytes of a slow head.
const SLOW_BYTE: Duration = Duration::from_millis(200);
/// Threads that connect: some wait for a full backlog.
const CONNECTING: u32 = 8;

/// A flood in progress.
#[derive(Debug)]
pub struct Attack {
    stop: Arc<AtomicBool>,
    connects: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Attack {
    /// Starts it: `addresses` are HTTP's and the agent-check's.
    pub fn start(addresses: [SocketAddr; 2], size: Size) -> Result<Self> {
        let mut attack =
            Self { stop: Arc::default(), connects: Arc::default(), threads: Vec::new() };
        let [http, _] = addresses;
        for n in 0..CONNECTING {
            let held = size.silent * 2 / CONNECTING as usize;
            let rate = size.connects / CONNECTING;
            let to = addresses[n as usize % 2];
            attack.spawn(move |stop, connects| connect(to, held, rate, stop, connects))?;
        }
        attack.spawn(move |stop, connects| send_slowly(http, size.slow, stop, connects))?;
        attack.spawn(move |stop, connects| never_read(http, size.deaf, stop, connects))?;
        Ok(attack)
    }

    fn spawn(&mut self, body: impl FnOnce(&AtomicBool, &AtomicU64) + Send + 'static) -> Result<()> {
        let (stop, connects) = (Arc::clone(&self.stop), Arc::clone(&self.connects));
        let thread = std::thread::Builder::new().stack_size(128 << 10);
        let thread = thread.spawn(move || body(&stop, &connects)).context("start a thread")?;
        self.threads.push(thread);
        Ok(())
    }

    /// Connections that it has opened so far.
    pub fn connects(&self) -> u64 {
        self.connects.load(Ordering::Relaxed)
    }
}

impl Drop for Attack {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// A connection from the flood's address.
fn open(to: SocketAddr) -> rustix::io::Result<TcpStream> {
    let socket =
        net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // A full backlog must not stop the flood.
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(Duration::from_millis(100)))?;
    net::bind(&socket, &SocketAddr::from((SOURCE, 0)))?;
    net::connect(&socket, &to)?;
    Ok(socket.into())
}

/// Opens connections at a rate, and holds the last ones silently.
fn connect(to: SocketAddr, held: usize, rate: u32, stop: &AtomicBool, connects: &AtomicU64) {
    let mut silent = VecDeque::new();
    let start = Instant::now();
    let mut turn = 0u32;
    while !stop.load(Ordering::Relaxed) {
        if let Ok(stream) = open(to) {
            connects.fetch_add(1, Ordering::Relaxed);
            silent.push_back(stream);
        }
        if silent.len() > held {
            silent.pop_front();
        }
        turn += 1;
        let due = start + Duration::from_secs(1) * turn / rate;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
}

/// Keeps connections that send their heads byte by byte.
fn send_slowly(to: SocketAddr, count: usize, stop: &AtomicBool, connects: &AtomicU64) {
    let mut slow = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        while slow.len() < count {
            let Ok(mut stream) = open(to) else { break };
            connects.fetch_add(1, Ordering::Relaxed);
            let _ = stream.write_all(b"GET /readyz HTTP/1.1\r\nX: ");
            slow.push(stream);
        }
        slow.retain_mut(|stream| stream.write_all(b"a").is_ok());
        std::thread::sleep(SLOW_BYTE);
    }
}

/// Keeps connections that request a large page and never read it.
fn never_read(to: SocketAddr, count: usize, stop: &AtomicBool, connects: &AtomicU64) {
    let mut deaf = VecDeque::new();
    while !stop.load(Ordering::Relaxed) {
        if let Ok(mut stream) = open(to) {
            connects.fetch_add(1, Ordering::Relaxed);
            let _ = sockopt::set_socket_recv_buffer_size(&stream, 2048);
            let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
            deaf.push_back(stream);
        }
        if deaf.len() > count {
            deaf.pop_front();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
