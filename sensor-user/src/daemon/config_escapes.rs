//! Refuses strings of the configuration that contain the escape `\x` in double quotes.
//!
//! systemd writes a dash in a name as `\x2d`, for example `system-php\x2dfpm.slice`. TOML 1.1 decodes
//! it in a string in double quotes, and then no cgroup has that path.

use anyhow::{Result, ensure};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// An error if a string in double quotes contains `\x`.
pub(super) fn check(text: &str) -> Result<()> {
    // Errors of the syntax are reported by the parser of the configuration.
    let Ok(table) = DeTable::parse(text) else { return Ok(()) };
    table.get_ref().values().try_for_each(|value| check_value(text, value))
}

fn check_value(text: &str, value: &Spanned<DeValue<'_>>) -> Result<()> {
    match value.get_ref() {
        DeValue::String(decoded) => {
            let written = text.get(value.span()).unwrap_or_default();
            ensure!(
                !(written.starts_with('"') && has_hex_escape(written)),
                "{written}: in double quotes \\x is an escape, and the value is {decoded:?}. Write \
                 single quotes"
            );
            Ok(())
        }
        DeValue::Array(items) => items.iter().try_for_each(|item| check_value(text, item)),
        DeValue::Table(table) => table.values().try_for_each(|item| check_value(text, item)),
        _ => Ok(()),
    }
}

/// Whether the text contains `\x`, where `\\` is an escaped backslash.
fn has_hex_escape(written: &str) -> bool {
    let mut rest = written;
    while let Some((_, after)) = rest.split_once('\\') {
        if after.starts_with('x') {
            return true;
        }
        rest = after.get(1..).unwrap_or_default();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_escaped_dash_in_double_quotes_is_refused() {
        for text in [
            "[[scope]]\ncgroup = \"/system-php\\x2dfpm.slice\"",
            "[cgroups]\npaths = ['/a', \"/system-php\\x2dfpm.slice/*\"]",
            "scope = [{ cgroup = \"/a\\\\\\x2d\" }]",
            "socket = \"\"\"/a\\x2d\"\"\"",
        ] {
            let error = check(text).expect_err(text).to_string();
            assert!(error.contains("Write single quotes"), "{text:?}: {error}");
        }
    }

    #[test]
    fn other_quotes_and_escapes_are_accepted() {
        for text in [
            "[[scope]]\ncgroup = '/system-php\\x2dfpm.slice'",
            "[[scope]]\ncgroup = \"/system-php\\\\x2dfpm.slice\"",
            "socket = \"/caf\\u00e9\"",
            "# \"\\x2d\"\nlisten = [",
        ] {
            check(text).expect(text);
        }
    }
}
