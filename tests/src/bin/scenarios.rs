//! Measures whether the verdict detects harm and stays quiet without it, as Markdown. `cargo xtask
//! scenarios` builds and runs it; it needs root and an hour.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Context as _, Result, bail, ensure};
use sensor_core::verdict::policy::Policy;
use sensor_tests::lab::scenarios::{
    catalogue::{self, Half, Scenario},
    harm, load,
    outcome::Outcome,
    probe,
    record::Record,
    replay, run, table,
    truth::{self, Said},
};

const USAGE: &str = "usage: scenarios [--only NAME]... [--half tune|held-out] [--guest MIB] [--record DIR [--missing yes] | --replay DIR | --postmortems DIR]";

fn main() -> ExitCode {
    sensor_tests::exit(start())
}

fn start() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        // Child processes, in their cgroup.
        ["load", ref words @ ..] => load::run(words),
        ["probe", file] => probe::run(Path::new(file)),
        _ => measure(&Args::parse(&args)?),
    }
}

#[derive(Default)]
struct Args {
    only: Vec<String>,
    half: Option<Half>,
    /// Only scenarios of a guest with so much memory; without it, those that need no guest run.
    guest: Option<u64>,
    record: Option<PathBuf>,
    replay: Option<PathBuf>,
    /// Compares the postmortem of each run with what it injects; records are in this directory.
    postmortems: Option<PathBuf>,
    /// Only scenarios that are not recorded yet.
    missing: bool,
}

impl Args {
    fn parse(args: &[&str]) -> Result<Self> {
        let mut parsed = Self::default();
        for pair in args.chunks(2) {
            match *pair {
                ["--only", name] if catalogue::all().any(|s| s.name == name) => {
                    parsed.only.push(name.to_owned());
                }
                ["--only", name] => {
                    let known: Vec<_> = catalogue::all().map(|s| s.name).collect();
                    bail!("no scenario {name:?}; there are: {}", known.join(", "));
                }
                ["--half", "tune"] => parsed.half = Some(Half::Tune),
                ["--half", "held-out"] => parsed.half = Some(Half::HeldOut),
                ["--guest", mib] => parsed.guest = Some(mib.parse().context("--guest")?),
                ["--record", dir] => parsed.record = Some(dir.into()),
                ["--missing", "yes"] => parsed.missing = true,
                ["--postmortems", dir] => parsed.postmortems = Some(dir.into()),
                ["--replay", dir] => parsed.replay = Some(dir.into()),
                _ => bail!("cannot do {args:?}; {USAGE}"),
            }
        }
        Ok(parsed)
    }

    /// Where a run is recorded, if it is.
    fn recording(&self, scenario: &Scenario) -> Option<PathBuf> {
        Some(recording(self.record.as_ref()?, scenario))
    }

    fn scenarios(&self) -> impl Iterator<Item = &'static Scenario> {
        catalogue::all().filter(|s| {
            (self.only.is_empty() || self.only.iter().any(|name| name == s.name))
                && self.half.is_none_or(|half| half == s.half)
                && (self.replay.is_some() || self.guest == s.guest.then_some(s.limit))
                && !(self.missing && self.recording(s).is_some_and(|path| path.exists()))
                && self.replay.as_ref().is_none_or(|dir| recording(dir, s).exists())
        })
    }
}

fn recording(dir: &Path, scenario: &Scenario) -> PathBuf {
    dir.join(format!("{}.txt", scenario.name))
}

fn measure(args: &Args) -> Result<()> {
    if let Some(dir) = &args.postmortems {
        return postmortems(args, dir);
    }
    if args.replay.is_none() {
        let minutes = args.scenarios().map(run::duration).sum::<u64>().div_ceil(60);
        eprintln!("scenarios: {} of them, about {minutes} min", args.scenarios().count());
    }
    let (mut outcomes, mut failed) = (Vec::new(), Vec::new());
    for scenario in args.scenarios() {
        let outcome = match &args.replay {
            Some(dir) => again(scenario, dir),
            None => one(scenario, args.recording(scenario).as_deref()),
        };
        match outcome {
            Ok(outcome) => {
                report(&outcome);
                outcomes.push(outcome);
            }
            // The others do not depend on it.
            Err(e) => {
                eprintln!("{}: {e:#}", scenario.name);
                failed.push(scenario.name);
            }
        }
    }
    println!("{}\n", about()?);
    print!("{}", table::markdown(&outcomes));
    ensure!(failed.is_empty(), "these scenarios did not run: {}", failed.join(", "));
    Ok(())
}

