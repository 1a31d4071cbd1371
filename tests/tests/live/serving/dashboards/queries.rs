//! Every query of the dashboards, asked of a real Prometheus after a run on this machine, as Grafana would: with
//! something in place of each variable. Each must return series that have the labels which its legend names; what
//! returns none is listed here with its reason, which is checked.

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
    /// It is there, and stayed 0: what it counts did not happen.
    Zero(&'static str),
    /// Every program is attached here.
    Whole,
}
use Reason::{Absent, Whole, Zero};

/// Ends of places, and why nothing may come from there.
const EMPTY: &[(&str, Reason)] = &[
    // Where the kernel has no kprobes, or forbids programs at functions.
    ("Failed allocations / A", Absent("memsensor_alloc_failures_total")),
    ("Throttling / B", Absent("memsensor_pfmemalloc_throttle_seconds_total")),
    // Who has nothing in swap, of a machine without any.
    ("Cgroups, the largest first / C", Absent("memsensor_cgroup_swap_bytes")),
    // The machine itself is left alone: nothing makes it reclaim or compact.
    ("Slowest direct reclaim / A", Zero("memsensor_direct_reclaim_seconds_count")),
    ("Slowest direct reclaim / B", Zero("memsensor_direct_reclaim_seconds_count")),
    ("Slowest soft-limit reclaim / A", Zero("memsensor_softlimit_reclaim_seconds_count")),
    ("Slowest soft-limit reclaim / B", Zero("memsensor_softlimit_reclaim_seconds_count")),
    ("Slowest compaction / A", Zero("memsensor_compaction_stall_seconds_count")),
    ("Slowest compaction / B", Zero("memsensor_compaction_stall_seconds_count")),
    ("Compaction / A", Zero("memsensor_compaction_results_total")),
    ("Lost events, by reason / A", Zero("memsensor_events_lost_total")),
    // A kernel that lets all of them be attached.
    ("Programs not attached / A", Whole),
    ("Probes not fully attached / A", Whole),
];

impl Reason {
    fn holds(&self, metrics: &BTreeMap<String, f64>) -> bool {
        let of = |name: &str| {
            let named = metrics.iter().filter(|(s, _)| s.split('{').next() == Some(name));
            named.map(|(_, value)| *value).collect::<Vec<_>>()
        };
        match self {
            Whole => of("memsensor_probe_attached").iter().all(|value| *value > 0.0),
            Absent(name) => of(name).is_empty(),
            Zero(name) => of(name).iter().all(|value| *value == 0.0),
        }
    }
}

/// How much later than the run it is asked whether a sensor is silent.
const LATER: f64 = 120.0;

struct Asked {
    run: ScenarioRun,
    /// The time range.
    seconds: f64,
}

impl Asked {
    /// For the scope that is a cgroup; of which not all is measured everywhere, as it is of the host.
    fn expression(&self, query: &Query, scope: &str) -> String {
        self.run.expression(query, scope, self.seconds).expect("an expression")
    }

    /// Series with at least one number.
    fn series(&self, expression: &str) -> Vec<Value> {
        let times = [self.run.begun, self.run.ended + LATER];
        let all = self.run.prometheus.query_range(expression, times, 1.0).expect("an answer");
        let is_number = |v: &Value| v[1].as_str().is_some_and(|text| text != "NaN");
        all.into_iter().filter(|s| list(&s["values"]).iter().any(is_number)).collect()
    }

    fn ask(&self, query: &Query, metrics: &BTreeMap<String, f64>) -> Result<(), String> {
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
                return Err(format!("{place}: no series, and not for the reason that is listed"));
            }
            (true, Some(_)) => println!("  nothing, as this machine has not got it: {place}"),
            (false, _) => {}
        }
        for label in query.legend_labels() {
            // A label that is empty is none to Prometheus: the cgroup of what is in the root, for one.
            if !series.is_empty() && series.iter().all(|one| one["metric"][label].is_null()) {
                return Err(format!("{place}: no series has {label}"));
            }
        }
        if query.exemplars {
            self.exemplars(query)?;
        }
        Ok(())
    }

    /// A graph of kills leads to the events.
    fn exemplars(&self, query: &Query) -> Result<(), String> {
        let (expression, [start, end]) = (
            self.expression(query, "web"),
            [self.run.begun, self.run.ended].map(|t| t.to_string()),
        );
        let parameters = [("query", &*expression), ("start", &start), ("end", &end)];
        let found = self.run.prometheus.api("query_exemplars", &parameters).expect("an answer");
        let ids: Vec<_> = list(&found)
            .iter()
            .flat_map(|series| list(&series["exemplars"]))
            .filter_map(|exemplar| exemplar["labels"]["event_id"].as_str().map(str::to_owned))
            .collect();
        let events = self.run.daemon.events().expect("events");
        let told = ids.iter().all(|id| events.iter().any(|event| event.id == *id));
        if ids.is_empty() || !told {
            return Err(format!("{}: exemplars {ids:?} are not events", query.place));
        }
        Ok(())
    }
}

#[test]
fn every_query_of_the_dashboards_returns_series() {
    let [calm, trouble, leak, recovery] = [8, 36, 10, 16].map(Duration::from_secs);
    let run = run(Pace { calm, trouble, leak, recovery, scrape_seconds: 1 }).expect("a run");
    let metrics = parse(&run.daemon.get("/metrics", "").expect("metrics").body);
    let seconds = run.ended - run.begun + LATER;
    let asked = Asked { run, seconds };
    let mut wrong = Vec::new();
    let mut count = 0;
    for name in NAMES {
        for query in queries(name).expect("a dashboard") {
            count += 1;
            wrong.extend(asked.ask(&query, &metrics).err());
        }
    }
    assert!(wrong.is_empty(), "{} of {count}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(count > 120, "only {count} queries");
    println!("{count} queries");
}

#[test]
fn excuses_are_of_queries_that_there_are() {
    let all: Vec<_> = NAMES.iter().flat_map(|name| queries(name).expect("a dashboard")).collect();
    for (end, _) in EMPTY {
        let some = all.iter().any(|query| query.place.ends_with(&format!(" / {end}")));
        assert!(some, "nothing asks {end}");
    }
}
