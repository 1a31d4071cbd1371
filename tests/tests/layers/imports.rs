//! What each file of a crate imports: every path that names a module (`use` trees, paths in code,
//! `super::`, names brought into scope by `use`), resolved to the file that defines the module.
//!
//! Macros are not expanded. A path that begins with a variable of a macro (`$name::PROBE`) counts
//! as an import of all modules below the file's own.

use std::collections::{BTreeMap, BTreeSet};

use crate::tokens::{is_word, tokens};

/// Source texts by path, relative to the crate's `src`.
pub(crate) type Files = BTreeMap<String, String>;

/// The path of a module from the crate's root.
type Module = Vec<String>;

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Import {
    pub(crate) from: String,
    pub(crate) to: String,
    /// As it is written in the code.
    pub(crate) path: String,
}

/// A path as it is written, in the (inline) module where it stands.
struct Written<'a> {
    module: Module,
    names: Vec<&'a str>,
    /// The name that a `use` brings into scope.
    in_scope: Option<&'a str>,
}

/// The imports of all files of the crate `name`, but for those of a file from itself.
pub(crate) fn imports(name: &str, files: &Files) -> BTreeSet<Import> {
    let modules = Modules::of(name, files);
    let files = files.iter().map(|(file, text)| (file.as_str(), tokens(text)));
    files.flat_map(|(file, tokens)| modules.imports_of(file, &tokens)).collect()
}

struct Modules<'a> {
    name: &'a str,
    files: BTreeMap<Module, &'a str>,
}

impl<'a> Modules<'a> {
    fn of(name: &'a str, files: &'a Files) -> Self {
        let mut modules = BTreeMap::new();
        for (file, text) in files {
            for (other, module) in path_attributes(file, &tokens(text)) {
                if let Some((other, _)) = files.get_key_value(&other) {
                    modules.insert(module, other.as_str());
                }
            }
        }
        for file in files.keys() {
            if !modules.values().any(|other| other == file) {
                modules.entry(module_of(file)).or_insert(file);
            }
        }
        Modules { name, files: modules }
    }

    fn imports_of(&self, file: &str, tokens: &[&str]) -> BTreeSet<Import> {
        let found = self.files.iter().find(|(_, other)| **other == file);
        let own = found.map_or_else(|| module_of(file), |(module, _)| module.clone());
        let paths = written_paths(tokens, &own);
        let in_scope = self.in_scope(&paths, &own);
        let mut imports = BTreeSet::new();
        for path in &paths {
            for target in self.targets(path, &own, &in_scope) {
                let to = (0..=target.len()).rev().find_map(|len| self.files.get(&target[..len]));
                if let Some(to) = to.filter(|to| **to != file) {
                    let path = path.names.join("::").replace("$::", "$");
                    imports.insert(Import { from: file.into(), to: (*to).into(), path });
                }
            }
        }
        imports
    }

