//! What is made of a record: what happened when, as tables and as series. Pure, but for reading the
//! record.
//!
//! * [`timeline`]: the entries in the order of time. [`series`]: looks by steps of time.
//! * [`output`]: series as text, JSON, CSV and OpenMetrics. [`times`]: times in words.
//!
//! Not here: the record's format (`sensor_core::record`) and its files (`recorder`).

pub mod output;
pub mod series;
pub mod timeline;
pub mod times;
