//! Finds a toolchain that can build the BPF object, and assembles the command for that build.
//!
//! `sensor-user/build.rs` includes this file, so it uses std only. It never installs anything:
//! `cargo xtask setup` does.
//!
//! The BPF target has no prebuilt `core`. A toolchain is therefore a compiler that accepts
//! `-Z build-std`, the sources of `core`, and a bpf-linker that reads the bitcode of that compiler.
//! Two sources provide them: rustup's nightly, and Debian's compiler with `RUSTC_BOOTSTRAP=1`.

use std::{
    env,
    ffi::OsStr,
    fmt, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Environment: `rustup` or `debian`, to use only that source.
pub(crate) const SOURCE_VAR: &str = "MEMSENSOR_BPF_TOOLCHAIN";

/// Environment: path of the bpf-linker to use.
pub(crate) const LINKER_VAR: &str = "MEMSENSOR_BPF_LINKER";

/// The oldest supported compiler. A test compares it with `rust-version` in Cargo.toml.
const MIN_RUSTC: (u32, u32) = (1, 95);

/// The command that installs missing parts.
const SETUP: &str = "cargo xtask setup";

/// The origin of a compiler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ToolchainSource {
    /// rustup's nightly with its rust-src component.
    Rustup,
    /// The distribution's compiler and sources, under /usr.
    Debian,
}

impl ToolchainSource {
    /// In order of preference.
    pub(crate) const ALL: [Self; 2] = [Self::Rustup, Self::Debian];

    /// The name in messages and in the environment.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Rustup => "rustup",
            Self::Debian => "debian",
        }
    }
}

/// The sources to search, in order of preference. The environment can limit them to one.
pub(crate) fn sources() -> Result<Vec<ToolchainSource>, Missing> {
    parse_sources(&env::var(SOURCE_VAR).unwrap_or_default())
}

fn parse_sources(name: &str) -> Result<Vec<ToolchainSource>, Missing> {
    if name.is_empty() {
        return Ok(ToolchainSource::ALL.to_vec());
    }
    ToolchainSource::ALL
        .into_iter()
        .find(|source| source.name() == name)
        .map(|source| vec![source])
        .ok_or_else(|| Missing(vec![format!("{SOURCE_VAR}={name}: must be rustup or debian")]))
}

/// The reasons why this machine cannot build the BPF object, one line per source.
#[derive(Debug)]
pub(crate) struct Missing(pub(crate) Vec<String>);

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no toolchain on this machine can build the BPF object; run `{SETUP}`")?;
        self.0.iter().try_for_each(|line| write!(f, "\n  {line}"))
    }
}

impl std::error::Error for Missing {}

/// The fields of `rustc -vV` in use here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Version {
    /// e.g. `1.97.0-nightly`
    pub(crate) release: String,
    /// e.g. `x86_64-unknown-linux-gnu`
    pub(crate) host: String,
    /// The major version of the compiler's LLVM.
    pub(crate) llvm: u32,
}

impl Version {
    /// The version of a compiler.
    pub(crate) fn of(rustc: &Path) -> Result<Self, String> {
        let output = stdout_of(Command::new(rustc).arg("-vV"))?;
        Self::parse(&output)
            .ok_or_else(|| format!("{} -vV: no release, host and LLVM version", rustc.display()))
    }

    fn parse(output: &str) -> Option<Self> {
        let value = |key: &str| output.lines().find_map(|l| l.strip_prefix(key)).map(str::trim);
        Some(Self {
            release: value("release:")?.to_owned(),
            host: value("host:")?.to_owned(),
            llvm: value("LLVM version:")?.split('.').next()?.parse().ok()?,
        })
    }

    fn is_new_enough(&self) -> bool {
        let mut parts = self.release.split('.').map_while(|p| p.parse::<u32>().ok());
        matches!((parts.next(), parts.next()), (Some(a), Some(b)) if (a, b) >= MIN_RUSTC)
    }
}

/// A compiler that can build `core` for the BPF target.
#[derive(Debug)]
pub(crate) struct Compiler {
    pub(crate) source: ToolchainSource,
    pub(crate) cargo: PathBuf,
    pub(crate) rustc: PathBuf,
    pub(crate) version: Version,
}

