//! Each rule, shown to fail: small made-up trees under the rules of `sensor-user`.

use crate::{CRATES, tree_differences};

/// Checks that exactly these violations are found; each file gets a doc comment.
#[track_caller]
fn assert_violations(files: &[(&str, &str)], expected: &[&str]) {
    let files = files.iter();
    let files = files.map(|(file, code)| ((*file).to_owned(), format!("//! Doc.\n{code}")));
    assert_eq!(CRATES[0].violations(&files.collect()), expected);
}

/// Code in `host/memory.rs` that names `daemon::config`, above it, by a path as written here.
#[track_caller]
fn assert_upward(code: &str, path: &str) {
    let violation = format!("host/memory.rs may not import daemon/config.rs: {path}");
    assert_violations(&[("daemon/config.rs", ""), ("host/memory.rs", code)], &[&violation]);
}

#[test]
fn an_upward_use_is_found() {
    assert_upward("use crate::daemon::config::Config;", "crate::daemon::config::Config");
    assert_upward("pub use crate::{daemon::{config::{A}}};", "crate::daemon::config::A");
    assert_upward("use crate::daemon::config::{self as c};", "crate::daemon::config::self");
    assert_upward(
        "fn f() { use sensor_user::daemon::config::*; }",
        "sensor_user::daemon::config::*",
    );
}

#[test]
fn an_upward_path_in_code_is_found() {
    assert_upward("fn f() -> u32 { crate::daemon::config::X }", "crate::daemon::config::X");
    assert_upward("fn f<'a>(c: &'a crate::daemon::config::C) {}", "crate::daemon::config::C");
    assert_upward(
        "fn f() { g('\"', crate::daemon::config::X, '\\'') }",
        "crate::daemon::config::X",
    );
    assert_upward(
        "macro_rules! m { () => { $crate::daemon::config::X } }",
        "crate::daemon::config::X",
    );
}

#[test]
fn an_upward_super_path_is_found() {
    assert_upward("use super::super::daemon::config::C;", "super::super::daemon::config::C");
    let path = "super::super::super::daemon::config::C";
    assert_upward(&format!("mod tests {{ fn f() {{}} use {path}; }}"), path);
    assert_upward(
        "mod a {} use self::super::super::daemon::config::C;",
        "self::super::super::daemon::config::C",
    );
}

#[test]
fn a_path_over_an_imported_name_is_found() {
    let files = [("publish/mod.rs", ""), ("publish/usage.rs", "fn f() { a::lag::X; }")];
    let with = |code| {
        [files[0], files[1], ("host/lag.rs", ""), ("host/mod.rs", ""), ("publish/usage.rs", code)]
    };
    let up = "publish/usage.rs may not import host/lag.rs: ";
    assert_violations(
        &with("use crate::host as a; fn f() { a::lag::X; }"),
        &[&format!("{up}a::lag::X"), "publish/usage.rs may not import host/mod.rs: crate::host"],
    );
    assert_violations(
        &with("use crate::host::*; fn f() { lag::X; }"),
        &[&format!("{up}lag::X"), "publish/usage.rs may not import host/mod.rs: crate::host::*"],
    );
}

