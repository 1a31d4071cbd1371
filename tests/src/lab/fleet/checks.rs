//! What must hold in a run, or its figures are worth nothing: every host was scraped every time and answered,
//! no rule failed, and all programs have the same series.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{
    compare,
    engine::Engine,
    run::{Engines, INTERVAL},
};

fn by_instance(series: &[Value]) -> Result<BTreeMap<String, f64>> {
    let one = |one: &Value| {
        let instance = one["metric"]["instance"].as_str().context("no instance")?;
        let value = one["value"][1].as_str().context("no value")?;
        Ok((instance.to_owned(), value.parse()?))
    };
    series.iter().map(one).collect()
}

/// A function of a series of each host over the last seconds.
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

/// Fewest, mean and most series of a host.
pub(super) fn series(prometheus: &Engine, at: f64, window: f64) -> Result<[f64; 3]> {
    let series = over(prometheus, "max_over_time", "scrape_samples_scraped", at, window)?;
    let counts = || series.values().copied();
    let mean = counts().sum::<f64>() / series.len() as f64;
    Ok([counts().fold(f64::INFINITY, f64::min), mean, counts().fold(0.0, f64::max)])
}

/// That every host was scraped every time, and answered unless it is silent by its timeline.
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
    // Where the window begins and ends between two scrapes is chance.
    let due = (window / INTERVAL).floor() - 1.0;
    for (instance, scrapes) in &scrapes {
        ensure!(*scrapes >= due, "{instance}: {scrapes} scrapes instead of {due} in {window:.0} s");
    }
    let down: BTreeSet<_> = up.iter().filter(|(_, up)| **up < 1.0).map(|(i, _)| i).collect();
    let took = over("max_over_time", "scrape_duration_seconds")?;
    let without_reason: Vec<_> = down
        .iter()
        .filter(|instance| !silent.contains(instance))
        .map(|instance| (instance, took.get(*instance)))
        .collect();
    ensure!(
        without_reason.is_empty(),
        "down without a reason, and the longest that a scrape of each took: {without_reason:?}: {:?}",
        last_errors(prometheus)
    );
    Ok(())
}

/// What Prometheus says of those that it cannot scrape now.
fn last_errors(prometheus: &Engine) -> Result<Vec<String>> {
    let (_, body) = prometheus.get("/api/v1/targets?state=active")?;
    let answer: Value = serde_json::from_str(&body)?;
    let targets = answer["data"]["activeTargets"].as_array().context("no targets")?;
    let errors = targets.iter().filter_map(|target| target["lastError"].as_str());
    Ok(errors.filter(|error| !error.is_empty()).map(str::to_owned).collect())
}

/// What went wrong with rules since the start, in Prometheus and in vmalert.
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
        ensure!(failures.len() > known, "{} does not tell {start}", engine.name);
    }
    Ok(failures)
}

/// That no rule failed and no evaluation was left out since `before`.
pub(super) fn no_rule_failed(engines: &Engines, before: &BTreeMap<String, f64>) -> Result<()> {
    for rule in compare::rules(&engines.prometheus)? {
        ensure!(rule.health == "ok", "rule {}: {} {}", rule.name, rule.health, rule.error);
    }
    let mut more = failures(engines)?;
    more.retain(|name, n| *n > before.get(name).copied().unwrap_or(0.0));
    ensure!(more.is_empty(), "{more:?}: {}", engines.vmalert.log());
    Ok(())
}

/// That both VictoriaMetrics have the hosts and the series that Prometheus has.
pub(super) fn same_series(engines: &Engines, at: f64) -> Result<()> {
    // Not all at once: VictoriaMetrics refuses a query of more than 300,000 series.
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
            // Each asks at its own moment; meanwhile other processes grow, and hosts fall silent.
            let near = (has - wanted).abs() <= wanted * 0.005;
            ensure!(near, "{}: {query} is {has}, Prometheus has {wanted}", other.name);
        }
    }
    Ok(())
}
