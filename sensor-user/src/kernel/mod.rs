//! The edge to BPF: loading, attaching, reading maps. No other folder uses aya.
//!
//! * [`settings`]: the part of the configuration that the kernel half needs.
//! * [`load`] loads the object and keeps it; [`probe`] attaches a probe, [`attach`] one program.
//! * [`programs`] keeps them attached, and scans processes.
//! * [`read`] reads the maps; [`debug_log`] the kernel half's messages.
//! * [`privilege`] checks and drops capabilities.
//!
//! Not here: which programs a given kernel allows (`btf/resolve` of the core).

mod attach;
pub mod debug_log;
pub mod load;
pub mod privilege;
mod probe;
pub mod programs;
pub mod read;
pub mod settings;
