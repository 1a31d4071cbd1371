//! Builds the BPF object with the toolchain that `xtask` finds, and passes its path to the crate.
//!
//! Sets `MEMSENSOR_BPF_OBJECT_PATH` (the object without its DWARF sections) and
//! `MEMSENSOR_GIT_REVISION` (the commit of the sources). If `MEMSENSOR_BPF_OBJECT` is set in the
//! environment, uses that object instead of building one. Installs nothing, and downloads only the
//! object's locked dependencies.

#[path = "../xtask/src/host/toolchain.rs"]
#[allow(dead_code, reason = "xtask uses the other functions")]
mod toolchain;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use toolchain::{LINKER_VAR, SOURCE_VAR, Toolchain};

/// Environment: the path of a finished object to use instead of building one.
const OBJECT_VAR: &str = "MEMSENSOR_BPF_OBJECT";

/// The sources of the binary, relative to the workspace. A change in any of them reruns this script
/// (half a second if the object is up to date); otherwise "-dirty" could be outdated.
const SOURCES: [&str; 9] = [
    "Cargo.lock",
    "Cargo.toml",
    "sensor-ebpf/Cargo.toml",
    "sensor-ebpf/src",
    "sensor-user/Cargo.toml",
    "sensor-user/build.rs",
    "sensor-user/core/Cargo.toml",
    "sensor-user/core/src",
    "sensor-user/src",
];

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let out_dir = PathBuf::from(var("OUT_DIR")?);
    if env::var_os("CARGO_CFG_FUZZING").is_some() {
        return without_object(&out_dir);
    }
    let package = PathBuf::from(var("CARGO_MANIFEST_DIR")?);
    let workspace = package.parent().ok_or("sensor-user is not inside the workspace")?;

    for source in SOURCES.iter().chain(&["xtask/src/host/toolchain.rs"]) {
        println!("cargo::rerun-if-changed={}", workspace.join(source).display());
    }
    for name in [OBJECT_VAR, SOURCE_VAR, LINKER_VAR, "XDG_CACHE_HOME"] {
        println!("cargo::rerun-if-env-changed={name}");
    }

    let built = match env::var_os(OBJECT_VAR).filter(|path| !path.is_empty()) {
        Some(path) => {
            println!("cargo::rerun-if-changed={}", Path::new(&path).display());
            PathBuf::from(path)
        }
        None => build(workspace, &bpf_target_dir(&out_dir)?)?,
    };
    let elf = fs::read(&built).map_err(|e| format!("read {}: {e}", built.display()))?;
    let elf = without_dwarf(&elf)
        .ok_or_else(|| format!("{} is not a relocatable 64-bit ELF object", built.display()))?;
    let object = out_dir.join("sensor-ebpf.o");
    fs::write(&object, elf).map_err(|e| format!("write {}: {e}", object.display()))?;

    println!("cargo::rustc-env=MEMSENSOR_BPF_OBJECT_PATH={}", object.display());
    println!("cargo::rustc-env=MEMSENSOR_GIT_REVISION={}", revision(workspace));
    Ok(())
}

/// Fuzz targets load no object, so they need no BPF toolchain and get an empty one.
fn without_object(out_dir: &Path) -> Result<(), String> {
    let object = out_dir.join("no-object");
    fs::write(&object, []).map_err(|e| format!("write {}: {e}", object.display()))?;
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-env=MEMSENSOR_BPF_OBJECT_PATH={}", object.display());
    println!("cargo::rustc-env=MEMSENSOR_GIT_REVISION=fuzzing");
    Ok(())
}

fn var(name: &str) -> Result<String, String> {
    env::var(name).map_err(|e| format!("{name}: {e}; only cargo can run this script"))
}

/// The target directory of the object: `target/bpf-object/ARCHITECTURE`. OUT_DIR differs between
/// profiles, and between build and clippy. The object does not: in OUT_DIR, cargo would build it
/// and `core` once for each.
fn bpf_target_dir(out_dir: &Path) -> Result<PathBuf, String> {
    let build = out_dir.ancestors().find(|dir| dir.ends_with("build"));
    let profile = build.and_then(Path::parent);
    // With `--target`, cargo adds a directory with the name of the target.
    let triple = var("TARGET")?;
    let target = profile.and_then(Path::parent);
    let target =
        target.and_then(|dir| if dir.ends_with(&triple) { dir.parent() } else { Some(dir) });
    let dir = target.map_or_else(|| out_dir.join("bpf-object"), |dir| dir.join("bpf-object"));
    Ok(dir.join(var("CARGO_CFG_TARGET_ARCH")?))
}

