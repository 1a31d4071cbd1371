//! `bench`: measures what memsensor's programs cost, and puts the table where the README shows it.
//! What is measured, and how, is in `tests/src/bench`.

use std::{fs, process::ExitStatus};

use anyhow::{Context, Result, ensure};

use crate::{
    exec::{self, Copy, Root},
    setup,
    survey::Group,
};

const README: &str = "README.md";
const BEGIN: &str = "<!-- bench:probes:begin -->";
const END: &str = "<!-- bench:probes:end -->";

/// Measure what memsensor costs.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// What each program costs per event, and what a thrash feels of it; needs root
    Probes(Probes),
}

/// What each program costs per event, and what a thrash feels of it; needs root.
#[derive(clap::Args)]
struct Probes {
    /// Put the table into README.md
    #[arg(long)]
    write_readme: bool,
    /// Rounds to take medians of; the default takes about three minutes
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let What::Probes(args) = &args.what;
    let path = exec::workspace().join(README);
    if args.write_readme {
        // Before three minutes are spent.
        replace(&read(&path)?, "")?;
    }
    let root = Root::find().context("the benchmark loads BPF programs")?;
    setup::ensure(&[Group::Build])?;
    let mut build = exec::cargo();
    build.args(["build", "--release", "--package", "sensor-tests", "--bin", "bench-probes"]);
    exec::run(&mut build)?;

    let program = exec::target_dir()?.join("release/bench-probes");
    let program = program.to_str().context("the target directory's path is not UTF-8")?;
    let mut bench = root.command(program);
    if let Some(rounds) = args.rounds {
        bench.args(["--rounds", &rounds.to_string()]);
    }
    let name = exec::typed(&bench);
    let (status, table): (ExitStatus, _) = exec::tee(&mut bench, Copy::Stdout)?;
    exec::succeeded(&name, status)?;
    if args.write_readme {
        let text = replace(&read(&path)?, table.trim())?;
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        println!("written: {}", path.display());
    }
    Ok(())
}

fn read(path: &std::path::Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
}

/// The text with what stands between the markers replaced.
fn replace(text: &str, table: &str) -> Result<String> {
    let markers = || format!("{README} needs the lines {BEGIN} and {END}, once and in this order");
    ensure!(text.matches(BEGIN).count() == 1 && text.matches(END).count() == 1, markers());
    let (before, rest) = text.split_once(BEGIN).with_context(markers)?;
    let (_, after) = rest.split_once(END).with_context(markers)?;
    Ok(format!("{before}{BEGIN}\n\n{table}\n\n{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_markers_changes() {
        let text = format!("a\n{BEGIN}\nold\n{END}\nz\n");
        let new = replace(&text, "| new |").expect("markers are there");
        assert_eq!(new, format!("a\n{BEGIN}\n\n| new |\n\n{END}\nz\n"));
        assert_eq!(replace(&new, "| new |").expect("still there"), new);
    }

    #[test]
    fn missing_markers_are_named() {
        for text in ["", BEGIN, &format!("{END} {BEGIN}"), &format!("{BEGIN}{BEGIN}{END}")] {
            let why = replace(text, "").expect_err("not both in order").to_string();
            assert!(why.contains(BEGIN) && why.contains(END), "{why}");
        }
    }
}
