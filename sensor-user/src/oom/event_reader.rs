//! The event thread: reads the kernel half's ring buffers, adds paths and a report to each event,
//! and appends it to the event log.
//!
//! It reads files of cgroups and waits for a scan of processes; no thread that serves waits for it.
//!
//! Not here: the data of an event (`model/event` of the core), and the content of its report
//! (`report_builder`).

use std::{sync::Arc, time::Duration};

use rustix::event::{PollFd, PollFlags};
use sensor_core::{
    common::clock::monotonic_ns,
    model::{
        coverage::Coverage,
        event::{AllocContext, EventKind, OomType, TaskInfo, event_id},
        memory_usage::MemoryUsage,
        oom_report::{CgroupLimits, OomReport},
        workload::WorkloadId,
    },
};
use sensor_ebpf::loss::{self, Loss};
use tracing::warn;

use super::{
    decode,
    kill_groups::{self, Kill, KillGroups},
    report_builder::{self, Sources},
    stall_history::StallHistory,
};
use crate::{
    cgroups::shared_paths::{PathFinder, SharedPaths},
    host::{
        cgroup::{mounts::CgroupMounts, stats},
        kmsg::{KernelLog, KmsgKill, LoggedAllocation},
        memory,
        pods::Pods,
    },
    kernel::{debug_log::DebugLog, read::Rings},
    publish::{
        control::{RescanRequest, Shutdown},
        event_log::EventLog,
        oom_kills::OomKillCounts,
        sample::PublishedSample,
        usage::PublishedUsage,
        wait::wait_for,
    },
};

/// How long the thread sleeps between two checks of shutdown, cgroups and the debug log.
const POLL: Duration = Duration::from_millis(200);

/// Most records of cgroups that are applied in one turn: more than the ring has room for, so that
/// only a flood during the turn has to wait for the next.
const RECORDS: usize = 8192;

/// A scan of processes at most this old when a kill happens is recent enough for its report.
const MAX_USAGE_AGE_NS: u64 = 1_000_000_000;

/// How long an event, and those behind it, wait for a scan: the ring has room for a thousand.
const SCAN_TIMEOUT: Duration = Duration::from_millis(300);

/// Shortest time between two SIGKILLs that get a report: four a second. A sender is known by a name
/// that any process may take, and a report costs reads of files and a scan, while OOM kills wait
/// behind it.
const SIGNAL_REPORT_GAP_NS: u64 = 250_000_000;

/// Inputs and outputs of the event reader.
#[allow(missing_debug_implementations, reason = "aya's maps have none")]
pub struct Inputs {
    /// The ring buffers.
    pub rings: Rings,
    /// Messages of the kernel half, if they are on.
    pub debug_log: Option<DebugLog>,
    /// The kernel's log; `None` where it may not be read.
    pub kernel_log: Option<KernelLog>,
    /// Mount points of the hierarchies; `None` without the memory controller.
    pub mounts: Option<CgroupMounts>,
    /// Which probes are attached.
    pub coverage: Arc<Coverage>,
    /// The last sample.
    pub sample: PublishedSample,
    /// The last scan of processes.
    pub usage: Arc<PublishedUsage>,
    /// Requests a scan.
    pub rescan: Arc<RescanRequest>,
    /// Paths of cgroups.
    pub paths: SharedPaths,
    /// Where events go.
    pub events: Arc<EventLog>,
    /// Where OOM kills are counted.
    pub kills: Arc<OomKillCounts>,
    /// Ends the thread.
    pub shutdown: Arc<Shutdown>,
}

/// The event thread.
#[allow(missing_debug_implementations, reason = "aya's maps have none")]
pub struct EventReader {
    inputs: Inputs,
    finder: PathFinder,
    stalls: StallHistory,
    groups: KillGroups,
    pods: Pods,
    page_bytes: u64,
    /// The last known cgroup id of each named scope; 0 before the first.
    scope_ids: Vec<u64>,
    /// Paths that the kernel half could not report, when a walk was last requested.
    paths_lost: u64,
    /// Time of the last SIGKILL with a report; 0 before the first.
    signal_report_ns: u64,
}

/// An event as the kernel half reported it.
struct NewEvent {
    time_ns: u64,
    /// Of the trigger of an OOM kill; 0 if none is known.
    reclaim_ended_ns: u64,
    kind: EventKind,
}

impl EventReader {
    /// Without any event yet.
    pub fn new(inputs: Inputs) -> Self {
        Self {
            finder: PathFinder::new(Arc::clone(&inputs.paths)),
            inputs,
            stalls: StallHistory::default(),
            groups: KillGroups::default(),
            pods: Pods::default(),
            page_bytes: rustix::param::page_size() as u64,
            scope_ids: Vec::new(),
            paths_lost: 0,
            signal_report_ns: 0,
        }
    }

    /// Reads events until shutdown.
    pub fn run(mut self) {
        while !self.inputs.shutdown.is_requested() {
            self.wait();
            self.update_cgroup_paths();
            self.read_sample();
            self.read_events();
            if let Some(log) = &mut self.inputs.debug_log {
                log.flush();
            }
        }
    }

