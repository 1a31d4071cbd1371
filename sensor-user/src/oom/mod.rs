//! OOM kills: from a record of the kernel half to an event with its report.
//!
//! * [`event_reader`]: the thread.
//! * [`decode`]: records to events; pure.
//! * [`kill_groups`]: which kills are of one OOM; pure.
//! * [`report_builder`]: puts the report together; pure.
//! * [`stall_history`]: stalls of the minute before; pure.

pub mod decode;
pub mod event_reader;
mod kill_groups;
pub mod report_builder;
mod stall_history;
