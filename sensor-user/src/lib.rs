//! memsensor's user half: it loads the probes, turns what they count into one [`snapshot`], and
//! lets everybody else read that.
//!
//! Data moves one way. Nothing on the right can slow or block what is left of it:
//!
//! ```text
//! kernel/ (load, attach, read) ─▶ sense (the loop) ─▶ snapshot (published) ─▶ serve/ (readers)
//! host/ (PSI, memory, cgroups) ─▶ scopes ─ verdict/ ──┘
//!         └ ring buffer ────────▶ events (kept, bounded) ─────────────────▶ serve/, `events`
//! ```
//!
//! * [`kernel`] and [`host`] are the only modules that read from the machine; only [`kernel`] names
//!   aya.
//! * [`scopes`] are the host and the named cgroups; [`verdict`] judges each, without any I/O.
//! * [`sense`] is the loop; it depends on nothing that serves.
//! * [`serve`] reads what was published and never asks the kernel.
//! * [`who`] has the memory, and took it lately; pure.
//! * [`config`], [`cli`], [`report`], [`check`], [`top`] are for people.
//! * [`host::survive`], [`deadlines`] and [`supervise`] keep it answering while the host thrashes, and
//!   tell when it was late.

pub mod census;
pub mod cgroups;
pub mod check;
pub mod circumstances;
pub mod cli;
pub mod config;
pub mod deadlines;
pub mod directory;
pub mod events;
pub mod follow;
pub mod host;
pub mod identity;
pub mod kernel;
pub mod report;
pub mod resume;
pub mod run;
pub mod scopes;
pub mod sense;
pub mod serve;
pub mod snapshot;
pub mod stall_clock;
pub mod supervise;
pub mod threads;
pub mod top;
pub mod verdict;
pub mod who;