impl Compiler {
    /// The compiler of a source, or the missing part.
    pub(crate) fn of(source: ToolchainSource) -> Result<Self, String> {
        let (cargo, rustc) = match source {
            ToolchainSource::Rustup => {
                let sysroot = nightly_sysroot()?;
                (sysroot.join("bin/cargo"), sysroot.join("bin/rustc"))
            }
            ToolchainSource::Debian => {
                let debian = PathBuf::from("/usr/bin/cargo");
                let outer = || env::var_os("CARGO").map_or_else(|| "cargo".into(), PathBuf::from);
                let cargo = if debian.exists() { debian } else { outer() };
                (cargo, PathBuf::from("/usr/bin/rustc"))
            }
        };
        if !rustc.exists() {
            return Err(format!("{} does not exist", rustc.display()));
        }
        let sysroot = stdout_of(Command::new(&rustc).args(["--print", "sysroot"]))?;
        let core = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core");
        if !core.exists() {
            return Err(format!("{} has no rust-src (the sources of core)", rustc.display()));
        }
        let version = Version::of(&rustc)?;
        if !version.is_new_enough() {
            let (major, minor) = MIN_RUSTC;
            return Err(format!(
                "{} is {}, older than {major}.{minor}",
                rustc.display(),
                version.release
            ));
        }
        Ok(Self { source, cargo, rustc, version })
    }
}

impl fmt::Display for Compiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { source, rustc, version, .. } = self;
        let (rustc, release, llvm) = (rustc.display(), &version.release, version.llvm);
        write!(f, "{}: {rustc} {release} (LLVM {llvm})", source.name())
    }
}

/// The sysroot of rustup's nightly. Its programs are started directly: rustup's proxies would obey
/// variables that an outer cargo sets.
pub(crate) fn nightly_sysroot() -> Result<PathBuf, String> {
    if in_path("rustup").is_none() {
        return Err("rustup is not installed".into());
    }
    let mut command = Command::new("rustup");
    command.args(["run", "nightly", "rustc", "--print", "sysroot"]);
    match stdout_of(command.env_remove("RUSTUP_TOOLCHAIN")) {
        Ok(path) => Ok(PathBuf::from(path.trim())),
        Err(_) => Err("rustup has no nightly toolchain".into()),
    }
}

/// A compiler and a bpf-linker for its LLVM.
#[derive(Debug)]
pub(crate) struct Toolchain {
    pub(crate) compiler: Compiler,
    pub(crate) linker: PathBuf,
}

impl Toolchain {
    /// The first complete toolchain, or the missing part of each source.
    pub(crate) fn find() -> Result<Self, Missing> {
        first_complete(&sources()?, |source| {
            let compiler = Compiler::of(source)?;
            let linker = linker(compiler.version.llvm)?;
            Ok(Self { compiler, linker })
        })
    }

    /// The command that builds the BPF object for kernels of `arch`, a value of
    /// `CARGO_CFG_TARGET_ARCH`.
    pub(crate) fn build(&self, workspace: &Path, target_dir: &Path, arch: &str) -> Command {
        let mut command = Command::new(&self.compiler.cargo);
        for (name, _) in env::vars_os().filter(|(name, _)| !is_inherited(name)) {
            command.env_remove(name);
        }
        let arch = format!("--cfg=bpf_target_arch=\"{arch}\"");
        let linker = format!("-Clinker={}", self.linker.display());
        command
            .current_dir(workspace)
            .env("RUSTC", &self.compiler.rustc)
            .env("CARGO_ENCODED_RUSTFLAGS", [&linker, "-Clink-arg=--btf", &arch].join("\x1f"))
            // Empty means no wrapper, and overrides the user's configuration: a wrapper is for the
            // outer compiler. A separate build directory avoids the lock of the outer cargo.
            .env("RUSTC_WRAPPER", "")
            .env("RUSTC_WORKSPACE_WRAPPER", "")
            .env("CARGO_BUILD_BUILD_DIR", target_dir)
            .args(["build", "--profile", "bpf", "--package", "sensor-ebpf"])
            .args(["--bin", "sensor-ebpf", "--features", "bpf", "-Z", "build-std=core"])
            .args(["--target", "bpfel-unknown-none", "--target-dir"])
            .arg(target_dir);
        if self.compiler.source == ToolchainSource::Debian {
            command.env("RUSTC_BOOTSTRAP", "1");
        }
        // The outer cargo has already written the lock file. The inner one, often of another
        // version, must not change it.
        if workspace.join("Cargo.lock").exists() {
            command.arg("--locked");
        }
        command
    }

    /// The path of the object that [`Self::build`] writes.
    pub(crate) fn object(target_dir: &Path) -> PathBuf {
        target_dir.join("bpfel-unknown-none/bpf/sensor-ebpf")
    }
}

