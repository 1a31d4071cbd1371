//! `thrash`: measures which services still respond while a host thrashes, and writes the tables
//! into the documents. The method is in `tests/src/lab/thrash`.

use std::{
    io::Write as _,
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};

use super::measurement::{Measurement, release_program};
use crate::{
    host::{exec, inventory::Group},
    vm::thrash_guest,
};

/// The length of a guest's calm phase, and the default length of its thrashing phase: services give
/// up after minutes only.
const CALM: Duration = Duration::from_secs(30);
const DEFAULT_GUEST_SECONDS: u32 = 300;

/// Measure which services still respond while a host thrashes
///
/// Lets memsensor, node_exporter, nginx and sshd thrash in one cgroup, or in a guest. Needs root,
/// five minutes and an idle machine.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Speed of the swap: fast (a memory device) or slow (a slow disk); may be repeated
    #[arg(long, value_parser = ["fast", "slow"])]
    swap: Vec<String>,
    /// Length of the thrashing phase in seconds
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: Option<u32>,
    /// Use an emulated QEMU guest, which thrashes as a whole and then runs out of memory
    #[arg(long, conflicts_with = "swap")]
    guest: bool,
    /// Trace the system calls of memsensor's sensing and answering threads instead
    #[arg(long, conflicts_with_all = ["swap", "guest"])]
    syscalls: bool,
    /// Kernel series of the guest
    #[arg(long, default_value = "6.12", requires = "guest")]
    kernel: String,
    /// Write the tables into the documents
    #[arg(long)]
    write: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let measurement = Measurement {
        program: "thrash",
        binaries: &[],
        groups: &[Group::Build, Group::Tests],
        root_reason: "the measurement creates cgroups and swap",
        section: match (args.guest, args.syscalls) {
            (true, _) => "thrash-guest",
            (_, true) => "thrash-syscalls",
            _ => "thrash",
        },
    };
    let root = measurement.prepare(args.write)?;
    let tables = if args.guest {
        measure_guest(args)?
    } else {
        measurement.run_program(root, |command| {
            command.args(args.syscalls.then_some("--syscalls"));
            command.args(args.swap.iter().flat_map(|swap| ["--swap", swap]));
            if let Some(seconds) = args.seconds {
                command.args(["--seconds", &seconds.to_string()]);
            }
        })?
    };
    measurement.finish(args.write, &tables)
}

/// Boots the guest and polls its services from this machine. The poller reads the guest's output,
/// which contains the guest's clock.
fn measure_guest(args: &Args) -> Result<String> {
    let mut poller = Command::new(release_program("thrash")?)
        .arg("--guest")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("start the poller")?;
    let poller_stdin = Mutex::new(poller.stdin.take());
    let on_line = |line: &str| {
        eprintln!("{line}");
        if let Some(stdin) = poller_stdin.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            // If the poller has died, its exit status below gives the reason.
            let _ = writeln!(stdin, "{line}");
        }
    };
    let seconds = args.seconds.unwrap_or(DEFAULT_GUEST_SECONDS);
    let thrashing = Duration::from_secs(seconds.into());
    let release = exec::target_dir()?.join("release");
    let guest = thrash_guest::run(&args.kernel, &release, CALM, thrashing, on_line);
    drop(poller_stdin);
    let output = poller.wait_with_output().context("wait for the poller")?;
    let tables = String::from_utf8_lossy(&output.stdout).into_owned();
    print!("{tables}");
    guest?;
    exec::check_status("thrash --guest", output.status)?;
    Ok(tables)
}
