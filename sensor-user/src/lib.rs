pub mod cgroups;
pub mod host;
pub mod kernel;
pub mod publish;
pub mod usage;
