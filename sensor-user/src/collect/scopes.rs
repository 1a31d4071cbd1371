//! The scopes that are judged: the host, and the cgroups that the configuration names. Puts together
//! what files and probes tell of each, and keeps its judge.

use std::{
    collections::BTreeSet,
    fs::File,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::Result;
use sensor_ebpf::{
    probes::{self, Id},
    spec::Shape,
};
use tracing::{info, warn};

use crate::{
    config::{Config, ScopeConfig},
    events::TaskInfo,
    host::{
        memcg::{CgroupMounts, ScopeFiles},
        memory::HostMemory,
        pressure,
    },
    kernel::load::{Coverage, ProbeState},
    resume::ScopeStates,
    snapshot::Snapshot,
    stall_clock::StallClock,
    verdict::{
        judge::{Evaluator, Verdict},
        policy::Policy,
        reading::Reading,
    },
};

/// The name of the scope that is the whole machine.
pub const HOST: &str = "host";

/// One scope as found and judged.
#[derive(Debug, Clone, PartialEq)]
pub struct ScopeVerdict {
    /// Its name.
    pub scope: Arc<str>,
    /// What was found.
    pub reading: Reading,
    /// What follows.
    pub verdict: Verdict,
    /// Why nothing can be told, if so: the group is not there, or nothing measures its stalls.
    pub unknown_reason: Option<Arc<str>>,
}

/// OOM kills in the scopes' groups, as the ring buffer tells of them. The groups' own counters lose
/// those that end with their group, as when systemd starts a service anew; and v1's do not count in
/// the groups below.
#[derive(Debug)]
pub struct Kills(Box<[KillsOf]>);

#[derive(Debug)]
struct KillsOf {
    path: String,
    /// The id of the group that was last seen there; 0 is none's.
    id: AtomicU64,
    count: AtomicU64,
}

impl Kills {
    /// None yet.
    pub fn new(config: &Config) -> Self {
        let of = |scope: &ScopeConfig| KillsOf {
            path: scope.cgroup.trim_end_matches('/').to_owned(),
            id: AtomicU64::new(0),
            count: AtomicU64::new(0),
        };
        Self(config.scope.iter().map(of).collect())
    }

    /// Counts a victim for each scope that it was in.
    pub fn note(&self, victim: &TaskInfo) {
        for scope in &self.0 {
            let below = |path: &str| {
                let rest = path.strip_prefix(&scope.path);
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            };
            // A group that is gone already has no path, but was seen.
            let inside = match &victim.cgroup {
                Some(path) => below(path),
                None => victim.cgroup_id == scope.id.load(Ordering::Relaxed),
            };
            if inside {
                scope.count.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Kills as a group's file and the ring buffer tell of them. Either may miss one, and of the same kill
/// one may tell a little later: so the larger rise counts, from when both were last still.
#[derive(Debug, Default)]
struct MergedCounter {
    sum: u64,
    from: [u64; 2],
    last: [u64; 2],
    moved_ns: u64,
}

/// The later of the two has told by then.
const LATE_NS: u64 = 5_000_000_000;

impl MergedCounter {
    /// Kills so far; none if nobody counts.
    fn see(&mut self, now_ns: u64, told: [Option<u64>; 2]) -> Option<u64> {
        let now = [0, 1].map(|i| told[i].unwrap_or(self.last[i]));
        let rose = |from: [u64; 2], to: [u64; 2]| {
            to[0].saturating_sub(from[0]).max(to[1].saturating_sub(from[1]))
        };
        if now_ns.saturating_sub(self.moved_ns) >= LATE_NS {
            self.sum = self.sum.saturating_add(rose(self.from, self.last));
            self.from = self.last;
        }
        if now != self.last {
            (self.last, self.moved_ns) = (now, now_ns);
        }
        let counted = told.iter().any(Option::is_some);
        counted.then(|| self.sum.saturating_add(rose(self.from, now)))
    }
}

/// A cgroup that has a verdict of its own.
#[derive(Debug)]
struct CgroupScope {
    scope: Arc<str>,
    judge: Evaluator,
    group: ScopeFiles,
    kills: MergedCounter,
    clock: StallClock,
}

/// All scopes.
#[derive(Debug)]
pub struct Scopes {
    memory: HostMemory,
    host: (Arc<str>, Evaluator),
    groups: Vec<CgroupScope>,
    kills: Arc<Kills>,
    /// What wakes us when there is pressure anywhere: that of a cgroup is part of the host's. One on
    /// the cgroup itself would be dangerous: before 6.5, removing a cgroup whose trigger is being polled
    /// frees what the poller waits on (`psi_trigger_destroy`, kernel/sched/psi.c; a 5.10 warns).
    triggers: Vec<File>,
}

impl Scopes {
    /// Opens the host's files; groups need not be there yet.
    pub fn open(config: &Config, root: &Path, kills: Arc<Kills>) -> Result<Self> {
        let policy = Arc::new(Policy::new(&config.rules).map_err(anyhow::Error::msg)?);
        let judge =
            || Evaluator::new(Arc::clone(&policy), config.verdict).with_gap(config.stale_after);
        let roots = if config.scope.is_empty() { None } else { Some(CgroupMounts::find()?) };
        let groups = config.scope.iter().zip(roots.into_iter().cycle()).map(|(scope, roots)| {
            let group = ScopeFiles::new(roots, &scope.cgroup);
            let scope = Arc::from(scope.name.as_str());
            let (kills, clock) = (MergedCounter::default(), StallClock::default());
            CgroupScope { scope, judge: judge(), group, kills, clock }
        });
        let groups: Vec<_> = groups.collect();
        let memory = HostMemory::open(root);
        if !memory.has_psi() {
            warn!(
                "no PSI (psi=0, or a kernel without CONFIG_PSI): the stall clock stands in for it"
            );
        }
        let triggers = if memory.has_psi() {
            pressure::triggers(&root.join("proc/pressure"))
        } else {
            Vec::new()
        };
        let late = |e: &anyhow::Error| info!("pressure is noticed at the next sample only: {e:#}");
        let triggers = triggers.into_iter().filter_map(|t| t.inspect_err(late).ok()).collect();
        Ok(Self { memory, host: (HOST.into(), judge()), groups, kills, triggers })
    }

    /// Goes on from where an earlier daemon left them.
    pub fn resume(&mut self, stood: &ScopeStates) {
        let (name, judge) = &mut self.host;
        let groups = self.groups.iter_mut().map(|named| (&mut named.scope, &mut named.judge));
        for (name, judge) in std::iter::once((name, judge)).chain(groups) {
            if let Some(position) = stood.get(&**name) {
                judge.resume(*position);
            }
        }
    }

    /// The ids of the groups that do not tell who stalls: the stall clock stands in. One of a group
    /// within another's is there once.
    pub fn without_psi(&self) -> BTreeSet<u64> {
        let groups = self.groups.iter().map(|named| &named.group);
        groups.filter(|group| group.lacks_psi()).flat_map(ScopeFiles::ids).copied().collect()
    }

    /// Files that are ready for `PRI` when there is pressure.
    pub fn triggers(&self) -> &[File] {
        &self.triggers
    }

    /// Looks at every scope and judges it, the host first.
    pub fn judge(&mut self, snapshot: &Snapshot, coverage: &Coverage) -> Vec<ScopeVerdict> {
        let mut reading = Reading { at_ns: snapshot.taken_ns, ..Reading::default() };
        from_probes(snapshot, coverage, &mut reading);
        self.memory.read(&mut reading);
        let unknown_reason = no_stalls(&reading);
        let verdict = self.host.1.judge(reading);
        let host =
            ScopeVerdict { scope: Arc::clone(&self.host.0), reading, verdict, unknown_reason };
        let mut all = Vec::with_capacity(1 + self.groups.len());
        all.push(host);
        let clock_runs = reading.stall_ns.is_some();
        let rings = measures(coverage, Id::oom_kill);
        for (named, noted) in self.groups.iter_mut().zip(&self.kills.0) {
            let mut found = Reading { at_ns: reading.at_ns, ..Reading::default() };
            let (verdict, unknown_reason) = match named.group.read(&mut found, &reading) {
                Ok(()) => {
                    let ids = named.group.ids();
                    noted.id.store(ids.first().copied().unwrap_or(0), Ordering::Relaxed);
                    let ring = rings.then(|| noted.count.load(Ordering::Relaxed));
                    found.oom_kills = named.kills.see(found.at_ns, [found.oom_kills, ring]);
                    if named.group.lacks_psi() && clock_runs {
                        let stalls = ids.iter().filter_map(|id| snapshot.stalls.get_key_value(id));
                        let stalls = stalls.map(|(id, ns)| (*id, *ns));
                        found.stall_ns = Some(named.clock.see(found.at_ns, stalls));
                    }
                    (named.judge.judge(found), no_stalls(&found))
                }
                Err(e) => (named.judge.pause(found.at_ns), Some(format!("{e:#}").into())),
            };
            all.push(ScopeVerdict {
                scope: Arc::clone(&named.scope),
                reading: found,
                verdict,
                unknown_reason,
            });
        }
        all
    }
}

fn no_stalls(reading: &Reading) -> Option<Arc<str>> {
    let told = reading.full_ns.is_some() || reading.stall_ns.is_some();
    (!told).then(|| "neither PSI nor a probe tells who stalls".into())
}

fn measures(coverage: &Coverage, id: Id) -> bool {
    coverage.probes.get(id as usize).is_some_and(ProbeState::measures)
}

/// What the probes tell of the host.
fn from_probes(snapshot: &Snapshot, coverage: &Coverage, reading: &mut Reading) {
    let measures = |id: Id| measures(coverage, id);
    let shape = |id: Id, name: &str| {
        let metrics = probes::ALL[id as usize].metrics;
        metrics.iter().find(|m| m.name == name).map(|m| m.shape)
    };
    if measures(Id::direct_reclaim) && measures(Id::memcg_reclaim) {
        let stalls = probes::ALL.iter().enumerate().flat_map(|(i, probe)| {
            probe.metrics.iter().filter_map(move |metric| match metric.shape {
                Shape::Stall { at, cause: Some(_), .. } => Some((i, at)),
                _ => None,
            })
        });
        let ns = stalls.map(|(probe, at)| snapshot.rows[probe][at]);
        reading.stall_ns = Some(ns.fold(0, u64::saturating_add));
    }
    if measures(Id::oom_kill)
        && let Some(Shape::Counter { at }) = shape(Id::oom_kill, "oom_kills")
    {
        // The first is of the machine. A cgroup that ran into its own limit is no harm to the host.
        reading.oom_kills = Some(snapshot.rows[Id::oom_kill as usize][at]);
    }
    if measures(Id::reclaim_scan)
        && let Some(Shape::Lowest { at, len, calm }) =
            shape(Id::reclaim_scan, "reclaim_priority_min")
    {
        let lowest = snapshot.recently(Id::reclaim_scan as usize, at, len).lowest();
        let priority = lowest.map_or(Ok(calm), u32::try_from);
        reading.priority = priority.ok().and_then(|p| u8::try_from(p).ok());
    }
    if measures(Id::alloc_retry)
        && let Some(Shape::Highest { at, len }) =
            shape(Id::alloc_retry, "alloc_no_progress_loops_max")
    {
        let highest = snapshot.recently(Id::alloc_retry as usize, at, len).highest().unwrap_or(0);
        reading.no_progress = u8::try_from(highest).ok();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::kernel::{load::AttachState, read::InFlight};
    use sensor_ebpf::spec::ROW_WORDS;

    #[test]
    fn a_kill_that_one_of_two_misses_is_counted_once() {
        let (file, ring) = (|n| [Some(n), None], |n| [None, Some(n)]);
        let both = |f, r| [Some(f), Some(r)];
        for (what, looks, expected) in [
            (
                "the ring misses one, then only it sees the next",
                &[(1, both(1, 0)), (20, both(1, 1))][..],
                2,
            ),
            ("and the other way round", &[(1, both(0, 1)), (20, both(1, 1))], 2),
            ("the ring tells a little later", &[(1, both(1, 0)), (2, both(1, 1))], 1),
            ("the file does", &[(1, both(0, 1)), (2, both(1, 1)), (30, both(1, 1))], 1),
            ("two at once", &[(1, both(1, 2)), (2, both(2, 2))], 2),
            (
                "one after the other, each late",
                &[(1, both(1, 0)), (2, both(2, 1)), (3, both(2, 2))],
                2,
            ),
            ("no probe", &[(1, file(1)), (20, file(2))], 2),
            ("no file", &[(1, ring(1)), (20, ring(2))], 2),
            ("the file cannot be read once", &[(1, both(2, 1)), (2, ring(1)), (3, both(2, 1))], 2),
        ] {
            let mut tally = MergedCounter::default();
            assert_eq!(tally.see(0, [None, None]), None, "nobody counts");
            let seen: Vec<_> =
                looks.iter().map(|(s, told)| tally.see(s * 1_000_000_000, *told)).collect();
            assert!(seen.is_sorted(), "{what}: {seen:?}");
            assert_eq!(seen.last(), Some(&Some(expected)), "{what}");
        }
    }

    #[test]
    fn what_the_rules_need_of_the_probes_is_there() {
        let rows = Arc::new(vec![[3; ROW_WORDS]; probes::ALL.len() + 1]);
        let snapshot = Snapshot {
            taken_ns: 1,
            taken_unix: 0.0,
            rows,
            // What moved in the gauges' window only is no evidence.
            window_start: Arc::new(vec![[0; ROW_WORDS]; probes::ALL.len() + 1]),
            recent_start: Arc::new(vec![[1; ROW_WORDS]; probes::ALL.len() + 1]),
            tells_skipped: false,
            inside: InFlight::default(),
            costs: Vec::new(),
            stalls: BTreeMap::new(),
            stall_clock: Arc::default(),
            stall_clock_ns: None,
            reclaim: Arc::default(),
            scopes: Vec::new(),
            who: None,
        };
        let mut coverage = Coverage::blind("not yet");
        let mut reading = Reading::default();
        from_probes(&snapshot, &coverage, &mut reading);
        assert_eq!(reading, Reading::default(), "nothing is attached");
        for (i, probe) in coverage.probes.iter_mut().enumerate() {
            let name = probes::ALL[i].name;
            *probe = ProbeState {
                name,
                state: AttachState::Attached,
                reason: String::new(),
                programs: Vec::new(),
            };
        }
        from_probes(&snapshot, &coverage, &mut reading);
        assert!(reading.stall_ns.is_some_and(|ns| ns >= 9), "{reading:?}");
        assert_eq!(reading.oom_kills, Some(3));
        assert_eq!(reading.priority, Some(0));
        assert_eq!(reading.no_progress, Some(18));
        let calm = Snapshot { recent_start: Arc::clone(&snapshot.rows), ..snapshot };
        from_probes(&calm, &coverage, &mut reading);
        assert_eq!((reading.priority, reading.no_progress), (Some(12), Some(0)));
    }
}
