//! The measurements of a scenario, stored as JSON lines, so that changed rules can be evaluated on
//! them.

use std::{fmt::Write as _, path::Path};

use anyhow::{Context as _, Result};
use sensor_core::verdict::reading::Reading;
use serde_json::{Value, json};

use super::{harm::Phases, probe::Request};

/// A sample of the judged cgroup.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CgroupSample {
    /// The reading of memsensor's own code.
    pub reading: Reading,
    /// PSI `some avg10`, in percent.
    pub some_avg10: f64,
    /// PSI `full avg10`, in percent.
    pub full_avg10: f64,
}

impl CgroupSample {
    /// Its time: CLOCK_MONOTONIC nanoseconds.
    pub fn at_ns(&self) -> u64 {
        self.reading.at_ns
    }
}

/// A change of the weight that memsensor reports to load balancers.
#[derive(Debug, Clone, PartialEq)]
pub struct WeightChange {
    /// Its time: CLOCK_MONOTONIC nanoseconds.
    pub at_ns: u64,
    /// The new weight, in percent; 0 is overloaded.
    pub weight: u8,
    /// The triggered rules, if they were queried.
    pub reasons: String,
}

/// One run of one scenario.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Name of the scenario.
    pub name: String,
    /// Begin and end of the phases.
    pub phases: Phases,
    /// Samples of the cgroup.
    pub samples: Vec<CgroupSample>,
    /// Requests of the service.
    pub requests: Vec<Request>,
    /// Requests of the same service outside the cgroup: the influence of the machine itself.
    pub control: Vec<Request>,
    /// Changes of the weight.
    pub weight_changes: Vec<WeightChange>,
}

macro_rules! counters {
    ($($field:ident)*) => {
        fn counters(reading: &Reading) -> Value {
            json!({
                "at_ns": reading.at_ns,
                $(stringify!($field): reading.$field,)*
                "before": reading.before,
            })
        }

        fn reading(value: &Value) -> Option<Reading> {
            Some(Reading {
                at_ns: value["at_ns"].as_u64()?,
                $($field: value[stringify!($field)].as_u64(),)*
                before: serde_json::from_value(value["before"].clone()).ok()?,
                ..Reading::default()
            })
        }
    };
}

// The fields that a cgroup has.
counters! {
    some_ns full_ns io_full_ns stall_ns refaulted_bytes swapped_in_bytes swapped_out_bytes
    scanned_pages reclaimed_pages oom_kills total_bytes available_bytes unused_bytes swap_free_bytes
}

impl Record {
    /// Writes it as JSON lines.
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut text = String::new();
        let Phases { begin, load, end } = self.phases;
        writeln!(text, "{}", json!({ "name": self.name, "phases": [begin, load, end] }))?;
        for sample in &self.samples {
            let psi = [sample.some_avg10, sample.full_avg10];
            let line = json!({ "sample": counters(&sample.reading), "avg10": psi });
            writeln!(text, "{line}")?;
        }
        for (kind, requests) in [("request", &self.requests), ("control", &self.control)] {
            for r in requests {
                writeln!(text, "{}", json!({ kind: [r.due, r.done] }))?;
            }
        }
        for change in &self.weight_changes {
            let WeightChange { at_ns, weight, reasons } = change;
            let line = json!({ "weight": weight, "at_ns": at_ns, "reasons": reasons });
            writeln!(text, "{line}")?;
        }
        std::fs::write(path, text).with_context(|| format!("write {}", path.display()))
    }

    /// Reads JSON lines.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path);
        let text = text.with_context(|| format!("read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("{} is not a record", path.display()))
    }

    fn parse(text: &str) -> Result<Self> {
        let mut lines = text.lines();
        let head: Value = serde_json::from_str(lines.next().context("it is empty")?)?;
        let [begin, load, end] = serde_json::from_value(head["phases"].clone())?;
        let name = head["name"].as_str().context("no name")?.to_owned();
        let phases = Phases { begin, load, end };
        let (samples, requests, control) = (Vec::new(), Vec::new(), Vec::new());
        let mut record =
            Self { name, phases, samples, requests, control, weight_changes: Vec::new() };
        for line in lines {
            let value: Value = serde_json::from_str(line)?;
            record.push(&value).with_context(|| format!("unknown line: {line}"))?;
        }
        Ok(record)
    }

    fn push(&mut self, value: &Value) -> Option<()> {
        let request =
            |pair: &Value| Some(Request { due: pair[0].as_u64()?, done: pair[1].as_u64()? });
        if let Some(sample) = value.get("sample") {
            let [some_avg10, full_avg10] = serde_json::from_value(value["avg10"].clone()).ok()?;
            self.samples.push(CgroupSample { reading: reading(sample)?, some_avg10, full_avg10 });
        } else if let Some(pair) = value.get("request") {
            self.requests.push(request(pair)?);
        } else if let Some(pair) = value.get("control") {
            self.control.push(request(pair)?);
        } else {
            let at_ns = value["at_ns"].as_u64()?;
            let weight = u8::try_from(value["weight"].as_u64()?).ok()?;
            let reasons = value["reasons"].as_str()?.to_owned();
            self.weight_changes.push(WeightChange { at_ns, weight, reasons });
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_record_is_read_back() {
        let reading = Reading {
            at_ns: 5,
            some_ns: Some(7),
            before: Some([[1, 2], [3, 4]]),
            swap_free_bytes: Some(0),
            ..Reading::default()
        };
        let record = Record {
            name: "a".into(),
            phases: Phases { begin: 1, load: 2, end: 3 },
            samples: vec![CgroupSample { reading, some_avg10: 0.5, full_avg10: 0.25 }],
            requests: vec![Request { due: 1, done: u64::MAX }],
            control: vec![Request { due: 2, done: 3 }],
            weight_changes: vec![WeightChange { at_ns: 4, weight: 75, reasons: "pressed".into() }],
        };
        let path = std::env::temp_dir().join(format!("memsensor-record-{}", std::process::id()));
        record.write(&path).expect("written");
        let again = Record::read(&path);
        std::fs::remove_file(&path).expect("removed");
        assert_eq!(again.expect("read"), record);
        assert!(Record::parse("").is_err());
        assert!(Record::parse("{\"name\":\"a\",\"phases\":[1,2,3]}\n{\"x\":1}\n").is_err());
    }
}
