//! Document sections that a command writes: the text between the lines `<!-- NAME:begin -->` and
//! `<!-- NAME:end -->`. A section can be in README.md or in any Markdown file below `docs` and
//! `dashboards`, but in one file only.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};

use crate::host::exec;

/// Directories whose Markdown files are searched, besides README.md.
const DIRECTORIES: [&str; 2] = ["docs", "dashboards"];

/// Checks that exactly one document has the section. Commands call this before they spend minutes
/// on its content.
pub(crate) fn check(section: &str) -> Result<()> {
    let (path, text) = find(&exec::workspace(), section)?;
    replace(&text, section, "").with_context(|| path.display().to_string()).map(|_| ())
}

/// Replaces the content of the section.
pub(crate) fn write(section: &str, content: &str) -> Result<()> {
    let (path, text) = find(&exec::workspace(), section)?;
    let text =
        replace(&text, section, content.trim()).with_context(|| path.display().to_string())?;
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    println!("written: {}", path.display());
    Ok(())
}

/// The document that has the section, and its text.
fn find(root: &Path, section: &str) -> Result<(PathBuf, String)> {
    let begin = begin_marker(section);
    let mut matches = Vec::new();
    for path in documents(root)? {
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        if text.lines().any(|line| line == begin) {
            matches.push((path, text));
        }
    }
    match matches.len() {
        0 => bail!(
            "no document has the line {begin}: searched README.md and *.md in {}",
            DIRECTORIES.join(", ")
        ),
        1 => Ok(matches.remove(0)),
        _ => {
            let names: Vec<_> =
                matches.iter().map(|(path, _)| path.display().to_string()).collect();
            bail!("more than one document has the line {begin}: {}", names.join(", "))
        }
    }
}

/// README.md and the Markdown files of the directories, in order.
fn documents(root: &Path) -> Result<Vec<PathBuf>> {
    let mut files = vec![root.join("README.md")];
    for directory in DIRECTORIES {
        add_markdown_files(&root.join(directory), &mut files)?;
    }
    files.sort();
    Ok(files)
}

fn add_markdown_files(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let list = || format!("list {}", dir.display());
    for entry in fs::read_dir(dir).with_context(list)? {
        let entry = entry.with_context(list)?;
        let path = entry.path();
        if entry.file_type().with_context(list)?.is_dir() {
            add_markdown_files(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "md") {
            files.push(path);
        }
    }
    Ok(())
}

fn begin_marker(section: &str) -> String {
    format!("<!-- {section}:begin -->")
}

fn replace(text: &str, section: &str, content: &str) -> Result<String> {
    let (begin, end) = (begin_marker(section), format!("<!-- {section}:end -->"));
    let markers = || format!("needs the lines {begin} and {end}, each once and in this order");
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

    /// A repository of three documents, removed on drop.
    struct Documents(PathBuf);

    impl Documents {
        fn new(name: &str, readme: &str, page: &str, dashboard: &str) -> Self {
            let root = std::env::temp_dir().join(format!("xtask-{name}-{}", std::process::id()));
            for (path, text) in
                [("README.md", readme), ("docs/a/b.md", page), ("dashboards/c.md", dashboard)]
            {
                let path = root.join(path);
                fs::create_dir_all(path.parent().expect("a parent")).expect("create a directory");
                fs::write(path, text).expect("write a document");
            }
            Self(root)
        }
    }

    impl Drop for Documents {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_section_is_found_in_a_nested_document() {
        let page = format!("a\n{BEGIN}\n{END}\n");
        let documents = Documents::new("nested", "a\n", &page, "c\n");
        let (path, text) = find(&documents.0, "x").expect("one document has it");
        assert_eq!((path, text), (documents.0.join("docs/a/b.md"), page));
    }

    #[test]
    fn a_marker_inside_a_line_does_not_count() {
        let documents = Documents::new("quoted", &format!("`{BEGIN}`\n"), "b\n", "c\n");
        let error = find(&documents.0, "x").expect_err("no document has it").to_string();
        assert!(error.starts_with(&format!("no document has the line {BEGIN}")), "{error}");
    }

    #[test]
    fn a_section_in_two_documents_is_an_error() {
        let text = format!("{BEGIN}\n{END}\n");
        let documents = Documents::new("two", &text, "b\n", &text);
        let error = find(&documents.0, "x").expect_err("two documents have it").to_string();
        assert!(error.contains(BEGIN), "{error}");
        assert!(error.contains("README.md") && error.contains("dashboards/c.md"), "{error}");
    }

    #[test]
    fn only_the_text_between_the_markers_changes() {
        let text = format!("a\n{BEGIN}\nold\n{END}\nz\n");
        let new = replace(&text, "x", "| new |").expect("both markers");
        assert_eq!(new, format!("a\n{BEGIN}\n\n| new |\n\n{END}\nz\n"));
        assert_eq!(replace(&new, "x", "| new |").expect("both markers"), new);
    }

    #[test]
    fn every_section_of_a_command_is_in_one_document() {
        for section in [
            "vm",
            "scenarios",
            "replay",
            "rivals",
            "thrash",
            "thrash-guest",
            "soak",
            "bench:probes",
            "bench:processes",
            "fleet",
        ] {
            check(section).expect("both markers in one document");
        }
    }

    #[test]
    fn the_error_names_missing_or_repeated_markers() {
        for text in ["", BEGIN, &format!("{END} {BEGIN}"), &format!("{BEGIN}{BEGIN}{END}")] {
            let error = replace(text, "x", "").expect_err("not both in order").to_string();
            assert!(error.contains(BEGIN) && error.contains(END), "{error}");
        }
    }
}
