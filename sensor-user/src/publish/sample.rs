//! The last sample.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use sensor_core::model::snapshot::Sample;

/// Handle to the last sample; empty until the first.
pub type PublishedSample = Arc<ArcSwapOption<Sample>>;
