//! The last report on cgroups.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use sensor_core::model::cgroup_report::CgroupReport;

/// Handle to the last report; empty until the first.
pub type PublishedCgroups = Arc<ArcSwapOption<CgroupReport>>;
