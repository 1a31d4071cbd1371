//! What a flood of connections from one address does to other clients and to the daemon.
//!
//! * [`attack`]: the flood.
//! * [`run`]: clients of another address, the daemon's CPU time and locked memory, with and without
//!   the flood.
//! * [`table`]: the results as Markdown.

pub mod attack;
pub mod run;
pub mod table;
