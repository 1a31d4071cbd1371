//! The measurements of a run, stored as compact text: readings ten times a second, and the harm of
//! the service. Changed rules can be evaluated on them in milliseconds, without any load. Pure, but
//! for reading and writing files.
//!
//! A text has a line for what happened, then the names of the columns, then a line per sample.
//! Counters and sizes are differences from the sample before; `.` is no difference, `-` is not
//! measured. Times are microseconds, sizes KiB.

use std::{fmt::Write as _, path::Path};

use anyhow::{Context as _, Result, ensure};
use sensor_core::verdict::reading::{LimitPart, Reading};
use serde::{Deserialize, Serialize};

use super::harm::{Harm, Phases};

/// A sample of the judged cgroup and of the host.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Sample {
    /// The reading of the cgroup, by memsensor's own code.
    pub scope: Reading,
    /// The reading of the host.
    pub host: Reading,
    /// Requests of users that were due until then.
    pub asked: Option<u64>,
    /// Those of them that were slow or failed, whenever that became known.
    pub slow: Option<u64>,
    /// PSI `some avg10` of what is judged, in percent.
    pub some_avg10: f64,
    /// PSI `full avg10` of what is judged, in percent.
    pub full_avg10: f64,
}

impl Sample {
    /// Its time: CLOCK_MONOTONIC nanoseconds.
    pub fn at_ns(&self) -> u64 {
        self.scope.at_ns
    }
}

/// A change of the weight that memsensor reports to load balancers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeightChange {
    /// Its time: CLOCK_MONOTONIC nanoseconds.
    pub at_ns: u64,
    /// The new weight, in percent; 0 is overloaded.
    pub weight: u8,
    /// The triggered rules, if they were queried.
    pub reasons: String,
}

/// What happened in a run, without the samples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Course {
    /// Name of the scenario.
    pub name: String,
    /// Kernel and number of CPUs.
    pub machine: String,
    /// Begin and end of the phases.
    pub phases: Phases,
    /// Harm of the service.
    pub harm: Harm,
    /// Harm of the same service outside the cgroup: the influence of the machine itself.
    pub control: Harm,
    /// Changes of the weight that the daemon reported.
    pub weight_changes: Vec<WeightChange>,
}

/// One run of one scenario.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// What happened.
    pub course: Course,
    /// Samples, ten a second.
    pub samples: Vec<Sample>,
}

/// A column: its name, its unit (divisor of the reading's unit), and how to read and write it.
struct Column {
    name: &'static str,
    unit: u64,
    get: fn(&Sample) -> Option<u64>,
    set: fn(&mut Sample, Option<u64>),
}

const NS: u64 = 1000;
const BYTES: u64 = 1024;

macro_rules! columns {
    ($($name:literal $unit:ident $($place:ident).+;)*) => {
        &[$(Column {
            name: $name,
            unit: $unit,
            get: |sample| sample.$($place).+,
            set: |sample, value| sample.$($place).+ = value,
        },)*]
    };
}

const ONE: u64 = 1;

/// The columns of values that may not be measured.
const COLUMNS: &[Column] = columns! {
    "asked" ONE asked;
    "slow" ONE slow;
    "some" NS scope.some_ns;
    "full" NS scope.full_ns;
    "io_some" NS scope.io_some_ns;
    "io_full" NS scope.io_full_ns;
    "refaulted" BYTES scope.refaulted_bytes;
    "lost" BYTES scope.lost_bytes;
    "swapped_in" BYTES scope.swapped_in_bytes;
    "swapped_out" BYTES scope.swapped_out_bytes;
    "scanned" ONE scope.scanned_pages;
    "reclaimed" ONE scope.reclaimed_pages;
    "kills" ONE scope.oom_kills;
    "total" BYTES scope.total_bytes;
    "available" BYTES scope.available_bytes;
    "unused" BYTES scope.unused_bytes;
    "swap_free" BYTES scope.swap_free_bytes;
    "host_read" BYTES host.read_bytes;
    "host_some" NS host.some_ns;
    "host_full" NS host.full_ns;
    "host_io_some" NS host.io_some_ns;
    "host_io_full" NS host.io_full_ns;
    "host_refaulted" BYTES host.refaulted_bytes;
    "host_lost" BYTES host.lost_bytes;
    "host_swapped_in" BYTES host.swapped_in_bytes;
    "host_scanned" ONE host.scanned_pages;
    "host_reclaimed" ONE host.reclaimed_pages;
    "host_total" BYTES host.total_bytes;
    "host_available" BYTES host.available_bytes;
    "host_unused" BYTES host.unused_bytes;
    "host_swap_free" BYTES host.swap_free_bytes;
};

