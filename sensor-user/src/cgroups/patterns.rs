//! Paths of cgroups as they are named in the configuration: `*` is any name or part of one.

use anyhow::{Context as _, Result};
use glob::{MatchOptions, Pattern};

/// `*` stays within a name.
const MATCH: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: false,
};

/// Any of these.
#[derive(Debug)]
pub(super) struct Patterns(Vec<Pattern>);

impl Patterns {
    /// An error if one is none.
    pub(super) fn new(paths: &[String]) -> Result<Self> {
        let parse =
            |path: &String| Pattern::new(path).with_context(|| format!("the path {path:?}"));
        Ok(Self(paths.iter().map(parse).collect::<Result<_>>()?))
    }

    /// Whether the path is one of them.
    pub(super) fn have(&self, path: &str) -> bool {
        self.0.iter().any(|pattern| pattern.matches_with(path, MATCH))
    }

    /// The deepest group above or at `path` that is one of them.
    pub(super) fn deepest<'a>(&self, path: &'a str) -> Option<&'a str> {
        let mut at = path.trim_end_matches('/');
        // `*` may be nothing, and the root is no group.
        while !at.is_empty() {
            if self.have(at) {
                return Some(at);
            }
            at = at.rsplit_once('/')?.0;
        }
        None
    }
}
