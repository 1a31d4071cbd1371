//! The scopes that have a verdict: the host, and the cgroups that the configuration names. Combines
//! the values of files and probes into a reading of each, and evaluates it.
//!
//! Not here: the rules (`verdict` of the core), and when samples are taken (`sampler`).

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::Result;
use sensor_core::{
    common::{clock::monotonic_ns, counter::MergedCounter},
    model::{coverage::Coverage, event::OomType, snapshot::Snapshot},
    verdict::{
        evaluator::Evaluator,
        policy::Policy,
        reading::Reading,
        scope::{HOST, ScopeStates, ScopeVerdict},
        served::WorstVerdict,
        weight,
    },
};
use sensor_ebpf::probes::Id;
use tracing::{info, warn};

use super::{
    host_reader::HostReader, lost_estimate::LostEstimate, served::ChangedSources,
    settings::ScopeSettings, stall_counter::StallCounter,
};
use crate::{
    host::{
        cgroup::{
            mounts::CgroupMounts,
            scope_files::{ScopeFiles, Unread},
            scope_opener::ScopeOpeners,
        },
        host_file::HostFileOpeners,
        late_files::OfferedFiles,
        pressure,
    },
    publish::oom_kills::OomKillCounts,
};

/// Settings of the evaluation.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The rules.
    pub policy: Arc<Policy>,
    /// How fast the weight follows them.
    pub weight: weight::Settings,
    /// Readings further apart than this do not prove that a scope was calm between them.
    pub max_gap: Duration,
    /// The named cgroups.
    pub scopes: Vec<ScopeSettings>,
}

/// A cgroup that has a verdict of its own.
#[derive(Debug)]
struct CgroupScope {
    /// Name of the scope; of a served cgroup its path.
    name: Arc<str>,
    evaluator: Evaluator,
    files: ScopeFiles,
    kills: MergedCounter,
    stalls: StallCounter,
    lost: LostEstimate,
    /// It could not be read, and new files are on their way.
    is_pending: bool,
}

/// All scopes.
#[derive(Debug)]
pub struct Scopes {
    host_reader: HostReader,
    host_name: Arc<str>,
    host: Evaluator,
    cgroups: Vec<CgroupScope>,
    /// Those that the host serves from.
    served: Vec<CgroupScope>,
    changed_sources: ChangedSources,
    worst: WorstVerdict,
    settings: Settings,
    kills: Arc<OomKillCounts>,
    /// Until the thread that opens files has them.
    openers: Option<ScopeOpeners>,
    /// Wake the sampler when there is pressure anywhere: a cgroup's pressure is part of the host's.
    /// Triggers on cgroups are unsafe: before 6.5, removing a cgroup whose trigger is polled frees
    /// the wait queue of the poller (`psi_trigger_destroy`, kernel/sched/psi.c; 5.10 warns).
    triggers: Vec<File>,
}

impl Scopes {
    /// Opens the host's files below `root`, which is / except in tests. Cgroups need not exist yet.
    pub fn open(settings: &Settings, root: &Path, kills: Arc<OomKillCounts>) -> Result<Self> {
        let (mut cgroups, mut openers) = (Vec::new(), ScopeOpeners::new()?);
        for scope in &settings.scopes {
            let files = openers.add(CgroupMounts::find()?, &scope.cgroup);
            cgroups.push(CgroupScope::new(scope.name.as_str().into(), files, settings));
        }
        openers.serve(monotonic_ns());
        let host_reader = HostReader::open(root);
        let mut triggers = Vec::new();
        if host_reader.has_psi() {
            for trigger in pressure::triggers(&root.join("proc/pressure")) {
                match trigger {
                    Ok(file) => triggers.push(file),
                    Err(e) => info!("pressure does not wake the sampler early: {e:#}"),
                }
            }
        } else {
            warn!("no PSI (psi=0, or a kernel without CONFIG_PSI): the stall clock replaces it");
        }
        Ok(Self {
            host_reader,
            host_name: HOST.into(),
            host: settings.evaluator(),
            cgroups,
            served: Vec::new(),
            changed_sources: Arc::default(),
            worst: WorstVerdict::default(),
            settings: settings.clone(),
            kills,
            openers: Some(openers),
            triggers,
        })
    }

