//! Builds the parts of the daemon and connects them: which thread reads and writes which handle.

use std::{path::Path, sync::Arc};

use anyhow::Result;
use arc_swap::{ArcSwap, ArcSwapOption};
use sensor_core::{
    common::{clock::boot_id, clock::monotonic_ns, state_file::StateFile},
    model::coverage::Coverage,
    verdict::scope::HOST,
};
use tracing::{info, warn};

use super::{
    config::Config,
    reload::{Reloader, Reread},
    store::{self, Store},
    systemd::Supervisor,
    threads::Bodies,
};
use crate::{
    cgroups::{
        collector::{self, Collector},
        selection::Selection,
        served::{self, ServedPatterns},
        shared_paths::{CgroupPaths, SharedPaths},
    },
    collect::{
        sampler::{Replaced, Sampler, Shared},
        scan_loop::{FileOpeners, ScanLoop},
        scopes::Scopes,
        served::ServedOpener,
    },
    host::{
        cgroup::{
            lxcfs,
            mounts::{self, CgroupMounts},
            scope_opener::{self, ScopeOpeners},
        },
        kmsg::KernelLog,
        late_files::LateFilesOpener,
    },
    kernel::{
        debug_log::DebugLog,
        programs::Programs,
        read::{Reader, Rings},
    },
    oom::event_reader::{EventReader, Inputs},
    publish::{
        control::{RescanRequest, Shutdown},
        event_log::EventLog,
        looks::{self, LookReader, LookWriter},
        loop_lag::LoopLags,
        oom_kills::OomKillCounts,
        served_paths::ServedPaths,
    },
    recorder::{
        earlier, names,
        thread::{self as recorder, Recorder},
        writer::Writer,
    },
    serve::state::{
        app::{AppState, Published},
        background::Background,
        drain::OperatorDrain,
    },
    usage::scanner::ProcessScanner,
};

/// Files that must be opened before privileges are dropped.
#[derive(Debug)]
pub struct Privileged {
    scopes: Scopes,
    kills: Arc<OomKillCounts>,
    kernel_log: Option<KernelLog>,
}

impl Privileged {
    /// Opens the host's files, PSI triggers and, if `has_probes`, the kernel's log.
    pub fn open(config: &Config, has_probes: bool) -> Result<Self> {
        let paths = config.scope.iter().map(|scope| scope.cgroup.clone());
        let kills = Arc::new(OomKillCounts::new(paths));
        let settings = config.scopes(config.policy()?);
        let scopes = Scopes::open(&settings, Path::new("/"), Arc::clone(&kills))?;
        // The log only completes kills that the probes report, so it is not needed without them.
        let mut kernel_log = None;
        if has_probes {
            match KernelLog::open() {
                Ok(log) => kernel_log = Some(log),
                Err(e) => info!("OOM reports lack the kernel's log: {e:#}"),
            }
        }
        Ok(Self { scopes, kills, kernel_log })
    }

    /// Continues with the verdict of the last daemon. Its file belongs to the daemon's own user.
    pub fn resume(&mut self, config: &Config) {
        let max_age = config.verdict.relapse_within;
        self.scopes.resume(&store::read(&verdict_file(config), max_age));
    }
}

fn verdict_file(config: &Config) -> StateFile {
    StateFile::beside(Path::new(&config.socket), "verdict.json")
}

fn drain_file(config: &Config) -> StateFile {
    StateFile::beside(Path::new(&config.socket), "drain.json")
}

/// State that all servers share; a reload gives new settings to the sensing loop by `replaced`.
pub fn app_state(
    config: &Config,
    coverage: Coverage,
    reread: Reread,
    replaced: &Arc<ArcSwapOption<Replaced>>,
    background: Background,
) -> Result<AppState> {
    let settings = Arc::new(ArcSwap::from_pointee(config.served(config.policy()?)));
    let reloader =
        Reloader::new(config.clone(), reread, Arc::clone(&settings), Arc::clone(replaced));
    let names = config.scope.iter().map(|scope| scope.name.clone());
    let lags = LoopLags::new(config.interval, Supervisor::watchdog(), monotonic_ns());
    let events = EventLog::new(&boot_id());
    events.restore(earlier::events(config.record.directory(), events.boot()));
    let published = Published::new(events, coverage, lags);
    let scopes = std::iter::once(HOST.to_owned()).chain(names).collect();
    let drain = OperatorDrain::load(drain_file(config))?;
    let state = AppState::new(published, scopes, settings, background, drain);
    Ok(AppState { reload: Some(Arc::new(reloader)), ..state })
}

