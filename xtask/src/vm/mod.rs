//! `vm`: the kernels that people run, booted in QEMU, with the same static binaries in each, and one
//! table of what works where. [`suite`] says which guests, [`kernel`] and [`debian`] fetch kernels,
//! [`image`] and [`qemu`] boot them, [`matrix`] makes the table. [`outside`] is apart: one guest for
//! `cargo xtask thrash`.

mod debian;
mod image;
mod kernel;
mod machine;
mod matrix;
pub(crate) mod outside;
mod qemu;
mod suite;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use anyhow::{Context, Result, bail};

use self::{
    debian::Archive,
    image::Placed,
    kernel::Kernel,
    machine::{AMD64, Machine},
    matrix::Column,
    qemu::{End, Ran},
    suite::Guest,
};
use crate::{
    apt,
    exec::{self, Root},
    libtest::Tally,
    sections, setup,
    survey::Group,
    toolchain,
};

/// Boot Debian kernels in QEMU and run the tests inside.
#[derive(Default, clap::Args)]
pub(crate) struct Args {
    /// Kernel series, comma-separated [default: all that are supported]
    #[arg(long, value_delimiter = ',', value_name = "SERIES")]
    kernel: Vec<String>,
    /// Architectures, comma-separated: amd64, arm64 [default: both for the whole matrix, else amd64]
    #[arg(long, value_delimiter = ',', value_name = "ARCH", value_parser = Machine::named)]
    arch: Vec<&'static Machine>,
    /// Only the oldest and the newest kernel, cgroup v2
    #[arg(long, conflicts_with = "kernel")]
    short: bool,
    /// Keep what the guests wrote, also of those that passed
    #[arg(long)]
    keep: bool,
    /// Replace the table in README.md (needs the whole matrix)
    #[arg(long, conflicts_with_all = ["kernel", "arch", "short", "filter"])]
    write: bool,
    /// Only tests whose name contains this
    #[arg(last = true)]
    filter: Option<String>,
}

/// Guests at a time: emulation takes a core for each.
const AT_ONCE: usize = 2;

/// Packages with what the host needs. QEMU itself is looked at apart.
const PACKAGES: [&str; 6] = ["cpio", "kmod", "xz-utils", "zstd", "lz4", "debian-archive-keyring"];

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let started = Instant::now();
    setup::ensure(&[Group::Build])?;
    apt::install(&PACKAGES)?;
    let cache = toolchain::cache_dir().join("vm");
    let dir = exec::target_dir()?.join("vm");
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).with_context(|| format!("mkdir {}", dir.display()))?;
    let mut kernels = Vec::new();
    for machine in args.machines() {
        kernels.extend(prepare(machine, args, &cache, &dir)?);
    }
    let mut guests = suite::guests(&kernels, args.short);
    if let Some(filter) = &args.filter {
        for guest in &mut guests {
            guest.filter(filter);
        }
    }
    println!(
        "vm: {} guests, {AT_ONCE} at a time: {}",
        guests.len(),
        kernels.iter().map(|k| k.release.as_str()).collect::<Vec<_>>().join(", ")
    );
    let outcomes = run_all(&dir, &kernels, &guests)?;
    let result = report(&kernels, &guests, &outcomes, args)?;
    if result == ExitCode::SUCCESS && !args.keep {
        fs::remove_dir_all(&dir)?;
    } else {
        println!("vm: what the guests wrote is in {}", dir.display());
    }
    println!("vm: {} s", started.elapsed().as_secs());
    Ok(result)
}

impl Args {
    /// What belongs before every merge.
    pub(crate) fn short() -> Self {
        Self { short: true, ..Self::default() }
    }

    fn machines(&self) -> Vec<&'static Machine> {
        let whole = self.kernel.is_empty() && !self.short;
        match (self.arch.as_slice(), whole) {
            ([], true) => machine::ALL.into(),
            ([], false) => vec![&AMD64],
            (some, _) => some.into(),
        }
    }

    fn series<'a>(&'a self, machine: &'a Machine) -> Vec<&'a str> {
        let all = machine.series;
        let mut series: Vec<_> = match (self.short, self.kernel.as_slice()) {
            (true, _) => vec![all[0], all[all.len() - 1]],
            (false, []) => all.into(),
            (false, some) => some.iter().map(String::as_str).collect(),
        };
        series.sort_by(|a, b| kernel::natural(a, b));
        series.dedup();
        series
    }
}

