//! Patterns of cgroup paths, as in the configuration: `*` matches any name or part of one.

use anyhow::{Context as _, Result};
use glob::{MatchOptions, Pattern};

/// `*` does not match a slash.
const MATCH: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: false,
};

/// A set of patterns.
#[derive(Debug)]
pub(super) struct Patterns(Vec<Pattern>);

impl Patterns {
    /// An error if a pattern is not valid.
    pub(super) fn new(paths: &[String]) -> Result<Self> {
        let parse =
            |path: &String| Pattern::new(path).with_context(|| format!("the path {path:?}"));
        Ok(Self(paths.iter().map(parse).collect::<Result<_>>()?))
    }

    /// Whether any pattern matches the path.
    pub(super) fn match_path(&self, path: &str) -> bool {
        self.0.iter().any(|pattern| pattern.matches_with(path, MATCH))
    }

    /// The deepest of `path` and its ancestors that matches.
    pub(super) fn deepest<'a>(&self, path: &'a str) -> Option<&'a str> {
        let mut at = path.trim_end_matches('/');
        // `*` also matches the empty name, but the root has no metrics.
        while !at.is_empty() {
            if self.match_path(at) {
                return Some(at);
            }
            at = at.rsplit_once('/')?.0;
        }
        None
    }
}
