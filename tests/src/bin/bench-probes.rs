//! What memsensor's programs cost on this machine, as Markdown. `cargo xtask bench probes` builds
//! and runs it; it needs root, two minutes, and a machine with nothing else to do.
//!
//! It compares with nothing but itself: whether a figure is good is for who reads it.

use std::{fmt::Write as _, io::IsTerminal as _, path::Path, process::ExitCode};

use anyhow::{Context as _, Result, bail};
use sensor_tests::lab::bench::{
    arena::Arena,
    hot, attached,
    slowdown::{self, Slowdown},
    table,
    work::{self, Load},
};

const ROUNDS: u32 = 20;

fn main() -> ExitCode {
    sensor_tests::exit(run())
}

fn run() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        [] => bench(ROUNDS),
        ["processes"] => show_processes(ROUNDS),
        [ref what @ .., "--rounds", n] => match (what, n.parse()) {
            ([], Ok(n @ 1..)) => bench(n),
            (["processes"], Ok(n @ 1..)) => show_processes(n),
            _ => bail!("cannot do {args:?}: --rounds takes a number from 1"),
        },
        // Our own child, in its cgroup.
        ["work", load, mib, passes, file] => {
            let load = Load::ALL.into_iter().find(|l| l.name() == load);
            let load = load.context("the workload is anon or file")?;
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
            let ns = work::run(load, mib.parse()?, passes.parse()?, Path::new(file))?;
            println!("{ns}");
            Ok(())
        }
        _ => bail!("cannot do {args:?}; usage: bench-probes [processes] [--rounds N]"),
    }
}

fn show_processes(rounds: u32) -> Result<()> {
    say("a pass over the processes");
    print!("{}", table::run(rounds)?);
    Ok(())
}

fn bench(rounds: u32) -> Result<()> {
    say("each program by hand");
    let hot = hot::run(rounds)?;
    say("swap and a cgroup to thrash");
    let arena = Arena::new()?;
    let (mut attached, mut slow) = (Vec::new(), Vec::new());
    for load in Load::ALL {
        say(&format!("{} thrash, cost per event", load.name()));
        attached.extend(attached::run(&arena, load, attached_rounds(rounds), load.passes())?);
        say(&format!("{} thrash, with and without", load.name()));
        slow.push(slowdown::run(&arena, load, rounds, load.passes())?);
    }
    drop(arena);
    print!("{}", table(rounds, &hot, &attached, &slow)?);
    Ok(())
}

/// Each of these is two thrashes: one with memsensor, one with the empty program.
fn attached_rounds(rounds: u32) -> u32 {
    rounds.div_ceil(2)
}

/// Progress, for who waits at a terminal.
fn say(what: &str) {
    if std::io::stderr().is_terminal() {
        eprintln!("bench-probes: {what} ...");
    }
}

fn table(rounds: u32, hot: &[hot::Cost], attached: &[attached::Cost], slow: &[Slowdown]) -> Result<String> {
    let mut out = String::new();
    writeln!(
        out,
        "{}; medians of {rounds} rounds by hand, of {} in the thrash.\n",
        machine()?,
        attached_rounds(rounds)
    )?;
    writeln!(
        out,
        "Per event, by the kernel's own BPF statistics. The two clock reads that take them are in \
         every figure; \"over empty\" is without them and without what calling any program costs.\n"
    )?;
    writeln!(out, "| by hand, caches warm | ns per event | over empty |")?;
    writeln!(out, "|---|---:|---:|")?;
    for cost in hot {
        let over =
            if cost.program == "empty" { String::new() } else { format!("{:.0}", cost.over_empty) };
        writeln!(out, "| `{}` | {:.0} | {over} |", cost.program, cost.ns)?;
    }
    writeln!(
        out,
        "\n| in a real memcg thrash | events | ns per event | empty there | over empty |"
    )?;
    writeln!(out, "|---|---:|---:|---:|---:|")?;
    for cost in attached {
        let (load, over) = (cost.load.name(), cost.ns - cost.empty);
        writeln!(
            out,
            "| {load}: `{}` | {} | {:.0} | {:.0} | {over:.0} |",
            cost.program, cost.events, cost.ns, cost.empty
        )?;
    }
    writeln!(
        out,
        "\n| the thrash itself | pairs | s per run | with : without | 95 % interval | |"
    )?;
    writeln!(out, "|---|---:|---:|---:|---:|---|")?;
    for s in slow {
        let interval = s.interval.map_or(String::new(), |(a, b)| format!("{a:.3} to {b:.3}"));
        let Slowdown { pairs, seconds, ratio, .. } = s;
        let (load, verdict) = (s.load.name(), s.verdict());
        writeln!(out, "| {load} | {pairs} | {seconds:.2} | {ratio:.3} | {interval} | {verdict} |")?;
    }
    Ok(out)
}

fn machine() -> Result<String> {
    let info = std::fs::read_to_string("/proc/cpuinfo").context("read /proc/cpuinfo")?;
    let model = info.lines().find_map(|l| l.strip_prefix("model name")?.split_once(": "));
    // The version; what a vendor appends says nothing to others.
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let kernel = release.split('-').next().unwrap_or(&release);
    let cpus = std::thread::available_parallelism()?;
    Ok(format!("Linux {kernel}, {cpus} CPUs ({})", model.map_or("unknown", |(_, m)| m.trim())))
}
