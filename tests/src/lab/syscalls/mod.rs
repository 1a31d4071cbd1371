//! The system calls of the sensing and the answering thread while a cgroup thrashes: whether each
//! is on a fixed list, so that neither thread can wait for a file, for memory or for another
//! thread.
//!
//! * [`trace`]: system calls of each thread of a process, by strace.
//! * [`allowed`]: the list, with reasons.
//! * [`run`]: a daemon in a cgroup that thrashes, and clients of all kinds.

pub mod allowed;
pub mod run;
pub mod trace;
