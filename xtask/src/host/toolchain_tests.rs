//! Tests of the pure parts: parsing a compiler's version, choosing a source, filtering the
//! environment of the inner build. They start no compiler.

use super::*;

const DEBIAN: &str = "\
rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)
binary: rustc
commit-hash: ac68faa20c58cbccd01ee7208bf3b6e93a7d7f96
commit-date: 2026-05-25
host: x86_64-unknown-linux-gnu
release: 1.96.0
LLVM version: 22.1.8
";

fn version(release: &str) -> Version {
    Version { release: release.into(), host: String::new(), llvm: 0 }
}

#[test]
fn release_host_and_llvm_are_parsed() {
    let version = Version::parse(DEBIAN).expect("complete output");
    assert_eq!(version.release, "1.96.0");
    assert_eq!(version.host, "x86_64-unknown-linux-gnu");
    assert_eq!(version.llvm, 22);
}

#[test]
fn truncated_output_has_no_version() {
    let truncated = DEBIAN.split("LLVM").next().expect("the part before");
    assert_eq!(Version::parse(truncated), None);
    assert_eq!(Version::parse(""), None);
}

#[test]
fn an_old_compiler_is_rejected() {
    assert!(version("1.95.0").is_new_enough());
    assert!(version("1.97.0-nightly").is_new_enough());
    assert!(version("2.0.0").is_new_enough());
    assert!(!version("1.63.0").is_new_enough());
    assert!(!version("nonsense").is_new_enough());
}

#[test]
fn the_oldest_compiler_equals_rust_version_in_cargo_toml() {
    let manifest = include_str!("../../../Cargo.toml");
    let (major, minor) = MIN_RUSTC;
    assert!(manifest.contains(&format!("rust-version = \"{major}.{minor}\"")));
}

#[test]
fn rustup_is_preferred_when_complete() {
    let source = first_complete(&ToolchainSource::ALL, Ok).expect("both are complete");
    assert_eq!(source, ToolchainSource::Rustup);
}

#[test]
fn debian_is_used_when_rustup_is_incomplete() {
    let find = |source| match source {
        ToolchainSource::Debian => Ok(7),
        ToolchainSource::Rustup => Err("no rust-src".into()),
    };
    assert_eq!(first_complete(&ToolchainSource::ALL, find).expect("one is complete"), 7);
}

#[test]
fn the_error_names_the_missing_part_of_each_source() {
    let find = |source| Err::<(), _>(format!("no {source:?}"));
    let missing = first_complete(&ToolchainSource::ALL, find).expect_err("none is complete");
    let text = missing.to_string();
    assert!(text.contains("\n  rustup: no Rustup\n  debian: no Debian"), "{text}");
    assert!(text.contains("`cargo xtask setup`"), "{text}");
}

#[test]
fn the_environment_can_select_a_source() {
    assert_eq!(parse_sources("").expect("not set"), ToolchainSource::ALL);
    assert_eq!(parse_sources("debian").expect("known"), [ToolchainSource::Debian]);
    assert!(parse_sources("fedora").is_err());
}

#[test]
fn the_llvm_version_of_a_linker_is_read_from_the_binary() {
    assert_eq!(linked_llvm(b"\x7fELF..libLLVM.so.22.1\0libc"), Some(22));
    assert_eq!(linked_llvm(b"\x7fELF statically linked"), None);
    assert_eq!(linked_llvm(b"libLLVM.so."), None);
}

#[test]
fn the_inner_build_inherits_network_settings_only() {
    for name in ["HOME", "https_proxy", "CARGO_HOME", "CARGO_NET_OFFLINE", "CARGO_HTTP_CAINFO"] {
        assert!(is_inherited(OsStr::new(name)), "{name}");
    }
    for name in ["CARGO", "CARGO_PKG_NAME", "CARGO_TARGET_DIR", "RUSTC_WORKSPACE_WRAPPER", "TARGET"]
    {
        assert!(!is_inherited(OsStr::new(name)), "{name}");
    }
    for name in ["CARGO_ENCODED_RUSTFLAGS", "RUSTUP_TOOLCHAIN", "CLIPPY_ARGS", "RUSTFLAGS"] {
        assert!(!is_inherited(OsStr::new(name)), "{name}");
    }
}
