//! Finds a toolchain that can build the BPF object, and composes that build.
//!
//! `sensor-user/build.rs` includes this very file, so it is std only. It looks and never installs:
//! installing is `cargo xtask setup`.
//!
//! The BPF target has no prebuilt `core`, so a toolchain is a compiler that accepts `-Z build-std`,
//! the sources of `core`, and a bpf-linker that reads the bitcode of that compiler. Two *worlds*
//! have them: rustup's nightly, and a distribution's own compiler told to accept `-Z`.

use std::{
    env,
    ffi::OsStr,
    fmt, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Environment: `rustup` or `debian`, to take that world and no other.
pub(crate) const WORLD_VAR: &str = "MEMSENSOR_BPF_TOOLCHAIN";

/// Environment: path of the bpf-linker to use.
pub(crate) const LINKER_VAR: &str = "MEMSENSOR_BPF_LINKER";

/// The oldest compiler that will do; `rust-version` in Cargo.toml says the same (tested below).
const OLDEST: (u32, u32) = (1, 95);

/// What mends whatever is missing.
const SETUP: &str = "cargo xtask setup";

/// Where a compiler comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum World {
    /// rustup's nightly with its rust-src component.
    Rustup,
    /// The distribution's compiler and sources, under /usr.
    Debian,
}

impl World {
    /// In order of preference.
    pub(crate) const ALL: [Self; 2] = [Self::Rustup, Self::Debian];

    /// The word for it, also in the environment.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Rustup => "rustup",
            Self::Debian => "debian",
        }
    }
}

/// The worlds to look at, in order: one if the environment says which.
pub(crate) fn worlds() -> Result<Vec<World>, Missing> {
    parse_worlds(&env::var(WORLD_VAR).unwrap_or_default())
}

fn parse_worlds(forced: &str) -> Result<Vec<World>, Missing> {
    if forced.is_empty() {
        return Ok(World::ALL.to_vec());
    }
    World::ALL
        .into_iter()
        .find(|w| w.name() == forced)
        .map(|w| vec![w])
        .ok_or_else(|| Missing(vec![format!("{WORLD_VAR}={forced}: it must be rustup or debian")]))
}

/// What keeps this machine from building the BPF object, a line per world.
#[derive(Debug)]
pub(crate) struct Missing(pub(crate) Vec<String>);

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no toolchain here can build the BPF object; to mend it run `{SETUP}`")?;
        self.0.iter().try_for_each(|line| write!(f, "\n  {line}"))
    }
}

impl std::error::Error for Missing {}

/// What `rustc -vV` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Version {
    /// e.g. `1.97.0-nightly`
    pub(crate) release: String,
    /// e.g. `x86_64-unknown-linux-gnu`
    pub(crate) host: String,
    /// Major version of its LLVM.
    pub(crate) llvm: u32,
}

impl Version {
    /// Asks a compiler.
    pub(crate) fn of(rustc: &Path) -> Result<Self, String> {
        let text = answer(Command::new(rustc).arg("-vV"))?;
        Self::parse(&text)
            .ok_or_else(|| format!("{} -vV: no release, host, LLVM in it", rustc.display()))
    }

    fn parse(text: &str) -> Option<Self> {
        let value = |key: &str| text.lines().find_map(|l| l.strip_prefix(key)).map(str::trim);
        Some(Self {
            release: value("release:")?.to_owned(),
            host: value("host:")?.to_owned(),
            llvm: value("LLVM version:")?.split('.').next()?.parse().ok()?,
        })
    }

    fn is_new_enough(&self) -> bool {
        let mut parts = self.release.split('.').map_while(|p| p.parse::<u32>().ok());
        matches!((parts.next(), parts.next()), (Some(a), Some(b)) if (a, b) >= OLDEST)
    }
}

/// A compiler that can build `core` for the BPF target.
#[derive(Debug)]
pub(crate) struct Compiler {
    pub(crate) world: World,
    pub(crate) cargo: PathBuf,
    pub(crate) rustc: PathBuf,
    pub(crate) version: Version,
}

impl Compiler {
    /// The compiler of a world, or what is missing.
    pub(crate) fn of(world: World) -> Result<Self, String> {
        let (cargo, rustc) = match world {
            World::Rustup => {
                let sysroot = nightly_sysroot()?;
                (sysroot.join("bin/cargo"), sysroot.join("bin/rustc"))
            }
            World::Debian => {
                let own = PathBuf::from("/usr/bin/cargo");
                let other = || env::var_os("CARGO").map_or_else(|| "cargo".into(), PathBuf::from);
                (if own.exists() { own } else { other() }, PathBuf::from("/usr/bin/rustc"))
            }
        };
        if !rustc.exists() {
            return Err(format!("no {}", rustc.display()));
        }
        let sysroot = answer(Command::new(&rustc).args(["--print", "sysroot"]))?;
        let core = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core");
        if !core.exists() {
            return Err(format!("{} has no rust-src, the sources of core", rustc.display()));
        }
        let version = Version::of(&rustc)?;
        if !version.is_new_enough() {
            let (major, minor) = OLDEST;
            return Err(format!(
                "{} is {}, older than {major}.{minor}",
                rustc.display(),
                version.release
            ));
        }
        Ok(Self { world, cargo, rustc, version })
    }
}

impl fmt::Display for Compiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { world, rustc, version, .. } = self;
        let (rustc, release, llvm) = (rustc.display(), &version.release, version.llvm);
        write!(f, "{}: {rustc} {release} (LLVM {llvm})", world.name())
    }
}

