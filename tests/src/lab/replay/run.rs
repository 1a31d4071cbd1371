//! One run: calm phase, fault, recovery, with its measurements.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{
    Policy, SwapSpeed, Variant,
    balancer::Balancer,
    cause::Cause,
    net, reaction, scale,
    traffic::{self, Request},
    watch::{Observed, Watch},
    web::Web,
};
use crate::support::{open_loop::Traffic, scope::Scope, swap::Swap, undo::Undo};

/// What a run does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplayConfig {
    /// How requests are routed.
    pub policy: Policy,
    /// The swap device.
    pub swap_speed: SwapSpeed,
    /// The injected fault.
    pub variant: Variant,
    /// Duration of the calm phase.
    pub calm: Duration,
    /// Time from the first stall until the fault is cleared.
    pub thrash: Duration,
    /// The end of the last phase.
    pub end: End,
    /// Whether both hosts get requests that do not pass the balancer.
    pub probes: bool,
}

/// When a run ends after its fault was cleared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// When both hosts have their full weight.
    FullWeight,
    /// When both hosts get traffic.
    AnyWeight,
    /// After a fixed time.
    After(Duration),
}

impl ReplayConfig {
    /// A run of full length.
    pub fn new(policy: Policy, swap_speed: SwapSpeed, variant: Variant) -> Self {
        Self {
            policy,
            swap_speed,
            variant,
            calm: scale::CALM,
            thrash: scale::THRASH,
            end: End::FullWeight,
            probes: false,
        }
    }

    /// A run of less than a minute.
    pub fn short(policy: Policy, swap_speed: SwapSpeed, variant: Variant) -> Self {
        let (calm, thrash) = (Duration::from_secs(5), Duration::from_secs(8));
        Self { calm, thrash, end: End::AnyWeight, ..Self::new(policy, swap_speed, variant) }
    }

    /// A run that compares policies: of the same length with each.
    pub fn rival(policy: Policy, cause: &Cause) -> Self {
        Self {
            calm: scale::RIVALS_CALM,
            thrash: Duration::from_secs(cause.seconds),
            end: End::After(scale::RIVALS_AFTER),
            probes: true,
            ..Self::new(policy, cause.swap_speed, cause.variant)
        }
    }
}

/// The result of a run. Times are since its start.
#[derive(Debug)]
pub struct ReplayRun {
    /// Its configuration.
    pub config: ReplayConfig,
    /// When the fault was injected.
    pub fault_at: Duration,
    /// When the fault was cleared.
    pub cleared_at: Duration,
    /// When the last request was due.
    pub end: Duration,
    /// All requests of the users.
    pub requests: Vec<Request>,
    /// Requests straight to each host, if there were any.
    pub probes: [Vec<Request>; 2],
    /// Samples of the hosts.
    pub observed: [Observed; 2],
    /// How often the agents were restarted.
    pub restarts: u32,
    /// Servers that ended, as `web-01: nginx`.
    pub ended_servers: Vec<String>,
}

impl ReplayRun {
    /// The first stall of web-01.
    pub fn stall(&self) -> Option<Duration> {
        reaction::first_stall(&self.observed[0].some_us, self.fault_at)
    }
}

/// Runs it in its own thread and network namespaces.
pub fn replay(config: ReplayConfig) -> Result<ReplayRun> {
    let thread = std::thread::spawn(move || Testbed::new(config)?.run());
    thread.join().map_err(|_| anyhow::anyhow!("the replay panicked"))?
}

/// The programs and devices of a run, in the order in which they are removed.
struct Testbed {
    config: ReplayConfig,
    balancer: Balancer,
    webs: [Web; 2],
    _dir: Dir,
    // After the cgroups: with their limits swapoff could not read the pages back.
    _swap: Swap,
}

