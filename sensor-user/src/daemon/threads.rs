//! The threads beside the serving thread: plain threads with small stacks, resident from the start.
//!
//! Not here: the work of each thread (`collect`, `oom`, `cgroups`, `store`, `systemd`).

use std::{
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use tracing::warn;

use super::{
    hardening::{self, STACK_BYTES},
    store::Store,
    systemd::Supervisor,
};
use crate::{
    cgroups::collector::Collector,
    collect::{sampler::Sampler, scan_loop::ScanLoop},
    oom::event_reader::EventReader,
    publish::control::Shutdown,
    recorder::thread::Recorder,
    serve::{secure::keeper::Keeper, state::background::Jobs},
};

/// Longest time to wait for the record at the end; shorter than the supervisor's patience.
const RECORD_ENDS_WITHIN: Duration = Duration::from_secs(5);

/// The work of each thread; `None` if the thread is not needed.
#[allow(missing_debug_implementations, reason = "aya's maps have none")]
pub struct Bodies {
    /// Takes samples.
    pub sampler: Sampler,
    /// Scans processes, and opens files of scopes.
    pub scan: ScanLoop,
    /// Reads events; `None` if no program could be loaded.
    pub events: Option<EventReader>,
    /// Collects cgroups; `None` without the memory controller.
    pub cgroups: Option<Collector>,
    /// Writes the record, and logs changes of state.
    pub record: Recorder,
    /// Saves the verdict and the drain.
    pub store: Store,
    /// Reads certificates again, and checks passwords; `None` without secured listeners.
    pub secure: Option<Keeper>,
    /// Notifies the supervisor; `None` without one.
    pub supervisor: Option<Supervisor>,
}

/// Running threads.
#[derive(Debug)]
pub struct Threads {
    handles: Vec<JoinHandle<()>>,
    record: JoinHandle<()>,
    shutdown: Arc<Shutdown>,
}

impl Threads {
    /// Starts the threads; they inherit the capabilities and the scheduling class of the caller.
    pub fn start(bodies: Bodies, shutdown: Arc<Shutdown>) -> Result<Self> {
        let Bodies { sampler, scan, events, cgroups, record, store, secure, supervisor } = bodies;
        let mut handles = vec![spawn("scan", move || scan.run())?];
        handles.push(spawn("sense", move || sampler.run())?);
        if let Some(events) = events {
            handles.push(spawn("events", move || events.run())?);
        }
        if let Some(cgroups) = cgroups {
            handles.push(spawn("cgroups", move || {
                // Reading hundreds of files may take many milliseconds in the kernel.
                lower_priority("reading the files of cgroups");
                cgroups.run();
            })?);
        }
        let record = spawn("record", move || {
            lower_priority("writing the record");
            record.run();
        })?;
        handles.push(spawn("store", move || store.run())?);
        if let Some(secure) = secure {
            handles.push(spawn("secure", move || {
                lower_priority("checking passwords");
                secure.run();
            })?);
        }
        if let Some(supervisor) = supervisor {
            handles.push(spawn("supervise", move || supervisor.run())?);
        }
        Ok(Self { handles, record, shutdown })
    }

    /// The name of a thread that has ended. That of the record does not count: the rest goes on without
    /// it, and `memsensor_record_synced_timestamp_seconds` shows it.
    pub fn ended(&self) -> Option<String> {
        let ended = self.handles.iter().find(|thread| thread.is_finished())?;
        Some(ended.thread().name().unwrap_or_default().to_owned())
    }

    /// Ends all threads, and waits until they have ended. The record's may wait for a disk that
    /// hangs: then its last entries are lost.
    pub fn join(mut self) {
        self.shutdown.request();
        let end = Instant::now() + RECORD_ENDS_WITHIN;
        while !self.record.is_finished() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
        if self.record.is_finished() {
            self.handles.push(self.record);
        } else {
            warn!("the disk of the record does not answer: its last entries are lost");
        }
        for thread in self.handles {
            let name = thread.thread().name().unwrap_or_default().to_owned();
            if thread.join().is_err() {
                warn!("the thread {name} had panicked");
            }
        }
    }
}

fn lower_priority(work: &str) {
    if let Err(e) = hardening::normal_priority() {
        warn!("{work} may delay answers: {e}");
    }
}

/// Starts the thread that works for commands of operators. It ends with the process: a command may
/// still wait for a file then.
pub fn start_commands(jobs: Jobs) -> Result<()> {
    spawn("commands", move || jobs.run()).map(drop)
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .stack_size(STACK_BYTES)
        .spawn(body)
        .with_context(|| format!("start the thread {name}"))
}
