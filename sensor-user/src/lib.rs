//! memsensor's user half: it loads the probes, turns their counters into samples and verdicts, and
//! serves them.
//!
//! Each folder imports only folders below it (`tests/tests/layers.rs` checks that):
//!
//! ```text
//! fuzzing                              ways into private readers, only for fuzz targets
//! cli                                  commands
//! daemon                               composition, configuration, life cycle
//! postmortem                           the postmortem of an incident
//! history                              what is made of a record
//! recorder                             the record on disk
//! oom          serve                   OOM events; servers
//! collect                              the sensing loop
//! usage                                processes by size and growth
//! cgroups                              cgroups by path, and their metrics
//! kernel                               BPF: loading, attaching, reading maps
//! host                                 files of the host
//! publish                              handles between collectors and servers
//! sensor-core (a crate)                record, model, verdict, btf, common: no I/O
//! sensor-ebpf (a crate)                the kernel half, and types of both halves
//! ```
//!
//! The pure half is the crate `sensor-core`, in `sensor-user/core`.

pub mod cgroups;
pub mod cli;
pub mod collect;
pub mod daemon;
#[cfg(fuzzing)]
pub mod fuzzing;
pub mod history;
pub mod host;
pub mod kernel;
pub mod oom;
pub mod postmortem;
pub mod publish;
pub mod recorder;
pub mod serve;
pub mod usage;
