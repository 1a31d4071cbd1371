//! Links in the documentation: every relative link, anchor and picture exists, and README.md stays
//! short.
//!
//! External links are not checked: a pure test needs no network.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Component, Path, PathBuf},
};

use sensor_tests::support::repository::repository;

/// Most lines of README.md: a page that a stranger reads to the end.
const README_LINES: usize = 150;

/// Single documents; the others are all Markdown files of [`DIRECTORIES`].
const DOCUMENTS: [&str; 6] = [
    "README.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "tests/fixtures/README.md",
];
const DIRECTORIES: [&str; 2] = ["docs", "dashboards"];

/// Files below a directory, relative to `root`.
fn files(root: &Path, directory: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut directories = vec![PathBuf::from(directory)];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(root.join(&directory)).expect("a directory") {
            let entry = entry.expect("an entry");
            let path = directory.join(entry.file_name());
            let is_hidden = entry.file_name().to_string_lossy().starts_with('.');
            match entry.file_type().expect("a file type") {
                kind if kind.is_dir() && !is_hidden => directories.push(path),
                kind if kind.is_file() => found.push(path),
                _ => {}
            }
        }
    }
    found.sort();
    found
}

fn has_extension(path: &Path, extensions: &[&str]) -> bool {
    path.extension().is_some_and(|e| extensions.iter().any(|extension| e == *extension))
}

fn documents() -> Vec<PathBuf> {
    let below = DIRECTORIES.iter().flat_map(|directory| files(repository(), directory));
    let markdown = below.filter(|path| has_extension(path, &["md"]));
    DOCUMENTS.iter().map(PathBuf::from).chain(markdown).collect()
}

/// The text with code blocks and code spans blanked, so that line numbers stay.
fn without_code(text: &str) -> String {
    let mut fence: Option<&str> = None;
    // An indented block is code only after an empty line; else it continues a list.
    let mut may_be_code = true;
    let mut prose = String::new();
    for line in text.lines() {
        let trimmed = line.trim_start();
        let marker = ["```", "~~~"].into_iter().find(|marker| trimmed.starts_with(marker));
        may_be_code = trimmed.is_empty() || (may_be_code && line.starts_with("    "));
        match (fence, marker) {
            (None, Some(marker)) => fence = Some(marker),
            (Some(open), Some(marker)) if open == marker => fence = None,
            (None, None) if !may_be_code => prose.push_str(line),
            _ => {}
        }
        prose.push('\n');
    }
    without_code_spans(&prose)
}

/// A code span ends at a run of as many backticks as began it, within the same paragraph.
fn without_code_spans(prose: &str) -> String {
    let mut result = String::new();
    let mut rest = prose;
    while let Some(start) = rest.find('`') {
        let (before, code) = rest.split_at(start);
        result.push_str(before);
        let ticks = &code[..code.len() - code.trim_start_matches('`').len()];
        let content = &code[ticks.len()..];
        let end = content.find(ticks).filter(|end| !content[..*end].contains("\n\n"));
        let length = end.map_or(0, |end| end + ticks.len());
        result.extend(content[..length].chars().filter(|c| *c == '\n'));
        rest = &content[length..];
    }
    result + rest
}

/// The targets of inline links, pictures, reference definitions and `src` attributes, with their
/// lines.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut links = Vec::new();
    for (index, line) in without_code(text).lines().enumerate() {
        let inline = line.split("](").skip(1).filter_map(|rest| rest.split([')', ' ']).next());
        let sources = line.split("src=\"").skip(1).filter_map(|rest| rest.split('"').next());
        let definition = line.strip_prefix('[').and_then(|rest| rest.split_once("]: "));
        let definition = definition.and_then(|(_, rest)| rest.split(' ').next());
        let targets = inline.chain(sources).chain(definition);
        links.extend(targets.map(|target| (index + 1, target.to_owned())));
    }
    links
}

/// The anchors of the headings, as GitHub makes them.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    // Headings keep the text of their code spans, but a code block has no headings.
    let is_prose = |(prose, _): &(&str, &str)| prose.starts_with('#');
    let prose = without_code(text);
    let headings = prose.lines().zip(text.lines()).filter(is_prose).map(|(_, line)| line);
    headings
        .filter_map(|line| line.trim_start_matches('#').strip_prefix(' '))
        .map(|heading| {
            let slug = slug(heading.trim());
            let count = seen.entry(slug.clone()).or_default();
            *count += 1;
            if *count == 1 { slug } else { format!("{slug}-{}", *count - 1) }
        })
        .collect()
}

fn slug(heading: &str) -> String {
    let keep = |c: &char| c.is_alphanumeric() || [' ', '-', '_'].contains(c);
    heading.chars().filter(keep).flat_map(char::to_lowercase).collect::<String>().replace(' ', "-")
}

/// The path without `.` and `..`; `None` outside of the repository.
fn normalized(path: &Path) -> Option<PathBuf> {
    let mut result = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => result.push(name),
            Component::CurDir => {}
            Component::ParentDir if result.pop() => {}
            _ => return None,
        }
    }
    Some(result)
}

/// A link that leads into the repository, if it does.
fn target_path(document: &Path, target: &str) -> Option<PathBuf> {
    let path = target.split('#').next().unwrap_or_default();
    if path.is_empty() {
        return Some(document.to_owned());
    }
    normalized(&document.parent()?.join(path))
}

fn is_external(target: &str) -> bool {
    ["https://", "http://", "mailto:"].iter().any(|scheme| target.starts_with(scheme))
}

