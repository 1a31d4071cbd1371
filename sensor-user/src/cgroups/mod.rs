//! Cgroups: their paths by id, and those that have metrics of their own.
//!
//! A host may have ten thousand cgroups and create a hundred a minute. So the set with metrics is
//! bounded, and all others are one sum, `other`. A thread of its own collects them every few
//! seconds; a scrape only encodes the last report.
//!
//! * [`settings`]: which cgroups; [`patterns`] matches their paths.
//! * [`path_cache`]: paths by id, also for a while after a cgroup is removed; within a budget.
//! * `path_budget`: the share of each service and container in that budget.
//! * [`shared_paths`]: the cache as threads share it; the rules for its lock.
//! * `walk_requests`, `walker`: walks over the cgroup tree for paths that no event brought.
//! * [`selection`]: which cgroups are shown, and their sums; pure.
//! * [`served`]: those that the host serves from; `limits`: those that stall at their limit and
//!   are not among them.
//! * [`collector`]: the thread.

pub mod collector;
mod limits;
mod path_budget;
pub mod path_cache;
pub(crate) mod patterns;
pub mod selection;
pub mod served;
pub mod settings;
pub mod shared_paths;
mod walk_requests;
mod walker;
