//! `memsensor top`: processes and cgroups by size and growth. Names in it are escaped.
//!
//! * [`sort`]: the orders; [`tables`]: output once.
//! * [`live`] runs the live screen; [`screen`] handles keys and draws.

pub mod live;
pub(crate) mod screen;
pub mod sort;
pub mod tables;
