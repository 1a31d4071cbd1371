//! The layers of the code: every folder imports only folders below it, and no files or folders
//! import each other in a circle. `layers/imports.rs` finds the imports; `layers/self_tests.rs`
//! shows each rule failing.
//!
//! Not here: which crate depends on which. Cargo allows no circle between crates.

#![allow(clippy::panic, reason = "tests fail by panicking")]

#[path = "layers/imports.rs"]
mod imports;
#[path = "layers/self_tests.rs"]
mod self_tests;
#[path = "layers/tokens.rs"]
mod tokens;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use imports::{Files, Import, imports};
use tokens::tokens;

/// The rules of one crate. Places are paths below `src`: a folder, a file without its extension, or
/// `.` for the files directly in `src`. The crate's root (`lib.rs`, `main.rs`) is above all layers.
struct Crate {
    src: &'static str,
    name: &'static str,
    /// Top to bottom. A place imports only itself and what is in lower layers.
    layers: &'static [&'static [&'static str]],
    /// Places that may import only some of what is below them.
    only: &'static [(&'static str, &'static [&'static str])],
    /// Crates that only one place may name; no place, if it is empty.
    confined: &'static [(&'static str, &'static str)],
}

const CRATES: [Crate; 5] = [
    Crate {
        src: "sensor-user/src",
        name: "sensor_user",
        layers: &[
            &["fuzzing"],
            &["cli"],
            &["daemon"],
            &["postmortem"],
            &["history"],
            &["recorder"],
            &["oom", "serve"],
            &["collect"],
            &["usage"],
            &["cgroups"],
            &["kernel"],
            &["host"],
            &["publish"],
        ],
        // Servers read what collectors publish, and never a collector.
        only: &[("serve", &["publish"])],
        confined: &[("aya", "kernel"), ("aya_log", "kernel")],
    },
    Crate {
        src: "sensor-user/core/src",
        name: "sensor_core",
        layers: &[&["record"], &["model"], &["verdict", "btf"], &["common"]],
        only: &[("model", &["verdict", "common"])],
        confined: &[("aya", ""), ("aya_log", ""), ("tokio", ""), ("axum", "")],
    },
    Crate {
        src: "sensor-ebpf/src",
        name: "sensor_ebpf",
        layers: &[&["probes"], &["bpf"], &["."]],
        only: &[],
        confined: &[],
    },
    Crate {
        src: "xtask/src",
        name: "xtask",
        layers: &[&["tasks"], &["vm"], &["reports"], &["host"]],
        only: &[],
        confined: &[],
    },
    Crate {
        src: "tests/src",
        name: "sensor_tests",
        layers: &[
            &["lab/mod"],
            // The measurements do not import each other.
            &[
                "lab/bench",
                "lab/dashboards",
                "lab/fleet",
                "lab/flood",
                "lab/replay",
                "lab/scenarios",
                "lab/soak",
                "lab/syscalls",
                "lab/thrash",
            ],
            &["support"],
        ],
        only: &[],
        confined: &[],
    },
];

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the repository")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The source files of a crate.
fn sources(src: &str) -> Files {
    let src = repository().join(src);
    let mut files = Files::new();
    let mut folders = vec![src.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of sources") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let file = path.strip_prefix(&src).expect("a path below src");
                files.insert(file.display().to_string(), read(&path));
            }
        }
    }
    assert!(!files.is_empty(), "{} has no source files", src.display());
    files
}

/// The root of a crate. Programs in `bin` are crates of their own.
fn is_root(file: &str) -> bool {
    ["lib.rs", "main.rs"].contains(&file) || file.starts_with("bin/")
}

/// The folder of a file; `.` for `src` itself.
fn folder(file: &str) -> &str {
    file.rsplit_once('/').map_or(".", |(folder, _)| folder)
}

fn is_in(file: &str, place: &str) -> bool {
    let below = file.strip_prefix(place).is_some_and(|rest| rest.starts_with(['/', '.']));
    if place == "." { folder(file) == "." && !is_root(file) } else { below }
}

impl Crate {
    /// The layer of a file, counted from the top, and its place there.
    fn layer(&self, file: &str) -> Option<(usize, &str)> {
        let layers = self.layers.iter().enumerate();
        let mut places = layers.flat_map(|(at, layer)| layer.iter().map(move |place| (at, *place)));
        places.find(|(_, place)| is_in(file, place))
    }

    fn allows(&self, import: &Import) -> bool {
        if is_root(&import.from) {
            return true;
        }
        let (from, to) = (self.layer(&import.from), self.layer(&import.to));
        let (Some((from, place)), Some((to, target))) = (from, to) else { return false };
        let only = self.only.iter().find(|(restricted, _)| *restricted == place);
        let is_excluded = only
            .is_some_and(|(_, allowed)| !allowed.iter().any(|allowed| is_in(&import.to, allowed)));
        place == target || (from < to && !is_excluded)
    }

    /// Everything in these files that is against the rules, one line each.
    fn violations(&self, files: &Files) -> Vec<String> {
        let imports = imports(self.name, files);
        let upward = imports.iter().filter(|import| !self.allows(import));
        let mut violations: Vec<_> = upward
            .map(|Import { from, to, path }| format!("{from} may not import {to}: {path}"))
            .collect();
        violations.extend(circles(&imports, |file| file));
        let of_folders = imports.iter().filter(|import| !is_root(&import.from)).cloned().collect();
        violations.extend(circles(&of_folders, folder));
        for (file, text) in files {
            if !is_root(file) && self.layer(file).is_none() {
                violations.push(format!("{file} is in no layer"));
            }
            if !text.starts_with("//!") {
                violations.push(format!("{file} does not open with a //! comment"));
            }
            let tokens: BTreeSet<_> = tokens(text).into_iter().collect();
            for (word, place) in self.confined {
                if tokens.contains(word) && (place.is_empty() || !is_in(file, place)) {
                    violations.push(format!("{file} may not use {word}"));
                }
            }
        }
        violations
    }
}