#[test]
fn comments_strings_and_visibilities_are_no_imports() {
    let code = r##"
        // use crate::daemon::config::C;
        /* use crate::daemon::config::C; /* nested */ crate::daemon::config::X */
        /// [`crate::daemon::config`]
        fn f() { g("\" crate::daemon::config::X", r#"" use crate::daemon::config::X;"#) }
        pub(in crate::host) fn h() {}
        use super::memory::own;
        mod tests { use super::*; }
    "##;
    assert_violations(&[("daemon/config.rs", ""), ("host/memory.rs", code)], &[]);
}

#[test]
fn a_downward_import_is_allowed() {
    let code = "use crate::{host::memory::M, cgroups}; use super::threads;";
    let below = [("host/memory.rs", ""), ("cgroups/mod.rs", ""), ("daemon/threads.rs", "")];
    assert_violations(&[&below[..], &[("daemon/run.rs", code)]].concat(), &[]);
}

#[test]
fn wings_do_not_import_each_other_or_collectors() {
    let serve = ("serve/http.rs", "use crate::{host::memory, oom::decode, publish::sample};");
    let others = [("oom/decode.rs", ""), ("publish/sample.rs", ""), ("host/memory.rs", "")];
    assert_violations(
        &[&others[..], &[serve]].concat(),
        &[
            "serve/http.rs may not import host/memory.rs: crate::host::memory",
            "serve/http.rs may not import oom/decode.rs: crate::oom::decode",
        ],
    );
}

#[test]
fn a_circle_of_files_is_found() {
    let a = ("usage/a.rs", "use super::b::B;");
    let b = ("usage/b.rs", "fn f() { super::c::C }");
    let c = ("usage/c.rs", "mod tests { use crate::usage::{a::A}; }");
    let circle = "circle usage/a.rs -> usage/b.rs -> usage/c.rs -> usage/a.rs: usage/a.rs uses \
                  super::b::B, usage/b.rs uses super::c::C, usage/c.rs uses crate::usage::a::A";
    assert_violations(&[a, b, c], &[circle]);
    assert_violations(&[a, b, ("usage/c.rs", "")], &[]);
    let mods = ("usage/mod.rs", "macro_rules! m { ($name:ident) => { $name::X } }");
    let circle = "circle usage/a.rs -> usage/mod.rs -> usage/a.rs: usage/a.rs uses super::X, \
                  usage/mod.rs uses $name::X";
    assert_violations(&[("usage/a.rs", "use super::X;"), mods], &[circle]);
}

#[test]
fn a_circle_of_folders_is_found() {
    let files = [
        ("host/cgroup/a.rs", "use crate::host::c;"),
        ("host/b.rs", "use super::cgroup::d;"),
        ("host/c.rs", ""),
        ("host/cgroup/d.rs", ""),
    ];
    let circle = "circle host -> host/cgroup -> host: host/b.rs uses super::cgroup::d, \
                  host/cgroup/a.rs uses crate::host::c";
    assert_violations(&files, &[circle]);
}

#[test]
fn aya_outside_of_kernel_is_found() {
    let kernel = ("kernel/load.rs", "use aya::Ebpf;");
    let host = ("host/memory.rs", "// aya\nfn f(s: &'static str) -> aya::Ebpf { log(\"aya\") }");
    assert_violations(&[kernel, host], &["host/memory.rs may not use aya"]);
}

#[test]
fn a_file_without_a_doc_or_a_layer_is_found() {
    let files = [("util/text.rs".to_owned(), "fn f() {}".to_owned())];
    assert_eq!(
        CRATES[0].violations(&files.into()),
        ["util/text.rs is in no layer", "util/text.rs does not open with a //! comment"]
    );
}

#[test]
fn a_module_of_a_path_attribute_stands_where_it_is_declared() {
    let tool = ("host/tool.rs", "#[cfg(test)] #[path = \"tool_tests.rs\"] mod tests;");
    let tests = ("host/tool_tests.rs", "use super::{super::super::daemon::run, X};");
    assert_violations(
        &[tool, tests, ("daemon/run.rs", "")],
        &["host/tool_tests.rs may not import daemon/run.rs: super::super::super::daemon::run"],
    );
}

#[test]
fn a_tree_that_differs_is_found() {
    let folders = ["a/src", "a/src/b"].map(ToOwned::to_owned).into();
    let imports = [("a/src".to_owned(), "a/src/b".to_owned())].into();
    let differences = |block: &str| {
        let document = format!("# Map\n\n## The tree\n\n```text\n{block}\n```\n\n## End\n");
        tree_differences(&document, &folders, &imports)
    };
    assert!(differences("a/src    the root\na/src/b  a part").is_empty());
    let upward = "a/src imports a/src/b, listed above it";
    assert_eq!(differences("a/src/b  a part\na/src  the root"), [upward]);
    let unknown = ["c/src has no source files", "a/src/b is missing"];
    assert_eq!(differences("a/src  the root\nc/src  another"), unknown);
    let no_description = "a/src/b has no description after two spaces";
    assert_eq!(differences("a/src  the root\na/src/b"), [no_description]);
    assert_eq!(tree_differences("# Map\n", &folders, &imports).len(), 2);
}
