//! Sections of our documents that a command writes: what stands between `<!-- NAME:begin -->` and
//! `<!-- NAME:end -->`, in whichever document has them.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::exec;

/// Where there are such sections.
const DOCUMENTS: [&str; 3] = ["README.md", "docs/measured.md", "dashboards/scale/README.md"];

/// Whether the section is there, before time is spent on what goes into it.
pub(crate) fn check(section: &str) -> Result<()> {
    let (path, text) = find(section)?;
    replace(&text, section, "").with_context(|| path.display().to_string()).map(|_| ())
}

/// Replaces what the section holds.
pub(crate) fn write(section: &str, content: &str) -> Result<()> {
    let (path, text) = find(section)?;
    let text = replace(&text, section, content.trim())?;
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    println!("written: {}", path.display());
    Ok(())
}

/// The document that has the section, and its text.
fn find(section: &str) -> Result<(PathBuf, String)> {
    for name in DOCUMENTS {
        let path = exec::workspace().join(name);
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        if text.contains(&begin(section)) {
            return Ok((path, text));
        }
    }
    bail!("none of {} has the line {}", DOCUMENTS.join(", "), begin(section))
}

fn begin(section: &str) -> String {
    format!("<!-- {section}:begin -->")
}

fn replace(text: &str, section: &str, content: &str) -> Result<String> {
    let (begin, end) = (begin(section), format!("<!-- {section}:end -->"));
    let markers = || format!("needs the lines {begin} and {end}, once and in this order");
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
    fn every_section_that_a_command_writes_is_in_a_document() {
        for section in [
            "vm",
            "scenarios",
            "replay",
            "thrash",
            "thrash-guest",
            "soak",
            "bench:probes",
            "bench:processes",
            "fleet",
        ] {
            check(section).expect("it is there, whole");
        }
        let why = check("nowhere").expect_err("no document has it").to_string();
        assert!(why.contains("<!-- nowhere:begin -->"), "{why}");
    }

    #[test]
    fn missing_markers_are_named() {
        for text in ["", BEGIN, &format!("{END} {BEGIN}"), &format!("{BEGIN}{BEGIN}{END}")] {
            let why = replace(text, "x", "").expect_err("not both in order").to_string();
            assert!(why.contains(BEGIN) && why.contains(END), "{why}");
        }
    }
}
