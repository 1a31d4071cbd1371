//! Text from untrusted sources. Processes, cgroups and the kernel's log carry names that any user
//! may choose; this module makes them safe to print and to parse.
//!
//! Not here: escaping for JSON (serde) and for labels (prometheus-client).

use std::fmt::{self, Write as _};

/// A NUL-terminated name as the kernel reports it, [`sanitize`]d; invalid UTF-8 is replaced.
pub fn name(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    sanitize(&String::from_utf8_lossy(&bytes[..end]))
}

/// Replaces the control characters that JSON does not escape (DEL and C1), and [`is_line_end`]s.
pub fn sanitize(name: &str) -> String {
    let unsafe_char = |c: char| (c.is_control() && c > '\x1f') || is_line_end(c);
    name.chars().map(|c| if unsafe_char(c) { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// Unicode's line and paragraph separators. They are no control characters, but Python's
/// `splitlines` ends a line there: one process name could make the Datadog Agent drop all metrics.
pub const fn is_line_end(c: char) -> bool {
    matches!(c, '\u{2028}' | '\u{2029}')
}

/// Whether the cgroup `path` is `ancestor` or below it.
pub fn is_at_or_below(path: &str, ancestor: &str) -> bool {
    let rest = path.strip_prefix(ancestor);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// A name for a terminal: quoted, control characters escaped.
#[derive(Debug, Clone, Copy)]
pub struct Printable<'a>(pub &'a str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_debug())
    }
}

/// A sentence for a terminal, with names in it: control characters are escaped, quotes are not.
#[derive(Debug, Clone, Copy)]
pub struct Sentence<'a>(pub &'a str);

impl fmt::Display for Sentence<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            '"' | '\'' | '\\' => f.write_char(c),
            c => write!(f, "{}", c.escape_debug()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_do_not_survive() {
        assert_eq!(name(b"a\xffb\0c"), "a\u{fffd}b");
        assert_eq!(sanitize("a\u{7f}b\u{9b}c\u{2028}d"), "a\u{fffd}b\u{fffd}c\u{fffd}d");
        assert_eq!(Printable("\x1b[2J").to_string(), "\"\\u{1b}[2J\"");
        let sentence = Sentence("it's \"a\"\n\u{9b}\u{2028}\u{202e}\u{e9}").to_string();
        assert_eq!(sentence, "it's \"a\"\\n\\u{9b}\\u{2028}\\u{202e}\u{e9}");
    }

    #[test]
    fn a_path_is_below_its_ancestors_only() {
        for (path, ancestor, expected) in
            [("/a/b", "/a", true), ("/a", "/a", true), ("/ab", "/a", false), ("/a", "/a/b", false)]
        {
            assert_eq!(is_at_or_below(path, ancestor), expected, "{path} {ancestor}");
        }
    }
}
