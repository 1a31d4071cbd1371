//! The run of web-01 on this machine, with real programs. `cargo xtask replay` builds and runs it; it
//! needs root. The timelines go to stderr, the tables to stdout.

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use sensor_tests::lab::replay::{
    SwapSpeed, Variant, CheckMode,
    run::{self, ReplayConfig},
    report,
};

const USAGE: &str = "usage: replay [--swap_speed none|fast|slow] [--check_mode unchecked|check|unsensed|memsensor] \
                     [--variant run|fleet|freeze] [--rounds N]; swap_speed, check_mode and variant may be given \
                     several times";

fn main() -> ExitCode {
    sensor_tests::exit(run())
}

fn run() -> Result<()> {
    let (mut swaps, mut modes, mut variants, mut rounds) = (vec![], vec![], vec![], 1u32);
    let mut args = std::env::args().skip(1);
    while let Some(option) = args.next() {
        let value = args.next().context(USAGE)?;
        match option.as_str() {
            "--swap_speed" => swaps.push(find(SwapSpeed::ALL, SwapSpeed::name, &value)?),
            "--check_mode" => modes.push(find(CheckMode::ALL, CheckMode::name, &value)?),
            "--variant" => variants.push(find(Variant::ALL, Variant::name, &value)?),
            "--rounds" => rounds = value.parse().ok().filter(|n| *n > 0).context(USAGE)?,
            _ => bail!(USAGE),
        }
    }
    let configs = configs(&swaps, &modes, &variants);
    let mut runs = Vec::new();
    for round in 1..=rounds {
        for (n, config) in configs.iter().enumerate() {
            eprintln!("round {round} of {rounds}, run {} of {}", n + 1, configs.len());
            let run = run::replay(*config)?;
            eprintln!("{}", report::timeline(&run));
            runs.push(run);
        }
    }
    print!("{}", report::tables(&runs));
    Ok(())
}

fn find<T: Copy>(all: &[T], name: impl Fn(T) -> &'static str, asked: &str) -> Result<T> {
    all.iter().copied().find(|x| name(*x) == asked).context(USAGE)
}

/// What was asked for; by default every swap_speed of the run every check_mode, and with memsensor a fleet and a
/// freeze.
fn configs(swaps: &[SwapSpeed], modes: &[CheckMode], variants: &[Variant]) -> Vec<ReplayConfig> {
    let mut configs = Vec::new();
    for variant in if variants.is_empty() { Variant::ALL } else { variants } {
        let own_swaps = match variant {
            _ if !swaps.is_empty() => swaps,
            Variant::Leak => SwapSpeed::ALL,
            Variant::Fleet => &[SwapSpeed::Slow],
            Variant::Freeze => &[SwapSpeed::None],
        };
        for swap_speed in own_swaps {
            let own_modes = match variant {
                _ if !modes.is_empty() => modes,
                // Looking at open requests is of interest where hosts are slow and not dead.
                Variant::Leak if *swap_speed != SwapSpeed::Slow => {
                    &[CheckMode::Unchecked, CheckMode::Check, CheckMode::Memsensor]
                }
                Variant::Leak => CheckMode::ALL,
                Variant::Fleet | Variant::Freeze => &[CheckMode::Memsensor],
            };
            configs.extend(own_modes.iter().map(|check_mode| ReplayConfig::new(*check_mode, *swap_speed, *variant)));
        }
    }
    configs
}
