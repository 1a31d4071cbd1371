//! Replays an outage on this machine with real programs. `cargo xtask replay` builds and runs it;
//! it needs root. Prints the timelines to stderr, the tables to stdout.

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use sensor_tests::lab::replay::{
    Policy, SwapSpeed, Variant, report,
    run::{self, ReplayConfig},
};

const USAGE: &str = "usage: replay [--swap none|fast|slow] \
                     [--check unchecked|check|no-sensor|memsensor] \
                     [--variant leak|fleet|freeze] [--rounds N]; \
                     --swap, --check and --variant can be repeated";

fn main() -> ExitCode {
    sensor_tests::exit(run())
}

fn run() -> Result<()> {
    let (mut swaps, mut modes, mut variants, mut rounds) = (vec![], vec![], vec![], 1u32);
    let mut args = std::env::args().skip(1);
    while let Some(option) = args.next() {
        let value = args.next().context(USAGE)?;
        match option.as_str() {
            "--swap" => swaps.push(find(SwapSpeed::ALL, SwapSpeed::name, &value)?),
            "--check" => modes.push(find(Policy::PARTS, Policy::name, &value)?),
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

fn find<T: Copy>(all: &[T], name: impl Fn(T) -> &'static str, value: &str) -> Result<T> {
    all.iter().copied().find(|x| name(*x) == value).context(USAGE)
}

/// The selected runs. By default the leak with every swap speed and policy, and with memsensor
/// the fleet leak and the freeze.
fn configs(swaps: &[SwapSpeed], modes: &[Policy], variants: &[Variant]) -> Vec<ReplayConfig> {
    let mut configs = Vec::new();
    for variant in if variants.is_empty() { Variant::ALL } else { variants } {
        let own_swaps = match variant {
            _ if !swaps.is_empty() => swaps,
            Variant::Leak => SwapSpeed::ALL,
            Variant::Fleet => &[SwapSpeed::Slow],
            Variant::Freeze | Variant::Loads(_) => &[SwapSpeed::None],
        };
        for swap_speed in own_swaps {
            let own_modes = match variant {
                _ if !modes.is_empty() => modes,
                // Counting open requests only matters where hosts are slow but respond.
                Variant::Leak if *swap_speed != SwapSpeed::Slow => {
                    &[Policy::Unchecked, Policy::Check, Policy::Memsensor]
                }
                Variant::Leak => Policy::PARTS,
                _ => &[Policy::Memsensor],
            };
            configs.extend(
                own_modes.iter().map(|policy| ReplayConfig::new(*policy, *swap_speed, *variant)),
            );
        }
    }
    configs
}
