//! The files that all guests of an architecture share: the static test binaries, built with cargo,
//! and Debian's programs.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};

use super::{
    debian::Archive,
    machine::{GuestFile, Machine},
};
use crate::host::exec;

/// Builds memsensor, these programs, and these test binaries. They are static: the guests' user space
/// is busybox only, or that of another release.
pub(crate) fn binaries(
    machine: &Machine,
    programs: &[&str],
    tests: &[&str],
) -> Result<Vec<GuestFile>> {
    let mut cargo = machine.cross.cargo();
    // If the encoded flags are set, cargo ignores RUSTFLAGS.
    cargo.env_remove("CARGO_ENCODED_RUSTFLAGS");
    cargo.env("RUSTFLAGS", "-C target-feature=+crt-static");
    // All in one command: with other features of dependencies, a second one would build much again.
    let programs = [&["memsensor"], programs].concat();
    cargo.arg("build").args(programs.iter().flat_map(|program| ["--bin", program]));
    cargo.args(tests.iter().flat_map(|test| ["--test", test]));
    // With --target, cargo does not apply the flags to proc macros, which must be dynamic.
    cargo.args(["--target", machine.cross.target, "--profile", "guest"]);
    cargo.args(["--package", "sensor-user", "--package", "sensor-tests"]);
    cargo.args(["--features", "sensor-tests/live"]);
    cargo.arg("--message-format=json-render-diagnostics");
    let (status, messages) = exec::capture_stdout(&mut cargo)?;
    exec::check_status("cargo", status)?;
    let files: Vec<_> = messages.lines().filter_map(executable).collect();
    for name in programs.iter().chain(tests) {
        if !files.iter().any(|file| file.guest_path == format!("t/{name}")) {
            bail!("cargo built no {name}");
        }
    }
    Ok(files)
}

/// The executable in a line of cargo's JSON messages.
fn executable(line: &str) -> Option<GuestFile> {
    let message: serde_json::Value = serde_json::from_str(line).ok()?;
    let host_path = PathBuf::from(message.get("executable")?.as_str()?);
    let name = message.get("target")?.get("name")?.as_str()?;
    Some(GuestFile { host_path, guest_path: format!("t/{name}") })
}

/// Debian's programs: busybox is the user space; earlyoom sends a SIGKILL, as it does in
/// production.
pub(crate) fn debian_programs(
    machine: &Machine,
    archive: &Archive,
    cache: &Path,
) -> Result<Vec<GuestFile>> {
    const PACKAGES: [&str; 3] = ["busybox-static", "earlyoom", "libc6"];
    let dir = cache.join(format!("programs-{}", machine.name));
    let files = machine.programs(&dir);
    if !files.iter().all(|file| file.host_path.exists()) {
        let _ = fs::remove_dir_all(&dir);
        archive.unpack(&PACKAGES.map(|package| format!("{package}/bookworm")), &dir)?;
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executables_are_read_from_cargo_messages() {
        let line = r#"{"executable":"/target/live-1f","target":{"name":"live"}}"#;
        let file = executable(line).expect("an executable");
        assert_eq!(file.host_path, Path::new("/target/live-1f"));
        assert_eq!(file.guest_path, "t/live");
        assert!(executable(r#"{"executable":null,"target":{"name":"lib"}}"#).is_none());
        assert!(executable("not JSON").is_none());
    }
}
