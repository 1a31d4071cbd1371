//! Builds the BPF object with the toolchain that `xtask` finds, and tells the crate where it is.
//!
//! `MEMSENSOR_BPF_OBJECT_PATH` is the object, without its DWARF; `MEMSENSOR_GIT_REVISION` names
//! the sources. `MEMSENSOR_BPF_OBJECT` in the environment replaces the build by a finished object.
//! Nothing is installed or downloaded from here but the object's locked dependencies.

#[path = "../xtask/src/toolchain.rs"]
#[allow(dead_code, reason = "parts of it serve xtask only")]
mod toolchain;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use toolchain::{LINKER_VAR, Toolchain, WORLD_VAR};

/// Environment: a finished object to take instead of building one.
const OBJECT_VAR: &str = "MEMSENSOR_BPF_OBJECT";

/// What the binary is made of, relative to the workspace. A change in any of it reruns this script
/// (half a second when the object is up to date): otherwise "-dirty" would go stale.
const SOURCES: [&str; 7] = [
    "Cargo.lock",
    "Cargo.toml",
    "sensor-ebpf/Cargo.toml",
    "sensor-ebpf/src",
    "sensor-user/Cargo.toml",
    "sensor-user/build.rs",
    "sensor-user/src",
];

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let out_dir = PathBuf::from(var("OUT_DIR")?);
    let package = PathBuf::from(var("CARGO_MANIFEST_DIR")?);
    let workspace = package.parent().ok_or("sensor-user is not inside the workspace")?;

    for source in SOURCES.iter().chain(&["xtask/src/toolchain.rs"]) {
        println!("cargo::rerun-if-changed={}", workspace.join(source).display());
    }
    for name in [OBJECT_VAR, WORLD_VAR, LINKER_VAR, "XDG_CACHE_HOME"] {
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

fn var(name: &str) -> Result<String, String> {
    env::var(name).map_err(|e| format!("{name}: {e}; this is for cargo to run"))
}

/// Where the object is built: `target/bpf-object`, by architecture. OUT_DIR differs between profiles, and between
/// build and clippy; the object does not, and in there would be built, `core` and all, for each.
fn bpf_target_dir(out_dir: &Path) -> Result<PathBuf, String> {
    let build = out_dir.ancestors().find(|dir| dir.ends_with("build"));
    let profile = build.and_then(Path::parent);
    // With `--target` there is one more level, named after it.
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
        "the BPF object did not build, see above; built by {compiler} and {}, which must read the \
         bitcode of LLVM {}",
        linker.display(),
        compiler.version.llvm
    ))
}

/// The commit, with "-dirty" when what the binary is made of differs from it; or "unknown".
fn revision(workspace: &Path) -> String {
    let git = |args: &[&str]| {
        // Looking must not write: a refreshed index would change the tree under the user.
        let mut command = Command::new("git");
        let out = command.current_dir(workspace).arg("--no-optional-locks").args(args).output();
        let out = out.ok().filter(|out| out.status.success())?;
        Some(String::from_utf8_lossy(&out.stdout).trim().to_owned())
    };
    // The log of HEAD grows with every commit and checkout. A watched file that does not exist
    // would rerun this script every time.
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

/// The object without its DWARF sections, which are four fifths of it and which no loader reads
/// (`.BTF` and `.BTF.ext`, made from them, stay). The sections become empty and of no type, so
/// that no index in symbols, relocations or other sections changes. None: not such an object.
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
            // All but the name: type, flags, address, offset, size, link, info.
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
fn number(bytes: &[u8], at: usize, len: usize) -> Option<usize> {
    let bytes = bytes.get(at..at + len)?;
    Some(bytes.iter().rev().fold(0, |n, b| n << 8 | usize::from(*b)))
}
