//! Which monitoring agents still respond while a host thrashes: memsensor, and beside it in the
//! same run what operators use as a health check today. Each is queried ten times a second, from
//! outside, on time.
//!
//! * [`targets`]: the queries, and what counts as a response; [`programs`] starts the programs;
//!   [`result`] is what a run found, and [`table`] prints it.
//! * [`native`]: a run on this machine, with all programs in one cgroup that thrashes; [`guest`]
//!   follows a virtual machine that thrashes as a whole (`tests/guest/thrash` is its script).
//!
//! Not here: whether the verdict is right ([`crate::lab::scenarios`]), and the effect on users of a
//! load balancer ([`crate::lab::replay`]).

pub mod guest;
pub mod native;
pub mod programs;
pub mod result;
pub mod table;
pub mod targets;
