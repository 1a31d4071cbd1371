//! The seam between collectors and servers: handles to data that collectors publish and servers
//! read. Reading never makes a collector wait.
//!
//! * [`sample`]: the last sample; [`usage`]: the last scan of processes; [`cgroup_report`];
//!   [`served_paths`].
//! * [`event_log`]: the last events, and a feed of new ones, kept in `event_queue`s.
//! * For the recorder: [`looks`] (what each look of the sensing loop found), [`answers`] to balancers
//!   that changed; [`record`]: its figures.
//! * [`oom_kills`]: kills by scope and by cgroup path, counted by the event reader.
//! * [`loop_lag`]: how late the daemon's own loops are; [`own_process`]: its process;
//!   [`log_losses`]: lost lines of the log.
//! * [`control`]: shutdown, and requests for a scan; [`wait`]: waiting for them.
//!
//! Not here: how anything is collected or served.

pub mod answers;
pub mod cgroup_report;
pub mod control;
pub mod event_log;
mod event_queue;
pub mod log_losses;
pub mod looks;
pub mod loop_lag;
pub mod oom_kills;
pub mod own_process;
pub mod record;
pub mod sample;
pub mod served_paths;
pub mod usage;
pub mod wait;
