//! The conditions of a valid run: every scrape of every host succeeded, no rule failed, and all
//! programs have the same series.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{
    compare,
    engine::Engine,
    engines::{Engines, INTERVAL},
};

fn by_instance(series: &[Value]) -> Result<BTreeMap<String, f64>> {
    let one = |one: &Value| {
        let instance = one["metric"]["instance"].as_str().context("no instance")?;
        let value = one["value"][1].as_str().context("no value")?;
        Ok((instance.to_owned(), value.parse()?))
    };
    series.iter().map(one).collect()
}

/// A function over the last `window` seconds of a series, by host.
fn over(
    prometheus: &Engine,
    function: &str,
    series: &str,
    at: f64,
    window: f64,
) -> Result<BTreeMap<String, f64>> {
    let query = format!("{function}({series}{{job=\"memsensor\"}}[{window:.0}s])");
    by_instance(&prometheus.query_at(&query, at)?)
}

/// Minimum, mean and maximum of the series of a host.
pub(super) fn series(prometheus: &Engine, at: f64, window: f64) -> Result<[f64; 3]> {
    let series = over(prometheus, "max_over_time", "scrape_samples_scraped", at, window)?;
    let counts = || series.values().copied();
    let mean = counts().sum::<f64>() / series.len() as f64;
    Ok([counts().fold(f64::INFINITY, f64::min), mean, counts().fold(0.0, f64::max)])
}

/// Checks that every scrape happened, and succeeded unless the host is silent by its timeline.
pub(super) fn every_host_was_scraped(
    prometheus: &Engine,
    silent: &[String],
    hosts: u32,
    at: f64,
    window: f64,
) -> Result<()> {
    let over = |function, series| over(prometheus, function, series, at, window);
    let (scrapes, up) = (over("count_over_time", "up")?, over("min_over_time", "up")?);
    ensure!(scrapes.len() == hosts as usize, "{} of {hosts} hosts are scraped", scrapes.len());
    // The window may begin and end between two scrapes.
    let due = (window / INTERVAL).floor() - 1.0;
    for (instance, scrapes) in &scrapes {
        ensure!(*scrapes >= due, "{instance}: {scrapes} scrapes instead of {due} in {window:.0} s");
    }
    let down: BTreeSet<_> = up.iter().filter(|(_, up)| **up < 1.0).map(|(i, _)| i).collect();
    let took = over("max_over_time", "scrape_duration_seconds")?;
    let unexpected: Vec<_> = down
        .iter()
        .filter(|instance| !silent.contains(instance))
        .map(|instance| (instance, took.get(*instance)))
        .collect();
    ensure!(
        unexpected.is_empty(),
        "unexpectedly down, with the longest scrape of each: {unexpected:?}: {:?}",
        last_errors(prometheus)
    );
    Ok(())
}

/// The errors of the targets that Prometheus cannot scrape now.
fn last_errors(prometheus: &Engine) -> Result<Vec<String>> {
    let (_, body) = prometheus.get("/api/v1/targets?state=active")?;
    let response: Value = serde_json::from_str(&body)?;
    let targets = response["data"]["activeTargets"].as_array().context("no targets")?;
    let errors = targets.iter().filter_map(|target| target["lastError"].as_str());
    Ok(errors.filter(|error| !error.is_empty()).map(str::to_owned).collect())
}

/// Counters of failed and missed rule evaluations since the start, in Prometheus and in vmalert.
pub(super) fn failures(engines: &Engines) -> Result<BTreeMap<String, f64>> {
    let mut failures = BTreeMap::new();
    for (engine, start) in [
        (&engines.prometheus, "prometheus_rule_group_iterations_missed_total"),
        (&engines.prometheus, "prometheus_rule_evaluation_failures_total"),
        (&engines.vmalert, "vmalert_execution_errors_total"),
        (&engines.vmalert, "vmalert_alerting_rules_error"),
        (&engines.vmalert, "vmalert_recording_rules_error"),
    ] {
        let own = engine.own_metrics()?;
        let known = failures.len();
        failures.extend(own.into_iter().filter(|(name, _)| name.starts_with(start)));
        ensure!(failures.len() > known, "{} does not export {start}", engine.name);
    }
    Ok(failures)
}

/// Checks that no rule failed and no evaluation was missed since `before`.
pub(super) fn no_rule_failed(engines: &Engines, before: &BTreeMap<String, f64>) -> Result<()> {
    for rule in compare::rules(&engines.prometheus)? {
        ensure!(rule.health == "ok", "rule {}: {} {}", rule.name, rule.health, rule.error);
    }
    let mut more = failures(engines)?;
    more.retain(|name, n| *n > before.get(name).copied().unwrap_or(0.0));
    ensure!(more.is_empty(), "{more:?}: {}", engines.vmalert.log());
    Ok(())
}

/// Checks that both VictoriaMetrics have the same hosts and series as Prometheus.
pub(super) fn same_series(engines: &Engines, at: f64) -> Result<()> {
    // In parts: VictoriaMetrics refuses a query of more than 300,000 series.
    for query in [
        "count(up{job=\"memsensor\"})",
        "sum(scrape_samples_scraped{job=\"memsensor\"})",
        "count(memsensor_direct_reclaim_seconds_bucket)",
        "count(memsensor_cgroup_memory_bytes)",
        "count(memsensor_probe_info)",
    ] {
        let wanted = engines.prometheus.number_at(query, at)?;
        for other in [&engines.victoria, &engines.written] {
            let has = other.number_at(query, at)?;
            // Each scrapes at its own time; between them the growing processes change and hosts go
            // silent.
            let near = (has - wanted).abs() <= wanted * 0.005;
            ensure!(near, "{}: {query} is {has}, Prometheus has {wanted}", other.name);
        }
    }
    Ok(())
}
