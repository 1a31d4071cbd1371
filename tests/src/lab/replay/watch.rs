//! Samples a run from outside: PSI of both cgroups every 10 ms, and the verdicts of memsensor and
//! the weights of the balancer for both hosts every 20 ms. Stores changes with their times.

use std::{
    fs::File,
    net::SocketAddr,
    os::unix::fs::FileExt as _,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{balancer::Source, server::Server, web};

/// Samples of one host; times are since the start of the run.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// PSI `some` of memory: total microseconds at each sample.
    pub some_us: Vec<(Duration, u64)>,
    /// PSI `full` of memory.
    pub full_us: Vec<(Duration, u64)>,
    /// PSI `full` of I/O.
    pub io_full_us: Vec<(Duration, u64)>,
    /// Agent-check lines of memsensor, at each change.
    pub verdicts: Vec<(Duration, String)>,
    /// Server state in the balancer, at each change.
    pub servers: Vec<(Duration, Server)>,
}

const PSI_EVERY: Duration = Duration::from_millis(10);
const QUERY_EVERY: Duration = Duration::from_millis(20);

/// The sampling threads.
#[derive(Debug)]
pub struct Watch {
    stop: Arc<AtomicBool>,
    observed: Arc<Mutex<[Observed; 2]>>,
    threads: Vec<JoinHandle<()>>,
}

impl Watch {
    /// Starts sampling in this thread's network namespace: these cgroups, memsensor at these
    /// addresses (if it runs), and the balancer.
    pub fn start(
        start: Instant,
        groups: [&Path; 2],
        sensors: Option<[SocketAddr; 2]>,
        balancer: Source,
    ) -> Result<Self> {
        let mut watch =
            Self { stop: Arc::default(), observed: Arc::default(), threads: Vec::new() };
        for (host, group) in groups.into_iter().enumerate() {
            let open = |name| {
                let path = group.join(name);
                File::open(&path)
                    .with_context(|| format!("open {} (PSI is needed)", path.display()))
            };
            let (memory, io) = (open("memory.pressure")?, open("io.pressure")?);
            watch.every(start, PSI_EVERY, move |now, observed| {
                let Some([some, full]) = totals(&memory) else { return };
                let Some([_, io_full]) = totals(&io) else { return };
                let observed = &mut lock(observed)[host];
                observed.some_us.push((now, some));
                observed.full_us.push((now, full));
                observed.io_full_us.push((now, io_full));
            });
        }
        for (host, address) in sensors.into_iter().flatten().enumerate() {
            watch.every(start, QUERY_EVERY, move |_, observed| {
                let line = web::agent_check(address).unwrap_or_else(|_| "no response".into());
                // The time of the response, not of the query.
                push_change(&mut lock(observed)[host].verdicts, start.elapsed(), line);
            });
        }
        watch.every(start, QUERY_EVERY, move |_, observed| {
            let Ok(servers) = balancer.servers() else { return };
            for (observed, server) in lock(observed).iter_mut().zip(servers) {
                push_change(&mut observed.servers, start.elapsed(), server);
            }
        });
        Ok(watch)
    }

    fn every(
        &mut self,
        start: Instant,
        period: Duration,
        sample: impl Fn(Duration, &Mutex<[Observed; 2]>) + Send + 'static,
    ) {
        let (stop, observed) = (Arc::clone(&self.stop), Arc::clone(&self.observed));
        self.threads.push(std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                sample(start.elapsed(), &observed);
                std::thread::sleep(period);
            }
        }));
    }

    /// Reads the samples so far.
    pub fn so_far<T>(&self, read: impl FnOnce(&[Observed; 2]) -> T) -> T {
        read(&lock(&self.observed))
    }

    /// Stops sampling.
    pub fn finish(self) -> [Observed; 2] {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            let _ = thread.join();
        }
        std::mem::take(&mut lock(&self.observed))
    }
}

fn lock(observed: &Mutex<[Observed; 2]>) -> std::sync::MutexGuard<'_, [Observed; 2]> {
    observed.lock().unwrap_or_else(PoisonError::into_inner)
}

fn push_change<T: PartialEq>(changes: &mut Vec<(Duration, T)>, at: Duration, now: T) {
    if changes.last().is_none_or(|(_, last)| *last != now) {
        changes.push((at, now));
    }
}

/// The totals of PSI `some` and `full`.
fn totals(file: &File) -> Option<[u64; 2]> {
    let mut text = [0; 256];
    let len = file.read_at(&mut text, 0).ok()?;
    let mut lines = std::str::from_utf8(&text[..len]).ok()?.lines();
    let mut total = || lines.next()?.rsplit_once("total=")?.1.trim().parse().ok();
    Some([total()?, total()?])
}
