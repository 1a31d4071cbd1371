//! Series as text for people, as JSON and CSV with one line per step, and as OpenMetrics, which
//! `promtool tsdb create-blocks-from openmetrics` loads.
//!
//! Names of scopes are plain ([`super::series`]), and names of signals and rules are those of the
//! record: those that are not plain are left out.

use std::fmt::Write as _;

use sensor_core::{common::text::Sentence, record::content::Schema, verdict::state::VerdictState};
use serde_json::{Map, Value, json};

use super::{
    series::{Point, Series},
    times,
};

/// A form of output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A table.
    Text,
    /// An object per line.
    Json,
    /// A header and a line per step.
    Csv,
    /// OpenMetrics with times.
    OpenMetrics,
}

/// The series in a form.
pub fn write(form: Form, all: &[Series], schema: &Schema) -> String {
    match form {
        Form::Text => text(all, schema),
        Form::Json => json_lines(all, schema),
        Form::Csv => csv(all, schema),
        Form::OpenMetrics => openmetrics(all, schema),
    }
}

/// Signals that the table shows: the first ones that the record has.
const SHOWN: [&str; 3] = ["full_share_10s", "some_share_10s", "io_full_share_10s"];

fn text(all: &[Series], schema: &Schema) -> String {
    let mut out = String::new();
    for series in all {
        let _ = writeln!(out, "{} of {}", series.scope, Sentence(or_unknown(&schema.host)));
        let _ = write!(
            out,
            "{:21}  {:10} {:>6} {:>10} {:>10}",
            "time (UTC)", "state", "weight", "available", "free swap"
        );
        for name in SHOWN {
            let _ = write!(out, " {name:>17}");
        }
        out.push_str("  rules\n");
        let mut was_gap = false;
        for point in &series.points {
            let is_gap = point.looks == 0;
            if is_gap && !was_gap {
                let _ = writeln!(out, "{:21}  not recorded", times::text(point.wall_ns));
            } else if !is_gap {
                line(&mut out, point, schema);
            }
            was_gap = is_gap;
        }
        out.push('\n');
    }
    out
}

fn line(out: &mut String, point: &Point, schema: &Schema) {
    let state = point.state.map_or("unknown", VerdictState::label);
    let weight = point.weight.map_or_else(String::new, |weight| format!("{:.0}%", weight * 100.0));
    let mib = |bytes: Option<u64>| {
        bytes.map_or_else(|| "-".to_owned(), |bytes| format!("{} MiB", bytes >> 20))
    };
    let (available, swap) = (mib(point.available_bytes), mib(point.swap_free_bytes));
    let time = times::text(point.wall_ns);
    let _ = write!(out, "{time:21}  {state:10} {weight:>6} {available:>10} {swap:>10}");
    for name in SHOWN {
        let value = signal(point, schema, name).map_or("-".to_owned(), |v| format!("{v:.3}"));
        let _ = write!(out, " {value:>17}");
    }
    let _ = writeln!(out, "  {}", rules(point, schema).join(" "));
}

fn or_unknown(text: &str) -> &str {
    if text.is_empty() { "an unknown host" } else { text }
}

fn signal(point: &Point, schema: &Schema, name: &str) -> Option<f32> {
    let index = schema.signals.iter().position(|signal| signal == name)?;
    point.signals.get(index).copied().flatten()
}

fn rules<'a>(point: &Point, schema: &'a Schema) -> Vec<&'a str> {
    let fires =
        |n: &usize| point.fires.checked_shr(u32::try_from(*n).unwrap_or(64)).unwrap_or(0) & 1 == 1;
    let named = (0..schema.rules.len().min(64)).filter(fires);
    named.map(|n| schema.rules[n].as_str()).filter(|name| is_plain(name)).collect()
}

