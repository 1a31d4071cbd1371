//! Sections of README.md that a command writes: what stands between `<!-- NAME:begin -->` and
//! `<!-- NAME:end -->`.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, ensure};

use crate::exec;

const README: &str = "README.md";

/// Whether the section is there, before time is spent on what goes into it.
pub(crate) fn check(section: &str) -> Result<()> {
    replace(&read()?, section, "").map(|_| ())
}

/// Replaces what the section holds.
pub(crate) fn write(section: &str, content: &str) -> Result<()> {
    let text = replace(&read()?, section, content.trim())?;
    fs::write(path(), text).with_context(|| format!("write {}", path().display()))?;
    println!("written: {}", path().display());
    Ok(())
}

fn path() -> PathBuf {
    exec::workspace().join(README)
}

fn read() -> Result<String> {
    fs::read_to_string(path()).with_context(|| format!("read {}", path().display()))
}

fn replace(text: &str, section: &str, content: &str) -> Result<String> {
    let (begin, end) = (format!("<!-- {section}:begin -->"), format!("<!-- {section}:end -->"));
    let markers = || format!("{README} needs the lines {begin} and {end}, once and in this order");
    ensure!(text.matches(&begin).count() == 1 && text.matches(&end).count() == 1, markers());
    let (before, rest) = text.split_once(&begin).with_context(markers)?;
    let (_, after) = rest.split_once(&end).with_context(markers)?;
    Ok(format!("{before}{begin}\n\n{content}\n\n{end}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEGIN: &str = "<!-- x:begin -->";
    const END: &str = "<!-- x:end -->";

    #[test]
    fn only_what_is_between_the_markers_changes() {
        let text = format!("a\n{BEGIN}\nold\n{END}\nz\n");
        let new = replace(&text, "x", "| new |").expect("markers are there");
        assert_eq!(new, format!("a\n{BEGIN}\n\n| new |\n\n{END}\nz\n"));
        assert_eq!(replace(&new, "x", "| new |").expect("still there"), new);
    }

    #[test]
    fn missing_markers_are_named() {
        for text in ["", BEGIN, &format!("{END} {BEGIN}"), &format!("{BEGIN}{BEGIN}{END}")] {
            let why = replace(text, "x", "").expect_err("not both in order").to_string();
            assert!(why.contains(BEGIN) && why.contains(END), "{why}");
        }
    }
}
