//! What the programs cost: alone in a loop, in a real thrash, and what the thrash feels of it.
//!
//! `bench-probes` puts these together; nothing here is a test, for time on a shared machine passes
//! and fails by chance.
//!
//! * [`hot`]: every program by hand, caches warm: the lower bound.
//! * [`attached`]: attached while a cgroup thrashes: what an event really costs.
//! * [`slowdown`]: the thrash itself, with and without us.
//! * [`arena`]: the cgroup, the swap and the file that are thrashed, and their removal.
//! * [`work`]: the workload, a process of its own.
//! * [`table`]: a pass over the processes, beside a walk through /proc.
//! * [`medians`]: medians and what can be said of them.

pub mod arena;
pub mod hot;
pub mod medians;
pub mod attached;
pub mod slowdown;
pub mod table;
pub mod work;

use anyhow::{Result, anyhow};
use aya::{Ebpf, programs::RawTracePoint};
use sensor_user::{
    config::Config,
    host::cgroup,
    kernel::{
        btf::{self, Btf},
        load,
        resolve::{self, Host, Plan},
    },
};

/// What memsensor would tell its programs on this host.
pub fn plan() -> Result<Plan> {
    let data = std::fs::read(btf::VMLINUX).map_err(|e| anyhow!("{}: {e}", btf::VMLINUX))?;
    let btf = Btf::parse(data).map_err(|e| anyhow!("{}: {e}", btf::VMLINUX))?;
    Ok(resolve::plan(Ok(&btf), Host { memory_on_v1: cgroup::memory_on_v1() }))
}

/// The object with its maps, and no program loaded yet.
pub fn open(plan: &Plan) -> Result<Ebpf> {
    load::open(&Config::default(), plan)
}

/// A program of the object.
pub fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut RawTracePoint> {
    let found = ebpf.program_mut(name).ok_or_else(|| anyhow!("the object has no program {name}"));
    Ok(found?.try_into()?)
}

/// How often a program ran and how long that took, as the kernel counted it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RunStats {
    /// Nanoseconds in it.
    pub ns: u64,
    /// Times it ran.
    pub events: u64,
}

impl RunStats {
    /// So far.
    pub fn by(program: &RawTracePoint) -> Result<Self> {
        let info = program.info()?;
        let ns = u64::try_from(info.run_time().as_nanos())?;
        Ok(Self { ns, events: info.run_count() })
    }

    /// Since an earlier look.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self { ns: self.ns - before.ns, events: self.events - before.events }
    }

    /// Nanoseconds per event; `None` if there was none.
    pub fn each(self) -> Option<f64> {
        (self.events > 0).then(|| self.ns as f64 / self.events as f64)
    }
}
