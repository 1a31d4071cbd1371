//! What was seen of a scenario, and how it is kept as JSON lines, so that rules can be tried on it
//! again.

use std::{fmt::Write as _, path::Path};

use anyhow::{Context as _, Result};
use sensor_user::verdict::reading::Reading;
use serde_json::{Value, json};

use super::{probe::Request, harm::Phases};

/// A look at the cgroup that is watched.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CgroupSample {
    /// What memsensor's own code found.
    pub reading: Reading,
    /// The kernel's average of PSI `some`, in percent.
    pub some_avg10: f64,
    /// Of PSI `full`.
    pub full_avg10: f64,
}

impl CgroupSample {
    /// When: CLOCK_MONOTONIC nanoseconds.
    pub fn at_ns(&self) -> u64 {
        self.reading.at_ns
    }
}

/// What memsensor told a load balancer.
#[derive(Debug, Clone, PartialEq)]
pub struct WeightChange {
    /// When: CLOCK_MONOTONIC nanoseconds.
    pub at_ns: u64,
    /// The weight that it gave, in percent; 0 is draining.
    pub weight: u8,
    /// The rules that it named, if it was asked.
    pub why: String,
}

/// One run of one scenario.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// The scenario's name.
    pub name: String,
    /// When what happened.
    pub phases: Phases,
    /// Looks at the cgroup.
    pub samples: Vec<CgroupSample>,
    /// Requests of the service.
    pub requests: Vec<Request>,
    /// Requests of the same service outside the cgroup: what the machine itself did.
    pub control: Vec<Request>,
    /// What memsensor said, whenever that changed.
    pub weight_changes: Vec<WeightChange>,
}

macro_rules! counters {
    ($($field:ident)*) => {
        fn counters(reading: &Reading) -> Value {
            json!({ "at_ns": reading.at_ns, $(stringify!($field): reading.$field,)* "before": reading.before })
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

// What there is of a cgroup.
counters! {
    some_ns full_ns io_full_ns stall_ns refaulted_bytes swapped_in_bytes swapped_out_bytes scanned_pages
    reclaimed_pages oom_kills total_bytes available_bytes unused_bytes
    swap_free_bytes
}

impl Record {
    /// As JSON lines.
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut text = String::new();
        let Phases { begin, load, end } = self.phases;
        writeln!(text, "{}", json!({ "name": self.name, "phases": [begin, load, end] }))?;
        for look in &self.samples {
            let psi = [look.some_avg10, look.full_avg10];
            writeln!(text, "{}", json!({ "look": counters(&look.reading), "avg10": psi }))?;
        }
        for (kind, requests) in [("request", &self.requests), ("control", &self.control)] {
            for r in requests {
                writeln!(text, "{}", json!({ kind: [r.due, r.done] }))?;
            }
        }
        for told in &self.weight_changes {
            let said = json!({ "told": [told.at_ns], "weight": told.weight, "why": told.why });
            writeln!(text, "{said}")?;
        }
        std::fs::write(path, text).with_context(|| format!("write {}", path.display()))
    }

    /// From JSON lines.
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
        let mut record = Self { name, phases, samples, requests, control, weight_changes: Vec::new() };
        for line in lines {
            let value: Value = serde_json::from_str(line)?;
            record.take(&value).with_context(|| format!("a line that is none of ours: {line}"))?;
        }
        Ok(record)
    }

    fn take(&mut self, value: &Value) -> Option<()> {
        let request =
            |pair: &Value| Some(Request { due: pair[0].as_u64()?, done: pair[1].as_u64()? });
        if let Some(look) = value.get("look") {
            let [some_avg10, full_avg10] = serde_json::from_value(value["avg10"].clone()).ok()?;
            self.samples.push(CgroupSample { reading: reading(look)?, some_avg10, full_avg10 });
        } else if let Some(pair) = value.get("request") {
            self.requests.push(request(pair)?);
        } else if let Some(pair) = value.get("control") {
            self.control.push(request(pair)?);
        } else {
            let at_ns = value["told"][0].as_u64()?;
            let weight = u8::try_from(value["weight"].as_u64()?).ok()?;
            let why = value["why"].as_str()?.to_owned();
            self.weight_changes.push(WeightChange { at_ns, weight, why });
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
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
            weight_changes: vec![WeightChange { at_ns: 4, weight: 75, why: "pressed".into() }],
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
