//! What the README's commands install, and what systemd thinks of it.

use std::{fs::Permissions, os::unix::fs::PermissionsExt as _};

use sensor_tests::support::units;

use crate::service::{SERVICE, enter, measured, property, run, systemctl};

/// The figure of docs/security.md.
const EXPOSURE: f64 = 3.1;

#[test]
fn the_readme_installs_a_service_that_runs() {
    enter();
    let (passwd, _) = run("getent", &["passwd", "memsensor"]);
    let fields: Vec<_> = passwd.trim().split(':').collect();
    assert!(fields[2] != "0" && fields[6].ends_with("nologin"), "{passwd}");
    assert_eq!(systemctl(&["is-enabled", SERVICE]).trim(), "enabled");
    assert_eq!(systemctl(&["is-active", SERVICE]).trim(), "active");
    assert_eq!(property("NRestarts"), "0", "it did not start at once");
}

#[test]
fn systemd_has_no_warning_about_the_units() {
    enter();
    let files = ["service", "slice", "socket"].map(|kind| {
        let file = format!("/root/memsensor/deploy/memsensor.{kind}");
        std::fs::set_permissions(&file, Permissions::from_mode(0o644)).expect("chmod");
        file
    });
    for file in files {
        // The manual page is in the release, but the README does not install it.
        let (text, code) = run("systemd-analyze", &["verify", "--man=no", &file]);
        assert_eq!(code, Some(0), "{file}: {text}");
        assert_eq!(units::warnings(&text), [""; 0], "{file}");
    }
}

#[test]
fn the_exposure_is_the_documented_one() {
    enter();
    let (text, code) = run("systemd-analyze", &["security", "--no-pager", SERVICE]);
    assert_eq!(code, Some(0), "{text}");
    let last = text.lines().rev().find(|line| line.contains("Overall exposure level"));
    let last = last.unwrap_or_else(|| panic!("{text}"));
    let words = last.split_whitespace();
    let level = words.filter_map(|word| word.parse::<f64>().ok()).next_back();
    measured(last.trim_start_matches(|c: char| !c.is_ascii_alphabetic()));
    assert!(level.is_some_and(|level| level <= EXPOSURE), "{text}");
}