/// The loader's result; all `None` if nothing could be loaded.
#[derive(Default)]
pub struct KernelHalf {
    /// Reads the maps.
    pub reader: Option<Reader>,
    /// The programs; dropping them detaches everything.
    pub programs: Option<Programs>,
    /// Messages of the kernel half, if they are on.
    pub debug_log: Option<DebugLog>,
}

/// Logs what a container hides from memsensor.
fn warn_of_container(mounts: Option<&CgroupMounts>, patterns: &ServedPatterns) {
    let files = lxcfs::replaced();
    if !files.is_empty() {
        warn!(
            "lxcfs replaces {}: sizes are those of a container, other measurements those of the whole \
             machine; use a `[[scope]]` or `serves` for the container, or run memsensor outside",
            files.join(", ")
        );
    }
    if let Some(limit) = mounts.and_then(scope_opener::root_limit)
        && !patterns.covers(served::ROOT)
    {
        warn!(
            "the cgroup that memsensor sees as the root has a limit of {} MiB, as in a container: it \
             takes no weight from the host; add \"/\" to `serves` if users meet it",
            limit >> 20
        );
    }
}

/// The work of each thread.
pub fn thread_bodies(
    config: &Config,
    state: &AppState,
    kernel: KernelHalf,
    privileged: Privileged,
    replaced: Arc<ArcSwapOption<Replaced>>,
    shutdown: &Arc<Shutdown>,
) -> Result<Bodies> {
    let Privileged { mut scopes, kills, kernel_log } = privileged;
    let KernelHalf { mut reader, programs, debug_log } = kernel;
    let rings = reader.as_mut().and_then(Reader::take_rings);
    let patterns = ServedPatterns::new(&config.serves)?;
    let mounts = CgroupMounts::find().ok();
    warn_of_container(mounts.as_ref(), &patterns);
    let served_paths: ServedPaths = Arc::new(ArcSwap::from_pointee(patterns.literal()));
    let openers = FileOpeners {
        scopes: scopes.take_openers().map_or_else(ScopeOpeners::new, Ok)?,
        served: ServedOpener::new(Arc::clone(&served_paths), mounts, scopes.changed_sources()),
        host_files: scopes.host_file_openers(),
        late_files: LateFilesOpener::new(Path::new("/"), scopes.offered_files()),
    };
    let parts = Parts {
        published: &state.published,
        drain: &state.drain,
        paths: Arc::new(CgroupPaths::new(mounts::memory_root())?),
        rescan: Arc::new(RescanRequest::new()?),
        kills,
        replaced,
        shutdown,
    };
    let (look_writer, look_reader) = looks::queue(state.scopes.to_vec(), &state.published.record);
    Ok(Bodies {
        events: rings.map(|rings| parts.event_reader(rings, debug_log, kernel_log)),
        sampler: parts.sampler(config, reader, scopes, look_writer),
        scan: parts.scan_loop(programs, openers),
        cgroups: parts.collector(config, patterns, served_paths)?,
        record: parts.recorder(config, look_reader, state),
        store: parts.store(config),
        // Set with the listeners.
        secure: None,
        supervisor: Supervisor::is_present().then(|| supervisor(state, shutdown)),
    })
}

/// Handles that several threads share.
struct Parts<'a> {
    published: &'a Published,
    drain: &'a Arc<OperatorDrain>,
    paths: SharedPaths,
    rescan: Arc<RescanRequest>,
    kills: Arc<OomKillCounts>,
    replaced: Arc<ArcSwapOption<Replaced>>,
    shutdown: &'a Arc<Shutdown>,
}