impl Testbed {
    fn new(config: ReplayConfig) -> Result<Self> {
        let mut dir = Dir::new()?;
        // Always made, if only 16 MiB: it also owns the directory on disk that is slowed.
        let mib = if config.swap_speed == SwapSpeed::None { 16 } else { 512 };
        let mut swap = Swap::new(mib).context("make swap to replay with")?;
        let nets = net::connect_hosts(2)?;
        let mut webs = Vec::new();
        for (number, net) in (0u8..).zip(nets) {
            let name = format!("web-0{}", number + 1);
            let mut scope = match config.swap_speed {
                SwapSpeed::None => Scope::new(&name, scale::LIMIT)?,
                SwapSpeed::Fast | SwapSpeed::Slow => Scope::with_swap(&name, scale::LIMIT)?,
            };
            for group in scope.groups() {
                dir.undo.remove_group(group)?;
            }
            match config.swap_speed {
                SwapSpeed::None => swap.slow_disk(&mut scope, scale::SLOW_DISK_READS)?,
                SwapSpeed::Fast => {}
                SwapSpeed::Slow => swap.slow(&mut scope, scale::SLOW_DISK_READS)?,
            }
            webs.push(Web::start(scope, net, number, &dir.path, config.policy.spec().sensor)?);
        }
        let mut webs = <[Web; 2]>::try_from(webs).ok().context("two hosts")?;
        if let Variant::Loads(loads) = config.variant {
            let tmpfs = PathBuf::from(format!("/dev/shm/memsensor-replay-{}", std::process::id()));
            dir.undo.later(r#"rm -rf "$1""#, &[&tmpfs])?;
            webs[0].prepare_loads(loads, tmpfs)?;
        }
        let balancer = Balancer::start(config.policy, &dir.path)?;
        Ok(Self { config, balancer, webs, _dir: dir, _swap: swap })
    }

    fn run(mut self) -> Result<ReplayRun> {
        let start = Instant::now();
        let groups = [self.webs[0].scope().unified(), self.webs[1].scope().unified()];
        let with_memsensor = self.config.policy.spec().sensor;
        let sensors = with_memsensor.then(|| [self.webs[0].port(9818), self.webs[1].port(9818)]);
        let watch = Watch::start(start, groups, sensors, self.balancer.source())?;
        let www: SocketAddr = (IpAddr::from(net::BALANCER), 80).into();
        let traffic = traffic::begin(www, scale::RATE, start)?;
        let probes = self.config.probes.then_some(&self.webs).into_iter().flatten();
        let probes = probes.map(|web| traffic::begin(web.port(8080), scale::PROBE_RATE, start));
        let probes: Vec<_> = probes.collect::<Result<_>>()?;

        std::thread::sleep(self.config.calm);
        let fault_at = start.elapsed();
        self.inject_fault()?;
        self.hold_fault(&watch, start, fault_at);
        let cleared_at = start.elapsed();
        let restarts = self.clear_fault()?;
        self.wait_for_recovery(&watch);
        let end = start.elapsed();

        let requests = traffic.finish();
        let mut probes = probes.into_iter().map(Traffic::finish);
        let probes = [(); 2].map(|()| probes.next().unwrap_or_default());
        let observed = watch.finish();
        let mut ended_servers = Vec::new();
        for web in &mut self.webs {
            let name = web.name();
            ended_servers
                .extend(web.ended_servers().into_iter().map(|server| format!("{name}: {server}")));
        }
        let config = self.config;
        Ok(ReplayRun {
            config,
            fault_at,
            cleared_at,
            end,
            requests,
            probes,
            observed,
            restarts,
            ended_servers,
        })
    }

    fn inject_fault(&mut self) -> Result<()> {
        let agent = if self.config.swap_speed == SwapSpeed::None {
            scale::AGENT_NO_SWAP
        } else {
            scale::AGENT
        };
        match self.config.variant {
            Variant::Leak => self.webs[0].install_agent(agent),
            Variant::Fleet => self.webs.iter_mut().try_for_each(|web| web.install_agent(agent)),
            Variant::Freeze => self.webs[0].freeze(true),
            Variant::Loads(loads) => self.webs[0].start_loads(loads),
        }
    }

    fn hold_fault(&self, watch: &Watch, start: Instant, fault_at: Duration) {
        let stalls =
            || watch.so_far(|hosts| reaction::first_stall(&hosts[0].some_us, fault_at).is_some());
        if matches!(self.config.variant, Variant::Leak | Variant::Fleet) {
            while !stalls() && start.elapsed() < fault_at + scale::LEAK {
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        std::thread::sleep(self.config.thrash);
    }

    fn clear_fault(&mut self) -> Result<u32> {
        if self.config.variant == Variant::Freeze {
            self.webs[0].freeze(false)?;
        }
        self.webs[0].stop_loads();
        Ok(self.webs.iter_mut().map(Web::remove_agent).sum())
    }

    /// Waits for the end of the run; for weights three seconds more.
    fn wait_for_recovery(&self, watch: &Watch) {
        let begun = Instant::now();
        let (enough, least) = match self.config.end {
            End::After(time) => return std::thread::sleep(time),
            _ if !self.config.policy.spec().sensor => return std::thread::sleep(scale::AFTER),
            End::FullWeight => (100, Duration::from_secs(5)),
            End::AnyWeight => (1, Duration::from_secs(1)),
        };
        let back = |hosts: &[Observed; 2]| {
            hosts.iter().all(|host| {
                host.servers.last().is_some_and(|(_, s)| s.serves() && s.weight >= enough)
            })
        };
        while begun.elapsed() < least || (!watch.so_far(back) && begun.elapsed() < scale::RECOVERY)
        {
            std::thread::sleep(Duration::from_millis(100));
        }
        std::thread::sleep(Duration::from_secs(3));
    }
}

/// A directory on disk for the files of a run, removed at the end.
struct Dir {
    path: PathBuf,
    undo: Undo,
}

impl Dir {
    fn new() -> Result<Self> {
        // Not /tmp: it may be a tmpfs, whose pages cannot be reclaimed without swap.
        let path = format!("/var/tmp/memsensor-replay-{}", std::process::id());
        let path = Path::new(&path).to_owned();
        let mut undo = Undo::new()?;
        undo.later(r#"rm -rf "$1""#, &[&path])?;
        fs::create_dir(&path).with_context(|| format!("mkdir {}", path.display()))?;
        Ok(Self { path, undo })
    }
}
