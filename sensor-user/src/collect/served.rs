//! The cgroups that the host serves from. They come and go with containers, so their files are
//! handed over while the daemon runs: the scanning thread opens them, the sensing thread reads them.
//!
//! Not here: which cgroups these are (`cgroups/served`), and how verdicts are combined
//! (`verdict/served` of the core).

use std::{collections::BTreeSet, sync::Arc};

use arc_swap::ArcSwapOption;
use sensor_core::common::text::Printable;
use tracing::info;

use crate::{
    host::cgroup::{mounts::CgroupMounts, scope_files::FileSource, scope_opener::ScopeOpeners},
    publish::served_paths::ServedPaths,
};

/// Sources of all served cgroups, when the set has changed.
pub type ChangedSources = Arc<ArcSwapOption<Vec<FileSource>>>;

/// Opens the files of the served cgroups.
#[derive(Debug)]
pub struct ServedOpener {
    paths: ServedPaths,
    /// `None` without the memory controller: then there is nothing to read.
    mounts: Option<CgroupMounts>,
    last: Arc<BTreeSet<Arc<str>>>,
    changed: ChangedSources,
}

impl ServedOpener {
    /// Hands over to `changed`.
    pub fn new(paths: ServedPaths, mounts: Option<CgroupMounts>, changed: ChangedSources) -> Self {
        Self { paths, mounts, last: Arc::default(), changed }
    }

    /// Follows a change of the set.
    pub fn update(&mut self, openers: &mut ScopeOpeners) {
        let Some(mounts) = &self.mounts else { return };
        let paths = self.paths.load_full();
        if paths == self.last {
            return;
        }
        for path in paths.difference(&self.last) {
            info!("the host's verdict includes the cgroup {}, if it exists", Printable(path));
        }
        for path in self.last.difference(&paths) {
            info!("the host's verdict no longer includes the cgroup {}", Printable(path));
        }
        let sources = openers.set_dynamic(mounts, &paths);
        self.changed.store(Some(Arc::new(sources)));
        self.last = paths;
    }
}
