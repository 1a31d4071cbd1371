//! The event thread: moves events from the ring buffer to the log, each with what is known of it.
//!
//! It may walk a tree of cgroups or read a few files of one; nothing that answers waits for it. Not here:
//! what an event is ([`events`]), what belongs to its record ([`report`](crate::circumstances)).

use std::{sync::Arc, time::Duration};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sensor_ebpf::loss::{self, Loss};
use tracing::warn;

use crate::{
    cgroups::Killed,
    circumstances::{Minute, OomReport},
    directory::{self, SOON, SharedPaths, locked},
    events::{self, AllocContext, EventKind, EventLog, TaskInfo},
    host::{
        cgroup_files,
        clock::monotonic_ns,
        kernel_log::{KernelLog, KmsgKill},
        memcg::CgroupMounts,
        pods::Pods,
    },
    identity::WorkloadId,
    kernel::read::Rings,
    scopes::Kills,
    sense::Common,
    snapshot::Snapshot,
};

/// How long the thread sleeps between looks at the stop flag, the cgroups and the debug log.
const POLL: Duration = Duration::from_millis(200);

/// A look at processes that is no older than this before a kill is good enough for its record.
const FRESH_NS: u64 = 1_000_000_000;

/// An event waits so long for a fresh look, and those behind it too: the ring has room for a thousand.
const PATIENCE_NS: u64 = 300_000_000;

/// Shortest time between two SIGKILLs whose report are taken: four a second. Who sent one is known
/// by a name that anybody may take, and report cost reads of files and a look at processes, while OOM
/// kills wait behind.
const SIGNAL_GAP_NS: u64 = 250_000_000;

/// What the kernel half writes to our log.
pub type DebugLog = aya_log::EbpfLogger<&'static dyn log::Log>;

/// The event thread.
#[allow(missing_debug_implementations, reason = "aya's maps have none")]
pub struct EventReader {
    rings: Rings,
    debug: Option<DebugLog>,
    /// None where it may not be read.
    kernel_log: Option<KernelLog>,
    common: Common,
    events: Arc<EventLog>,
    kills: Arc<Kills>,
    killed: Arc<Killed>,
    directory: SharedPaths,
    /// None without the memory controller.
    roots: Option<CgroupMounts>,
    minute: Minute,
    pods: Pods,
    page_bytes: u64,
    /// Names that had no room, when the tree was walked for them.
    names_lost: u64,
    /// When report of a SIGKILL were taken last; 0 = never.
    signal_ns: u64,
}

impl EventReader {
    /// Learns what cgroups there are already.
    pub fn new(
        rings: Rings,
        (debug, kernel_log): (Option<DebugLog>, Option<KernelLog>),
        common: Common,
        events: Arc<EventLog>,
        (kills, killed): (Arc<Kills>, Arc<Killed>),
        directory: SharedPaths,
    ) -> Self {
        directory::walk(&directory, monotonic_ns(), SOON);
        Self {
            rings,
            debug,
            kernel_log,
            common,
            events,
            kills,
            killed,
            directory,
            roots: CgroupMounts::find().ok(),
            minute: Minute::default(),
            pods: Pods::default(),
            page_bytes: rustix::param::page_size() as u64,
            names_lost: 0,
            signal_ns: 0,
        }
    }

    /// Until it is told to stop.
    pub fn run(mut self) {
        while !self.common.wake.is_stopped() {
            self.wait();
            self.learn();
            self.follow();
            if let Some(log) = &mut self.debug {
                log.flush();
            }
        }
    }

