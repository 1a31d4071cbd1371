//! The threads beside the one that serves: what senses, follows events, keeps and tells.
//!
//! Plain threads with small stacks, all of which is in memory from the start. Not here: what they do.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
    thread::JoinHandle,
};

use anyhow::{Context as _, Result};
use tracing::warn;

use crate::{
    census::ProcessScanner,
    cgroups::{Killed, table::Selection, watch::Collector},
    config::Config,
    directory::{CgroupPathCache, SharedPaths},
    follow::{DebugLog, EventReader},
    host::{cgroup, kernel_log::KernelLog, memcg::CgroupMounts, survive::STACK_BYTES},
    kernel::read::Reader,
    resume,
    scopes::{Kills, Scopes},
    sense::{Common, Sampler, Wake},
    serve::state::AppState,
    supervise,
};

/// Our threads, each with what it needs.
#[derive(Debug)]
pub struct Threads {
    sense: JoinHandle<()>,
    /// None on a host where nothing could be attached.
    events: Option<JoinHandle<()>>,
    /// None without the memory controller.
    cgroups: Option<JoinHandle<()>>,
    keep: JoinHandle<()>,
    /// None where nobody wants to be told.
    supervise: Option<JoinHandle<()>>,
    wake: Arc<Wake>,
}

impl Threads {
    /// Starts them; they have the capabilities and the scheduling class of the caller.
    pub fn start(
        config: &Config,
        state: &AppState,
        mut reader: Option<Reader>,
        logs: (Option<DebugLog>, Option<KernelLog>),
        scopes: Scopes,
        kills: Arc<Kills>,
    ) -> Result<Self> {
        let wake = Arc::new(Wake::new()?);
        let rings = reader.as_mut().and_then(Reader::take_rings);
        let AppState { published, coverage, deadlines, .. } = state.clone();
        let common = Common { published, coverage, deadlines, wake: Arc::clone(&wake) };
        let directory = SharedPaths::new(Mutex::new(CgroupPathCache::new(cgroup::memory_root())));
        let names = Arc::clone(&directory);
        let killed = Arc::<Killed>::default();
        let told = Arc::clone(&killed);
        let census = ProcessScanner::new(&common.coverage, Arc::clone(&directory));
        let sampler = Sampler::new(config, reader, census, scopes, common.clone());
        let sense = spawn("sense", move || sampler.run())?;
        let follow = |rings| {
            let events = Arc::clone(&state.events);
            let kills = (kills, told);
            let follower = EventReader::new(rings, logs, common.clone(), events, kills, directory);
            spawn("events", move || follower.run())
        };
        let events = rings.map(follow).transpose()?;
        let watch = |roots| {
            let (common, report) = (common.clone(), Arc::clone(&state.cgroups));
            let table = Selection::new(&config.cgroups)?;
            let watch = Collector::new(common, names, killed, table, roots, report);
            spawn("cgroups", move || watch.run())
        };
        // Without the memory controller there is nothing to tell.
        let cgroups = CgroupMounts::find().ok().map(watch).transpose()?;
        let socket = PathBuf::from(&config.socket);
        let Common { published, wake: waker, .. } = common.clone();
        let keep = spawn("keep", move || resume::keep(&socket, &published, &waker))?;
        let tell = || {
            let Common { published, deadlines, wake, .. } = common;
            spawn("supervise", move || supervise::tell(&deadlines, &published, &wake))
        };
        let supervise = supervise::is_wanted().then(tell).transpose()?;
        Ok(Self { sense, events, cgroups, keep, supervise, wake })
    }

    /// A thread that has ended.
    pub fn ended(&self) -> Option<String> {
        let Self { sense, events, cgroups, keep, supervise, .. } = self;
        let all = [Some(sense), events.as_ref(), cgroups.as_ref(), Some(keep), supervise.as_ref()];
        let ended = all.into_iter().flatten().find(|t| t.is_finished())?;
        Some(ended.thread().name().unwrap_or_default().to_owned())
    }

    /// Ends them, and waits for that.
    pub fn join(self) {
        self.wake.stop();
        let all = [Some(self.sense), self.events, self.cgroups, Some(self.keep), self.supervise];
        for thread in all.into_iter().flatten() {
            if thread.join().is_err() {
                warn!("a thread had panicked");
            }
        }
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .stack_size(STACK_BYTES)
        .spawn(body)
        .with_context(|| format!("start the thread {name}"))
}