    /// What the names stand for that `use` brings into scope. A glob brings modules.
    fn in_scope(&self, paths: &[Written<'_>], own: &Module) -> BTreeMap<String, Module> {
        let mut in_scope = BTreeMap::new();
        for path in paths {
            let Some(name) = path.in_scope else { continue };
            let Some(target) = self.absolute(path, own) else { continue };
            if name == "*" {
                for module in self.below(&target).filter(|m| m.len() == target.len() + 1) {
                    in_scope.entry(module[target.len()].clone()).or_insert(module.clone());
                }
            } else {
                in_scope.insert(name.to_owned(), target);
            }
        }
        in_scope
    }

    fn targets(
        &self,
        path: &Written<'_>,
        own: &Module,
        in_scope: &BTreeMap<String, Module>,
    ) -> Vec<Module> {
        if path.names[0] == "$" {
            return self.below(own).cloned().collect();
        }
        if let Some(module) = in_scope.get(path.names[0]) {
            let names = path.names[1..].iter().map(ToString::to_string);
            return vec![module.iter().cloned().chain(names).collect()];
        }
        self.absolute(path, own).into_iter().collect()
    }

    /// A path from the crate's root. None for a path into another crate, or one that begins with an
    /// item.
    fn absolute(&self, path: &Written<'_>, own: &Module) -> Option<Module> {
        let mut names = path.names.iter().copied();
        let mut target = match names.next()? {
            // Each program in `bin` is a crate of its own.
            "crate" if own.first().is_some_and(|first| first == "bin") => own[..2].to_vec(),
            "crate" => Module::new(),
            name if name == self.name => Module::new(),
            "self" => path.module.clone(),
            "super" => path.module[..path.module.len().checked_sub(1)?].to_vec(),
            child => {
                let child = own.iter().cloned().chain([child.to_owned()]).collect();
                self.files.contains_key(&child).then_some(child)?
            }
        };
        for name in names {
            match name {
                "super" => drop(target.pop()),
                "self" | "*" => {}
                name => target.push(name.to_owned()),
            }
        }
        Some(target)
    }

    fn below(&self, above: &Module) -> impl Iterator<Item = &Module> {
        self.files.keys().filter(move |module| *module != above && module.starts_with(above))
    }
}

fn module_of(file: &str) -> Module {
    let mut module: Module =
        file.trim_end_matches(".rs").split('/').map(ToOwned::to_owned).collect();
    module.pop_if(|last| ["lib", "main", "mod"].contains(&last.as_str()));
    module
}

/// Files that a `#[path = "..."] mod name;` declares, with their modules.
fn path_attributes(file: &str, tokens: &[&str]) -> Vec<(String, Module)> {
    let directory = file.rsplit_once('/').map_or(String::new(), |(dir, _)| format!("{dir}/"));
    let attributes = tokens.windows(4).enumerate();
    let attributes = attributes.filter(|(_, window)| window[..3] == ["[", "path", "="]);
    let declared = attributes.filter_map(|(at, window)| {
        let name = tokens[at..].iter().skip_while(|token| **token != "mod").nth(1)?;
        let module = module_of(file).into_iter().chain([(*name).to_owned()]).collect();
        Some((format!("{directory}{}", window[3].trim_matches('"')), module))
    });
    declared.collect()
}

/// Every path in a file's code. `own`: the module that is the file.
fn written_paths<'a>(tokens: &[&'a str], own: &Module) -> Vec<Written<'a>> {
    let mut paths = Vec::new();
    let mut module = own.clone();
    // At which depth of braces each inline module around the current place began.
    let (mut depth, mut inline) = (0, Vec::new());
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        let next = tokens.get(at + 1).copied().unwrap_or_default();
        match *token {
            "{" => depth += 1,
            "}" => {
                depth -= 1;
                if inline.pop_if(|start| *start == depth).is_some() {
                    module.pop();
                }
            }
            "mod" if tokens.get(at + 2) == Some(&"{") => {
                module.push(next.to_owned());
                inline.push(depth);
            }
            // Not the `use<'a>` of an opaque type.
            "use" if next != "<" => {
                let mut leaves = Vec::new();
                at = use_tree(tokens, at + 1, &[], &mut leaves);
                paths.extend(leaves.into_iter().map(|names| in_use(module.clone(), names)));
            }
            _ if next == "::" && begins_path(tokens, at) => {
                let mut names = vec![tokens[at]];
                if at > 0 && tokens[at - 1] == "$" && names != ["crate"] {
                    names.insert(0, "$");
                }
                while tokens[at + 1] == "::" && is_word(tokens[at + 2]) {
                    names.push(tokens[at + 2]);
                    at += 2;
                }
                paths.push(Written { module: module.clone(), names, in_scope: None });
            }
            _ => {}
        }
        at += 1;
    }
    paths
}

/// Not the middle of a path, and not the module of a visibility, `pub(in crate::x)`.
fn begins_path(tokens: &[&str], at: usize) -> bool {
    let before = &tokens[..at];
    is_word(tokens[at]) && !before.ends_with(&["::"]) && !before.ends_with(&["(", "in"])
}

/// Reads a tree of a `use` up to the token after it, and adds its paths to `leaves`.
fn use_tree<'a>(
    tokens: &[&'a str],
    mut at: usize,
    prefix: &[&'a str],
    leaves: &mut Vec<Vec<&'a str>>,
) -> usize {
    let mut path = prefix.to_vec();
    loop {
        match tokens[at] {
            "{" => {
                at += 1;
                while tokens[at] != "}" {
                    at = use_tree(tokens, at, &path, leaves);
                    at += usize::from(tokens[at] == ",");
                }
                return at + 1;
            }
            "," | "}" | ";" => {
                leaves.push(path);
                return at;
            }
            "::" | "$" => {}
            name => path.push(name),
        }
        at += 1;
    }
}

/// A path of a `use`, which may end with `as name`, `self` or `*`.
fn in_use(module: Module, mut names: Vec<&str>) -> Written<'_> {
    let mut in_scope = names.last().copied();
    if let [.., "as", _] = names[..] {
        names.truncate(names.len() - 2);
    } else {
        names.pop_if(|last| *last == "self");
        in_scope = names.last().copied();
    }
    Written { module, names, in_scope }
}
