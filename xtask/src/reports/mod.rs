//! Text in and out: results of test binaries, the table of probes and kernels, and the documents
//! that show measured tables. Starts no programs.

pub(crate) mod generated_docs;
pub(crate) mod libtest;
pub(crate) mod probe_table;
