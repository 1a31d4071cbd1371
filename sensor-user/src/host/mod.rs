//! The edge to the host's files and clocks. Each reader parses text that a test can hand it.

pub mod cgroup;
pub mod cgroup_files;
pub mod clock;
pub mod kernel_log;
pub mod memcg;
pub mod memory;
pub mod pods;
pub mod pressure;
pub mod process;
pub mod process_walk;
pub mod state_file;
pub mod survive;
pub mod text;