/// A column of what limits caused on the host: name, unit and field.
type LimitColumn = (&'static str, u64, fn(&mut LimitPart) -> &mut u64);

/// These columns.
const LIMITS: [LimitColumn; 5] = [
    ("limit_some", NS, |part| &mut part.some_ns),
    ("limit_full", NS, |part| &mut part.full_ns),
    ("limit_refaulted", BYTES, |part| &mut part.refaulted_bytes),
    ("limit_lost", BYTES, |part| &mut part.lost_bytes),
    ("limit_swapped_in", BYTES, |part| &mut part.swapped_in_bytes),
];

/// Time, both averages, the columns and the limits, in the units of the text.
fn values(sample: &Sample) -> Vec<Option<u64>> {
    let hundredths = |percent: f64| Some(whole(percent * 100.0));
    let mut all = vec![
        Some(sample.at_ns() / NS),
        hundredths(sample.some_avg10),
        hundredths(sample.full_avg10),
    ];
    all.extend(COLUMNS.iter().map(|column| Some((column.get)(sample)? / column.unit)));
    let mut part = sample.host.limits;
    all.extend(LIMITS.iter().map(|(_, unit, field)| Some(*field(&mut part) / unit)));
    all
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a percentage of at most 100; the cast saturates"
)]
fn whole(value: f64) -> u64 {
    value.round() as u64
}

fn sample(values: &[Option<u64>]) -> Sample {
    let mut sample = Sample::default();
    let value = |i: usize| values[i].unwrap_or(0);
    (sample.scope.at_ns, sample.host.at_ns) = (value(0) * NS, value(0) * NS);
    (sample.some_avg10, sample.full_avg10) = (value(1) as f64 / 100.0, value(2) as f64 / 100.0);
    for (column, value) in COLUMNS.iter().zip(&values[3..]) {
        (column.set)(&mut sample, value.map(|value| value * column.unit));
    }
    for ((_, unit, field), value) in LIMITS.iter().zip(&values[3 + COLUMNS.len()..]) {
        *field(&mut sample.host.limits) = value.unwrap_or(0) * unit;
    }
    sample.scope.read_bytes = sample.host.read_bytes;
    sample
}

fn names() -> Vec<&'static str> {
    let columns = COLUMNS.iter().map(|column| column.name);
    let limits = LIMITS.iter().map(|(name, ..)| *name);
    ["time", "some_avg10", "full_avg10"].into_iter().chain(columns).chain(limits).collect()
}

impl Record {
    /// The text.
    pub fn text(&self) -> Result<String> {
        let mut text = serde_json::to_string(&self.course)?;
        let _ = writeln!(text, "\n{}", names().join(" "));
        let mut last = vec![Some(0); names().len()];
        for sample in &self.samples {
            let now = values(sample);
            let line: Vec<_> = now.iter().zip(&last).map(|(now, last)| cell(*now, *last)).collect();
            let _ = writeln!(text, "{}", line.join(" "));
            for (last, now) in last.iter_mut().zip(&now) {
                *last = now.or(*last);
            }
        }
        Ok(text)
    }