/// Circles between places, where `place` gives the place of a file: itself, or its folder. The last
/// import of each circle is then removed, until no circle is left.
fn circles(imports: &BTreeSet<Import>, place: fn(&str) -> &str) -> Vec<String> {
    let arrows = imports.iter().map(|import| ((place(&import.from), place(&import.to)), import));
    let mut arrows: BTreeMap<_, _> = arrows.filter(|((from, to), _)| from != to).collect();
    let mut circles = Vec::new();
    loop {
        // A place that imports nothing that is left is in no circle.
        let mut count = 0;
        while count != arrows.len() {
            count = arrows.len();
            let importing: BTreeSet<_> = arrows.keys().map(|(from, _)| *from).collect();
            arrows.retain(|(_, to), _| importing.contains(to));
        }
        let next: BTreeMap<_, _> = arrows.keys().copied().collect();
        let Some((first, _)) = next.first_key_value() else { return circles };
        // Each place that is left imports another such place, so a walk returns to one.
        let mut walk = vec![*first];
        let start = loop {
            let to = next[walk[walk.len() - 1]];
            let visited = walk.iter().position(|place| *place == to);
            walk.push(to);
            if let Some(visited) = visited {
                break visited;
            }
        };
        let circle = &walk[start..];
        let uses = circle.windows(2).map(|arrow| arrows[&(arrow[0], arrow[1])]);
        let uses: Vec<_> = uses.map(|i| format!("{} uses {}", i.from, i.path)).collect();
        circles.push(format!("circle {}: {}", circle.join(" -> "), uses.join(", ")));
        arrows.remove(&(circle[circle.len() - 2], circle[0]));
    }
}

/// How the code block below `## The tree` differs from the code. A line of it is a folder, two
/// spaces or more, and a description; `imports` are those between folders, which go down in it.
fn tree_differences(
    document: &str,
    folders: &BTreeSet<String>,
    imports: &BTreeSet<(String, String)>,
) -> Vec<String> {
    let section = document.split("\n## The tree\n").nth(1).unwrap_or_default();
    let section = section.split("\n## ").next().unwrap_or_default();
    let block = section.split("```").nth(1).unwrap_or_default();
    let mut differences = Vec::new();
    let mut listed = BTreeMap::new();
    // The first line is the language of the block.
    for (line, text) in block.lines().enumerate().skip(1).filter(|(_, text)| !text.is_empty()) {
        let (folder, description) = text.split_once("  ").unwrap_or((text, ""));
        if description.trim().is_empty() {
            differences.push(format!("{folder} has no description after two spaces"));
        }
        if !folders.contains(folder) {
            differences.push(format!("{folder} has no source files"));
        }
        if listed.insert(folder, line).is_some() {
            differences.push(format!("{folder} is listed twice"));
        }
    }
    let missing = folders.iter().filter(|folder| !listed.contains_key(folder.as_str()));
    differences.extend(missing.map(|folder| format!("{folder} is missing")));
    let line = |folder: &String| listed.get(folder.as_str());
    let is_upward = |from, to| line(to).is_some_and(|to| line(from) > Some(to));
    let upward = imports.iter().filter(|(from, to)| is_upward(from, to));
    differences.extend(upward.map(|(from, to)| format!("{from} imports {to}, listed above it")));
    differences
}

#[test]
fn every_crate_keeps_its_layers() {
    let mut all = Vec::new();
    for rules in CRATES {
        let violations = rules.violations(&sources(rules.src));
        all.extend(violations.into_iter().map(|violation| format!("{}: {violation}", rules.src)));
    }
    assert!(all.is_empty(), "\n{}", all.join("\n"));
}

#[test]
fn the_pure_crate_depends_on_no_runtime() {
    let rules =
        CRATES.iter().filter(|rules| rules.confined.iter().any(|(_, place)| place.is_empty()));
    for rules in rules {
        let manifest = repository().join(rules.src).with_file_name("Cargo.toml");
        let manifest = read(&manifest).replace('-', "_");
        let dependencies = manifest.lines().map(|line| line.split(['.', ' ', '=']).next());
        let dependencies: BTreeSet<_> = dependencies.flatten().collect();
        assert!(dependencies.contains("anyhow"), "{}: not a manifest as expected", rules.src);
        for (name, _) in rules.confined {
            assert!(!dependencies.contains(name), "{} depends on {name}", rules.src);
        }
    }
}

#[test]
fn the_tree_in_architecture_is_that_of_the_code() {
    let (mut folders, mut between) = (BTreeSet::new(), BTreeSet::new());
    for Crate { src, name, .. } in CRATES {
        let files = sources(src);
        let path = |file: &str| folder(&format!("{src}/{file}")).to_owned();
        folders.extend(files.keys().map(|file| path(file)));
        let imports = imports(name, &files).into_iter().filter(|import| !is_root(&import.from));
        between.extend(imports.map(|import| (path(&import.from), path(&import.to))));
    }
    let document = read(&repository().join("ARCHITECTURE.md"));
    let differences = tree_differences(&document, &folders, &between);
    assert!(differences.is_empty(), "ARCHITECTURE.md, The tree:\n{}", differences.join("\n"));
}
