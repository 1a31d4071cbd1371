//! The slowdown of a thrash: the same number of passes with memsensor attached and without, in
//! pairs. Each pair is in the opposite order of the one before (ABBA), so that drift cancels out.
//!
//! Only the BPF programs run, without the sampler; BPF statistics are off, as in production.

use anyhow::Result;
use sensor_user::kernel::{load, settings::Settings};

use super::{
    arena::Arena,
    medians::{interval, median},
    work::Load,
};

/// Duration with memsensor divided by duration without.
#[derive(Debug, Clone, PartialEq)]
pub struct Slowdown {
    /// The workload.
    pub load: Load,
    /// Number of pairs.
    pub pairs: usize,
    /// Median time of a run without memsensor, in seconds.
    pub seconds: f64,
    /// Median of the pairs' ratios.
    pub ratio: f64,
    /// Its 95 % confidence interval.
    pub interval: Option<(f64, f64)>,
}

impl Slowdown {
    /// The conclusion, as text.
    pub fn conclusion(&self) -> &'static str {
        match self.interval {
            None => "too few pairs",
            Some((low, _)) if low > 1.0 => "slower",
            Some((_, high)) if high < 1.0 => "faster, so the runs differed otherwise",
            Some(_) => "no measurable slowdown",
        }
    }
}

/// Runs so many pairs.
pub fn run(arena: &Arena, load: Load, pairs: u32, passes: u32) -> Result<Slowdown> {
    let one = |attached: bool| -> Result<f64> {
        let loaded = load::load(&Settings::default())?;
        // Loaded and dropped in both cases, so that the machine does the same work before.
        let _attached = attached.then_some(loaded);
        Ok(arena.thrash(load, passes)?.as_secs_f64())
    };
    let (mut ratios, mut seconds) = (Vec::new(), Vec::new());
    for pair in 0..pairs {
        let first_with = pair % 2 == 0;
        let first = one(first_with)?;
        let second = one(!first_with)?;
        let (with, without) = if first_with { (first, second) } else { (second, first) };
        ratios.push(with / without);
        seconds.push(without);
    }
    Ok(Slowdown {
        load,
        pairs: ratios.len(),
        seconds: median(&seconds),
        ratio: median(&ratios),
        interval: interval(&ratios),
    })
}