/// Makes all that the guests of one architecture share, and fetches their kernels.
fn prepare(
    machine: &'static Machine,
    args: &Args,
    cache: &Path,
    dir: &Path,
) -> Result<Vec<Kernel>> {
    machine.cross.install()?;
    qemu_itself(machine, cache)?;
    let archive = Archive::open(&cache.join(format!("apt-{}", machine.name)), machine.name)?;
    let fetch = |series: &&str| kernel::fetch(&archive, cache, machine, series);
    let kernels = args.series(machine).iter().map(fetch).collect::<Result<_>>()?;
    let files = [binaries(machine)?, programs(machine, &archive, cache)?].concat();
    image::base(dir, machine, &files)?;
    Ok(kernels)
}

/// Debian 12 has a QEMU whose packages conflict with those of its backports, so try the plain one
/// without removing anything, then backports.
fn qemu_itself(machine: &Machine, cache: &Path) -> Result<()> {
    if toolchain::in_path(machine.qemu).is_some() {
        return Ok(());
    }
    let package = machine.packages[0];
    let root =
        Root::find().with_context(|| format!("install QEMU: run `apt-get install {package}`"))?;
    let plain = ["install", "--yes", "--no-remove", "--no-install-recommends", package];
    apt::apt_get(root, &plain).or_else(|why| {
        println!("vm: {why:#}; trying the release's backports");
        debian::install_from_backports(cache, machine.packages)
    })
}

/// Builds what runs in the guests, statically: their userland is busybox alone.
fn binaries(machine: &Machine) -> Result<Vec<Placed>> {
    let mut files = Vec::new();
    for what in [
        &["build", "--bin", "memsensor", "--bin", "hog"][..],
        &["test", "--no-run", "--test", "kernel", "--test", "live", "--test", "guest"],
    ] {
        let mut cargo = machine.cross.cargo();
        // Cargo takes the encoded flags, where they are set, instead of ours.
        cargo.env_remove("CARGO_ENCODED_RUSTFLAGS");
        cargo.env("RUSTFLAGS", "-C target-feature=+crt-static");
        // With a target named, proc macros are still built as they must be: for the host, dynamic.
        cargo.args(what).args(["--target", machine.cross.target, "--profile", "guest"]);
        cargo.args(["--package", "sensor-user", "--package", "sensor-tests"]);
        cargo.args(["--features", "sensor-tests/live"]);
        cargo.arg("--message-format=json-render-diagnostics");
        let (status, said) = exec::capture(&mut cargo)?;
        exec::succeeded("cargo", status)?;
        files.extend(said.lines().filter_map(executable));
    }
    for wanted in ["memsensor", "hog", "kernel", "live", "guest"] {
        if !files.iter().any(|f| f.to == format!("t/{wanted}")) {
            bail!("cargo built no {wanted}");
        }
    }
    Ok(files)
}

/// Debian's programs in a guest: busybox is its userland, earlyoom sends a SIGKILL as in real life.
fn programs(machine: &Machine, archive: &Archive, cache: &Path) -> Result<Vec<Placed>> {
    const PACKAGES: [&str; 3] = ["busybox-static", "earlyoom", "libc6"];
    let dir = cache.join(format!("programs-{}", machine.name));
    let files = machine.programs(&dir);
    if !files.iter().all(|f| f.from.exists()) {
        let _ = fs::remove_dir_all(&dir);
        archive.unpack(&PACKAGES.map(|p| format!("{p}/bookworm")), &dir)?;
    }
    Ok(files)
}

/// What cargo built, by a line of what it says.
fn executable(line: &str) -> Option<Placed> {
    let message: serde_json::Value = serde_json::from_str(line).ok()?;
    let from = PathBuf::from(message.get("executable")?.as_str()?);
    let name = message.get("target")?.get("name")?.as_str()?;
    Some(Placed { from, to: format!("t/{name}") })
}

