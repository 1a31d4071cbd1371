//! The threads beside the one that serves: what senses, follows events, keeps and tells.
//!
//! Plain threads with small stacks, all of which is in memory from the start. Not here: what they do.

use std::{path::PathBuf, sync::Arc, thread::JoinHandle, time::Duration};

use anyhow::{Context as _, Result};
use aya::maps::{MapData, RingBuf};
use tracing::warn;

use crate::{
    config::Config,
    events::{self, Log, What},
    host::{cgroup, clock::monotonic_ns, survive::STACK_BYTES},
    kernel::{load::Coverage, read::Reader},
    resume,
    scopes::{Kills, Scopes},
    sense::{Sampler, Wake},
    serve::state::State,
    supervise,
};

/// Our threads, each with what it needs.
#[derive(Debug)]
pub struct Threads {
    sense: JoinHandle<()>,
    /// None on a host where nothing could be attached.
    events: Option<JoinHandle<()>>,
    keep: JoinHandle<()>,
    /// None where nobody wants to be told.
    supervise: Option<JoinHandle<()>>,
    wake: Arc<Wake>,
}

impl Threads {
    /// Starts them; they have the capabilities and the scheduling class of the caller.
    pub fn start(
        config: &Config,
        state: &State,
        mut reader: Option<Reader>,
        log: Option<aya_log::EbpfLogger<&'static dyn log::Log>>,
        scopes: Scopes,
        kills: Arc<Kills>,
    ) -> Result<Self> {
        let wake = Arc::new(Wake::new()?);
        let ring = reader.as_mut().and_then(Reader::take_events);
        let shared = || {
            let State { published, coverage, deadlines, .. } = state;
            let published = Arc::clone(published);
            (published, Arc::clone(coverage), Arc::clone(deadlines), Arc::clone(&wake))
        };
        let (published, coverage, deadlines, waker) = shared();
        let sampler = Sampler::new(config, reader, coverage, scopes, published, deadlines, waker);
        let sense = spawn("sense", move || sampler.run())?;
        let follow = |ring| {
            let (_, coverage, _, wake) = shared();
            let events = Arc::clone(&state.events);
            spawn("events", move || follow_events(ring, log, &coverage, &events, &kills, &wake))
        };
        let events = ring.map(follow).transpose()?;
        let (published, _, _, waker) = shared();
        let socket = PathBuf::from(&config.socket);
        let keep = spawn("keep", move || resume::keep(&socket, &published, &waker))?;
        let tell = || {
            let (published, _, deadlines, wake) = shared();
            spawn("supervise", move || supervise::tell(&deadlines, &published, &wake))
        };
        let supervise = supervise::is_wanted().then(tell).transpose()?;
        Ok(Self { sense, events, keep, supervise, wake })
    }

    /// A thread that has ended.
    pub fn ended(&self) -> Option<String> {
        let Self { sense, events, keep, supervise, .. } = self;
        let all = [Some(sense), events.as_ref(), Some(keep), supervise.as_ref()];
        let ended = all.into_iter().flatten().find(|t| t.is_finished())?;
        Some(ended.thread().name().unwrap_or_default().to_owned())
    }

    /// Ends them, and waits for that.
    pub fn join(self) {
        self.wake.stop();
        let all = [Some(self.sense), self.events, Some(self.keep), self.supervise];
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

/// How long the event thread sleeps between looks at the stop flag and the debug log.
const EVENT_POLL: Duration = Duration::from_millis(200);

/// Moves events from the ring buffer to the log until stopped.
fn follow_events(
    mut ring: RingBuf<MapData>,
    mut log: Option<aya_log::EbpfLogger<&'static dyn log::Log>>,
    coverage: &Coverage,
    events: &Log,
    kills: &Kills,
    wake: &Wake,
) {
    let root = cgroup::memory_root();
    let page_bytes = rustix::param::page_size() as u64;
    let constraints = coverage.enums.get("oom_constraint").map_or(&[][..], Vec::as_slice);
    while !wake.is_stopped() {
        wait_readable(&ring);
        // Victim and trigger, and the kills of a storm, mostly share their cgroup; and finding its
        // path means a walk.
        let mut last: Option<(u64, Option<String>)> = None;
        while let Some(record) = ring.next() {
            let Some((time_ns, mut what)) = events::decode(&record, page_bytes) else {
                warn!("an event of unknown kind or size: {} bytes", record.len());
                continue;
            };
            what.name_constraint(constraints);
            for process in what.processes_mut() {
                if let Some((_, path)) = last.as_ref().filter(|(id, _)| *id == process.cgroup_id) {
                    process.cgroup.clone_from(path);
                    continue;
                }
                let path = root.as_ref().and_then(|r| cgroup::path_of(r, process.cgroup_id));
                process.cgroup = path.map(|p| events::tame(&p));
                last = Some((process.cgroup_id, process.cgroup.clone()));
            }
            if let What::OomKill { victim, .. } = &what {
                kills.note(victim);
            }
            events.push(time_ns, monotonic_ns(), what);
        }
        if let Some(log) = &mut log {
            log.flush();
        }
    }
}

fn wait_readable(ring: &RingBuf<MapData>) {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(EVENT_POLL.subsec_nanos()) };
    // Interrupted or timed out: the loop looks anyway.
    let _ = poll(&mut [PollFd::new(ring, PollFlags::IN)], Some(&timeout));
}
