pub mod cgroups;
pub mod collect;
pub mod host;
pub mod kernel;
pub mod oom;
pub mod publish;
pub mod serve;
pub mod usage;
