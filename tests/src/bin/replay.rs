//! The night of web-01 on this machine, with real programs. `cargo xtask replay` builds and runs it; it
//! needs root. The timelines go to stderr, the tables to stdout.

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use sensor_tests::lab::replay::{
    Form, Variant, Way,
    story::{self, Plot},
    view,
};

const USAGE: &str = "usage: replay [--form none|fast|slow] [--way unchecked|check|unsensed|memsensor] \
                     [--variant night|fleet|freeze] [--rounds N]; form, way and variant may be given \
                     several times";

fn main() -> ExitCode {
    sensor_tests::exit(run())
}

fn run() -> Result<()> {
    let (mut forms, mut ways, mut variants, mut rounds) = (vec![], vec![], vec![], 1u32);
    let mut args = std::env::args().skip(1);
    while let Some(option) = args.next() {
        let value = args.next().context(USAGE)?;
        match option.as_str() {
            "--form" => forms.push(find(Form::ALL, Form::name, &value)?),
            "--way" => ways.push(find(Way::ALL, Way::name, &value)?),
            "--variant" => variants.push(find(Variant::ALL, Variant::name, &value)?),
            "--rounds" => rounds = value.parse().ok().filter(|n| *n > 0).context(USAGE)?,
            _ => bail!(USAGE),
        }
    }
    let plots = plots(&forms, &ways, &variants);
    let mut nights = Vec::new();
    for round in 1..=rounds {
        for (n, plot) in plots.iter().enumerate() {
            eprintln!("round {round} of {rounds}, night {} of {}", n + 1, plots.len());
            let night = story::replay(*plot)?;
            eprintln!("{}", view::chronicle(&night));
            nights.push(night);
        }
    }
    print!("{}", view::tables(&nights));
    Ok(())
}

fn find<T: Copy>(all: &[T], name: impl Fn(T) -> &'static str, asked: &str) -> Result<T> {
    all.iter().copied().find(|x| name(*x) == asked).context(USAGE)
}

/// What was asked for; by default every form of the night every way, and with memsensor a fleet and a
/// freeze.
fn plots(forms: &[Form], ways: &[Way], variants: &[Variant]) -> Vec<Plot> {
    let mut plots = Vec::new();
    for variant in if variants.is_empty() { Variant::ALL } else { variants } {
        let own_forms = match variant {
            _ if !forms.is_empty() => forms,
            Variant::Night => Form::ALL,
            Variant::Fleet => &[Form::Slow],
            Variant::Freeze => &[Form::None],
        };
        for form in own_forms {
            let own_ways = match variant {
                _ if !ways.is_empty() => ways,
                // Looking at open requests is of interest where hosts are slow and not dead.
                Variant::Night if *form != Form::Slow => {
                    &[Way::Unchecked, Way::Check, Way::Memsensor]
                }
                Variant::Night => Way::ALL,
                Variant::Fleet | Variant::Freeze => &[Way::Memsensor],
            };
            plots.extend(own_ways.iter().map(|way| Plot::new(*way, *form, *variant)));
        }
    }
    plots
}
