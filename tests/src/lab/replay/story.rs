//! What happens when: one night, from calm to calm, and what was seen of it.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{
    Form, Variant, Way,
    balancer::Balancer,
    net, reaction, scale,
    traffic::{self, Request},
    watch::{Seen, Watch},
    web::Web,
};
use crate::support::{scope::Scope, swap::Swap, undo::Undo};

/// What is replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plot {
    /// Who decides.
    pub way: Way,
    /// What swap there is.
    pub form: Form,
    /// What happens.
    pub variant: Variant,
    /// Before anything happens.
    pub calm: Duration,
    /// From the first stall until the agent is removed.
    pub night: Duration,
    /// Whether to end as soon as web-01 gets traffic again, not only with its full weight.
    pub short: bool,
}

impl Plot {
    /// One of full length.
    pub fn new(way: Way, form: Form, variant: Variant) -> Self {
        Self { way, form, variant, calm: scale::CALM, night: scale::NIGHT, short: false }
    }

    /// One that is over in less than a minute.
    pub fn short(way: Way, form: Form, variant: Variant) -> Self {
        let (calm, night) = (Duration::from_secs(5), Duration::from_secs(8));
        Self { calm, night, short: true, ..Self::new(way, form, variant) }
    }
}

/// A night that is over. Times are since the beginning.
#[derive(Debug)]
pub struct Night {
    /// What was replayed.
    pub plot: Plot,
    /// When the agent was installed, or the host frozen.
    pub disturbed: Duration,
    /// When the agent was removed, or the host thawed.
    pub relieved: Duration,
    /// When the last request was due.
    pub end: Duration,
    /// Every request.
    pub requests: Vec<Request>,
    /// What was seen of the hosts.
    pub seen: [Seen; 2],
    /// How often the agents were killed and started again.
    pub restarts: u32,
    /// Servers that were killed, as `web-01: nginx`.
    pub dead: Vec<String>,
}

impl Night {
    /// The first stall of web-01.
    pub fn stall(&self) -> Option<Duration> {
        reaction::first_stall(&self.seen[0].some_us, self.disturbed)
    }
}

/// Replays it, in a thread and a network of its own.
pub fn replay(plot: Plot) -> Result<Night> {
    let thread = std::thread::spawn(move || Stage::set(plot)?.play());
    thread.join().map_err(|_| anyhow::anyhow!("the replay panicked"))?
}

/// What must be there. The order is that in which it goes.
struct Stage {
    plot: Plot,
    balancer: Balancer,
    webs: [Web; 2],
    _dir: Dir,
    // After the scopes: their limits would leave swapoff no room.
    _swap: Swap,
}

impl Stage {
    fn set(plot: Plot) -> Result<Self> {
        let mut dir = Dir::new()?;
        // Without any for the hosts, a little of it is made all the same: it knows their disk.
        let mib = if plot.form == Form::None { 16 } else { 512 };
        let mut swap = Swap::new(mib).context("make swap to replay with")?;
        let nets = net::lay(2)?;
        let mut webs = Vec::new();
        for (number, net) in (0u8..).zip(nets) {
            let name = format!("web-0{}", number + 1);
            let mut scope = match plot.form {
                Form::None => Scope::new(&name, scale::LIMIT)?,
                Form::Fast | Form::Slow => Scope::with_swap(&name, scale::LIMIT)?,
            };
            for group in scope.groups() {
                dir.undo.remove_group(group)?;
            }
            match plot.form {
                Form::None => swap.slow_disk(&mut scope, scale::TIRED)?,
                Form::Fast => {}
                Form::Slow => swap.slow(&mut scope, scale::TIRED)?,
            }
            webs.push(Web::start(scope, net, number, &dir.path, plot.way == Way::Memsensor)?);
        }
        let webs = <[Web; 2]>::try_from(webs).ok().context("two hosts")?;
        let balancer = Balancer::start(plot.way, &dir.path)?;
        Ok(Self { plot, balancer, webs, _dir: dir, _swap: swap })
    }

    fn play(mut self) -> Result<Night> {
        let start = Instant::now();
        let groups = [self.webs[0].scope().unified(), self.webs[1].scope().unified()];
        let sensed = self.plot.way == Way::Memsensor;
        let sensors = sensed.then(|| [self.webs[0].port(9818), self.webs[1].port(9818)]);
        let watch = Watch::start(start, groups, sensors, self.balancer.socket())?;
        let www: SocketAddr = (IpAddr::from(net::BALANCER), 80).into();
        let traffic = traffic::begin(www, start)?;

        std::thread::sleep(self.plot.calm);
        let disturbed = start.elapsed();
        self.disturb()?;
        self.suffer(&watch, start, disturbed);
        let relieved = start.elapsed();
        let restarts = self.relieve()?;
        self.recover(&watch);
        let end = start.elapsed();

        let requests = traffic.finish();
        let seen = watch.finish();
        let mut dead = Vec::new();
        for web in &mut self.webs {
            let name = web.name();
            dead.extend(web.dead().into_iter().map(|what| format!("{name}: {what}")));
        }
        let plot = self.plot;
        Ok(Night { plot, disturbed, relieved, end, requests, seen, restarts, dead })
    }

    fn disturb(&mut self) -> Result<()> {
        let agent = if self.plot.form == Form::None { scale::AGENT_NO_SWAP } else { scale::AGENT };
        match self.plot.variant {
            Variant::Night => self.webs[0].install_agent(agent),
            Variant::Fleet => self.webs.iter_mut().try_for_each(|web| web.install_agent(agent)),
            Variant::Freeze => self.webs[0].freeze(true),
        }
    }

    fn suffer(&self, watch: &Watch, start: Instant, disturbed: Duration) {
        let stalls =
            || watch.so_far(|seen| reaction::first_stall(&seen[0].some_us, disturbed).is_some());
        if self.plot.variant != Variant::Freeze {
            while !stalls() && start.elapsed() < disturbed + scale::LEAK {
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        std::thread::sleep(self.plot.night);
    }

    fn relieve(&mut self) -> Result<u32> {
        if self.plot.variant == Variant::Freeze {
            self.webs[0].freeze(false)?;
        }
        Ok(self.webs.iter_mut().map(Web::remove_agent).sum())
    }

    /// Until both hosts have what they had, and some seconds more.
    fn recover(&self, watch: &Watch) {
        let begun = Instant::now();
        let least = Duration::from_secs(if self.plot.short { 1 } else { 5 });
        if self.plot.way != Way::Memsensor {
            std::thread::sleep(scale::AFTER);
            return;
        }
        let enough = if self.plot.short { 1 } else { 100 };
        let back = |seen: &[Seen; 2]| {
            seen.iter().all(|host| {
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

/// A directory on disk for the files of a night.
struct Dir {
    path: PathBuf,
    undo: Undo,
}

impl Dir {
    fn new() -> Result<Self> {
        // Not /tmp: it may be a tmpfs, and a file in that is no page cache that can go.
        let path = format!("/var/tmp/memsensor-replay-{}", std::process::id());
        let path = Path::new(&path).to_owned();
        let mut undo = Undo::new()?;
        undo.later(r#"rm -rf "$1""#, &[&path])?;
        fs::create_dir(&path).with_context(|| format!("mkdir {}", path.display()))?;
        Ok(Self { path, undo })
    }
}
