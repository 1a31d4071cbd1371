//! The data of the dashboards' pictures. `cargo xtask dashboards --pictures` builds and runs it; it
//! needs root.
//!
//! `dashboard-data FILE [PACE]` runs a scenario of five minutes (PACE below 1 shortens it),
//! executes all queries of the dashboards, and writes the results by dashboard, panel and query.

use std::{collections::BTreeMap, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result};
use sensor_tests::{
    lab::dashboards::{Pace, ScenarioRun, run},
    support::dashboards::{NAMES, Query, queries},
};
use serde_json::{Value, json};

/// Points per line, about one per pixel.
const POINTS: f64 = 240.0;

fn main() -> ExitCode {
    sensor_tests::exit(write_results())
}

fn write_results() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let file = args.next().context("usage: dashboard-data FILE [PACE]")?;
    let pace: f64 = args.next().map_or(Ok(1.0), |pace| pace.parse())?;
    let [calm, pressure, leak, recovery] =
        [60, 200, 45, 90].map(|seconds| Duration::from_secs(seconds).mul_f64(pace));
    eprintln!("a scenario run of {} s", (calm + pressure + recovery).as_secs());
    let run = run(Pace { calm, pressure, leak, recovery, scrape_seconds: 2 })?;
    let mut boards = BTreeMap::new();
    for name in NAMES {
        // The dashboards for on-call use end with the pressure, those for postmortems with the run.
        let live = ["fleet", "host"].contains(&name);
        let end = if live { run.calm_again } else { run.ended };
        boards.insert(name, board(&run, name, end)?);
    }
    std::fs::write(&file, serde_json::to_string(&boards)?).with_context(|| format!("write {file}"))
}

fn board(run: &ScenarioRun, name: &str, end: f64) -> Result<Value> {
    let mut results = BTreeMap::new();
    for query in queries(name)? {
        let place = query.panel.map_or_else(|| query.place.clone(), |panel| panel.to_string());
        let (series, exemplars) = execute(run, &query, end).context(query.place)?;
        let letter = json!({ "series": series, "exemplars": exemplars });
        results.entry(place).or_insert_with(BTreeMap::new).insert(query.letter, letter);
    }
    Ok(json!({ "begun": run.begun, "ended": end, "answers": results }))
}

fn execute(run: &ScenarioRun, query: &Query, end: f64) -> Result<(Vec<Value>, Value)> {
    let seconds = end - run.begun;
    let expression = run.expression(query, "web", seconds)?;
    let [start, at] = [run.begun, end].map(|time| time.to_string());
    let prometheus = &run.prometheus;
    let series = if query.instant {
        let found = prometheus.api("query", &[("query", &expression), ("time", &at)])?;
        found["result"].as_array().cloned().context("no series")?
    } else {
        prometheus.query_range(&expression, [run.begun, end], (seconds / POINTS).max(1.0))?
    };
    let parameters = [("query", &*expression), ("start", &start), ("end", &at)];
    let exemplars =
        if query.exemplars { prometheus.api("query_exemplars", &parameters)? } else { Value::Null };
    Ok((series, exemplars))
}
