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
use procfs::{FromBufRead as _, MemoryPressure};

use sensor_core::verdict::reading::{BEFORE_SECONDS, Reading};

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

/// Parses the text of a pressure file. Its totals are in microseconds.
pub fn parse(text: &str) -> Result<PsiTotals> {
    let pressure = MemoryPressure::from_buf_read(text.as_bytes())?;
    let (some_ns, full_ns) = (pressure.some.total * 1000, pressure.full.total * 1000);
    // The averages are percentages with two decimals.
    let ago = |total: u64, percent: f32, seconds: u64| {
        let share = f64::from(percent).clamp(0.0, 100.0) / 100.0;
        let ns = Duration::from_secs(seconds).mul_f64(share).as_nanos();
        total.saturating_sub(u64::try_from(ns).unwrap_or(u64::MAX))
    };
    let [ten, sixty] = BEFORE_SECONDS;
    let before = [
        [ago(some_ns, pressure.some.avg10, ten), ago(full_ns, pressure.full.avg10, ten)],
        [ago(some_ns, pressure.some.avg60, sixty), ago(full_ns, pressure.full.avg60, sixty)],
    ];
    Ok(PsiTotals { some_ns, full_ns, before })
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
}
