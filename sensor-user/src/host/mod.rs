//! The edge to the host's files. Each reader parses text that a test can pass in.
//!
//! * [`memory`], [`vmstat`], [`pressure`]: the host's memory, its counters and PSI; [`swap`], [`zfs`]: swap in memory, and a
//!   cache that the kernel does not count as one; [`late_files`]: their files.
//! * [`cgroup`]: mounts, limits and counters of cgroups.
//! * [`proc_walk`]: processes from /proc; [`footprint`]: the daemon's memory; [`own_process`]:
//!   other figures of its process; [`process_rights`]: user and capabilities of a process.
//! * [`kmsg`]: OOM kills in the kernel log; [`pods`]: names of Kubernetes pods.
//! * [`proc_file`]: files that the kernel generates at each read; `host_file`: those that may fail
//!   for a while; [`handoff`] of open files to the sensing thread.
//!
//! Not here: decisions, and anything of BPF.

pub mod cgroup;
pub mod footprint;
mod handoff;
pub mod host_file;
pub mod kmsg;
pub mod late_files;
pub mod memory;
pub mod own_process;
pub mod pods;
pub mod pressure;
pub mod proc_file;
pub mod proc_walk;
pub mod process_rights;
pub(crate) mod swap;
pub(crate) mod vmstat;
pub(crate) mod zfs;