    /// Opens the files of cgroups; can be taken once.
    pub fn take_openers(&mut self) -> Option<ScopeOpeners> {
        self.openers.take()
    }

    /// Evaluates by other rules from the next sample on. The scopes stay those of the start.
    pub fn replace_settings(&mut self, settings: &Settings) {
        let Settings { policy, weight, max_gap, .. } = settings;
        let cgroups = self.cgroups.iter_mut().chain(&mut self.served);
        let evaluators = cgroups.map(|cgroup| &mut cgroup.evaluator);
        for evaluator in evaluators.chain(std::iter::once(&mut self.host)) {
            evaluator.replace_settings(Arc::clone(policy), *weight, *max_gap);
        }
        self.settings = settings.clone();
    }

    /// Starts from the states that an earlier daemon saved.
    pub fn resume(&mut self, states: &ScopeStates) {
        if let Some(state) = states.get(HOST) {
            self.host.resume(*state);
        }
        for cgroup in &mut self.cgroups {
            if let Some(state) = states.get(&*cgroup.name) {
                cgroup.evaluator.resume(*state);
            }
        }
    }

    /// Where the opener hands over the cgroups that the host serves from.
    pub fn changed_sources(&self) -> ChangedSources {
        Arc::clone(&self.changed_sources)
    }

    /// Ids of the scopes' cgroups that have no PSI: their stall clocks replace it.
    pub fn ids_without_psi(&self) -> BTreeSet<u64> {
        let files = self.cgroups.iter().chain(&self.served).map(|cgroup| &cgroup.files);
        files.filter(|files| files.lacks_psi()).flat_map(ScopeFiles::ids).copied().collect()
    }

    /// Opens the host's files that could not be opened at the start.
    pub fn host_file_openers(&self) -> HostFileOpeners {
        self.host_reader.openers()
    }

    /// Where a thread that may open files offers those of the host that appear later.
    pub fn offered_files(&self) -> Arc<OfferedFiles> {
        self.host_reader.offered_files()
    }

    /// Whether new files of a scope are on their way: the next sample should come soon.
    pub fn is_pending(&self) -> bool {
        self.cgroups.iter().any(|cgroup| cgroup.is_pending)
    }

    /// Files that are ready for `PRI` when there is pressure.
    pub fn triggers(&self) -> &[File] {
        &self.triggers
    }

    /// Reads every scope and evaluates it, the host first; returns the verdicts, and the OOM kills so
    /// far by type if only vmstat counts them. `stalls` are the stall clocks of
    /// [`Self::ids_without_psi`] in nanoseconds, including stalls in progress.
    pub fn evaluate(
        &mut self,
        snapshot: &Snapshot,
        stalls: &BTreeMap<u64, u64>,
        coverage: &Coverage,
    ) -> (Vec<ScopeVerdict>, Option<[u64; OomType::ALL.len()]>) {
        let (reading, vmstat_kills) = self.host_reader.read(snapshot, coverage);
        let mut verdicts = Vec::with_capacity(1 + self.cgroups.len());
        verdicts.push(self.evaluate_host(&reading, stalls));
        let ring_counts = coverage.measures(Id::oom_kill);
        for (index, cgroup) in self.cgroups.iter_mut().enumerate() {
            let ring_kills = ring_counts.then(|| self.kills.of_scope(index));
            // Without the probes the stall clocks stand still.
            let stalls = reading.stall_ns.is_some().then_some(stalls);
            verdicts.push(cgroup.evaluate(&reading, ring_kills, stalls));
        }
        (verdicts, vmstat_kills)
    }

