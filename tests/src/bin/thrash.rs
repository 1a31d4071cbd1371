//! Measures which monitoring agents respond while a host thrashes. `cargo xtask thrash` builds and
//! runs it; it needs root. Prints the tables to stdout. With `--guest` it queries a virtual
//! machine, whose output it reads from stdin; with `--syscalls` it traces memsensor instead.

use std::{process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, bail};
use sensor_tests::lab::{
    syscalls,
    thrash::{
        guest,
        native::{self, SwapSpeed},
        table,
    },
};

const USAGE: &str = "usage: thrash [--swap fast|slow] [--seconds N] | thrash --syscalls \
                     [--seconds N] | thrash --guest";

/// Duration of a trace of system calls.
const TRACE_SECONDS: u64 = 60;

/// Duration of the calm phase.
const CALM: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    sensor_tests::exit(run())
}

fn run() -> Result<()> {
    let (mut swaps, mut seconds, mut traces) = (Vec::new(), None, false);
    let mut args = std::env::args().skip(1);
    while let Some(option) = args.next() {
        if option == "--guest" {
            let (run, notes) = guest::run(std::io::stdin().lock())?;
            println!("{}\n{}", table::tables(&run), notes.join("\n"));
            return Ok(());
        }
        if option == "--syscalls" {
            traces = true;
            continue;
        }
        let value = args.next().context(USAGE)?;
        match option.as_str() {
            "--swap" => {
                swaps.push(SwapSpeed::ALL.into_iter().find(|f| f.name() == value).context(USAGE)?);
            }
            "--seconds" => {
                seconds = Some(value.parse().ok().filter(|n| *n > 0).context(USAGE)?);
            }
            _ => bail!(USAGE),
        }
    }
    if traces {
        return trace(Duration::from_secs(seconds.unwrap_or(TRACE_SECONDS)));
    }
    let seconds = seconds.unwrap_or(120);
    let swaps = if swaps.is_empty() { SwapSpeed::ALL.to_vec() } else { swaps };
    for swap_speed in swaps {
        eprintln!("swap {}: {seconds} s of thrashing", swap_speed.name());
        let run = native::run(swap_speed, CALM, Duration::from_secs(seconds))?;
        println!("{}", table::tables(&run));
    }
    Ok(())
}

/// Prints the system calls of both threads; an error if one is not on the list.
fn trace(time: Duration) -> Result<()> {
    let verdict = syscalls::run::run(time)?;
    println!("{}", verdict.table());
    match verdict.violations.first() {
        Some((thread, call)) => {
            bail!("{thread}: not on the list ({} in all): {call:?}", verdict.violations.len())
        }
        None => Ok(()),
    }
}
