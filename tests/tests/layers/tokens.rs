//! Rust source text as tokens: words, `::`, single characters of punctuation, and string literals.
//! Comments, character literals and the quotes of lifetimes are dropped.

/// A string literal is one token, and no word (see [`is_word`]).
pub(crate) fn tokens(text: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let (len, kept) = match first {
            '/' if rest.starts_with("//") => (rest.find('\n').unwrap_or(rest.len()), false),
            '/' if rest.starts_with("/*") => (block_comment(rest), false),
            '"' => (string(rest), true),
            '\'' => (character_or_lifetime(rest), false),
            ':' if rest.starts_with("::") => (2, true),
            _ if is_word(rest) => match raw_string(rest) {
                Some(len) => (len, true),
                None => (rest.find(|c| !is_of_word(c)).unwrap_or(rest.len()), true),
            },
            _ => (first.len_utf8(), !first.is_whitespace()),
        };
        let (token, after) = rest.split_at(len);
        if kept {
            tokens.push(token);
        }
        rest = after;
    }
    tokens
}

/// Whether a token is a word and not a literal.
pub(crate) fn is_word(token: &str) -> bool {
    token.starts_with(is_of_word) && !token.ends_with(['"', '#'])
}

fn is_of_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The length of a comment that may contain others.
fn block_comment(text: &str) -> usize {
    let (mut at, mut depth) = (0, 0);
    loop {
        let rest = &text[at..];
        let Some(next) = rest.find("/*").into_iter().chain(rest.find("*/")).min() else {
            return text.len();
        };
        if rest[next..].starts_with("/*") {
            depth += 1;
        } else {
            depth -= 1;
        }
        at += next + 2;
        if depth == 0 {
            return at;
        }
    }
}

/// The length of a literal that ends at a quote like its first character, escapes skipped.
fn string(text: &str) -> usize {
    let quote = text.chars().next();
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        if Some(c) == quote {
            return at + 1;
        }
        if c == '\\' {
            chars.next();
        }
    }
    text.len()
}

/// The length of a raw string literal, if the text begins with one.
fn raw_string(text: &str) -> Option<usize> {
    let prefix = ["r", "br", "cr"].into_iter().find(|prefix| {
        text.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(['"', '#']))
    })?;
    let hashes = text[prefix.len()..].bytes().take_while(|byte| *byte == b'#').count();
    let open = prefix.len() + hashes + 1;
    // Without a quote it is a raw identifier, `r#type`.
    if text[..open.min(text.len())].ends_with('"') {
        let close = format!("\"{}", "#".repeat(hashes));
        return text[open..].find(&close).map(|at| open + at + close.len());
    }
    None
}

/// The length of a character literal, or of the quote of a lifetime.
fn character_or_lifetime(text: &str) -> usize {
    let mut chars = text.chars().skip(1);
    let is_character = chars.next() == Some('\\') || chars.next() == Some('\'');
    if is_character { string(text) } else { 1 }
}
