//! The loop that does what the sensing loop needs and what could make it wait: it scans processes,
//! and opens files of scopes and of the host.
//!
//! Its thread has the priority of the sensing thread: a kill's report waits for a scan, and a scope
//! for its files. Not here: when a scan is due (`usage/scanner`).

use std::{
    os::fd::AsFd as _,
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags};
use sensor_core::common::clock::monotonic_ns;

use super::{pressed::is_pressed, served::ServedOpener};
use crate::{
    host::{
        cgroup::scope_opener::ScopeOpeners, host_file::HostFileOpeners, late_files::LateFilesOpener,
    },
    kernel::programs::Programs,
    publish::{
        control::{RescanRequest, Shutdown},
        sample::PublishedSample,
        wait::wait_for,
    },
    usage::scanner::{ProcessScanner, ScanPriority},
};

/// How often it checks whether a scan is due.
const POLL: Duration = Duration::from_secs(1);
/// The same while a walk over /proc is in progress, which takes many steps.
const STEP: Duration = Duration::from_millis(100);
/// Time between two searches for OOM victims whose exits were missed.
const VICTIMS: Duration = Duration::from_mins(10);

/// What opens files for the sensing loop.
#[derive(Debug)]
pub struct FileOpeners {
    /// The files of scopes.
    pub scopes: ScopeOpeners,
    /// Adds to them the cgroups that the host serves from.
    pub served: ServedOpener,
    /// Files of the host that could not be opened at the start.
    pub host_files: HostFileOpeners,
    /// Files of the host that appear later.
    pub late_files: LateFilesOpener,
}

impl FileOpeners {
    fn serve(&mut self) {
        self.served.update(&mut self.scopes);
        self.scopes.serve(monotonic_ns());
        self.host_files.serve(monotonic_ns());
        self.late_files.open_if_due();
    }
}

/// Scans processes, and opens files; owns the attached programs.
#[allow(missing_debug_implementations, reason = "aya's maps have none")]
pub struct ScanLoop {
    /// `None` on a host where nothing could be loaded.
    pub programs: Option<Programs>,
    /// Scans processes.
    pub scanner: ProcessScanner,
    /// Opens files.
    pub openers: FileOpeners,
    /// The last sample: under pressure, scans are more frequent.
    pub sample: PublishedSample,
    /// Requests for a scan.
    pub rescan: Arc<RescanRequest>,
    /// Ends the loop.
    pub shutdown: Arc<Shutdown>,
}

impl ScanLoop {
    /// Runs until shutdown.
    pub fn run(mut self) {
        let mut searched = Instant::now();
        // A client may ask for processes as soon as the first sample is published.
        self.scanner.scan(self.programs.as_mut(), monotonic_ns(), ScanPriority::Requested);
        while !self.shutdown.is_requested() {
            // First: scopes wait for it.
            self.openers.serve();
            let priority = self.priority();
            self.scanner.scan(self.programs.as_mut(), monotonic_ns(), priority);
            if let Some(programs) = self.programs.as_mut().filter(|_| searched.elapsed() >= VICTIMS)
            {
                programs.drop_old_victims(monotonic_ns());
                searched = Instant::now();
            }
            self.wait();
        }
    }

    fn priority(&self) -> ScanPriority {
        if self.rescan.take() {
            return ScanPriority::Requested;
        }
        let pressed = self.sample.load().as_ref().is_some_and(|s| s.scopes.iter().any(is_pressed));
        if pressed { ScanPriority::Pressed } else { ScanPriority::Calm }
    }

    /// Waits for a request, for shutdown, or until a scan may be due.
    fn wait(&self) {
        let timeout = if self.scanner.is_walking() { STEP } else { POLL };
        let events = [self.shutdown.as_fd(), self.rescan.as_fd(), self.openers.scopes.as_fd()];
        let mut events = events.each_ref().map(|event| PollFd::new(event, PollFlags::IN));
        // If interrupted, the next round comes early.
        wait_for(&mut events, timeout);
    }
}
