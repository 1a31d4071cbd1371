//! The pure part of memsensor's user half: the data model, the verdict, and the plan of the
//! programs that a kernel can attach.
//!
//! * [`common`]: clocks, text from untrusted sources, counters, small state files.
//! * [`btf`]: the kernel's type information, and the plan for attaching.
//! * [`verdict`]: readings in, verdicts out.
//! * [`model`]: the data that flows from collectors to servers.
//! * [`record`]: the format of the record on disk.
//!
//! Not here: anything that loads programs, reads the host, serves, or needs a BPF toolchain. No I/O
//! but clocks and [`common::state_file`].

pub mod btf;
pub mod common;
pub mod model;
pub mod record;
pub mod verdict;