/// The sysroot of rustup's nightly. Its programs are used directly: rustup's proxies would heed
/// what an outer cargo has put into the environment.
pub(crate) fn nightly_sysroot() -> Result<PathBuf, String> {
    if in_path("rustup").is_none() {
        return Err("no rustup".into());
    }
    let mut command = Command::new("rustup");
    command.args(["run", "nightly", "rustc", "--print", "sysroot"]);
    match answer(command.env_remove("RUSTUP_TOOLCHAIN")) {
        Ok(path) => Ok(PathBuf::from(path.trim())),
        Err(_) => Err("rustup has no nightly".into()),
    }
}

/// A compiler and the linker that goes with it.
#[derive(Debug)]
pub(crate) struct Toolchain {
    pub(crate) compiler: Compiler,
    pub(crate) linker: PathBuf,
}

impl Toolchain {
    /// The first complete one, or what each world lacks.
    pub(crate) fn find() -> Result<Self, Missing> {
        choose(&worlds()?, |world| {
            let compiler = Compiler::of(world)?;
            let linker = linker(compiler.version.llvm)?;
            Ok(Self { compiler, linker })
        })
    }

    /// The build of the BPF object for kernels of `arch`, as `CARGO_CFG_TARGET_ARCH` names it.
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
            // Empty means none, whatever the user's configuration says: a wrapper is for the
            // outer compiler, and a build directory of its own keeps us off the outer lock.
            .env("RUSTC_WRAPPER", "")
            .env("RUSTC_WORKSPACE_WRAPPER", "")
            .env("CARGO_BUILD_BUILD_DIR", target_dir)
            .args(["build", "--profile", "bpf", "--package", "sensor-ebpf"])
            .args(["--bin", "sensor-ebpf", "--features", "bpf", "-Z", "build-std=core"])
            .args(["--target", "bpfel-unknown-none", "--target-dir"])
            .arg(target_dir);
        if self.compiler.world == World::Debian {
            command.env("RUSTC_BOOTSTRAP", "1");
        }
        // The outer cargo has settled the lock file; the inner one, often of another version,
        // must build just that.
        if workspace.join("Cargo.lock").exists() {
            command.arg("--locked");
        }
        command
    }

    /// Where [`Self::build`] leaves the object.
    pub(crate) fn object(target_dir: &Path) -> PathBuf {
        target_dir.join("bpfel-unknown-none/bpf/sensor-ebpf")
    }
}

fn choose<T>(
    worlds: &[World],
    mut look: impl FnMut(World) -> Result<T, String>,
) -> Result<T, Missing> {
    let mut lines = Vec::new();
    for &world in worlds {
        match look(world) {
            Ok(found) => return Ok(found),
            Err(why) => lines.push(format!("{}: {why}", world.name())),
        }
    }
    Err(Missing(lines))
}

/// Whether the build of the BPF object may see a variable. Cargo, build scripts and clippy set
/// dozens that describe the outer build; the inner one breaks on some, and differs by others.
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
    let starts = |list: &[&str]| list.iter().any(|p| name.starts_with(p));
    starts(&KEPT)
        || !(starts(&DROPPED) || matches!(name, "RUSTFLAGS" | "RUSTUP_TOOLCHAIN" | "MAKEFLAGS"))
}

/// What is fetched or built once for all clones of the repository.
pub(crate) fn cache_dir() -> PathBuf {
    let home = || env::home_dir().unwrap_or_default();
    let cache = env::var_os("XDG_CACHE_HOME").filter(|dir| Path::new(dir).is_absolute());
    cache.map_or_else(|| home().join(".cache"), PathBuf::from).join("memsensor")
}

/// The directory into which `setup` installs the bpf-linker for an LLVM major version.
pub(crate) fn linker_root(llvm: u32) -> PathBuf {
    cache_dir().join(format!("bpf-linker-llvm{llvm}"))
}

/// The bpf-linker for an LLVM major version.
pub(crate) fn linker(llvm: u32) -> Result<PathBuf, String> {
    if let Some(path) = env::var_os(LINKER_VAR).filter(|p| !p.is_empty()).map(PathBuf::from) {
        let lost = || format!("{LINKER_VAR}={}: no such file", path.display());
        return fs::canonicalize(&path).map_err(|_| lost());
    }
    let ours = linker_root(llvm).join("bin/bpf-linker");
    if ours.exists() {
        return Ok(ours);
    }
    let Some(found) = in_path("bpf-linker") else {
        return Err(format!("no bpf-linker for LLVM {llvm}, in {} or PATH", ours.display()));
    };
    let binary = fs::read(&found).unwrap_or_default();
    match linked_llvm(&binary) {
        Some(other) if other != llvm => {
            Err(format!("{} is for LLVM {other}, needed is {llvm}", found.display()))
        }
        // A linker that carries its LLVM inside does not say which it is.
        _ => Ok(found),
    }
}

/// The major version of the LLVM library that a bpf-linker asks for.
fn linked_llvm(binary: &[u8]) -> Option<u32> {
    let key = b"libLLVM.so.";
    let at = binary.windows(key.len()).position(|w| w == key)? + key.len();
    let digits = binary.get(at..)?.iter().take_while(|b| b.is_ascii_digit());
    String::from_utf8(digits.copied().collect()).ok()?.parse().ok()
}

/// The program of that name in PATH, or where Debian keeps root's programs.
pub(crate) fn in_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let dirs = env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    dirs.map(|dir| dir.join(program)).find(|file| file.is_file())
}

fn answer(command: &mut Command) -> Result<String, String> {
    let name = format!("{command:?}");
    let out = command.output().map_err(|e| format!("{name}: {e}"))?;
    if out.status.success() {
        return Ok(String::from_utf8_lossy(&out.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&out.stderr);
    Err(format!("{name}: {}", said.lines().next().unwrap_or("failed without a word")))
}

#[cfg(test)]
#[path = "toolchain_tests.rs"]
mod tests;