    fn wait(&self) {
        let mut events = [PollFd::new(&self.inputs.rings.events, PollFlags::IN)];
        // If interrupted, the loop checks all the same.
        wait_for(&mut events, POLL);
    }

    /// Applies records of created and removed cgroups. If the cache stays locked, they wait in the
    /// ring for the next turn.
    fn update_cgroup_paths(&mut self) {
        let Some(mut cache) = self.inputs.paths.lock_soon() else { return };
        let mut skipped = None;
        for _ in 0..RECORDS {
            let Some(record) = self.inputs.rings.cgroups.next() else { break };
            if !cache.apply(&record) {
                skipped = Some(record.len());
            }
        }
        drop(cache);
        if let Some(len) = skipped {
            warn!("skipped a cgroup record of unknown kind or size: {len} bytes");
        }
    }

    /// Takes stalls, scope ids and losses from the last sample.
    fn read_sample(&mut self) {
        let Some(sample) = &*self.inputs.sample.load() else { return };
        let losses = sample.snapshot.rows.get(loss::ROW as usize);
        let lost = losses.map_or(0, |row| row[Loss::CgroupNamesFull as usize]);
        // More cgroups were created than fit into the ring.
        if lost > self.paths_lost {
            self.paths_lost = lost;
            self.inputs.paths.request_walk();
        }
        let Some((host, scopes)) = sample.scopes.split_first() else { return };
        self.stalls.add(&host.reading);
        self.scope_ids.resize(scopes.len(), 0);
        for (last, scope) in self.scope_ids.iter_mut().zip(scopes) {
            *last = scope.cgroup_id.unwrap_or(*last);
        }
    }

    /// The next event, if there is one.
    fn next(&mut self) -> Option<NewEvent> {
        loop {
            let record = self.inputs.rings.events.next()?;
            let boot = self.inputs.events.boot();
            if let Some((time_ns, kind)) = decode::decode(&record, self.page_bytes, boot) {
                let reclaim_ended_ns = decode::reclaim_ended_ns(&record);
                return Some(NewEvent { time_ns, reclaim_ended_ns, kind });
            }
            warn!("skipped an event record of unknown kind or size: {} bytes", record.len());
        }
    }

    fn read_events(&mut self) {
        let coverage = Arc::clone(&self.inputs.coverage);
        let constraints = coverage.enums.get("oom_constraint").map_or(&[][..], Vec::as_slice);
        while let Some(mut event) = self.next() {
            // Update paths first: the cgroup may have been created while the last event waited for
            // a scan.
            self.update_cgroup_paths();
            event.kind.name_constraint(constraints);
            let now = monotonic_ns();
            for task in event.kind.tasks_mut() {
                add_workload(task, &mut self.finder, &mut self.pods, now);
            }
            if let EventKind::OomKill { victim, .. } = &event.kind {
                self.count_kill(victim);
            }
            let logged = self.find_logged(&mut event.kind);
            let report = self.report(&mut event, logged.as_ref());
            self.inputs.events.push(event.time_ns, event.kind, report);
        }
    }

    fn count_kill(&mut self, victim: &TaskInfo) {
        // Ids of cgroups that were created since the last wait.
        self.read_sample();
        let id = victim.cgroup_id;
        let in_scope = |index: usize| self.scope_ids.get(index) == Some(&id);
        self.inputs.kills.count(victim.cgroup.as_ref(), in_scope);
    }

    /// The kernel log's line on an OOM kill; adds to the allocation what no probe measured.
    fn find_logged(&mut self, kind: &mut EventKind) -> Option<KmsgKill> {
        let EventKind::OomKill { victim, context, .. } = kind else { return None };
        let logged = self.inputs.kernel_log.as_mut()?.find(victim.pid)?;
        add_logged(context, &logged);
        Some(logged)
    }

    /// The report on a kill. The first look at its cgroups also shows whether it is one of a group.
    fn report(&mut self, event: &mut NewEvent, logged: Option<&KmsgKill>) -> Option<OomReport> {
        let time_ns = event.time_ns;
        let victim = match &event.kind {
            EventKind::OomKill { victim, .. } => victim,
            EventKind::KillSignal { target, .. } => {
                if !is_due(&mut self.signal_report_ns, monotonic_ns()) {
                    return None;
                }
                target
            }
            EventKind::VictimExit { .. } | EventKind::Operator { .. } => return None,
        };
        let mounts = self.inputs.mounts.as_ref().zip(victim.cgroup.as_deref());
        let cgroups = mounts.map(|(mounts, path)| stats::limits_above(mounts, path));
        let cgroups = cgroups.unwrap_or_default();
        self.add_group(event, &cgroups, logged);
        // Before the wait for a scan: the victim's memory may be free after it.
        let host_memory = memory::usage();
        let usage = self.recent_usage(time_ns);
        let sample = self.inputs.sample.load();
        let host = sample.as_ref().and_then(|sample| sample.scopes.first());
        let sources = Sources {
            time_ns,
            cgroups,
            logged,
            usage: usage.as_deref(),
            stalled: host.and_then(|host| self.stalls.window(&host.reading)),
            host_memory,
        };
        Some(report_builder::build(&event.kind, sources))
    }

