//! Tests of the toolchain's pure parts: what a compiler says, which world is taken, what the
//! inner build may see. They start no compiler.

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
fn a_compiler_says_its_release_host_and_llvm() {
    let version = Version::parse(DEBIAN).expect("a full answer");
    assert_eq!(version.release, "1.96.0");
    assert_eq!(version.host, "x86_64-unknown-linux-gnu");
    assert_eq!(version.llvm, 22);
}

#[test]
fn a_truncated_answer_is_none() {
    let cut = DEBIAN.split("LLVM").next().expect("the part before");
    assert_eq!(Version::parse(cut), None);
    assert_eq!(Version::parse(""), None);
}

#[test]
fn an_old_compiler_is_refused() {
    assert!(version("1.95.0").is_new_enough());
    assert!(version("1.97.0-nightly").is_new_enough());
    assert!(version("2.0.0").is_new_enough());
    assert!(!version("1.63.0").is_new_enough());
    assert!(!version("nonsense").is_new_enough());
}

#[test]
fn the_oldest_compiler_is_the_workspace_s() {
    let manifest = include_str!("../../Cargo.toml");
    let (major, minor) = OLDEST;
    assert!(manifest.contains(&format!("rust-version = \"{major}.{minor}\"")));
}

#[test]
fn rustup_is_preferred_when_complete() {
    assert_eq!(choose(&World::ALL, Ok).expect("both are there"), World::Rustup);
}

#[test]
fn debian_serves_when_rustup_lacks_something() {
    let look = |world| if world == World::Debian { Ok(7) } else { Err("no rust-src".into()) };
    assert_eq!(choose(&World::ALL, look).expect("one is there"), 7);
}

#[test]
fn every_world_says_what_it_lacks() {
    let missing = choose(&World::ALL, |w| Err::<(), _>(format!("no {w:?}"))).expect_err("none");
    let text = missing.to_string();
    assert!(text.contains("\n  rustup: no Rustup\n  debian: no Debian"), "{text}");
    assert!(text.contains("`cargo xtask setup`"), "{text}");
}

#[test]
fn the_environment_can_force_a_world() {
    assert_eq!(parse_worlds("").expect("no force"), World::ALL);
    assert_eq!(parse_worlds("debian").expect("known"), [World::Debian]);
    assert!(parse_worlds("fedora").is_err());
}

#[test]
fn a_linker_names_the_llvm_it_asks_for() {
    assert_eq!(linked_llvm(b"\x7fELF..libLLVM.so.22.1\0libc"), Some(22));
    assert_eq!(linked_llvm(b"\x7fELF a static one"), None);
    assert_eq!(linked_llvm(b"libLLVM.so."), None);
}

#[test]
fn the_inner_build_sees_the_network_and_not_the_outer_build() {
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
