//! The cgroups that the host serves from, as far as they exist now.

use std::{collections::BTreeSet, sync::Arc};

use arc_swap::ArcSwap;

/// Handle to the paths; empty where the configuration has no `serves`.
pub type ServedPaths = Arc<ArcSwap<BTreeSet<Arc<str>>>>;
