//! `thrash`: who still answers while a host thrashes, and its tables where docs/measured.md shows them. What
//! happens, and how it is measured, is in `tests/src/thrash`.

use std::{
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};

use crate::{
    exec::{self, Copy, Root},
    sections, setup,
    survey::Group,
    vm::outside,
};

/// The section of docs/measured.md that holds the tables.
const SECTION: &str = "thrash";
const SECTION_OF_GUEST: &str = "thrash-guest";

/// How long a guest is calm, and how long it thrashes if nothing else is said: it must go on for minutes
/// to show who gives up.
const CALM: Duration = Duration::from_secs(30);
const GUEST_SECONDS: u32 = 300;

/// Let memsensor, node_exporter, nginx and sshd thrash in one cgroup, and ask them meanwhile; needs root,
/// five minutes, and a machine with little else to do.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only with this swap: as fast as memory, or slow as a tired disk
    #[arg(long, value_parser = ["fast", "slow"])]
    form: Vec<String>,
    /// How long each form thrashes
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: Option<u32>,
    /// Not here but in a guest, all of which thrashes and then runs out of memory (in QEMU, emulated)
    #[arg(long, conflicts_with = "form")]
    guest: bool,
    /// The guest's kernel
    #[arg(long, default_value = "6.12", requires = "guest")]
    kernel: String,
    /// Put the tables into docs/measured.md
    #[arg(long)]
    write: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let section = if args.guest { SECTION_OF_GUEST } else { SECTION };
    if args.write {
        // Before minutes are spent.
        sections::check(section)?;
    }
    let root = Root::find().context("thrashing takes cgroups and swap")?;
    setup::ensure(&[Group::Build, Group::Tests])?;
    let mut cargo = exec::cargo();
    cargo.args(["build", "--release", "--package", "sensor-tests", "--package", "sensor-user"]);
    exec::run(cargo.arg("--bins"))?;

    let built = exec::target_dir()?.join("release");
    let table = if args.guest { in_guest(args, &built)? } else { here(args, &built, root)? };
    if args.write {
        sections::write(section, &table)?;
    }
    Ok(())
}

fn here(args: &Args, built: &Path, root: Root) -> Result<String> {
    let program = built.join("thrash");
    let program = program.to_str().context("the target directory's path is not UTF-8")?;
    let mut thrash = root.command(program);
    thrash.args(args.form.iter().flat_map(|form| ["--form", form]));
    if let Some(seconds) = args.seconds {
        thrash.args(["--seconds", &seconds.to_string()]);
    }
    let name = exec::typed(&thrash);
    let (status, table) = exec::tee(&mut thrash, Copy::Stdout)?;
    exec::succeeded(&name, status)?;
    Ok(table)
}

/// The one who asks is on this machine, and hears from the guest what time it is there.
fn in_guest(args: &Args, built: &Path) -> Result<String> {
    let mut asker = Command::new(built.join("thrash"))
        .arg("--guest")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("start who asks")?;
    let hears = Mutex::new(asker.stdin.take());
    let follow = |line: &str| {
        eprintln!("{line}");
        if let Some(pipe) = hears.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            // It tells why itself if it is gone.
            let _ = writeln!(pipe, "{line}");
        }
    };
    let load = Duration::from_secs(args.seconds.unwrap_or(GUEST_SECONDS).into());
    let ran = outside::thrash(&args.kernel, built, [CALM, load], follow);
    drop(hears);
    let out = asker.wait_with_output().context("wait for who asks")?;
    let table = String::from_utf8_lossy(&out.stdout).into_owned();
    print!("{table}");
    ran?;
    exec::succeeded("thrash --guest", out.status)?;
    Ok(table)
}
