//! Sentences with names in them. Names come from processes and from other hosts' records: each form of
//! output escapes them.

use std::fmt::Write as _;

use serde::{Serialize, Serializer};

/// A part of a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Span {
    /// Our own words.
    Words(String),
    /// A name, a path or a command.
    Name(String),
}

/// A sentence.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Text(Vec<Span>);

impl Text {
    /// A sentence that begins with our own words.
    pub fn words(words: impl Into<String>) -> Self {
        Self::default().and(words)
    }

    /// A sentence that begins with a name.
    pub fn name(name: &str) -> Self {
        Self::default().and_name(name)
    }

    /// Adds our own words.
    #[must_use]
    pub fn and(mut self, words: impl Into<String>) -> Self {
        self.0.push(Span::Words(words.into()));
        self
    }

    /// Adds a name.
    #[must_use]
    pub fn and_name(mut self, name: &str) -> Self {
        self.0.push(Span::Name(name.escape_debug().to_string()));
        self
    }

    /// Adds another sentence.
    #[must_use]
    pub fn join(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    /// For Markdown; `in_table` also escapes what ends a cell.
    pub fn markdown(&self, in_table: bool) -> String {
        let mut out = String::new();
        for span in &self.0 {
            match span {
                Span::Words(words) => out.push_str(words),
                Span::Name(name) => out.push_str(&code_span(name)),
            }
        }
        if in_table { out.replace('|', "\\|") } else { out }
    }

    /// For HTML.
    pub fn html(&self) -> String {
        let mut out = String::new();
        for span in &self.0 {
            let _ = match span {
                Span::Words(words) => write!(out, "{}", html(words)),
                Span::Name(name) => write!(out, "<code>{}</code>", html(name)),
            };
        }
        out
    }

    /// Without marks around names, for JSON and a terminal.
    pub fn plain(&self) -> String {
        let parts = self.0.iter().map(|span| match span {
            Span::Words(text) | Span::Name(text) => text.as_str(),
        });
        parts.collect()
    }
}

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.plain())
    }
}

/// A code span in which every character stands for itself: its fence is longer than any run of
/// backticks in it (CommonMark, 6.1).
fn code_span(name: &str) -> String {
    let longest = name.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest + 1);
    // A backtick at an end, or nothing at all, needs spaces.
    let space = if longest > 0 || name.is_empty() { " " } else { "" };
    format!("{fence}{space}{name}{space}{fence}")
}

/// Text for HTML, also within quotes.
pub fn html(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_for_themselves() {
        let text = Text::words("grew: ").and_name("a`b``|<script>\n").and(".");
        assert_eq!(text.markdown(false), "grew: ``` a`b``|<script>\\n ```.");
        assert_eq!(text.markdown(true), "grew: ``` a`b``\\|<script>\\n ```.");
        assert_eq!(text.html(), "grew: <code>a`b``|&lt;script&gt;\\n</code>.");
        assert_eq!(text.plain(), "grew: a`b``|<script>\\n.");
        assert_eq!(Text::name("plain").markdown(false), "`plain`");
        assert_eq!(Text::name("").markdown(false), "`  `");
    }
}