fn build(workspace: &Path, target_dir: &Path) -> Result<PathBuf, String> {
    let arch = var("CARGO_CFG_TARGET_ARCH")?;
    let toolchain = Toolchain::find().map_err(|missing| missing.to_string())?;
    let mut command = toolchain.build(workspace, target_dir, &arch);
    let status = command.status().map_err(|e| format!("{}: {e}", toolchain.compiler))?;
    if status.success() {
        return Ok(Toolchain::object(target_dir));
    }
    let Toolchain { compiler, linker } = &toolchain;
    Err(format!(
        "the build of the BPF object failed, see above; the compiler is {compiler}, the linker {}, \
         which must read the bitcode of LLVM {}",
        linker.display(),
        compiler.version.llvm
    ))
}

/// The commit, with "-dirty" if the sources differ from it; "unknown" without git.
fn revision(workspace: &Path) -> String {
    let git = |args: &[&str]| {
        // Without locks, git does not refresh the index: a build must not change the user's tree.
        let mut command = Command::new("git");
        let out = command.current_dir(workspace).arg("--no-optional-locks").args(args).output();
        let out = out.ok().filter(|out| out.status.success())?;
        Some(String::from_utf8_lossy(&out.stdout).trim().to_owned())
    };
    // Each commit and checkout appends to the log of HEAD. Watch only existing files: a missing
    // file would rerun this script in every build.
    for name in ["HEAD", "logs/HEAD"] {
        let path = git(&["rev-parse", "--git-path", name]).map(|path| workspace.join(path));
        if let Some(path) = path.filter(|path| path.exists()) {
            println!("cargo::rerun-if-changed={}", path.display());
        }
    }
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else { return "unknown".into() };
    let status = [&["status", "--porcelain", "--"], SOURCES.as_slice()].concat();
    match git(&status) {
        Some(changes) if changes.is_empty() => commit,
        _ => format!("{commit}-dirty"),
    }
}

/// Removes the DWARF sections, which are four fifths of the object and which no loader reads.
/// `.BTF` and `.BTF.ext`, which are generated from them, stay. The removed sections become empty
/// sections of type NULL, so that section indices in symbols and relocations stay valid. None if
/// `elf` is not a relocatable 64-bit ELF object.
fn without_dwarf(elf: &[u8]) -> Option<Vec<u8>> {
    const HEADER: usize = 64;
    const SECTION: usize = 64;
    const NULL: usize = 0;
    const NOBITS: usize = 8;
    // ELF-64, little-endian, ET_REL.
    if elf.get(..6)? != b"\x7fELF\x02\x01" || number(elf, 16, 2)? != 1 {
        return None;
    }
    let table = number(elf, 40, 8)?;
    let count = number(elf, 60, 2)?;
    let mut sections = elf.get(table..table + count * SECTION)?.to_vec();
    let names = number(&sections, number(elf, 62, 2)? * SECTION + 24, 8)?;

    let mut out = elf.get(..HEADER)?.to_vec();
    for section in sections.chunks_exact_mut(SECTION) {
        let name = elf.get(names + number(section, 0, 4)?..)?;
        let (offset, size) = (number(section, 24, 8)?, number(section, 32, 8)?);
        if name.starts_with(b".debug_") || name.starts_with(b".rel.debug_") {
            // Clear all fields but the name: type, flags, address, offset, size, link, info.
            section[4..48].fill(0);
        } else if !matches!(number(section, 4, 4)?, NULL | NOBITS) {
            out.resize(out.len().next_multiple_of(number(section, 48, 8)?.max(1)), 0);
            section[24..32].copy_from_slice(&(out.len() as u64).to_le_bytes());
            out.extend_from_slice(elf.get(offset..offset + size)?);
        }
    }
    out.resize(out.len().next_multiple_of(8), 0);
    let table = out.len() as u64;
    out[40..48].copy_from_slice(&table.to_le_bytes());
    out.append(&mut sections);
    Some(out)
}

/// A little-endian number of `len` bytes.
fn number(bytes: &[u8], offset: usize, len: usize) -> Option<usize> {
    let bytes = bytes.get(offset..offset + len)?;
    Some(bytes.iter().rev().fold(0, |n, b| n << 8 | usize::from(*b)))
}
