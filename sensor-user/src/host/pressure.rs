//! PSI: /proc/pressure and memory.pressure of cgroups (kernel/sched/psi.c), and triggers on
//! /proc/pressure.
//!
//! Reads totals instead of averages: averages lag by two seconds.

use std::{
    fs::{File, OpenOptions},
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result};

use sensor_core::{
    common::counter::nanos,
    verdict::reading::{BEFORE_SECONDS, Reading},
};

/// Stalled time since boot, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PsiTotals {
    /// At least one task was stalled.
    pub some_ns: u64,
    /// All non-idle tasks were stalled.
    pub full_ns: u64,
    /// Both totals [`BEFORE_SECONDS`] ago, estimated from the kernel's averages.
    pub before: [[u64; 2]; 2],
}

/// Parses the text of a pressure file. Not by procfs, which panics on a line that is cut short, and
/// allocates.
pub fn parse(text: &str) -> Result<PsiTotals> {
    let line = |kind: &str| {
        Line::find(text, kind).with_context(|| format!("no valid line `{kind}` in {text:?}"))
    };
    let (some, full) = (line("some")?, line("full")?);
    let before = std::array::from_fn(|i| [some.before_ns[i], full.before_ns[i]]);
    Ok(PsiTotals { some_ns: some.total_ns, full_ns: full.total_ns, before })
}

/// A line `some avg10=0.00 avg60=0.00 avg300=0.00 total=0` or `full ...`.
struct Line {
    total_ns: u64,
    /// The total [`BEFORE_SECONDS`] ago.
    before_ns: [u64; 2],
}

impl Line {
    fn find(text: &str, kind: &str) -> Option<Self> {
        let mut words = text.lines().map(str::split_ascii_whitespace);
        let words = words.find_map(|mut words| (words.next()? == kind).then_some(words))?;
        let value =
            |name: &str| words.clone().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        // Microseconds.
        let total_ns = value("total")?.parse::<u64>().ok()?.saturating_mul(1000);
        // Percent, with two decimals.
        let ago = |average: &str, seconds: u64| {
            let percent = value(average)?.parse::<f64>().ok().filter(|p| p.is_finite())?;
            let share = percent.clamp(0.0, 100.0) / 100.0;
            let ns = nanos(Duration::from_secs(seconds).mul_f64(share));
            Some(total_ns.saturating_sub(ns))
        };
        let [ten, sixty] = BEFORE_SECONDS;
        Some(Self { total_ns, before_ns: [ago("avg10", ten)?, ago("avg60", sixty)?] })
    }
}

impl PsiTotals {
    /// Stores the totals in a reading.
    pub fn fill(self, reading: &mut Reading) {
        reading.some_ns = Some(self.some_ns);
        reading.full_ns = Some(self.full_ns);
        reading.before = Some(self.before);
    }
}

/// Thresholds that wake the sampler: some task waits for memory for 10 % of half a second, or all
/// tasks wait for I/O for 20 % of it, which detects waits for a slow swap device. Without
/// CAP_SYS_RESOURCE the kernel accepts only windows of two seconds, hence the second trigger of
/// each.
const TRIGGERS: [(&str, [&[u8]; 2]); 2] = [
    ("memory", [b"some 50000 500000\0", b"some 100000 2000000\0"]),
    ("io", [b"full 100000 500000\0", b"full 200000 2000000\0"]),
];

/// Opens files that the kernel marks ready for `PRI` when there is pressure. Only for
/// /proc/pressure: before 6.5, polling a trigger of a removed cgroup accesses freed memory (see
/// `collect/scopes`).
pub fn triggers(dir: &Path) -> Vec<Result<File>> {
    let open = |path: &Path, trigger: &[u8]| -> Result<File> {
        let mut options = OpenOptions::new();
        let nonblock = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits())?;
        let file = options.read(true).write(true).custom_flags(nonblock).open(path);
        let mut file = file.with_context(|| format!("open {} for writing", path.display()))?;
        file.write_all(trigger).with_context(|| format!("set a trigger on {}", path.display()))?;
        Ok(file)
    };
    let open_first = |(name, [short, long]): (&str, [&[u8]; 2])| {
        let path = dir.join(name);
        open(&path, short).or_else(|_| open(&path, long))
    };
    TRIGGERS.into_iter().map(open_first).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_nanoseconds() {
        let text = "some avg10=50.00 avg60=25.00 avg300=0.05 total=31234567\n\
                    full avg10=0.00 avg60=100.00 avg300=0.00 total=89\n";
        let totals = parse(text).expect("parses");
        assert_eq!((totals.some_ns, totals.full_ns), (31_234_567_000, 89_000));
        let before = [[26_234_567_000, 89_000], [16_234_567_000, 0]];
        assert_eq!(totals.before, before, "ten and sixty seconds ago");
        assert!(parse("").is_err());
        assert!(parse("some avg10=x\n").is_err());
    }

    #[test]
    fn damaged_text_is_an_error_and_never_a_panic() {
        let line = |kind: &str, avg: &str, total: &str| {
            format!("{kind} avg10={avg} avg60=0.00 avg300=0.00 total={total}\n")
        };
        let good = line("full", "0.00", "5");
        for some in [
            "some".to_owned(),
            "some\u{789}\n".to_owned(),
            line("some", "NaN", "5"),
            line("some", "inf", "5"),
            line("some", "0.00", "-5"),
            line("some", "0.00", "18446744073709551616"),
            line("something", "0.00", "5"),
        ] {
            assert!(parse(&format!("{some}{good}")).is_err(), "{some:?}");
            assert!(parse(&some).is_err(), "{some:?}");
        }
        let huge = line("some", "1e300", "18446744073709551615");
        let totals = parse(&format!("{good}{huge}")).expect("in any order");
        assert_eq!((totals.some_ns, totals.full_ns), (u64::MAX, 5000));
        assert_eq!(totals.before[0], [u64::MAX - 10_000_000_000, 5000]);
    }
}
