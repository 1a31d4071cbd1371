//! Measures the resources that Prometheus and VictoriaMetrics need for a fleet of hosts with
//! memsensor. `cargo xtask fleet` builds and runs it; it needs root for the one real sensor. Prints
//! the tables to stdout.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, bail};
use sensor_tests::{
    lab::fleet::{run, table},
    support::repository::repository,
};

const USAGE: &str = "usage: fleet [--hosts N]... [--minutes N] [--rules DIR]";

fn main() -> ExitCode {
    sensor_tests::exit(start())
}

fn start() -> Result<()> {
    let (mut fleets, mut minutes) = (Vec::new(), 10);
    let mut rules = repository().join("dashboards/rules");
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let value = args.next().context(USAGE)?;
        match arg.as_str() {
            "--hosts" => fleets.push(value.parse().context(USAGE)?),
            "--minutes" => minutes = value.parse().context(USAGE)?,
            "--rules" => rules = PathBuf::from(value),
            _ => bail!(USAGE),
        }
    }
    let mut results = Vec::new();
    for hosts in fleets {
        eprintln!("{hosts} hosts for {minutes} minutes");
        results.push(run::run(hosts, Duration::from_mins(minutes), &rules)?);
    }
    print!("{}", table::tables(&results));
    Ok(())
}
