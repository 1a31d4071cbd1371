//! Which cgroups the host serves from: those that match `serves` in the configuration. Pure.
//!
//! Not here: reading them, and their verdicts (`collect`).

use std::{collections::BTreeSet, sync::Arc};

use anyhow::{Context as _, Result, ensure};

use super::patterns::Patterns;
use crate::host::cgroup::path;

/// Highest number of patterns.
const MAX_PATTERNS: usize = 64;
/// Highest number of cgroups that count: each is read at every sample.
const MAX_CGROUPS: usize = 32;

/// The root of the hierarchy that memsensor sees. It has a limit in a cgroup namespace, as of LXC.
pub const ROOT: &str = "/";

/// The patterns of `serves`.
#[derive(Debug)]
pub struct ServedPatterns {
    patterns: Patterns,
    /// Those without a wildcard: a service counts as soon as it exists, and again after each restart.
    literal: BTreeSet<Arc<str>>,
}

impl ServedPatterns {
    /// An error if there are too many patterns, or one is not valid.
    pub fn new(serves: &[String]) -> Result<Self> {
        let count = serves.len();
        ensure!(count <= MAX_PATTERNS, "serves: {count} paths, at most {MAX_PATTERNS}");
        for pattern in serves.iter().filter(|pattern| *pattern != ROOT) {
            path::check(pattern).context("serves")?;
        }
        let patterns = Patterns::new(serves).context("serves")?;
        let is_literal = |path: &&String| !path.contains(['*', '?', '[']);
        let literal: BTreeSet<_> =
            serves.iter().filter(is_literal).map(|path| Arc::from(path.as_str())).collect();
        ensure!(
            literal.len() <= MAX_CGROUPS,
            "serves: {} cgroups, at most {MAX_CGROUPS}",
            literal.len()
        );
        Ok(Self { patterns, literal })
    }

    /// Those without a wildcard.
    pub fn literal(&self) -> BTreeSet<Arc<str>> {
        self.literal.clone()
    }

    /// Whether the cgroup or one above it counts.
    pub fn covers(&self, path: &str) -> bool {
        path == ROOT && self.literal.contains(ROOT) || self.patterns.deepest(path).is_some()
    }

    /// The cgroups that count, out of the paths of cgroups with processes and of all above them; at
    /// most 32, in the order of their paths.
    pub(super) fn matching<'a>(
        &self,
        paths: impl IntoIterator<Item = &'a Arc<str>>,
    ) -> BTreeSet<Arc<str>> {
        let found: BTreeSet<&str> =
            paths.into_iter().filter_map(|path| self.patterns.deepest(path)).collect();
        let mut all = self.literal();
        for path in found {
            if all.len() >= MAX_CGROUPS {
                break;
            }
            all.insert(Arc::from(path));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(serves: &[&str]) -> Result<ServedPatterns> {
        ServedPatterns::new(&serves.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn services_containers_and_pods_match() {
        let patterns = patterns(&[
            "/system.slice/nginx.service",
            "/docker/*",
            "/kubepods.slice/**/cri-containerd-*.scope",
        ])
        .expect("valid");
        let paths: Vec<Arc<str>> = [
            "/system.slice/ssh.service",
            "/docker/0123/child",
            "/kubepods.slice/a.slice/cri-containerd-1.scope",
            "/kubepods.slice/a.slice/crio-1.scope",
        ]
        .map(Arc::from)
        .to_vec();
        let found: Vec<_> = patterns.matching(&paths).into_iter().collect();
        let found: Vec<&str> = found.iter().map(|path| &**path).collect();
        assert_eq!(
            found,
            [
                "/docker/0123",
                "/kubepods.slice/a.slice/cri-containerd-1.scope",
                "/system.slice/nginx.service"
            ]
        );
    }

    #[test]
    fn the_root_is_itself_and_not_what_is_below() {
        let patterns = patterns(&["/"]).expect("valid");
        assert_eq!(patterns.literal(), BTreeSet::from([ROOT.into()]));
        assert!(patterns.covers("/") && !patterns.covers("/a"));
    }

    #[test]
    fn the_number_of_cgroups_is_bounded() {
        let patterns = patterns(&["/a/*", "/z"]).expect("valid");
        let paths: Vec<Arc<str>> = (0..1000).map(|i| format!("/a/{i}").into()).collect();
        let found = patterns.matching(&paths);
        assert_eq!(found.len(), MAX_CGROUPS);
        assert!(found.contains("/z"), "one without a wildcard always counts");
    }

    #[test]
    fn wrong_patterns_are_refused() {
        for serves in [&["nginx.service"][..], &["/a**"], &["/sys/fs/cgroup/a"], &["/["]] {
            let error = patterns(serves).expect_err("not valid");
            assert!(format!("{error:#}").starts_with("serves: "), "{error:#}");
        }
        let many: Vec<String> = (0..40).map(|i| format!("/{i}")).collect();
        assert!(ServedPatterns::new(&many).is_err());
    }
}