impl Parts<'_> {
    fn event_reader(
        &self,
        rings: Rings,
        debug_log: Option<DebugLog>,
        kernel_log: Option<KernelLog>,
    ) -> EventReader {
        EventReader::new(Inputs {
            rings,
            debug_log,
            kernel_log,
            mounts: CgroupMounts::find().ok(),
            coverage: Arc::clone(&self.published.coverage),
            sample: Arc::clone(&self.published.sample),
            usage: Arc::clone(&self.published.usage),
            rescan: Arc::clone(&self.rescan),
            paths: Arc::clone(&self.paths),
            events: Arc::clone(&self.published.events),
            kills: Arc::clone(&self.kills),
            shutdown: Arc::clone(self.shutdown),
        })
    }

    fn sampler(
        &self,
        config: &Config,
        reader: Option<Reader>,
        scopes: Scopes,
        looks: LookWriter,
    ) -> Sampler {
        let Published { sample, coverage, lags, .. } = self.published;
        let shared = Shared {
            published: Arc::clone(sample),
            coverage: Arc::clone(coverage),
            lags: Arc::clone(lags),
            shutdown: Arc::clone(self.shutdown),
            replaced: Arc::clone(&self.replaced),
        };
        Sampler::new(&config.sampling(), reader, scopes, shared, looks)
    }

    fn recorder(&self, config: &Config, looks: LookReader, state: &AppState) -> Recorder {
        let Published { sample, usage, events, record, answers, .. } = self.published;
        let inputs = recorder::Inputs {
            looks,
            sample: Arc::clone(sample),
            usage: Arc::clone(usage),
            events: Arc::clone(events),
            answers: Arc::clone(answers),
            scopes: Arc::clone(&state.scopes),
            mounts: CgroupMounts::find().ok(),
            cgroups: config.scope.iter().map(|scope| scope.cgroup.clone()).collect(),
            figures: Arc::clone(record),
            shutdown: Arc::clone(self.shutdown),
        };
        let settings = Arc::clone(&state.settings);
        let policy = Box::new(move || Arc::clone(&settings.load().policy));
        let (dir, limits) = (config.record.directory(), config.record.limits());
        let scopes = config.scope.iter().map(|scope| (scope.name.clone(), scope.cgroup.clone()));
        let schema = names::schema(scopes.collect());
        let writer = dir.map(|dir| Writer::new(dir, limits, schema));
        Recorder::new(inputs, policy, writer)
    }

    fn scan_loop(&self, programs: Option<Programs>, openers: FileOpeners) -> ScanLoop {
        let Published { sample, usage, coverage, .. } = self.published;
        ScanLoop {
            programs,
            scanner: ProcessScanner::new(coverage, Arc::clone(&self.paths), Arc::clone(usage)),
            openers,
            sample: Arc::clone(sample),
            rescan: Arc::clone(&self.rescan),
            shutdown: Arc::clone(self.shutdown),
        }
    }

    /// `None` without the memory controller: then cgroups have no metrics.
    fn collector(
        &self,
        config: &Config,
        patterns: ServedPatterns,
        served: ServedPaths,
    ) -> Result<Option<Collector>> {
        let Ok(mounts) = CgroupMounts::find() else { return Ok(None) };
        let inputs = collector::Inputs {
            sample: Arc::clone(&self.published.sample),
            usage: Arc::clone(&self.published.usage),
            kills: Arc::clone(&self.kills),
            paths: Arc::clone(&self.paths),
            mounts,
            patterns,
            scopes: config.scope.iter().map(|scope| scope.cgroup.clone()).collect(),
            served,
            shutdown: Arc::clone(self.shutdown),
        };
        let selection = Selection::new(&config.cgroups)?;
        let report = Arc::clone(&self.published.cgroups);
        Ok(Some(Collector::new(inputs, selection, report)))
    }

    fn store(&self, config: &Config) -> Store {
        Store {
            file: verdict_file(config),
            drain: Arc::clone(self.drain),
            sample: Arc::clone(&self.published.sample),
            process: Arc::clone(&self.published.process),
            shutdown: Arc::clone(self.shutdown),
        }
    }
}

fn supervisor(state: &AppState, shutdown: &Arc<Shutdown>) -> Supervisor {
    Supervisor { state: state.clone(), shutdown: Arc::clone(shutdown) }
}
