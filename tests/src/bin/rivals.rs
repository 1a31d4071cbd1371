//! Compares balancers' policies while something goes wrong on one of two hosts, as Markdown. `cargo
//! xtask rivals` builds and runs it; it needs root. Prints the tables to stdout.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result, bail};
use sensor_tests::lab::{
    replay::{
        Policy,
        cause::{self, Cause},
        outcome::Outcome,
        report, rivals,
        run::{self, ReplayConfig},
    },
    scenarios,
};

const USAGE: &str = "usage: rivals [--only CAUSE]... [--policy POLICY]... [--record DIR] \
                     [--replay DIR]";

fn main() -> ExitCode {
    sensor_tests::exit(start())
}

#[derive(Default)]
struct Args {
    causes: Vec<&'static Cause>,
    policies: Vec<Policy>,
    record: Option<PathBuf>,
    replay: Option<PathBuf>,
}

impl Args {
    fn parse() -> Result<Self> {
        let mut parsed = Self::default();
        let mut args = std::env::args().skip(1);
        while let Some(option) = args.next() {
            let value = args.next().context(USAGE)?;
            match option.as_str() {
                "--only" => parsed.causes.push(
                    cause::ALL.iter().find(|c| c.name == value).with_context(|| {
                        let known: Vec<_> = cause::ALL.iter().map(|c| c.name).collect();
                        format!("no cause {value:?}; there are: {}", known.join(", "))
                    })?,
                ),
                "--policy" => parsed.policies.push(
                    Policy::ALL.iter().copied().find(|p| p.name() == value).with_context(|| {
                        let known: Vec<_> = Policy::ALL.iter().map(|p| p.name()).collect();
                        format!("no policy {value:?}; there are: {}", known.join(", "))
                    })?,
                ),
                "--record" => parsed.record = Some(value.into()),
                "--replay" => parsed.replay = Some(value.into()),
                _ => bail!(USAGE),
            }
        }
        if parsed.causes.is_empty() {
            parsed.causes = cause::ALL.iter().collect();
        }
        if parsed.policies.is_empty() {
            parsed.policies = Policy::RIVALS.to_vec();
        }
        Ok(parsed)
    }
}

fn start() -> Result<()> {
    let args = Args::parse()?;
    let mut outcomes = Vec::new();
    for cause in &args.causes {
        for policy in &args.policies {
            match &args.replay {
                Some(dir) => outcomes.extend(recorded(dir, cause, *policy)?),
                None => outcomes.push(measure(cause, *policy, args.record.as_deref())?),
            }
        }
    }
    println!("{}\n", scenarios::run::machine()?);
    print!("{}", rivals::tables(&outcomes));
    Ok(())
}

/// Measures; once more if the machine had other work.
fn measure(cause: &Cause, policy: Policy, record: Option<&Path>) -> Result<Outcome> {
    let first = measure_once(cause, policy)?;
    let outcome = if first.is_disturbed() {
        eprintln!("{}: the machine was disturbed; repeating", cause.name);
        measure_once(cause, policy)?
    } else {
        first
    };
    if let Some(dir) = record {
        std::fs::create_dir_all(dir).with_context(|| format!("mkdir {}", dir.display()))?;
        let file = file(dir, cause, policy);
        std::fs::write(&file, outcome.to_text())
            .with_context(|| format!("write {}", file.display()))?;
    }
    Ok(outcome)
}

fn measure_once(cause: &Cause, policy: Policy) -> Result<Outcome> {
    let name = policy.name();
    let run = run::replay(ReplayConfig::rival(policy, cause))
        .with_context(|| format!("{} with {name}", cause.name))?;
    let outcome = Outcome::of(cause.name, &run);
    eprint!("{}", report::timeline(&run));
    let score = outcome.score();
    eprintln!(
        "{} with {name}: {:.2} user-seconds lost, {:.1} server-seconds withheld without need; the \
         oracle withholds for {} s\n",
        cause.name,
        score.lost,
        score.withheld,
        outcome.needed()
    );
    Ok(outcome)
}

/// The outcome of an earlier run, if there is one.
fn recorded(dir: &Path, cause: &Cause, policy: Policy) -> Result<Option<Outcome>> {
    let file = file(dir, cause, policy);
    file.exists().then(|| Outcome::read(&file)).transpose()
}

fn file(dir: &Path, cause: &Cause, policy: Policy) -> PathBuf {
    dir.join(format!("{}.{}.txt", cause.name, policy.name()))
}
