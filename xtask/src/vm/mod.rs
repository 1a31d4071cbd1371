//! `vm`: the kernels that people run, booted in QEMU, with the same static binaries in each, and one
//! table of what works where. [`suite`] says which guests, [`kernel`] and [`debian`] fetch kernels,
//! [`image`] and [`qemu`] boot them, [`matrix`] makes the table.

mod debian;
mod image;
mod kernel;
mod matrix;
mod qemu;
mod suite;

use std::{
    env, fs,
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
    matrix::Column,
    qemu::{End, Ran},
    suite::{Guest, SERIES},
};
use crate::{
    apt,
    exec::{self, Root},
    libtest::Tally,
    readme, setup,
    survey::Group,
    toolchain,
};

/// Boot Debian kernels in QEMU and run the tests inside.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Kernel series, comma-separated [default: all that are supported]
    #[arg(long, value_delimiter = ',', value_name = "SERIES")]
    kernel: Vec<String>,
    /// Only the oldest and the newest kernel, cgroup v2
    #[arg(long, conflicts_with = "kernel")]
    short: bool,
    /// Keep what the guests wrote, also of those that passed
    #[arg(long)]
    keep: bool,
    /// Replace the table in README.md (needs the whole matrix)
    #[arg(long, conflicts_with_all = ["kernel", "short", "filter"])]
    write_readme: bool,
    /// Only tests whose name contains this
    #[arg(last = true)]
    filter: Option<String>,
}

/// Guests at a time: emulation takes a core for each.
const AT_ONCE: usize = 2;

/// Debian's name of the guests' architecture.
const ARCH: &str = "amd64";

/// Packages with what the host needs. QEMU itself is looked at apart.
const PACKAGES: [&str; 7] =
    ["busybox-static", "cpio", "kmod", "xz-utils", "zstd", "lz4", "debian-archive-keyring"];

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let started = Instant::now();
    setup::ensure(&[Group::Build])?;
    apt::install(&PACKAGES)?;
    let cache = toolchain::cache_dir().join("vm");
    qemu_itself(&cache)?;
    let archive = Archive::open(&cache.join(format!("apt-{ARCH}")), ARCH)?;
    let kernels = kernels(args, &archive, &cache)?;
    let series: Vec<_> = kernels.iter().map(|k| k.series.clone()).collect();
    let mut guests = suite::guests(&series, args.short);
    if let Some(filter) = &args.filter {
        for guest in &mut guests {
            guest.filter(filter);
        }
    }
    let files = [binaries()?, earlyoom(&archive, &cache)?].concat();
    let dir = exec::target_dir()?.join("vm");
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).with_context(|| format!("mkdir {}", dir.display()))?;
    let base = image::base(&dir, &files)?;
    println!(
        "vm: {} guests, {AT_ONCE} at a time, on {}: {}",
        guests.len(),
        qemu::accelerator(),
        kernels.iter().map(|k| k.release.as_str()).collect::<Vec<_>>().join(", ")
    );
    let outcomes = run_all(&dir, &base, &kernels, &guests)?;
    let result = report(&kernels, &guests, &outcomes, args)?;
    if result == ExitCode::SUCCESS && !args.keep {
        fs::remove_dir_all(&dir)?;
    } else {
        println!("vm: what the guests wrote is in {}", dir.display());
    }
    println!("vm: {} s", started.elapsed().as_secs());
    Ok(result)
}

/// Debian 12 has a QEMU whose packages conflict with those of its backports, so try the plain one
/// without removing anything, then backports.
fn qemu_itself(cache: &Path) -> Result<()> {
    const QEMU: [&str; 4] =
        ["qemu-system-x86", "qemu-system-common", "qemu-system-data", "seabios"];
    if toolchain::in_path("qemu-system-x86_64").is_some() {
        return Ok(());
    }
    let root = Root::find().context("install QEMU: run `apt-get install qemu-system-x86`")?;
    let plain = ["install", "--yes", "--no-remove", "--no-install-recommends", QEMU[0]];
    apt::apt_get(root, &plain).or_else(|why| {
        println!("vm: {why:#}; trying the release's backports");
        debian::install_from_backports(cache, &QEMU)
    })
}

