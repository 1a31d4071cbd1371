//! `systemd`: installs memsensor in guests as the README describes, and tests the shipped units there.

use std::{fs, process::ExitCode, time::Instant};

use anyhow::{Context, Result};

use super::dist;
use crate::{
    host::{exec, install, inventory::Group, toolchain},
    vm::{
        report, runner,
        systemd_guests::{self, RELEASES, Release},
    },
};

/// Test the systemd units in guests of Debian, in QEMU
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Debian releases, comma-separated: bookworm, trixie [default: both]
    #[arg(long, value_delimiter = ',', value_name = "CODENAME", value_parser = Release::named)]
    release: Vec<&'static Release>,
    /// Keep the output of the guests, even if they passed
    #[arg(long)]
    keep: bool,
    /// Only tests whose name contains this
    #[arg(last = true)]
    filter: Option<String>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let started = Instant::now();
    install::ensure(&[Group::Build])?;
    let cache = toolchain::cache_dir().join("vm");
    let dir = exec::target_dir()?.join("vm-systemd");
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    let releases = match args.release.as_slice() {
        [] => RELEASES.iter().collect(),
        releases => releases.to_vec(),
    };
    let binaries = systemd_guests::binaries(&cache)?;
    let tree = dir.join("dist");
    dist::lay_out(systemd_guests::memsensor(&binaries)?, &tree)?;
    let mut guests = systemd_guests::prepare(&releases, &cache, &dir, binaries, &tree)?;
    if let Some(filter) = &args.filter {
        for guest in &mut guests {
            guest.set_filter(filter);
        }
    }
    let runs = runner::run_all(&dir, &guests)?;
    let result = report::print(&guests, &runs);
    for (guest, run) in guests.iter().zip(&runs) {
        // libtest's name of the test may be before it.
        for (_, figure) in run.output.lines().filter_map(|line| line.split_once("measured: ")) {
            println!("{}: {figure}", guest.name);
        }
    }
    result.print_counts();
    if result.passed && !args.keep {
        fs::remove_dir_all(&dir)?;
    } else {
        println!("systemd: the output of the guests is in {}", dir.display());
    }
    println!("systemd: {} s", started.elapsed().as_secs());
    Ok(if result.passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