    fn wait(&self) {
        let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(POLL.subsec_nanos()) };
        // Interrupted or timed out: the loop looks anyway.
        let _ = poll(&mut [PollFd::new(&self.rings.events, PollFlags::IN)], Some(&timeout));
    }

    /// Takes in which cgroups were made and removed.
    fn learn_names(&mut self) {
        let mut directory = locked(&self.directory);
        while let Some(record) = self.rings.cgroups.next() {
            if !directory.take_in(&record) {
                warn!("a record of a cgroup of unknown kind or size: {} bytes", record.len());
            }
        }
    }

    fn learn(&mut self) {
        self.learn_names();
        let Some(snapshot) = &*self.common.published.load() else { return };
        let losses = snapshot.rows.get(loss::ROW as usize);
        let lost = losses.map_or(0, |row| row[Loss::CgroupNamesFull as usize]);
        // Some were made faster than we looked.
        if lost > self.names_lost && directory::walk(&self.directory, monotonic_ns(), SOON) {
            self.names_lost = lost;
        }
        if let Some(host) = snapshot.scopes.first() {
            self.minute.note(&host.reading);
        }
    }

    /// The next event, if there is one.
    fn next(&mut self) -> Option<(u64, EventKind)> {
        loop {
            let record = self.rings.events.next()?;
            let decoded = events::decode(&record, self.page_bytes, self.events.boot());
            if decoded.is_some() {
                return decoded;
            }
            warn!("an event of unknown kind or size: {} bytes", record.len());
        }
    }

    fn follow(&mut self) {
        let coverage = Arc::clone(&self.common.coverage);
        let constraints = coverage.enums.get("oom_constraint").map_or(&[][..], Vec::as_slice);
        while let Some((time_ns, mut what)) = self.next() {
            // A group is made before anything happens in it, maybe while the event before this one waited for
            // a fresh look: so names come first.
            self.learn_names();
            what.name_constraint(constraints);
            let now = monotonic_ns();
            for process in what.processes_mut() {
                name(process, &self.directory, &mut self.pods, now);
            }
            if let EventKind::OomKill { victim, .. } = &what {
                self.kills.note(victim);
                self.killed.note(victim.cgroup.as_ref());
            }
            let logged = self.logged(&mut what);
            let report = self.report(&what, time_ns, logged.as_ref());
            self.events.push(time_ns, what, report);
        }
    }

    /// The last snapshot, with a look at processes that is not old: when it is calm, nobody looks for ten
    /// seconds, and a leak can be younger.
    fn fresh(&self, time_ns: u64) -> Option<Arc<Snapshot>> {
        let looked = |snapshot: &Option<Arc<Snapshot>>| {
            let who = snapshot.as_ref().and_then(|snapshot| snapshot.who.as_ref());
            who.is_none_or(|who| who.taken_ns.saturating_add(FRESH_NS) >= time_ns)
        };
        let mut snapshot = self.common.published.load_full();
        if looked(&snapshot) {
            return snapshot;
        }
        self.common.wake.look();
        let end = monotonic_ns().saturating_add(PATIENCE_NS);
        while !looked(&snapshot) && monotonic_ns() < end && !self.common.wake.is_stopped() {
            std::thread::sleep(Duration::from_millis(5));
            snapshot = self.common.published.load_full();
        }
        snapshot
    }

    /// What the kernel's log says of an OOM kill; what nobody else measured is taken from there.
    fn logged(&mut self, what: &mut EventKind) -> Option<KmsgKill> {
        let EventKind::OomKill { victim, context, .. } = what else { return None };
        let logged = self.kernel_log.as_mut()?.find(victim.pid)?;
        if context.is_none()
            && let Some((order, gfp_flags)) = logged.asked.clone()
        {
            let constraint = logged.constraint.clone();
            *context = Some(AllocContext { order, gfp_flags, constraint, from_log: true });
        }
        Some(logged)
    }

    fn report(
        &mut self,
        what: &EventKind,
        time_ns: u64,
        logged: Option<&KmsgKill>,
    ) -> Option<OomReport> {
        let victim = match what {
            EventKind::OomKill { victim, .. } => victim,
            EventKind::KillSignal { target, .. } => {
                if !due(&mut self.signal_ns, monotonic_ns()) {
                    return None;
                }
                target
            }
            EventKind::VictimExit { .. } => return None,
        };
        let path = victim.cgroup.as_deref();
        let levels =
            self.roots.as_ref().zip(path).map(|(roots, path)| cgroup_files::chain(roots, path));
        let snapshot = self.fresh(time_ns);
        let host = snapshot.as_ref().and_then(|snapshot| snapshot.scopes.first());
        let stalled = host.and_then(|host| self.minute.stalled(&host.reading));
        let who = snapshot.as_ref().and_then(|snapshot| snapshot.who.as_deref());
        let levels = levels.unwrap_or_default();
        Some(OomReport::of(what, time_ns, levels, logged, who, stalled))
    }
}

/// Whether report of a SIGKILL may be taken `now`, which is then kept in `last`.
fn due(last: &mut u64, now: u64) -> bool {
    let due = *last == 0 || now.saturating_sub(*last) >= SIGNAL_GAP_NS;
    if due {
        *last = now;
    }
    due
}

/// Adds what the process's cgroup is called.
fn name(process: &mut TaskInfo, directory: &SharedPaths, pods: &mut Pods, now: u64) {
    process.cgroup = directory::find(directory, process.cgroup_id, now);
    let Some(path) = &process.cgroup else { return };
    process.workload = WorkloadId::of(path);
    if let Some(uid) = &process.workload.pod {
        process.workload.pod_name = pods.name_of(uid, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn circumstances_of_signals_are_taken_four_times_a_second() {
        let mut last = 0;
        let begun = 5_000_000;
        assert!(due(&mut last, begun), "the first, also right after boot");
        // One in 10 ms, as the kernel half lets through, for a second.
        let taken = (1..=100).filter(|i| due(&mut last, begun + i * 10_000_000)).count();
        assert_eq!(taken, 4);
    }
}