/// Runs a scenario; once more if the service outside the cgroup was harmed too.
fn one(scenario: &Scenario, keep: Option<&Path>) -> Result<Outcome> {
    let run = || -> Result<_> {
        let record = run::run(scenario, None)?;
        let outcome = Outcome::of(scenario, &record, &record.course.weight_changes);
        Ok((record, outcome))
    };
    let (mut record, mut outcome) = run()?;
    if outcome.is_disturbed() {
        eprintln!("{}: the machine was disturbed; repeating", scenario.name);
        (record, outcome) = run()?;
    }
    if let Some(path) = keep {
        let dir = path.parent().context("a file has a directory")?;
        std::fs::create_dir_all(dir).with_context(|| format!("mkdir {}", dir.display()))?;
        record.write(path)?;
    }
    Ok(outcome)
}

/// Runs each scenario, and compares its postmortem with what it injects.
fn postmortems(args: &Args, dir: &Path) -> Result<()> {
    let mut counts = [0_u32; 4];
    println!("| scenario | injected | postmortem | |\n|---|---|---|---|");
    for scenario in args.scenarios() {
        let dir = dir.join(scenario.name);
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).with_context(|| format!("mkdir {}", dir.display()))?;
        let truth = truth::of(scenario);
        let said = run::run(scenario, Some(&dir)).and_then(|_| truth::compare(truth, &dir))?;
        let (index, word, text) = match &said {
            Said::Right(text) => (0, "right", text.as_str()),
            Said::NotKnown(text) => (1, "not known", text.as_str()),
            Said::Wrong(text) => (2, "wrong", text.as_str()),
            Said::NoIncident => (3, "no incident", ""),
        };
        counts[index] += 1;
        println!("| {} | {truth:?} | {text} | {word} |", scenario.name);
    }
    let [right, unknown, wrong, none] = counts;
    println!("\n{right} right, {unknown} not known, {wrong} wrong, {none} without an incident");
    Ok(())
}

/// Evaluates the current rules on an earlier run.
fn again(scenario: &Scenario, dir: &Path) -> Result<Outcome> {
    let record = Record::read(&recording(dir, scenario))?;
    let changes = replay::weight_changes(scenario, &record.samples, &Arc::new(Policy::default()));
    Ok(Outcome::of(scenario, &record, &changes))
}

/// Prints progress.
fn report(o: &Outcome) {
    let at = |ns: Option<i64>| ns.map_or("-".to_owned(), |ns| format!("{:.1}", ns as f64 / 1e9));
    let ms = |ns: u64| ns as f64 / 1e6;
    eprintln!(
        "{:26} {:?}{}: harmed {}, reduced {}, overloaded {} ({}); p99 {:.2} ms, \
         worst {:.0} ms, {:.1} s high; baselines {}; control worst {:.0} ms",
        o.scenario.name,
        o.mark(),
        if o.is_unexpected() { " UNEXPECTED" } else { "" },
        at(o.harmed),
        at(o.reduced),
        at(o.overloaded),
        o.reasons,
        ms(o.harm.calm),
        ms(o.harm.worst),
        o.harm.high as f64 / 1e9,
        o.baselines.map(at).join(" "),
        ms(o.control.worst),
    );
}

fn about() -> Result<String> {
    let machine = run::machine()?;
    Ok(format!(
        "{machine}. Times are seconds from the begin of the load. Harm: the 99th \
         percentile of latency in a second is at least {} times that of the calm phase (which \
         counts as at least {} ms) for {} s.",
        harm::TIMES,
        harm::FLOOR / 1_000_000,
        harm::STAYS / 1_000_000_000
    ))
}