    /// Adds the group that an OOM kill is of.
    fn add_group(
        &mut self,
        event: &mut NewEvent,
        cgroups: &[CgroupLimits],
        logged: Option<&KmsgKill>,
    ) {
        let NewEvent { time_ns, reclaim_ended_ns, kind } = event;
        let EventKind::OomKill { oom_type, victim, trigger, oom_group, .. } = kind else { return };
        let (time_ns, reclaim_ended_ns) = (*time_ns, *reclaim_ended_ns);
        let id = event_id(self.inputs.events.boot(), time_ns);
        let kill = Kill { time_ns, reclaim_ended_ns, victim, trigger };
        let oom_cgroup = logged.and_then(|logged| logged.memcg.as_deref());
        let is_limited = *oom_type == OomType::Memcg;
        let cgroup = || kill_groups::cgroup_of(cgroups, oom_cgroup, is_limited);
        *oom_group = self.groups.group_of(kill, id, cgroup);
    }

    /// A recent scan of processes. On a calm host the last one may be ten seconds old, and a leak
    /// younger than that. The sensing thread scans after its next verdict; this thread waits for
    /// it.
    fn recent_usage(&self, time_ns: u64) -> Option<Arc<MemoryUsage>> {
        let recent =
            |usage: &MemoryUsage| usage.taken_ns.saturating_add(MAX_USAGE_AGE_NS) >= time_ns;
        match self.inputs.usage.load() {
            Some(usage) if !recent(&usage) => {
                self.inputs.rescan.request();
                self.inputs.usage.wait_for(recent, SCAN_TIMEOUT)
            }
            usage => usage,
        }
    }
}

/// Adds to an allocation what only the kernel's log has, or all of it if no probe measured it.
pub fn add_logged(context: &mut Option<AllocContext>, logged: &KmsgKill) {
    let Some(LoggedAllocation { order, gfp_flags, gfp_names }) = logged.allocation.clone() else {
        return;
    };
    let (constraint, nodes) = (logged.constraint.clone(), logged.nodes.clone());
    match context {
        None => {
            let from_log = true;
            let logged = AllocContext { order, gfp_flags, gfp_names, constraint, nodes, from_log };
            *context = Some(logged);
        }
        Some(measured) if measured.gfp_flags == gfp_flags && measured.order == order => {
            (measured.gfp_names, measured.nodes) = (gfp_names, nodes);
        }
        // The report lists the contradiction.
        Some(_) => {}
    }
}

/// Whether a SIGKILL at `now` may get a report; then `last` becomes `now`.
fn is_due(last: &mut u64, now: u64) -> bool {
    let due = *last == 0 || now.saturating_sub(*last) >= SIGNAL_REPORT_GAP_NS;
    if due {
        *last = now;
    }
    due
}

/// Adds the path of the task's cgroup, and its unit, container and pod.
fn add_workload(task: &mut TaskInfo, paths: &mut PathFinder, pods: &mut Pods, now: u64) {
    task.cgroup = paths.find(task.cgroup_id);
    let Some(path) = &task.cgroup else { return };
    task.workload = WorkloadId::of(path);
    if let Some(uid) = &task.workload.pod {
        task.workload.pod_name = pods.name_of(uid, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_adds_names_and_nodes_to_what_was_measured() {
        let logged = KmsgKill {
            constraint: "cpuset".to_owned(),
            nodes: Some("1".to_owned()),
            allocation: Some(LoggedAllocation {
                order: 0,
                gfp_flags: "0xcc0".to_owned(),
                gfp_names: Some("GFP_KERNEL".to_owned()),
            }),
            ..KmsgKill::default()
        };
        let mut context = None;
        add_logged(&mut context, &logged);
        let from_log = context.clone().expect("from the log");
        assert!(from_log.from_log && from_log.constraint == "cpuset");
        let bare = AllocContext { gfp_names: None, nodes: None, from_log: false, ..from_log };
        for (order, expected) in [(0, Some("GFP_KERNEL")), (3, None)] {
            let mut measured = Some(AllocContext { order, ..bare.clone() });
            add_logged(&mut measured, &logged);
            let measured = measured.expect("it stays");
            assert_eq!(measured.gfp_names.as_deref(), expected, "order {order}");
            assert_eq!((measured.nodes.is_some(), measured.from_log), (expected.is_some(), false));
        }
    }

    #[test]
    fn four_signals_a_second_get_a_report() {
        let mut last = 0;
        let begun = 5_000_000;
        assert!(is_due(&mut last, begun), "the first, also right after boot");
        // One in 10 ms, which is the kernel half's limit, for a second.
        let due = (1..=100).filter(|i| is_due(&mut last, begun + i * 10_000_000)).count();
        assert_eq!(due, 4);
    }
}
