//! Measures which monitoring agents respond while a host thrashes. `cargo xtask thrash` builds and
//! runs it; it needs root. Prints the tables to stdout. With `--guest` it queries a virtual
//! machine, whose output it reads from stdin.

use std::{process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, bail};
use sensor_tests::lab::thrash::{
    guest,
    native::{self, SwapSpeed},
    table,
};

const USAGE: &str = "usage: thrash [--swap fast|slow] [--seconds N] | thrash --guest";

/// Duration of the calm phase.
const CALM: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    sensor_tests::exit(run())
}

fn run() -> Result<()> {
    let (mut swaps, mut seconds) = (Vec::new(), 120);
    let mut args = std::env::args().skip(1);
    while let Some(option) = args.next() {
        if option == "--guest" {
            let (run, notes) = guest::run(std::io::stdin().lock())?;
            println!("{}\n{}", table::tables(&run), notes.join("\n"));
            return Ok(());
        }
        let value = args.next().context(USAGE)?;
        match option.as_str() {
            "--swap" => {
                swaps.push(SwapSpeed::ALL.into_iter().find(|f| f.name() == value).context(USAGE)?);
            }
            "--seconds" => seconds = value.parse().ok().filter(|n| *n > 0).context(USAGE)?,
            _ => bail!(USAGE),
        }
    }
    let swaps = if swaps.is_empty() { SwapSpeed::ALL.to_vec() } else { swaps };
    for swap_speed in swaps {
        eprintln!("swap {}: {seconds} s of thrashing", swap_speed.name());
        let run = native::run(swap_speed, CALM, Duration::from_secs(seconds))?;
        println!("{}", table::tables(&run));
    }
    Ok(())
}
