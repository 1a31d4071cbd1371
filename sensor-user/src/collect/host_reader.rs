//! Reads the host at one moment: the probes' rows and the files of /proc, with the stalls of cgroups
//! at their own limits separated.
//!
//! Not here: how stalls are attributed (`verdict/attribution` of the core), and the named cgroups
//! (`scopes`).

use std::{path::Path, sync::Arc};

use sensor_core::{
    model::{
        coverage::{AttachState, Coverage},
        event::OomType,
        snapshot::Snapshot,
    },
    verdict::{
        attribution::{Attribution, ByOrigin},
        reading::Reading,
    },
};
use sensor_ebpf::{
    probes::{self, Id, alloc_retry, oom_kill, reclaim_scan},
    spec::Shape,
};

use super::vmstat_kills::VmstatKills;
use crate::host::{host_file::HostFileOpeners, late_files::OfferedFiles, memory::HostMemory};

/// The files of the host, and what is kept from one reading to the next.
#[derive(Debug)]
pub(super) struct HostReader {
    memory: HostMemory,
    attribution: Attribution,
    vmstat_kills: VmstatKills,
}

impl HostReader {
    /// Opens the files below `root`, which is / except in tests.
    pub(super) fn open(root: &Path) -> Self {
        Self {
            memory: HostMemory::open(root),
            attribution: Attribution::default(),
            vmstat_kills: VmstatKills::default(),
        }
    }

    /// Whether the kernel measures pressure.
    pub(super) const fn has_psi(&self) -> bool {
        self.memory.has_psi()
    }

    /// Opens the host's files that could not be opened at the start.
    pub(super) fn openers(&self) -> HostFileOpeners {
        self.memory.openers()
    }

    /// Where a thread that may open files offers those of the host that appear later.
    pub(super) fn offered_files(&self) -> Arc<OfferedFiles> {
        self.memory.offered_files()
    }

    /// Reads the host; also returns the OOM kills so far by type, if only vmstat counts them.
    pub(super) fn read(
        &mut self,
        snapshot: &Snapshot,
        coverage: &Coverage,
    ) -> (Reading, Option<[u64; OomType::ALL.len()]>) {
        let mut reading = Reading { at_ns: snapshot.taken_ns, ..Reading::default() };
        // Rows of an earlier sample would show a calm host.
        let stalls = (!snapshot.unread.counters).then(|| {
            read_probes(snapshot, coverage, &mut reading);
            stall_clock(snapshot, coverage)
        });
        self.memory.read(&mut reading);
        let mut origins = self.memory.origins();
        origins.stall_ns = stalls.flatten();
        reading.stall_ns = origins.stall_ns.map(|stalls| stalls.host);
        self.attribution.apply(&mut reading, origins);
        let vmstat_kills = self.vmstat_kills(reading.at_ns, coverage);
        if let Some(kills) = vmstat_kills {
            reading.oom_kills = Some(kills[OomType::Global as usize]);
        }
        (reading, vmstat_kills)
    }

    /// OOM kills by type, unless the probe counts them or an operator has disabled it.
    fn vmstat_kills(
        &mut self,
        now_ns: u64,
        coverage: &Coverage,
    ) -> Option<[u64; OomType::ALL.len()]> {
        let probe = coverage.probe(Id::oom_kill)?;
        let counts = self.memory.kill_counts()?;
        let is_missing = probe.state == AttachState::Missing;
        is_missing.then(|| self.vmstat_kills.update(now_ns, counts))
    }
}

/// Nanoseconds of the stall clock, by origin; `None` if a probe of reclaim is missing.
fn stall_clock(snapshot: &Snapshot, coverage: &Coverage) -> Option<ByOrigin> {
    if !coverage.measures(Id::direct_reclaim) || !coverage.measures(Id::memcg_reclaim) {
        return None;
    }
    let mut stalls = ByOrigin::default();
    for (row, probe) in snapshot.rows.iter().zip(probes::ALL) {
        for metric in probe.metrics {
            let Shape::Stall { at, cause: Some(cause), .. } = metric.shape else { continue };
            let to = if cause.is_limit() { &mut stalls.limits } else { &mut stalls.host };
            *to = to.saturating_add(row[at]);
        }
    }
    Some(stalls)
}

