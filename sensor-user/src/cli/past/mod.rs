//! Commands on the record: what was seen before, also by another host's memsensor.
//!
//! * [`part`]: which part of which record. [`history`]: state and signals by steps of time.
//!   [`events`]: what happened, in order. [`postmortem`]: why, and what to do.
//!   [`top`]: who was large at a time.
//!
//! Not here: reading a record (`recorder::archive`), and tables and series (`crate::history`).

pub mod events;
pub mod history;
pub mod part;
pub mod postmortem;
pub mod top;
