//! Watches a run from outside: PSI of both cgroups every 10 ms, and what memsensor and HAProxy say
//! of both hosts every 20 ms. Keeps what changed, and when.

use std::{
    fs::File,
    net::SocketAddr,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{
    balancer::{self, Server},
    web,
};

/// What was seen of one host; times are since the beginning.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// PSI: microseconds in which some task waited for memory, so far; at every look.
    pub some_us: Vec<(Duration, u64)>,
    /// The same of all tasks that were not idle.
    pub full_us: Vec<(Duration, u64)>,
    /// The same of all tasks that waited for a disk.
    pub io_full_us: Vec<(Duration, u64)>,
    /// What memsensor tells HAProxy; at every change.
    pub verdicts: Vec<(Duration, String)>,
    /// What HAProxy makes of it; at every change.
    pub servers: Vec<(Duration, Server)>,
}

const PSI_EVERY: Duration = Duration::from_millis(10);
const ASK_EVERY: Duration = Duration::from_millis(20);

/// The threads that look.
#[derive(Debug)]
pub struct Watch {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<[Observed; 2]>>,
    threads: Vec<JoinHandle<()>>,
}

impl Watch {
    /// Begins, with times since `start`, in this thread's network: of these groups, of memsensor at
    /// these addresses if there is one, and of the HAProxy of this socket.
    pub fn start(
        start: Instant,
        groups: [&Path; 2],
        sensors: Option<[SocketAddr; 2]>,
        haproxy: PathBuf,
    ) -> Result<Self> {
        let mut watch = Self { stop: Arc::default(), seen: Arc::default(), threads: Vec::new() };
        for (host, group) in groups.into_iter().enumerate() {
            let open = |name| {
                let path = group.join(name);
                File::open(&path)
                    .with_context(|| format!("open {} (PSI is needed)", path.display()))
            };
            let (memory, io) = (open("memory.pressure")?, open("io.pressure")?);
            watch.every(start, PSI_EVERY, move |now, seen| {
                let Some([some, full]) = totals(&memory) else { return };
                let Some([_, io_full]) = totals(&io) else { return };
                let seen = &mut lock(seen)[host];
                seen.some_us.push((now, some));
                seen.full_us.push((now, full));
                seen.io_full_us.push((now, io_full));
            });
        }
        for (host, address) in sensors.into_iter().flatten().enumerate() {
            watch.every(start, ASK_EVERY, move |_, seen| {
                let said = web::ask_agent(address).unwrap_or_else(|_| "no answer".into());
                // When it was said, not when it was asked.
                note(&mut lock(seen)[host].verdicts, start.elapsed(), said);
            });
        }
        watch.every(start, ASK_EVERY, move |_, seen| {
            let Ok(servers) = balancer::ask(&haproxy) else { return };
            for (seen, server) in lock(seen).iter_mut().zip(servers) {
                note(&mut seen.servers, start.elapsed(), server);
            }
        });
        Ok(watch)
    }

    fn every(
        &mut self,
        start: Instant,
        period: Duration,
        look: impl Fn(Duration, &Mutex<[Observed; 2]>) + Send + 'static,
    ) {
        let (stop, seen) = (Arc::clone(&self.stop), Arc::clone(&self.seen));
        self.threads.push(std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                look(start.elapsed(), &seen);
                std::thread::sleep(period);
            }
        }));
    }

    /// Looks at what was seen so far.
    pub fn so_far<T>(&self, look: impl FnOnce(&[Observed; 2]) -> T) -> T {
        look(&lock(&self.seen))
    }

    /// Ends it.
    pub fn finish(self) -> [Observed; 2] {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            let _ = thread.join();
        }
        std::mem::take(&mut lock(&self.seen))
    }
}

fn lock(seen: &Mutex<[Observed; 2]>) -> std::sync::MutexGuard<'_, [Observed; 2]> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

fn note<T: PartialEq>(changes: &mut Vec<(Duration, T)>, at: Duration, now: T) {
    if changes.last().is_none_or(|(_, last)| *last != now) {
        changes.push((at, now));
    }
}

/// PSI's totals, of some and of all.
fn totals(file: &File) -> Option<[u64; 2]> {
    let mut text = [0; 256];
    let len = file.read_at(&mut text, 0).ok()?;
    let mut lines = std::str::from_utf8(&text[..len]).ok()?.lines();
    let mut total = || lines.next()?.rsplit_once("total=")?.1.trim().parse().ok();
    Some([total()?, total()?])
}