/// Stores the probes' values of the host in `reading`.
fn read_probes(snapshot: &Snapshot, coverage: &Coverage, reading: &mut Reading) {
    let measures = |id: Id| coverage.measures(id);
    if measures(Id::oom_kill) {
        // A cgroup at its own limit does not harm the host, nor does a cpuset whose nodes are full,
        // or a kill that an operator asked for.
        let row = &snapshot.rows[Id::oom_kill as usize];
        reading.oom_kills = Some(row[oom_kill::HOST_KILLS_WORD]);
    }
    if measures(Id::reclaim_scan) {
        let (at, len) = (reclaim_scan::PRIORITY_WORD, reclaim_scan::PRIORITIES);
        let lowest = snapshot.moved_recently(Id::reclaim_scan as usize, at, len).lowest();
        let priority = lowest.map_or(Ok(reclaim_scan::CALM_PRIORITY), u32::try_from);
        reading.priority = priority.ok().and_then(|p| u8::try_from(p).ok());
    }
    if measures(Id::alloc_retry) {
        let (at, len) = (alloc_retry::LOOPS_WORD, alloc_retry::LOOPS);
        let highest = snapshot.moved_recently(Id::alloc_retry as usize, at, len).highest();
        reading.no_progress = u8::try_from(highest.unwrap_or(0)).ok();
    }
}

#[cfg(test)]
mod tests {
    use sensor_core::model::coverage::ProbeState;
    use sensor_ebpf::spec::{ROW_WORDS, Row};

    use super::*;

    fn rows(word: u64) -> Arc<Vec<Row>> {
        Arc::new(vec![[word; ROW_WORDS]; probes::ALL.len() + 1])
    }

    fn attached(name: &'static str) -> ProbeState {
        let (state, reason) = (AttachState::Attached, String::new());
        ProbeState { name, state, reason, programs: Vec::new() }
    }

    #[test]
    fn probes_fill_in_what_the_rules_need() {
        let snapshot = Snapshot {
            taken_ns: 1,
            rows: rows(3),
            // A change in the window of gauges only is no evidence.
            window_start: rows(0),
            recent_start: rows(1),
            ..Snapshot::default()
        };
        let mut coverage = Coverage::none("not attached");
        let mut reading = Reading::default();
        read_probes(&snapshot, &coverage, &mut reading);
        assert_eq!(reading, Reading::default(), "nothing is attached");
        assert_eq!(stall_clock(&snapshot, &coverage), None);
        coverage.probes = probes::ALL.iter().map(|probe| attached(probe.name)).collect();
        read_probes(&snapshot, &coverage, &mut reading);
        // 3 ns in each of the host's four words (throttling has two) and in both of limits.
        assert_eq!(stall_clock(&snapshot, &coverage), Some(ByOrigin { host: 12, limits: 6 }));
        assert_eq!(reading.oom_kills, Some(3));
        assert_eq!(reading.priority, Some(0));
        assert_eq!(reading.no_progress, Some(18));
        let mut rows = snapshot.rows.to_vec();
        rows[Id::oom_kill as usize][oom_kill::KILLS_WORD] = 9;
        rows[Id::oom_kill as usize][oom_kill::HOST_KILLS_WORD] = 2;
        let constrained = Snapshot { rows: rows.into(), ..snapshot.clone() };
        read_probes(&constrained, &coverage, &mut reading);
        assert_eq!(reading.oom_kills, Some(2), "seven were bound to some NUMA nodes");
        let calm = Snapshot { recent_start: Arc::clone(&snapshot.rows), ..snapshot };
        read_probes(&calm, &coverage, &mut reading);
        assert_eq!((reading.priority, reading.no_progress), (Some(12), Some(0)));
    }
}
