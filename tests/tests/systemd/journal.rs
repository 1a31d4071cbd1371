//! The journal of the service after all other tests.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::service::{SERVICE, enter, measured, run, systemctl};

/// Words of a denied system call or file.
const DENIALS: [&str; 6] =
    ["not permitted", "permission denied", "eperm", "eacces", "sigsys", "bad system call"];
/// The tests cause no line more often in one process.
const MOST_REPEATS: usize = 12;

/// Lines of the service: the process that wrote them, and their text.
fn lines() -> Vec<(String, String)> {
    let args = ["--no-pager", "--output", "json", "--all", "--unit", SERVICE];
    let (text, code) = run("journalctl", &args);
    assert_eq!(code, Some(0), "{text}");
    let field = |line: &Value, name: &str| line[name].as_str().unwrap_or_default().to_owned();
    let lines = text.lines().map(|line| {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        (field(&line, "_PID"), field(&line, "MESSAGE"))
    });
    lines.collect()
}

#[test]
fn nothing_was_denied() {
    enter();
    let all = lines();
    assert!(all.len() > 10, "{all:?}");
    let is_denial = |text: &str| DENIALS.iter().any(|word| text.to_lowercase().contains(word));
    let denials: Vec<_> = all.iter().filter(|(_, text)| is_denial(text)).collect();
    assert!(denials.is_empty(), "{denials:#?}");
    // The kernel's own record of a process that seccomp has ended.
    let (kernel, _) = run("journalctl", &["--no-pager", "--dmesg", "--grep", "type=1326|SECCOMP"]);
    assert!(!kernel.contains("memsensor"), "{kernel}");
}

#[test]
fn no_line_is_repeated() {
    enter();
    let mut counts = BTreeMap::new();
    let all = lines();
    for (pid, text) in all.iter().filter(|(pid, _)| pid != "1") {
        // Without numbers, such as times.
        let text: String = text.chars().filter(|c| !c.is_ascii_digit()).collect();
        *counts.entry((pid, text)).or_insert(0) += 1;
    }
    let repeated: Vec<_> = counts.iter().filter(|(_, count)| **count > MOST_REPEATS).collect();
    measured(&format!("{} lines of the service in the journal", all.len()));
    assert!(repeated.is_empty(), "{repeated:#?}");
}

#[test]
fn no_warning_is_logged_at_the_start() {
    enter();
    systemctl(&["restart", SERVICE]);
    let pid = crate::service::main_pid().to_string();
    let warnings: Vec<_> = lines()
        .into_iter()
        .filter(|(of, text)| *of == pid && (text.contains("WARN") || text.contains("ERROR")))
        .collect();
    assert!(warnings.is_empty(), "{warnings:#?}");
}