fn first_complete<T>(
    sources: &[ToolchainSource],
    mut find: impl FnMut(ToolchainSource) -> Result<T, String>,
) -> Result<T, Missing> {
    let mut reasons = Vec::new();
    for &source in sources {
        match find(source) {
            Ok(toolchain) => return Ok(toolchain),
            Err(reason) => reasons.push(format!("{}: {reason}", source.name())),
        }
    }
    Err(Missing(reasons))
}

/// Whether the build of the BPF object may see a variable. Cargo, build scripts and clippy set
/// dozens of variables that describe the outer build. Some of them break the inner build, others
/// change its result.
fn is_inherited(name: &OsStr) -> bool {
    const KEPT: [&str; 7] = [
        "CARGO_HOME",
        "CARGO_HTTP_",
        "CARGO_MAKEFLAGS",
        "CARGO_NET_",
        "CARGO_REGISTRIES_",
        "CARGO_REGISTRY_",
        "CARGO_TERM_",
    ];
    const DROPPED: [&str; 13] = [
        "CARGO",
        "CLIPPY_",
        "DEBUG",
        "DEP_",
        "HOST",
        "NUM_JOBS",
        "OPT_LEVEL",
        "OUT_DIR",
        "PROFILE",
        "RUSTC",
        "RUSTDOC",
        "SYSROOT",
        "TARGET",
    ];
    let Some(name) = name.to_str() else { return true };
    let starts_with_any = |prefixes: &[&str]| prefixes.iter().any(|p| name.starts_with(p));
    starts_with_any(&KEPT)
        || !(starts_with_any(&DROPPED)
            || matches!(name, "RUSTFLAGS" | "RUSTUP_TOOLCHAIN" | "MAKEFLAGS"))
}

/// The cache directory, shared by all clones of the repository.
pub(crate) fn cache_dir() -> PathBuf {
    let home = || env::home_dir().unwrap_or_default();
    let cache = env::var_os("XDG_CACHE_HOME").filter(|dir| Path::new(dir).is_absolute());
    cache.map_or_else(|| home().join(".cache"), PathBuf::from).join("memsensor")
}

/// The directory where `setup` installs the bpf-linker for an LLVM major version.
pub(crate) fn linker_root(llvm: u32) -> PathBuf {
    cache_dir().join(format!("bpf-linker-llvm{llvm}"))
}

/// The bpf-linker for an LLVM major version.
pub(crate) fn linker(llvm: u32) -> Result<PathBuf, String> {
    if let Some(path) = env::var_os(LINKER_VAR).filter(|p| !p.is_empty()).map(PathBuf::from) {
        let no_file = || format!("{LINKER_VAR}={}: no such file", path.display());
        return fs::canonicalize(&path).map_err(|_| no_file());
    }
    let cached = linker_root(llvm).join("bin/bpf-linker");
    if cached.exists() {
        return Ok(cached);
    }
    let Some(path) = in_path("bpf-linker") else {
        return Err(format!("no bpf-linker for LLVM {llvm} in {} or PATH", cached.display()));
    };
    let binary = fs::read(&path).unwrap_or_default();
    match linked_llvm(&binary) {
        Some(other) if other != llvm => {
            Err(format!("{} is for LLVM {other}, but LLVM {llvm} is needed", path.display()))
        }
        // The version of a statically linked LLVM cannot be read: accept it.
        _ => Ok(path),
    }
}

/// The major version of the LLVM library that a bpf-linker links dynamically.
fn linked_llvm(binary: &[u8]) -> Option<u32> {
    let key = b"libLLVM.so.";
    let offset = binary.windows(key.len()).position(|w| w == key)? + key.len();
    let digits = binary.get(offset..)?.iter().take_while(|b| b.is_ascii_digit());
    String::from_utf8(digits.copied().collect()).ok()?.parse().ok()
}

/// The path of a program in PATH or in Debian's directories of root's programs.
pub(crate) fn in_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let dirs = env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    dirs.map(|dir| dir.join(program)).find(|file| file.is_file())
}

fn stdout_of(command: &mut Command) -> Result<String, String> {
    let name = format!("{command:?}");
    let output = command.output().map_err(|e| format!("{name}: {e}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    Err(format!("{name}: {}", stderr.lines().next().unwrap_or("failed, and printed no error")))
}

#[cfg(test)]
#[path = "toolchain_tests.rs"]
mod tests;
