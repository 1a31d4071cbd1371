//! Builds the parts of the daemon and connects them: which thread reads and writes which handle.

use std::{
    path::Path,
    sync::{Arc, Mutex},
};

use anyhow::Result;
use sensor_core::{
    common::{clock::boot_id, clock::monotonic_ns, state_file::StateFile},
    model::coverage::Coverage,
    verdict::scope::HOST,
};
use tracing::info;

use super::{
    config::Config,
    systemd::Supervisor,
    threads::Bodies,
    verdict_store::{self, VerdictStore},
};
use crate::{
    cgroups::{
        collector::{self, Collector},
        path_cache::{CgroupPathCache, SharedPaths},
        selection::Selection,
    },
    collect::{
        sampler::{Sampler, Shared},
        scopes::Scopes,
    },
    host::{
        cgroup::mounts::{self, CgroupMounts},
        kmsg::KernelLog,
    },
    kernel::{debug_log::DebugLog, read::Reader},
    oom::event_reader::{EventReader, Inputs},
    publish::{
        control::{RescanRequest, Shutdown},
        event_log::EventLog,
        loop_lag::LoopLags,
        oom_kills::OomKillCounts,
        usage::PublishedUsage,
    },
    serve::state::{
        app::{AppState, Published},
        clients::ClientTracker,
        drain::OperatorDrain,
    },
    usage::scanner::ProcessScanner,
};

/// What must be opened before privileges are dropped.
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
        let mut scopes = Scopes::open(&settings, Path::new("/"), Arc::clone(&kills))?;
        let max_age = config.verdict.relapse_within;
        scopes.resume(&verdict_store::read(&verdict_file(config), max_age));
        // The log adds to kills that the probes report, so it is of no use without them.
        let mut kernel_log = None;
        if has_probes {
            match KernelLog::open() {
                Ok(log) => kernel_log = Some(log),
                Err(e) => info!("OOM reports lack the kernel's log: {e:#}"),
            }
        }
        Ok(Self { scopes, kills, kernel_log })
    }
}

fn verdict_file(config: &Config) -> StateFile {
    StateFile::beside(Path::new(&config.socket), "verdict.json")
}

fn drain_file(config: &Config) -> StateFile {
    StateFile::beside(Path::new(&config.socket), "drain.json")
}

/// What all servers share.
pub fn app_state(config: &Config, coverage: Coverage) -> Result<AppState> {
    let names = config.scope.iter().map(|scope| scope.name.clone());
    let published = Published {
        sample: Arc::default(),
        usage: Arc::new(PublishedUsage::default()),
        cgroups: Arc::default(),
        events: Arc::new(EventLog::new(&boot_id())),
        coverage: Arc::new(coverage),
        lags: Arc::new(LoopLags::new(config.interval)),
    };
    Ok(AppState {
        published,
        scopes: std::iter::once(HOST.to_owned()).chain(names).collect(),
        policy: config.policy()?,
        readiness: config.readiness(),
        metrics: config.metrics(),
        drain: Arc::new(OperatorDrain::load(drain_file(config))),
        clients: Arc::new(ClientTracker::new(monotonic_ns())),
        unknown_scopes: Arc::default(),
    })
}

/// What the loader returned; all `None` where nothing could be loaded.
#[derive(Default)]
pub struct KernelHalf {
    /// Reads the maps.
    pub reader: Option<Reader>,
    /// Messages of the kernel half, if they are on.
    pub debug_log: Option<DebugLog>,
}

/// What the threads run.
pub fn thread_bodies(
    config: &Config,
    published: &Published,
    mut kernel: KernelHalf,
    privileged: Privileged,
    shutdown: &Arc<Shutdown>,
) -> Result<Bodies> {
    let Privileged { scopes, kills, kernel_log } = privileged;
    let Published { sample, usage, events, coverage, lags, .. } = published.clone();
    let cache = CgroupPathCache::new(mounts::memory_root());
    let paths = SharedPaths::new(Mutex::new(cache));
    let rescan = Arc::new(RescanRequest::new()?);
    let rings = kernel.reader.as_mut().and_then(Reader::take_rings);
    let events = rings.map(|rings| {
        EventReader::new(Inputs {
            rings,
            debug_log: kernel.debug_log,
            kernel_log,
            mounts: CgroupMounts::find().ok(),
            coverage: Arc::clone(&coverage),
            sample: Arc::clone(&sample),
            usage: Arc::clone(&usage),
            rescan: Arc::clone(&rescan),
            paths: Arc::clone(&paths),
            events,
            kills: Arc::clone(&kills),
            shutdown: Arc::clone(shutdown),
        })
    });
    let scanner = ProcessScanner::new(&coverage, Arc::clone(&paths), Arc::clone(&usage));
    let shared = Shared {
        published: Arc::clone(&sample),
        coverage,
        lags: Arc::clone(&lags),
        shutdown: Arc::clone(shutdown),
        rescan,
    };
    let sampler = Sampler::new(&config.sampling(), kernel.reader, scopes, scanner, shared);
    let inputs = |mounts| collector::Inputs {
        sample: Arc::clone(&sample),
        usage,
        kills,
        paths,
        mounts,
        shutdown: Arc::clone(shutdown),
    };
    // Without the memory controller cgroups have no metrics.
    let cgroups = match CgroupMounts::find() {
        Ok(mounts) => {
            let selection = Selection::new(&config.cgroups)?;
            Some(Collector::new(inputs(mounts), selection, Arc::clone(&published.cgroups)))
        }
        Err(_) => None,
    };
    let shutdown = || Arc::clone(shutdown);
    let store = VerdictStore {
        file: verdict_file(config),
        sample: Arc::clone(&sample),
        shutdown: shutdown(),
    };
    let supervisor = Supervisor { sample, lags, shutdown: shutdown() };
    let supervisor = Supervisor::is_present().then_some(supervisor);
    Ok(Bodies { sampler, events, cgroups, store, supervisor })
}
