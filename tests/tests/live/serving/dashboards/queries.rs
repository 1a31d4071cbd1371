//! Every query of the dashboards, executed on a real Prometheus after a scenario run, with values
//! for all variables. Each must return series with the labels of its legend. Queries without
//! results are listed here with a reason, which is checked.

use std::{collections::BTreeMap, time::Duration};

use sensor_tests::{
    lab::dashboards::{Pace, ScenarioRun, run},
    support::{
        daemon::parse,
        dashboards::{NAMES, Query, list, queries},
    },
};
use serde_json::Value;

/// Why a query may return nothing.
enum Reason {
    /// `/metrics` of this machine has no series of this metric.
    Absent(&'static str),
    /// The metric exists and is 0.
    Zero(&'static str),
    /// Every program is attached.
    AllAttached,
}
use Reason::{Absent, AllAttached, Zero};

/// Suffixes of places, and why their queries may return nothing.
const EMPTY: &[(&str, Reason)] = &[
    // Kernels without kprobes, or that forbid programs at functions.
    ("Failed allocations / A", Absent("memsensor_alloc_failures_total")),
    ("Throttling / B", Absent("memsensor_pfmemalloc_throttle_seconds_total")),
    // A machine without swap.
    ("Cgroups, the largest first / C", Absent("memsensor_cgroup_swap_bytes")),
    // The machine itself is not under pressure: no direct reclaim, no compaction.
    ("Slowest direct reclaim / A", Zero("memsensor_direct_reclaim_seconds_count")),
    ("Slowest direct reclaim / B", Zero("memsensor_direct_reclaim_seconds_count")),
    ("Slowest soft-limit reclaim / A", Zero("memsensor_softlimit_reclaim_seconds_count")),
    ("Slowest soft-limit reclaim / B", Zero("memsensor_softlimit_reclaim_seconds_count")),
    ("Slowest compaction / A", Zero("memsensor_compaction_stall_seconds_count")),
    ("Slowest compaction / B", Zero("memsensor_compaction_stall_seconds_count")),
    ("Compaction / A", Zero("memsensor_compaction_results_total")),
    ("Lost events, by reason / A", Zero("memsensor_events_lost_total")),
    // A kernel on which all programs attach.
    ("Programs not attached / A", AllAttached),
    ("Probes not fully attached / A", AllAttached),
];

impl Reason {
    fn holds(&self, metrics: &BTreeMap<String, f64>) -> bool {
        let of = |name: &str| {
            let named = metrics.iter().filter(|(s, _)| s.split('{').next() == Some(name));
            named.map(|(_, value)| *value).collect::<Vec<_>>()
        };
        match self {
            AllAttached => of("memsensor_probe_attached").iter().all(|value| *value > 0.0),
            Absent(name) => of(name).is_empty(),
            Zero(name) => of(name).iter().all(|value| *value == 0.0),
        }
    }
}

/// Seconds after the run at which a sensor must be reported as silent.
const LATER: f64 = 120.0;

struct Dashboards {
    run: ScenarioRun,
    /// The time range.
    seconds: f64,
}

impl Dashboards {
    /// For a scope: not all is measured for cgroups, so `check` falls back to the host.
    fn expression(&self, query: &Query, scope: &str) -> String {
        self.run.expression(query, scope, self.seconds).expect("an expression")
    }

    /// Series with at least one number.
    fn series(&self, expression: &str) -> Vec<Value> {
        let times = [self.run.begun, self.run.ended + LATER];
        let all = self.run.prometheus.query_range(expression, times, 1.0).expect("a result");
        let is_number = |v: &Value| v[1].as_str().is_some_and(|text| text != "NaN");
        all.into_iter().filter(|s| list(&s["values"]).iter().any(is_number)).collect()
    }

    fn check(&self, query: &Query, metrics: &BTreeMap<String, f64>) -> Result<(), String> {
        let place = &query.place;
        let mut series = self.series(&self.expression(query, "web"));
        if series.is_empty() {
            series = self.series(&self.expression(query, "host"));
        }
        let excuse = EMPTY.iter().find(|(end, _)| place.ends_with(&format!(" / {end}")));
        match (series.is_empty(), excuse) {
            (true, None) => {
                return Err(format!("{place}: no series: {}", self.expression(query, "web")));
            }
            (true, Some((_, reason))) if !reason.holds(metrics) => {
                return Err(format!("{place}: no series, and the listed reason does not hold"));
            }
            (true, Some(_)) => println!("  no series on this machine: {place}"),
            (false, _) => {}
        }
        for label in query.legend_labels() {
            // To Prometheus an empty label is a missing one, for example the root cgroup.
            if !series.is_empty() && series.iter().all(|one| one["metric"][label].is_null()) {
                return Err(format!("{place}: no series has {label}"));
            }
        }
        if query.exemplars {
            self.exemplars(query)?;
        }
        Ok(())
    }

    /// Exemplars of kills must be ids of events.
    fn exemplars(&self, query: &Query) -> Result<(), String> {
        let (expression, [start, end]) = (
            self.expression(query, "web"),
            [self.run.begun, self.run.ended].map(|t| t.to_string()),
        );
        let parameters = [("query", &*expression), ("start", &start), ("end", &end)];
        let found = self.run.prometheus.api("query_exemplars", &parameters).expect("a result");
        let ids: Vec<_> = list(&found)
            .iter()
            .flat_map(|series| list(&series["exemplars"]))
            .filter_map(|exemplar| exemplar["labels"]["event_id"].as_str().map(str::to_owned))
            .collect();
        let events = self.run.daemon.events().expect("events");
        let known = ids.iter().all(|id| events.iter().any(|event| event.id == *id));
        if ids.is_empty() || !known {
            return Err(format!("{}: exemplars {ids:?} are not events", query.place));
        }
        Ok(())
    }
}

#[test]
fn every_query_of_the_dashboards_returns_series() {
    let [calm, pressure, leak, recovery] = [8, 36, 10, 16].map(Duration::from_secs);
    let run = run(Pace { calm, pressure, leak, recovery, scrape_seconds: 1 }).expect("a run");
    let metrics = parse(&run.daemon.get("/metrics", "").expect("metrics").body);
    let seconds = run.ended - run.begun + LATER;
    let dashboards = Dashboards { run, seconds };
    let mut wrong = Vec::new();
    let mut count = 0;
    for name in NAMES {
        for query in queries(name).expect("a dashboard") {
            count += 1;
            wrong.extend(dashboards.check(&query, &metrics).err());
        }
    }
    assert!(wrong.is_empty(), "{} of {count}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(count > 120, "only {count} queries");
    println!("{count} queries");
}

#[test]
fn every_listed_reason_is_of_an_existing_query() {
    let all: Vec<_> = NAMES.iter().flat_map(|name| queries(name).expect("a dashboard")).collect();
    for (end, _) in EMPTY {
        let some = all.iter().any(|query| query.place.ends_with(&format!(" / {end}")));
        assert!(some, "no query is at {end}");
    }
}
