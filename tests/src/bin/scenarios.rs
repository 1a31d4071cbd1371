//! Whether the verdict finds what harms and leaves alone what does not, as Markdown. `cargo xtask
//! scenarios` builds and runs it; it needs root and ten minutes.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Context as _, Result, bail};
use sensor_tests::lab::scenarios::{
    catalogue::{self, Half, Scenario},
    load, probe,
    record::Record,
    replay, run,
    table::{self, Outcome},
    harm,
};
use sensor_user::verdict::policy::Policy;

const USAGE: &str =
    "usage: scenarios [--only NAME]... [--half tune|held-out] [--record DIR | --replay DIR]";

fn main() -> ExitCode {
    sensor_tests::exit(start())
}

fn start() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        // Our own children, in their cgroup.
        ["load", ref words @ ..] => load::run(words),
        ["probe", file] => probe::run(Path::new(file)),
        _ => measure(&Asked::parse(&args)?),
    }
}

#[derive(Default)]
struct Asked {
    only: Vec<String>,
    half: Option<Half>,
    record: Option<PathBuf>,
    replay: Option<PathBuf>,
}

impl Asked {
    fn parse(args: &[&str]) -> Result<Self> {
        let mut asked = Self::default();
        for pair in args.chunks(2) {
            match *pair {
                ["--only", name] if catalogue::ALL.iter().any(|s| s.name == name) => {
                    asked.only.push(name.to_owned());
                }
                ["--only", name] => {
                    let known: Vec<_> = catalogue::ALL.iter().map(|s| s.name).collect();
                    bail!("no scenario {name:?}; there are: {}", known.join(", "));
                }
                ["--half", "tune"] => asked.half = Some(Half::Tune),
                ["--half", "held-out"] => asked.half = Some(Half::HeldOut),
                ["--record", dir] => asked.record = Some(dir.into()),
                ["--replay", dir] => asked.replay = Some(dir.into()),
                _ => bail!("cannot do {args:?}; {USAGE}"),
            }
        }
        Ok(asked)
    }

    fn scenarios(&self) -> impl Iterator<Item = &'static Scenario> {
        catalogue::ALL.iter().filter(|s| {
            (self.only.is_empty() || self.only.iter().any(|name| name == s.name))
                && self.half.is_none_or(|half| half == s.half)
        })
    }
}

fn measure(asked: &Asked) -> Result<()> {
    let seconds: u64 = asked.scenarios().map(run::takes).sum();
    if asked.replay.is_none() {
        eprintln!(
            "scenarios: {} of them, about {} min",
            asked.scenarios().count(),
            seconds.div_ceil(60)
        );
    }
    let mut outcomes = Vec::new();
    for scenario in asked.scenarios() {
        let outcome = match &asked.replay {
            Some(dir) => again(scenario, dir)?,
            None => one(scenario, asked.record.as_deref())
                .with_context(|| format!("the scenario {}", scenario.name))?,
        };
        say(&outcome);
        outcomes.push(outcome);
    }
    println!("{}\n", machine()?);
    print!("{}", table::markdown(&outcomes));
    Ok(())
}

/// A run in which the machine held up what has nothing to do with it is repeated once.
fn one(scenario: &Scenario, keep: Option<&Path>) -> Result<Outcome> {
    let run = || -> Result<_> {
        let record = run::run(scenario)?;
        let outcome = table::judge(scenario, &record, &record.weight_changes);
        Ok((record, outcome))
    };
    let (mut record, mut outcome) = run()?;
    if outcome.is_disturbed() {
        eprintln!("{}: the machine was busy with something else; once more", scenario.name);
        (record, outcome) = run()?;
    }
    if let Some(dir) = keep {
        std::fs::create_dir_all(dir).with_context(|| format!("mkdir {}", dir.display()))?;
        record.write(&dir.join(format!("{}.jsonl", scenario.name)))?;
    }
    Ok(outcome)
}

/// What the rules as they are now say of an earlier run.
fn again(scenario: &Scenario, dir: &Path) -> Result<Outcome> {
    let record = Record::read(&dir.join(format!("{}.jsonl", scenario.name)))?;
    let told = replay::told(&record.samples, &Arc::new(Policy::default()));
    Ok(table::judge(scenario, &record, &told))
}

/// One line, for who waits.
fn say(o: &Outcome) {
    let at = |ns: Option<i64>| ns.map_or("-".to_owned(), |ns| format!("{:.1}", ns as f64 / 1e9));
    let ms = |ns: u64| ns as f64 / 1e6;
    eprintln!(
        "{:18} {:?}{}: harmed {}, less {}, drained {} ({}); waits {:.2} ms, at worst {:.0} ms, {:.1} s high; \
         baselines {}; control at worst {:.0} ms",
        o.scenario.name,
        o.mark(),
        if o.is_unexpected() { " UNEXPECTED" } else { "" },
        at(o.harmed),
        at(o.less),
        at(o.drained),
        o.why,
        ms(o.harm.calm),
        ms(o.harm.worst),
        o.harm.high as f64 / 1e9,
        o.baselines.map(at).join(" "),
        ms(o.control.worst),
    );
}

fn machine() -> Result<String> {
    // The version; what a vendor appends says nothing to others.
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let kernel = release.split('-').next().unwrap_or(&release);
    let cpus = std::thread::available_parallelism()?;
    Ok(format!(
        "Linux {kernel}, {cpus} CPUs. Times are seconds from the begin of the load. Harm: the 99th percentile of \
         the waits of a second is at least {} times that of the calm phase (which counts as at least \
         {} ms) for {} s.",
        harm::TIMES,
        harm::FLOOR / 1_000_000,
        harm::STAYS / 1_000_000_000
    ))
}