fn is_plain(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// The signals that the record names, with their places.
fn signals(schema: &Schema) -> impl Iterator<Item = (usize, &str)> {
    let all = schema.signals.iter().enumerate();
    all.map(|(n, name)| (n, name.as_str())).filter(|(_, name)| is_plain(name))
}

fn json_lines(all: &[Series], schema: &Schema) -> String {
    let mut out = String::new();
    for series in all {
        for point in &series.points {
            let _ = writeln!(out, "{}", object(&series.scope, point, schema));
        }
    }
    out
}

fn object(scope: &str, point: &Point, schema: &Schema) -> Value {
    let value = |n: usize| point.signals.get(n).copied().flatten();
    let signals: Map<_, _> =
        signals(schema).map(|(n, name)| (name.to_owned(), json!(value(n)))).collect();
    json!({
        "time": seconds(point.wall_ns),
        "scope": scope,
        "looks": point.looks,
        "state": point.state.map(VerdictState::label),
        "weight": point.weight,
        "rules": rules(point, schema),
        "total_bytes": point.total_bytes,
        "available_bytes": point.available_bytes,
        "swap_free_bytes": point.swap_free_bytes,
        "signals": signals,
    })
}

fn seconds(wall_ns: i64) -> f64 {
    wall_ns as f64 / 1e9
}

fn csv(all: &[Series], schema: &Schema) -> String {
    let names: Vec<_> = signals(schema).map(|(_, name)| name).collect();
    let mut out = "time,scope,looks,state,weight,total_bytes,available_bytes,swap_free_bytes,rules"
        .to_owned();
    for name in names {
        let _ = write!(out, ",{name}");
    }
    out.push('\n');
    for series in all {
        for point in &series.points {
            csv_line(&mut out, &series.scope, point, schema);
        }
    }
    out
}

fn csv_line(out: &mut String, scope: &str, point: &Point, schema: &Schema) {
    fn cell<T: ToString>(value: Option<T>) -> String {
        value.map_or_else(String::new, |value| value.to_string())
    }
    let cells = [
        format!("{:.3}", seconds(point.wall_ns)),
        scope.to_owned(),
        point.looks.to_string(),
        point.state.map_or("", VerdictState::label).to_owned(),
        cell(point.weight),
        cell(point.total_bytes),
        cell(point.available_bytes),
        cell(point.swap_free_bytes),
        rules(point, schema).join(" "),
    ];
    out.push_str(&cells.join(","));
    for (n, _) in signals(schema) {
        let _ = write!(out, ",{}", cell(point.signals.get(n).copied().flatten()));
    }
    out.push('\n');
}

/// One family after the other, as the format demands; the times of each series rise.
fn openmetrics(all: &[Series], schema: &Schema) -> String {
    let mut out = String::new();
    let mut family = |name: &str, about: &str, value: &dyn Fn(&Point) -> Option<f64>| {
        let _ = write!(out, "# TYPE {name} gauge\n# HELP {name} {about}\n");
        for series in all {
            samples(&mut out, name, &format!("scope=\"{}\"", series.scope), series, value);
        }
    };
    family("memsensor_weight_ratio", "The lowest weight in the step.", &|p| {
        p.weight.map(f64::from)
    });
    family("memsensor_memory_total_bytes", "Memory that the scope may use.", &|p| {
        p.total_bytes.map(|bytes| bytes as f64)
    });
    family("memsensor_memory_available_bytes", "The least that was available in the step.", &|p| {
        p.available_bytes.map(|bytes| bytes as f64)
    });
    family("memsensor_swap_free_bytes", "The least free swap in the step.", &|p| {
        p.swap_free_bytes.map(|bytes| bytes as f64)
    });
    out.push_str(
        "# TYPE memsensor_state gauge\n# HELP memsensor_state 1 for the worst state in the step.\n",
    );
    for series in all {
        for state in VerdictState::ALL {
            let labels = format!("scope=\"{}\",state=\"{}\"", series.scope, state.label());
            let is = |p: &Point| p.state.map(|s| f64::from(u8::from(s == state)));
            samples(&mut out, "memsensor_state", &labels, series, &is);
        }
    }
    out.push_str("# TYPE memsensor_signal gauge\n# HELP memsensor_signal The worst value of a signal in the step.\n");
    for series in all {
        for (n, name) in signals(schema) {
            let labels = format!("scope=\"{}\",signal=\"{name}\"", series.scope);
            let value = |p: &Point| p.signals.get(n).copied().flatten().map(f64::from);
            samples(&mut out, "memsensor_signal", &labels, series, &value);
        }
    }
    out.push_str("# EOF\n");
    out
}

fn samples(
    out: &mut String,
    name: &str,
    labels: &str,
    series: &Series,
    value: &dyn Fn(&Point) -> Option<f64>,
) {
    for point in &series.points {
        if let Some(value) = value(point) {
            let _ = writeln!(out, "{name}{{{labels}}} {value} {:.3}", seconds(point.wall_ns));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> (Vec<Series>, Schema) {
        let wall_ns = 1_764_299_520_100_000_000;
        let point = Point {
            wall_ns,
            looks: 3,
            state: Some(VerdictState::Overloaded),
            weight: Some(0.0),
            fires: 0b10,
            signals: vec![Some(0.5), None, Some(1.0)],
            total_bytes: Some(1 << 30),
            available_bytes: Some(5 << 20),
            swap_free_bytes: None,
        };
        let gap = Point::gap(wall_ns + 1_000_000_000);
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let schema = Schema {
            host: "web-01".into(),
            signals: names(&["full_share_10s", "some_share_10s", "not plain\n"]),
            rules: names(&["stalled", "choking"]),
            ..Schema::default()
        };
        (vec![Series { scope: "host".into(), points: vec![point, gap.clone(), gap] }], schema)
    }

    fn written(form: Form) -> String {
        let (all, schema) = all();
        write(form, &all, &schema)
    }

    #[test]
    fn a_table_shows_gaps_once() {
        let text = written(Form::Text);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "host of web-01");
        assert!(lines[2].starts_with("2025-11-28 03:12:00.1  overloaded     0%"), "{text}");
        assert!(lines[2].contains("5 MiB") && lines[2].ends_with("choking"), "{text}");
        assert!(lines[3].ends_with("not recorded") && lines[4].is_empty(), "{text}");
    }

    #[test]
    fn json_and_csv_have_a_line_per_step() {
        let text = written(Form::Json);
        let first: Value =
            serde_json::from_str(text.lines().next().expect("a line")).expect("JSON");
        assert_eq!(first["signals"], json!({"full_share_10s": 0.5, "some_share_10s": null}));
        assert_eq!((&first["state"], &first["rules"]), (&json!("overloaded"), &json!(["choking"])));
        let text = written(Form::Csv);
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[0].ends_with("rules,full_share_10s,some_share_10s"), "{text}");
        assert_eq!(lines[1], "1764299520.100,host,3,overloaded,0,1073741824,5242880,,choking,0.5,");
        assert_eq!(lines[2], "1764299521.100,host,0,,,,,,,,");
        assert_eq!(lines.len(), 4);
    }

    #[test]
    fn openmetrics_has_each_family_once_and_no_gaps() {
        let text = written(Form::OpenMetrics);
        assert!(text.ends_with("# EOF\n"));
        assert!(
            text.contains("memsensor_weight_ratio{scope=\"host\"} 0 1764299520.100\n"),
            "{text}"
        );
        let full = "memsensor_signal{scope=\"host\",signal=\"full_share_10s\"} 0.5 1764299520.100";
        assert_eq!(
            text.lines().filter(|line| line.starts_with("memsensor_signal")).collect::<Vec<_>>(),
            [full]
        );
        let types: Vec<_> = text.lines().filter(|line| line.starts_with("# TYPE")).collect();
        let mut unique = types.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(types.len(), unique.len());
    }
}
