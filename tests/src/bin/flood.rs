//! Measures what a flood of connections from one address does to other clients and to the daemon.
//! `cargo xtask bench flood` builds and runs it; it needs root. Prints tables to stdout.

use std::{process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, bail};
use sensor_tests::lab::flood::{attack::Size, run, table};

/// Length of each phase, by default.
const SECONDS: u64 = 30;

fn main() -> ExitCode {
    sensor_tests::exit(flood())
}

fn flood() -> Result<()> {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let seconds = match args[..] {
        [] => SECONDS,
        ["--seconds", n] => n.parse().context("--seconds takes a number")?,
        _ => bail!("cannot do {args:?}; usage: flood [--seconds N]"),
    };
    print!("{}", table::tables(&run::run(Size::LARGE, Duration::from_secs(seconds))?));
    Ok(())
}
