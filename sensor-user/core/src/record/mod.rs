//! The record: what memsensor keeps on disk about its host, so that the disk of a dead server has
//! its last minutes. Pure: the format, and what is recorded when.
//!
//! Lowest first: [`names`] are strings that repeat within a segment, [`content`] is what records say,
//! [`frame`] is how they lie in a segment, [`codec`] writes and reads both, [`pace`] decides which
//! looks of the sensing loop are recorded.
//!
//! Not here: files and threads (the daemon's `recorder`), and what is made of it (`history`,
//! `postmortem`).

pub mod codec;
pub mod content;
pub mod frame;
pub mod names;
pub mod pace;
