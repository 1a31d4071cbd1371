//! The cost of the BPF programs: in a loop, in a real thrash, and as a slowdown of the thrash.
//!
//! `bench-probes` runs these. Nothing here is a test: on a shared machine it would pass and fail by
//! chance.
//!
//! * [`hot`]: every program run by hand with warm caches: the lower bound.
//! * [`attached`]: the programs attached while a cgroup thrashes: the real cost of an event.
//! * [`slowdown`]: the duration of the thrash with and without memsensor.
//! * [`arena`]: the cgroup, the swap and the file of the thrash.
//! * [`work`]: the workload, a process of its own.
//! * [`table`]: a scan of the processes, beside a walk through /proc.
//! * [`medians`]: medians and their confidence intervals.

pub mod arena;
pub mod attached;
pub mod hot;
pub mod medians;
pub mod slowdown;
pub mod table;
pub mod work;

use anyhow::{Result, anyhow};
use aya::{Ebpf, programs::RawTracePoint};
use sensor_core::btf::{
    reader::{self, Btf},
    resolve::{self, Host, Plan},
};
use sensor_user::{
    host::cgroup::mounts::memory_on_v1,
    kernel::{load, settings::Settings},
};

/// What memsensor would configure its programs with on this host.
pub fn plan() -> Result<Plan> {
    let data = std::fs::read(reader::VMLINUX).map_err(|e| anyhow!("{}: {e}", reader::VMLINUX))?;
    let btf = Btf::parse(data).map_err(|e| anyhow!("{}: {e}", reader::VMLINUX))?;
    Ok(resolve::plan(Ok(&btf), Host { memory_on_v1: memory_on_v1() }))
}

/// The object with its maps, before any program is loaded.
pub fn open(plan: &Plan) -> Result<Ebpf> {
    load::open(&Settings::default(), plan)
}

/// A program of the object.
pub fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut RawTracePoint> {
    let found = ebpf.program_mut(name).ok_or_else(|| anyhow!("the object has no program {name}"));
    Ok(found?.try_into()?)
}

/// The kernel's run statistics of a program.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RunStats {
    /// Nanoseconds of run time.
    pub ns: u64,
    /// Number of runs.
    pub events: u64,
}

impl RunStats {
    /// The totals so far.
    pub fn of(program: &RawTracePoint) -> Result<Self> {
        let info = program.info()?;
        let ns = u64::try_from(info.run_time().as_nanos())?;
        Ok(Self { ns, events: info.run_count() })
    }

    /// The difference to earlier totals.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self { ns: self.ns - before.ns, events: self.events - before.events }
    }

    /// Nanoseconds per event; `None` without events.
    pub fn each(self) -> Option<f64> {
        (self.events > 0).then(|| self.ns as f64 / self.events as f64)
    }
}
