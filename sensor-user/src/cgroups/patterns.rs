//! Patterns of cgroup paths, as in the configuration: `*` matches any name or part of one, `?` one
//! character, `[a-z]` one of a set, `[!a-z]` one of the others, and `**` any number of names.
//!
//! Users choose names of cgroups, so matching must not backtrack over all stars.

use anyhow::{Context as _, Result, bail, ensure};

/// A set of patterns.
#[derive(Debug)]
pub(crate) struct Patterns(Vec<Pattern>);

/// The names of a pattern, between slashes.
type Pattern = Vec<Name>;

#[derive(Debug)]
enum Name {
    /// `**`
    AnyNumber,
    One(Vec<Token>),
}

/// A part of a name.
#[derive(Debug)]
enum Token {
    Char(char),
    /// `?`
    AnyChar,
    /// `[...]`: characters from the first to the second of a range, or all others.
    Set {
        ranges: Vec<(char, char)>,
        negated: bool,
    },
    /// `*`
    Star,
}

impl Token {
    fn matches(&self, c: char) -> bool {
        match self {
            Self::Char(char) => *char == c,
            Self::AnyChar => true,
            Self::Set { ranges, negated } => {
                ranges.iter().any(|(from, to)| (*from..=*to).contains(&c)) != *negated
            }
            Self::Star => false,
        }
    }
}

fn parse(pattern: &str) -> Result<Pattern> {
    let mut names = pattern.split('/').map(parse_name).collect::<Result<Pattern>>()?;
    if matches!(names.last(), Some(Name::AnyNumber)) {
        // What is below a cgroup does not include the cgroup.
        names.push(Name::One(vec![Token::Star]));
    }
    Ok(names)
}

fn parse_name(name: &str) -> Result<Name> {
    if name == "**" {
        return Ok(Name::AnyNumber);
    }
    ensure!(!name.contains("**"), "** must be a whole name, as in /a/**/b");
    let (mut tokens, mut rest) = (Vec::new(), name.chars());
    while let Some(c) = rest.next() {
        tokens.push(match c {
            '*' => Token::Star,
            '?' => Token::AnyChar,
            '[' => {
                let (set, after) = parse_set(rest.as_str())?;
                rest = after.chars();
                set
            }
            c => Token::Char(c),
        });
    }
    Ok(Name::One(tokens))
}

/// Parses a set behind its `[`; returns also what follows its `]`. A `]` at its beginning is a
/// character of the set.
fn parse_set(text: &str) -> Result<(Token, &str)> {
    let (negated, text) = text.strip_prefix('!').map_or((false, text), |text| (true, text));
    let first = text.chars().next().map_or(0, char::len_utf8);
    let Some(end) = text[first..].find(']').map(|at| first + at) else {
        bail!("[ without ]");
    };
    let (chars, mut ranges): (Vec<_>, _) = (text[..end].chars().collect(), Vec::new());
    let mut at = 0;
    while let Some(from) = chars.get(at) {
        let to = chars.get(at + 2).filter(|_| chars[at + 1] == '-');
        ranges.push((*from, *to.unwrap_or(from)));
        at += if to.is_some() { 3 } else { 1 };
    }
    Ok((Token::Set { ranges, negated }, &text[end + 1..]))
}

/// Whether the pattern matches the whole text. A star matches any number of items. If what follows
/// a star does not match, only the last star takes one more item: the stars before it have matched
/// as early as possible. So the time is at most the product of both lengths.
fn matches<P, T>(
    pattern: &[P],
    text: &[T],
    is_star: impl Fn(&P) -> bool,
    matches_one: impl Fn(&P, &T) -> bool,
) -> bool {
    let (mut at, mut read, mut last_star) = (0, 0, None);
    while let Some(item) = text.get(read) {
        match pattern.get(at) {
            Some(star) if is_star(star) => {
                at += 1;
                last_star = Some((at, read));
            }
            Some(one) if matches_one(one, item) => (at, read) = (at + 1, read + 1),
            _ => {
                let Some((after, taken)) = &mut last_star else { return false };
                *taken += 1;
                (at, read) = (*after, *taken);
            }
        }
    }
    pattern[at..].iter().all(is_star)
}

