//! The postmortem of an incident, made from a record alone. Pure.
//!
//! * [`incident`]: when it began and ended, and which scope it was about. [`growth`]: who grew.
//! * [`causes`]: causes, ranked by evidence for and against. [`earlier`]: which rules fired when, and
//!   what other thresholds and a limit would have meant. [`actions`]: what to do. [`moments`]: what happened, in order.
//! * [`report`] puts them together. [`text`]: sentences with names in them; [`document`]: the report
//!   as Markdown and HTML; [`charts`]: its pictures.
//!
//! Not here: reading a record (`recorder::archive`), and the command (`cli/past`).

pub mod actions;
pub mod causes;
pub mod charts;
pub mod document;
pub mod earlier;
#[cfg(test)]
mod forms;
pub mod growth;
pub mod incident;
pub mod moments;
pub mod report;
pub mod text;
