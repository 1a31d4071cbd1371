//! What a thrash feels of memsensor: the same number of passes with it attached and without, in
//! pairs, each pair in the opposite medians of the one before (ABBA), so that drift cancels out.
//!
//! The kernel half only, as nothing samples here; BPF statistics are off, as in service.

use anyhow::Result;
use sensor_user::{config::Config, kernel::load};

use super::{
    arena::Arena,
    medians::{interval, median},
    work::Load,
};

/// With memsensor : without.
#[derive(Debug, Clone, PartialEq)]
pub struct Slowdown {
    /// What was thrashed.
    pub load: Load,
    /// Pairs of runs.
    pub pairs: usize,
    /// Median time of a run without memsensor, in seconds.
    pub seconds: f64,
    /// Median of the pairs' ratios.
    pub ratio: f64,
    /// 95 % confidence interval of that.
    pub interval: Option<(f64, f64)>,
}

impl Slowdown {
    /// What the run can say at all.
    pub fn verdict(&self) -> &'static str {
        match self.interval {
            None => "too few pairs to say",
            Some((low, _)) if low > 1.0 => "slower",
            Some((_, high)) if high < 1.0 => "faster, so something else differed",
            Some(_) => "not told from 1.00",
        }
    }
}

/// Runs so many pairs.
pub fn run(arena: &Arena, load: Load, pairs: u32, passes: u32) -> Result<Slowdown> {
    let one = |attached: bool| -> Result<f64> {
        let loaded = load::load(&Config::default())?;
        // Without it, it is loaded and dropped all the same: the machine has then done the same.
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