    /// The host's verdict: the worst of its own and those of the cgroups that it serves from. A
    /// cgroup that does not exist does not count.
    fn evaluate_host(&mut self, reading: &Reading, stalls: &BTreeMap<u64, u64>) -> ScopeVerdict {
        self.replace_served();
        // Without the probes the stall clocks stand still.
        let stalls = reading.stall_ns.is_some().then_some(stalls);
        let served = self.served.iter_mut().map(|cgroup| cgroup.evaluate(reading, None, stalls));
        let served: Vec<_> = served.filter(|scope| scope.unknown_reason.is_none()).collect();
        let groups = served.iter().map(|scope| (&scope.scope, &scope.verdict));
        let own = self.host.evaluate(*reading);
        let (verdict, decided_by) = self.worst.update(reading.at_ns, own, groups);
        ScopeVerdict {
            scope: Arc::clone(&self.host_name),
            cgroup_id: None,
            reading: *reading,
            verdict,
            decided_by,
            unknown_reason: no_stall_source(reading),
        }
    }

    /// Takes over a changed set of served cgroups; those that stay keep their state.
    fn replace_served(&mut self) {
        let Some(sources) = self.changed_sources.swap(None) else { return };
        let is_gone = |scope: &mut CgroupScope| !sources.iter().any(|s| scope.files.is_from(s));
        for gone in self.served.extract_if(.., is_gone) {
            gone.files.close();
        }
        for source in &*sources {
            if !self.served.iter().any(|scope| scope.files.is_from(source)) {
                let (name, files) = (Arc::clone(&source.path), ScopeFiles::new(source));
                self.served.push(CgroupScope::new(name, files, &self.settings));
            }
        }
    }
}

impl Settings {
    fn evaluator(&self) -> Evaluator {
        Evaluator::new(Arc::clone(&self.policy), self.weight).with_gap(self.max_gap)
    }
}

impl CgroupScope {
    fn new(name: Arc<str>, files: ScopeFiles, settings: &Settings) -> Self {
        Self {
            name,
            evaluator: settings.evaluator(),
            files,
            kills: MergedCounter::default(),
            stalls: StallCounter::default(),
            lost: LostEstimate::default(),
            is_pending: false,
        }
    }

    fn evaluate(
        &mut self,
        host: &Reading,
        ring_kills: Option<u64>,
        stalls: Option<&BTreeMap<u64, u64>>,
    ) -> ScopeVerdict {
        let mut reading = Reading { at_ns: host.at_ns, ..Reading::default() };
        let read = self.files.read(&mut reading, host);
        self.is_pending = read.as_ref().is_err_and(|unread| unread.is_pending);
        let (verdict, unknown_reason) = match read {
            Ok(()) => {
                reading.read_bytes = host.read_bytes;
                let estimate = self.lost.update(host, reading.refaulted_bytes);
                reading.lost_bytes = reading.lost_bytes.or(estimate);
                let kills = [reading.oom_kills, ring_kills];
                reading.oom_kills = self.kills.update(reading.at_ns, kills);
                if let Some(stalls) = stalls.filter(|_| self.files.lacks_psi()) {
                    let ids = self.files.ids().iter();
                    let clocks = ids.filter_map(|id| Some((*id, *stalls.get(id)?)));
                    let stalled_ns = self.stalls.update(reading.at_ns, clocks);
                    reading.stall_ns = Some(stalled_ns.saturating_add(self.files.hang_ns()));
                }
                let failure = self.files.failure().map(|e| format!("{e:#}").into());
                let unknown_reason = no_stall_source(&reading);
                let unknown_reason = unknown_reason.map(|reason| failure.unwrap_or(reason));
                (self.evaluator.evaluate(reading), unknown_reason)
            }
            // A service that restarts is not unknown in between.
            Err(Unread { reason, is_pending }) => {
                (self.evaluator.pause(reading.at_ns), (!is_pending).then_some(reason))
            }
        };
        let (scope, cgroup_id) = (Arc::clone(&self.name), self.files.ids().first().copied());
        ScopeVerdict { scope, cgroup_id, reading, verdict, decided_by: None, unknown_reason }
    }
}

fn no_stall_source(reading: &Reading) -> Option<Arc<str>> {
    let measured = reading.full_ns.is_some() || reading.stall_ns.is_some();
    (!measured).then(|| "neither PSI nor a probe measures stalls".into())
}