fn match_name(name: &Name, text: &[char]) -> bool {
    let Name::One(tokens) = name else { return false };
    matches(tokens, text, |token| matches!(token, Token::Star), |token, c| token.matches(*c))
}

/// The names of a path, as characters.
fn names(path: &str) -> Vec<Vec<char>> {
    path.split('/').map(|name| name.chars().collect()).collect()
}

impl Patterns {
    /// An error if a pattern is not valid.
    pub(crate) fn new(paths: &[String]) -> Result<Self> {
        let parse = |path: &String| parse(path).with_context(|| format!("the path {path:?}"));
        Ok(Self(paths.iter().map(parse).collect::<Result<_>>()?))
    }

    /// Whether any pattern matches the path.
    pub(crate) fn match_path(&self, path: &str) -> bool {
        self.match_names(&names(path))
    }

    fn match_names(&self, path: &[Vec<char>]) -> bool {
        let any_number = |name: &Name| matches!(name, Name::AnyNumber);
        self.0
            .iter()
            .any(|pattern| matches(pattern, path, any_number, |name, text| match_name(name, text)))
    }

    /// The deepest of `path` and its ancestors that matches.
    pub(crate) fn deepest<'a>(&self, path: &'a str) -> Option<&'a str> {
        let mut at = path.trim_end_matches('/');
        let mut names = names(at);
        // `*` also matches the empty name, but the root has no metrics.
        while !at.is_empty() {
            if self.match_names(&names) {
                return Some(at);
            }
            at = at.rsplit_once('/')?.0;
            names.pop();
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use glob::MatchOptions;
    use proptest::prelude::*;

    use super::*;

    fn patterns(path: &str) -> Result<Patterns> {
        Patterns::new(&[path.to_owned()])
    }

    #[test]
    fn names_match_as_documented() {
        for (pattern, path, expected) in [
            ("/*", "/a", true),
            ("/*", "/a/b", false),
            ("/*/*.service", "/system.slice/nginx.service", true),
            ("/*/*.service", "/system.slice/nginx.service/x", false),
            ("/kubepods*/*/*/*", "/kubepods.slice/a/b/c", true),
            ("/a*b*c", "/a-b-b-c", true),
            ("/a*b*c", "/a-b-b-d", false),
            ("/user-?.slice", "/user-1.slice", true),
            ("/user-?.slice", "/user-10.slice", false),
            ("/[a-c]x", "/bx", true),
            ("/[!a-c]x", "/bx", false),
            ("/[]-]", "/-", true),
            ("/a/**/z", "/a/z", true),
            ("/a/**/z", "/a/b/c/z", true),
            ("/a/**", "/a", false),
            ("/a/**", "/a/b/c", true),
            ("/\u{e4}?", "/\u{e4}\u{f6}", true),
        ] {
            let found = patterns(pattern).expect("valid").match_path(path);
            assert_eq!(found, expected, "{pattern} {path}");
        }
        for invalid in ["/[", "/[]", "/[!]", "/a**", "/***", "/[a"] {
            assert!(patterns(invalid).is_err(), "{invalid}");
        }
    }

    #[test]
    fn a_hostile_path_costs_little() {
        let stars = "*a".repeat(60);
        let deep = "/**/a".repeat(60);
        let path = format!("/{}", "a".repeat(1000));
        let begun = Instant::now();
        assert!(!patterns(&format!("/{stars}*b")).expect("valid").match_path(&path));
        assert!(!patterns(&format!("{deep}/b")).expect("valid").match_path(&"/a".repeat(500)));
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    }

    /// The crate glob, which backtracks, as an independent matcher.
    fn reference(pattern: &str, path: &str) -> Option<bool> {
        let options = MatchOptions {
            case_sensitive: true,
            require_literal_separator: true,
            require_literal_leading_dot: false,
        };
        Some(glob::Pattern::new(pattern).ok()?.matches_with(path, options))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]
        #[test]
        fn it_matches_as_glob_does(
            pattern in "(/([ab*?.]{1,5}|\\*\\*|\\[!?[ab-]{1,3}\\][ab*]?)){1,4}",
            path in "(/[ab.]{0,4}){1,5}",
        ) {
            let found = patterns(&pattern).ok().map(|patterns| patterns.match_path(&path));
            prop_assert_eq!(found, reference(&pattern, &path), "{} {}", pattern, path);
        }
    }
}
