//! Measures the cost of memsensor's BPF programs on this machine, as Markdown. `cargo xtask bench
//! probes` builds and runs it; it needs root, two minutes, and an idle machine. It sets no
//! thresholds.

use std::{fmt::Write as _, io::IsTerminal as _, path::Path, process::ExitCode};

use anyhow::{Context as _, Result, bail};
use sensor_tests::lab::bench::{
    arena::Arena,
    attached, hot,
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
        [ref command @ .., "--rounds", n] => match (command, n.parse()) {
            ([], Ok(n @ 1..)) => bench(n),
            (["processes"], Ok(n @ 1..)) => show_processes(n),
            _ => bail!("cannot do {args:?}: --rounds takes a number from 1"),
        },
        // The child process, in its cgroup.
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
    report("scan of the processes");
    print!("{}", table::run(rounds)?);
    Ok(())
}

fn bench(rounds: u32) -> Result<()> {
    report("each program by hand");
    let hot = hot::run(rounds)?;
    report("making swap and a cgroup");
    let arena = Arena::new()?;
    let (mut attached, mut slow) = (Vec::new(), Vec::new());
    for load in Load::ALL {
        report(&format!("{} thrash, cost per event", load.name()));
        attached.extend(attached::run(&arena, load, attached_rounds(rounds), load.passes())?);
        report(&format!("{} thrash, with and without", load.name()));
        slow.push(slowdown::run(&arena, load, rounds, load.passes())?);
    }
    drop(arena);
    print!("{}", table(rounds, &hot, &attached, &slow)?);
    Ok(())
}

/// Each round is two thrashes: one with memsensor, one with the empty program.
fn attached_rounds(rounds: u32) -> u32 {
    rounds.div_ceil(2)
}

/// Prints progress on a terminal.
fn report(step: &str) {
    if std::io::stderr().is_terminal() {
        eprintln!("bench-probes: {step} ...");
    }
}

fn table(
    rounds: u32,
    hot: &[hot::Cost],
    attached: &[attached::Cost],
    slow: &[Slowdown],
) -> Result<String> {
    let mut out = format!(
        "{}; medians of {rounds} rounds by hand, of {} in the thrash.\n\n\
         Per event, by the kernel's BPF statistics. Every figure includes their two clock reads; \
         \"over empty\" excludes them and the cost of calling any program.\n\n",
        machine()?,
        attached_rounds(rounds)
    );
    out += &hot_table(hot)?;
    out += &attached_table(attached)?;
    out += &slowdown_table(slow)?;
    Ok(out)
}

fn hot_table(costs: &[hot::Cost]) -> Result<String> {
    let mut out =
        String::from("| by hand, caches warm | ns per event | over empty |\n|---|---:|---:|\n");
    for cost in costs {
        let over =
            if cost.program == "empty" { String::new() } else { format!("{:.0}", cost.over_empty) };
        writeln!(out, "| `{}` | {:.0} | {over} |", cost.program, cost.ns)?;
    }
    Ok(out)
}

fn attached_table(costs: &[attached::Cost]) -> Result<String> {
    let mut out = String::from(
        "\n| in a real memcg thrash | events | ns per event | empty program | over empty |\n\
         |---|---:|---:|---:|---:|\n",
    );
    for cost in costs {
        let (load, over) = (cost.load.name(), cost.ns - cost.empty);
        writeln!(
            out,
            "| {load}: `{}` | {} | {:.0} | {:.0} | {over:.0} |",
            cost.program, cost.events, cost.ns, cost.empty
        )?;
    }
    Ok(out)
}

fn slowdown_table(slowdowns: &[Slowdown]) -> Result<String> {
    let mut out = String::from(
        "\n| slowdown of the thrash | pairs | s per run | with / without | 95 % interval | |\n\
         |---|---:|---:|---:|---:|---|\n",
    );
    for slowdown in slowdowns {
        let Slowdown { pairs, seconds, ratio, .. } = slowdown;
        let interval =
            slowdown.interval.map_or(String::new(), |(a, b)| format!("{a:.3} to {b:.3}"));
        let (load, conclusion) = (slowdown.load.name(), slowdown.conclusion());
        writeln!(
            out,
            "| {load} | {pairs} | {seconds:.2} | {ratio:.3} | {interval} | {conclusion} |"
        )?;
    }
    Ok(out)
}

fn machine() -> Result<String> {
    let info = std::fs::read_to_string("/proc/cpuinfo").context("read /proc/cpuinfo")?;
    let model = info.lines().find_map(|l| l.strip_prefix("model name")?.split_once(": "));
    // The version, without the vendor's suffix.
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let kernel = release.split('-').next().unwrap_or(&release);
    let cpus = std::thread::available_parallelism()?;
    Ok(format!("Linux {kernel}, {cpus} CPUs ({})", model.map_or("unknown", |(_, m)| m.trim())))
}