/// Runs the guests, two at a time, in the order that they are in.
fn run_all(dir: &Path, kernels: &[Kernel], guests: &[Guest]) -> Result<Vec<Ran>> {
    let next = Mutex::new(0..guests.len());
    let take = || next.lock().unwrap_or_else(PoisonError::into_inner).next();
    let done = Mutex::new(Vec::new());
    let work = || {
        while let Some(i) = take() {
            let ran = run_one(dir, i, kernels, &guests[i]);
            done.lock().unwrap_or_else(PoisonError::into_inner).push((i, ran));
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(work);
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(i, _)| *i);
    done.into_iter().map(|(_, ran)| ran).collect()
}

fn run_one(all: &Path, i: usize, kernels: &[Kernel], guest: &Guest) -> Result<Ran> {
    let kernel = &kernels[guest.kernel];
    let name = name(kernels, guest);
    let dir = &all.join(i.to_string());
    fs::create_dir_all(dir)?;
    let initramfs = image::initramfs(dir, &image::base_path(all, kernel.machine), kernel, guest)?;
    let started = Instant::now();
    let follow = |line: &str| {
        if line.starts_with("guest: ") || line.ends_with("FAILED") {
            println!("vm: {name}: {:>3} s: {line}", started.elapsed().as_secs());
        }
    };
    let mut ran = qemu::boot(dir, kernel, &initramfs, guest, follow)?;
    // Emulation with many CPUs now and then trips over code that the booting kernel patches. Once our
    // init has spoken, nothing is tried again.
    for _ in 0..2 {
        if ran.end == End::Silent && !ran.output.contains("guest: ") {
            println!("vm: {name}: died while booting, trying again");
            ran = qemu::boot(dir, kernel, &initramfs, guest, follow)?;
        }
    }
    let _ = fs::remove_file(initramfs);
    println!("vm: {name}: {} in {} s", ran.end.describe(), ran.took.as_secs());
    Ok(ran)
}

/// How a guest is called in the output.
fn name(kernels: &[Kernel], guest: &Guest) -> String {
    format!("{} {}", kernels[guest.kernel].release, guest.name)
}

/// What a column is called.
fn heading(kernel: &Kernel, guest: &Guest) -> String {
    let mut heading = kernel.release.split("-cloud").next().unwrap_or_default().to_owned();
    if *kernel.machine != AMD64 {
        heading = format!("{heading} {}", kernel.machine.name);
    }
    if guest.cgroups != suite::Cgroups::V2 {
        heading = format!("{heading} {}", guest.cgroups.name());
    }
    heading
}

/// Failures first, then the table; an empty cell is a failure.
fn report(kernels: &[Kernel], guests: &[Guest], outcomes: &[Ran], args: &Args) -> Result<ExitCode> {
    let mut good = true;
    let mut columns = Vec::new();
    let mut total = Tally::default();
    println!();
    for (guest, ran) in guests.iter().zip(outcomes) {
        let name = name(kernels, guest);
        let tally = Tally::read(&ran.output);
        let Tally { passed, failed, .. } = tally;
        if ran.end != End::Passed || failed > 0 || passed == 0 {
            good = false;
            println!("== {name}: {} ==\n{}", ran.end.describe(), interesting(&ran.output));
        }
        for skipped in ran.output.lines().filter(|l| l.starts_with("skipped: ")) {
            println!("{name}: {skipped}");
        }
        let took = ran.took.as_secs();
        println!(
            "{name:<44} {:<24} {passed:>4} passed {failed:>3} failed {took:>5} s",
            ran.end.describe()
        );
        total.passed += passed;
        total.failed += failed;
        if guest.is_column {
            let heading = heading(&kernels[guest.kernel], guest);
            let column = Column::read(heading, &ran.output);
            let empty = column.empty();
            if !empty.is_empty() {
                good = false;
                println!("{name}: nobody looked at {}", empty.join(", "));
            }
            columns.push(column);
        }
    }
    if !columns.is_empty() {
        println!("\n{}\n{}", matrix::details(&columns), matrix::table(&columns));
    }
    if args.write && good {
        sections::write("vm", &matrix::table(&columns))?;
    }
    println!("{} passed, {} failed on {} guests", total.passed, total.failed, guests.len());
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What a reader of a failure wants to see: from the first failure on, or the end.
fn interesting(output: &str) -> String {
    const MOST: usize = 150;
    let lines: Vec<_> = output.lines().filter(|l| !l.ends_with("... ok")).collect();
    let first = lines.iter().position(|l| *l == "failures:");
    let from = first.unwrap_or(lines.len().saturating_sub(40));
    lines[from..].iter().take(MOST).copied().collect::<Vec<_>>().join("\n")
}