fn kernels(args: &Args, archive: &Archive, cache: &Path) -> Result<Vec<Kernel>> {
    if env::consts::ARCH != "x86_64" {
        bail!(
            "guests are x86_64 kernels with this machine's binaries: this is {}",
            env::consts::ARCH
        );
    }
    let mut series: Vec<String> = match (args.short, args.kernel.is_empty()) {
        (true, _) => vec![SERIES[0].into(), SERIES[SERIES.len() - 1].into()],
        (false, true) => SERIES.map(str::to_owned).to_vec(),
        (false, false) => args.kernel.clone(),
    };
    series.sort_by(|a, b| kernel::natural(a, b));
    series.dedup();
    series.iter().map(|series| kernel::fetch(archive, cache, ARCH, series)).collect()
}

/// Builds what runs in the guests, statically: their userland is busybox alone.
fn binaries() -> Result<Vec<Placed>> {
    const TARGET: &str = "x86_64-unknown-linux-gnu";
    let mut files = Vec::new();
    for what in [
        &["build", "--bin", "memsensor", "--bin", "hog"][..],
        &["test", "--no-run", "--test", "kernel", "--test", "live", "--test", "guest"],
    ] {
        let mut cargo = exec::cargo();
        // Cargo takes the encoded flags, where they are set, instead of ours.
        cargo.env_remove("CARGO_ENCODED_RUSTFLAGS");
        cargo.env("RUSTFLAGS", "-C target-feature=+crt-static");
        // With a target named, proc macros are still built as they must be: for the host, dynamic.
        cargo.args(what).args(["--target", TARGET, "--profile", "guest"]);
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

/// earlyoom, for a SIGKILL from the real one, with the C library it was built for.
fn earlyoom(archive: &Archive, cache: &Path) -> Result<Vec<Placed>> {
    const FILES: [(&str, &str); 3] = [
        ("usr/bin/earlyoom", "t/earlyoom"),
        ("lib/x86_64-linux-gnu/libc.so.6", "lib/x86_64-linux-gnu/libc.so.6"),
        ("lib/x86_64-linux-gnu/ld-linux-x86-64.so.2", "lib64/ld-linux-x86-64.so.2"),
    ];
    let dir = cache.join("earlyoom");
    if !FILES.iter().all(|(from, _)| dir.join(from).exists()) {
        let _ = fs::remove_dir_all(&dir);
        archive.unpack(&["earlyoom/bookworm".into(), "libc6/bookworm".into()], &dir)?;
    }
    let placed = |(from, to): (&str, &str)| Placed { from: dir.join(from), to: to.to_owned() };
    Ok(FILES.map(placed).into())
}

/// What cargo built, by a line of what it says.
fn executable(line: &str) -> Option<Placed> {
    let message: serde_json::Value = serde_json::from_str(line).ok()?;
    let from = PathBuf::from(message.get("executable")?.as_str()?);
    let name = message.get("target")?.get("name")?.as_str()?;
    Some(Placed { from, to: format!("t/{name}") })
}

/// Runs the guests, two at a time, in the order that they are in.
fn run_all(dir: &Path, base: &Path, kernels: &[Kernel], guests: &[Guest]) -> Result<Vec<Ran>> {
    let next = Mutex::new(0..guests.len());
    let take = || next.lock().unwrap_or_else(PoisonError::into_inner).next();
    let done = Mutex::new(Vec::new());
    let work = || {
        while let Some(i) = take() {
            let ran = run_one(&dir.join(i.to_string()), base, kernels, &guests[i]);
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

fn run_one(dir: &Path, base: &Path, kernels: &[Kernel], guest: &Guest) -> Result<Ran> {
    let kernel = &kernels[guest.kernel];
    let name = name(kernels, guest);
    fs::create_dir_all(dir)?;
    let initramfs = image::initramfs(dir, base, kernel, guest)?;
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
            let release = &kernels[guest.kernel].release;
            let short = release.split("-cloud").next().unwrap_or(release);
            let heading = match guest.cgroups {
                suite::Cgroups::V2 => short.to_owned(),
                other => format!("{short} {}", other.name()),
            };
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
    if args.write_readme && good {
        readme::write("vm", &matrix::table(&columns))?;
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