    /// Parses the text. A value whose column it lacks was not measured.
    pub fn parse(text: &str) -> Result<Self> {
        let mut lines = text.lines();
        let course = serde_json::from_str(lines.next().context("it is empty")?)?;
        let columns: Vec<_> = lines.next().context("no columns")?.split(' ').collect();
        let place = |name: &&str| names().iter().position(|known| known == name);
        let places: Option<Vec<_>> = columns.iter().map(place).collect();
        let places = places.with_context(|| format!("other columns: {columns:?}"))?;
        ensure!(columns.first() == Some(&"time"), "no times");
        let mut last = vec![0u64; places.len()];
        let mut samples = Vec::new();
        for line in lines {
            let cells: Vec<_> = line.split(' ').collect();
            ensure!(cells.len() == last.len(), "a line of {} values: {line}", cells.len());
            let mut now = vec![None; names().len()];
            for ((cell, last), place) in cells.iter().zip(&mut last).zip(&places) {
                now[*place] = value(cell, last).with_context(|| format!("{cell:?} in {line}"))?;
            }
            samples.push(sample(&now));
        }
        Ok(Self { course, samples })
    }

    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path);
        let text = text.with_context(|| format!("read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("{} is not a record", path.display()))
    }

    /// Writes a file.
    pub fn write(&self, path: &Path) -> Result<()> {
        std::fs::write(path, self.text()?).with_context(|| format!("write {}", path.display()))
    }
}

fn cell(now: Option<u64>, last: Option<u64>) -> String {
    match now {
        None => "-".to_owned(),
        Some(now) => match now.wrapping_sub(last.unwrap_or(0)).cast_signed() {
            0 => ".".to_owned(),
            difference => difference.to_string(),
        },
    }
}

fn value(cell: &str, last: &mut u64) -> Result<Option<u64>> {
    match cell {
        "-" => return Ok(None),
        "." => {}
        difference => *last = last.wrapping_add_signed(difference.parse()?),
    }
    Ok(Some(*last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_read_back() {
        let harm = Harm { calm: 1, worst: u64::MAX, harmed_at: Some(3), high: 4 };
        let change = WeightChange { at_ns: 4, weight: 75, reasons: "pressed".into() };
        let course = Course {
            name: "a".into(),
            machine: "Linux".into(),
            phases: Phases { begin: 1, load: 2, end: 3 },
            harm,
            control: Harm { harmed_at: None, ..harm },
            weight_changes: vec![change],
        };
        let sample = |n: u64| {
            let mut sample = Sample { some_avg10: 0.5, full_avg10: 99.25, ..Sample::default() };
            (sample.scope.at_ns, sample.host.at_ns) = (n * 1000, n * 1000);
            sample.slow = Some(n / 2);
            sample.scope.some_ns = (n != 2).then_some(n * 7000);
            sample.scope.available_bytes = Some((9 - n) * 1024);
            sample.host.limits.full_ns = n * 3000;
            (sample.host.read_bytes, sample.scope.read_bytes) = (Some(1024), Some(1024));
            sample
        };
        let record = Record { course, samples: (1..5).map(sample).collect() };
        let text = record.text().expect("text");
        assert_eq!(Record::parse(&text).expect("parsed"), record, "{text}");
        let (head, columns) = (text.lines().next().expect("a line"), "time full_avg10 some");
        let short = Record::parse(&format!("{head}\n{columns}\n1 50 7\n1 . -\n")).expect("parsed");
        let read: Vec<_> = short.samples.iter().map(|s| (s.at_ns(), s.scope.some_ns)).collect();
        assert_eq!(read, [(1000, Some(7000)), (2000, None)], "fewer columns");
        assert_eq!(short.samples[1].slow, None);
        for broken in ["", "{}", &text.replace("time", "tim"), &text.replace(" . ", " ")] {
            assert!(Record::parse(broken).is_err(), "{broken}");
        }
    }
}
