//! A long run under mixed load. `cargo xtask soak` builds and runs it; it needs root. The argument
//! is the number of minutes. Prints the table to stdout.

use std::{process::ExitCode, time::Duration};

use anyhow::{Context as _, Result};

fn main() -> ExitCode {
    sensor_tests::exit(run())
}

fn run() -> Result<()> {
    let minutes: u64 = std::env::args().nth(1).context("usage: soak MINUTES")?.parse()?;
    print!("{}", sensor_tests::lab::soak::run(Duration::from_mins(minutes))?);
    Ok(())
}