/// The error of one link, if it is broken.
fn broken(root: &Path, document: &Path, target: &str) -> Option<String> {
    let Some(path) = target_path(document, target) else {
        return Some("leads out of the repository".to_owned());
    };
    if !root.join(&path).exists() {
        return Some(format!("{} does not exist", path.display()));
    }
    let (_, anchor) = target.split_once('#')?;
    if !has_extension(&path, &["md"]) {
        return Some(format!("{} has no anchors", path.display()));
    }
    let text = fs::read_to_string(root.join(&path)).expect("a text");
    (!anchors(&text).contains(anchor))
        .then(|| format!("{} has no heading #{anchor}", path.display()))
}

/// Every broken link of a document.
fn broken_links(root: &Path, document: &Path) -> Vec<String> {
    let text = fs::read_to_string(root.join(document)).expect("a document");
    let relative = links(&text).into_iter().filter(|(_, target)| !is_external(target));
    relative
        .filter_map(|(line, target)| {
            let error = broken(root, document, &target)?;
            Some(format!("{}:{line}: ({target}) {error}", document.display()))
        })
        .collect()
}

#[test]
fn every_relative_link_and_anchor_exists() {
    let documents = documents();
    assert!(documents.len() > 25, "only {} documents found", documents.len());
    let errors: Vec<_> =
        documents.iter().flat_map(|document| broken_links(repository(), document)).collect();
    assert!(errors.is_empty(), "broken links:\n{}", errors.join("\n"));
}

#[test]
fn every_picture_in_docs_is_linked() {
    let mut linked = BTreeSet::new();
    for document in documents() {
        let text = fs::read_to_string(repository().join(&document)).expect("a document");
        let targets = links(&text).into_iter().filter(|(_, target)| !is_external(target));
        linked.extend(targets.filter_map(|(_, target)| target_path(&document, &target)));
    }
    let pictures = files(repository(), "docs");
    let pictures: Vec<_> =
        pictures.iter().filter(|path| has_extension(path, &["png", "svg"])).collect();
    assert!(pictures.len() >= 5, "only {pictures:?} found");
    let unused: Vec<_> = pictures.into_iter().filter(|path| !linked.contains(*path)).collect();
    assert!(unused.is_empty(), "no document shows {unused:?}");
}

#[test]
fn the_readme_is_short() {
    let readme = fs::read_to_string(repository().join("README.md")).expect("README.md");
    let lines = readme.lines().count();
    assert!(lines <= README_LINES, "README.md has {lines} lines, at most {README_LINES}");
}

/// The check itself, on documents with one mistake each.
mod check {
    use super::*;

    const TARGET: &str = "# Title\n## The `x=1` key\n## Same\n## Same\n```\n# no heading\n```\n";

    fn errors(document: &str) -> Vec<String> {
        let thread = std::thread::current();
        let test = thread.name().unwrap_or_default().replace("::", "-");
        let root =
            std::env::temp_dir().join(format!("memsensor-links-{}-{test}", std::process::id()));
        fs::create_dir_all(root.join("docs")).expect("mkdir");
        fs::write(root.join("docs/a.md"), document).expect("write");
        fs::write(root.join("target.md"), TARGET).expect("write");
        fs::write(root.join("picture.png"), "").expect("write");
        let errors = broken_links(&root, Path::new("docs/a.md"));
        fs::remove_dir_all(&root).expect("clean up");
        errors
    }

    #[test]
    fn valid_links_pass() {
        let valid = "# A\n[`code`](../target.md) [b](../target.md#the-x1-key)\n\
                     ![c](../picture.png)\n\
                     [d](#a) [e](../target.md#same-1) <img src=\"../picture.png\">\n\
                     [f](https://example.com/x#y) [g](../docs)\n[h]: ../target.md\n";
        assert_eq!(errors(valid), [""; 0]);
    }

    #[test]
    fn links_in_code_are_ignored() {
        let code = "`[a](gone.md)` `two\nlines [b](gone.md)`\n\
                    ```\n[c](gone.md)\n```\n\n    [d](gone.md)\n    [e](gone.md)\n";
        assert_eq!(errors(code), [""; 0]);
        assert_eq!(errors("`a` [b](gone.md) `c`").len(), 1, "between code spans");
        assert_eq!(errors("- a\n    - [b](gone.md)").len(), 1, "in a nested list");
    }

    #[test]
    fn broken_links_are_reported() {
        for (document, error) in [
            ("[a](gone.md)", "docs/a.md:1: (gone.md) docs/gone.md does not exist"),
            ("\n![a](gone.png)", "docs/a.md:2: (gone.png) docs/gone.png does not exist"),
            ("<img src=\"gone.png\">", "docs/a.md:1: (gone.png) docs/gone.png does not exist"),
            ("[a]: gone.md", "docs/a.md:1: (gone.md) docs/gone.md does not exist"),
            ("[a](#gone)", "docs/a.md:1: (#gone) docs/a.md has no heading #gone"),
            (
                "[a](../target.md#same-2)",
                "docs/a.md:1: (../target.md#same-2) target.md has no heading #same-2",
            ),
            (
                "[a](../target.md#no-heading)",
                "docs/a.md:1: (../target.md#no-heading) target.md has no heading #no-heading",
            ),
            ("[a](../picture.png#x)", "docs/a.md:1: (../picture.png#x) picture.png has no anchors"),
            ("[a](../../x.md)", "docs/a.md:1: (../../x.md) leads out of the repository"),
            ("[a](/etc/passwd)", "docs/a.md:1: (/etc/passwd) leads out of the repository"),
        ] {
            assert_eq!(errors(document), [error], "{document}");
        }
    }
}
