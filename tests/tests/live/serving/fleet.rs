//! Fifty simulated hosts, scraped by Prometheus with the shipped configuration at fifteen times the
//! speed. `cargo xtask fleet` does the same with a thousand hosts, and measures it.

use std::{collections::BTreeMap, time::Duration};

use sensor_tests::{
    lab::fleet::{cgroups, format::Format, serve::Fleet, template::Template},
    support::{
        daemon::{Daemon, get},
        prometheus::Prometheus,
        repository::{repository, yaml_files},
    },
};
use serde_json::Value;

/// Maximum of series of a small server by default, with so many services.
const MOST_SERIES: usize = 320;
const SERVICES: usize = 10;
/// Series of a calm cgroup: info, memory, refaults and PSI.
const OF_CALM: usize = 4;
const GROWING: usize = 5;

const HOSTS: u32 = 50;
const PACE: f64 = 15.0;
/// The silent host is silent from the fifteenth to the twenty-third second.
const DURATION: u64 = 22;

/// The exposition without the cgroups of this machine.
fn exposition(daemon: &Daemon) -> Template {
    let response = daemon.get("/metrics", Format::OpenMetrics.accept()).expect("metrics");
    Template::parse(Format::OpenMetrics, &response.body).expect("an exposition")
}

fn shipped() -> String {
    let path = repository().join("dashboards/scale/prometheus.yaml");
    std::fs::read_to_string(path).expect("prometheus.yaml")
}

#[test]
fn a_small_host_has_at_most_320_series() {
    let daemon = Daemon::as_shipped("").expect("daemon");
    let host = exposition(&daemon).series();
    let all = host + GROWING + SERVICES * OF_CALM;
    println!("{host} series of the host, {all} with {SERVICES} services");
    assert!(all <= MOST_SERIES, "{host} series of the host, {all} with {SERVICES} services");
}

/// Above the limit Prometheus drops the whole scrape, and the host looks dead.
#[test]
fn the_sample_limit_is_above_the_series_of_any_host() {
    let daemon = Daemon::as_shipped("").expect("daemon");
    let text = shipped();
    let (_, rest) = text.split_once("sample_limit: ").expect("sample_limit");
    let limit: usize = rest.lines().next().expect("a line").parse().expect("a number");
    let settings = sensor_user::cgroups::settings::Settings::default();
    // All series of a cgroup; stalls have four causes. Sixty more with histograms.
    let of_one = cgroups::names().len() + 3;
    let most = exposition(&daemon).series() + GROWING + (settings.most + 1) * of_one + 20 * 60;
    assert!(most < limit, "a host can have {most} series, {limit} are allowed");
}

fn by_instance(series: &[Value]) -> BTreeMap<String, f64> {
    let one = |one: &Value| {
        let instance = one["metric"]["instance"].as_str().expect("an instance").to_owned();
        (instance, one["value"][1].as_str().expect("a value").parse().expect("a number"))
    };
    series.iter().map(one).collect()
}

#[test]
fn fifty_hosts_are_scraped_and_evaluated_without_gaps() {
    let daemon = Daemon::as_shipped("").expect("daemon");
    let fleet = Fleet::like(&daemon, HOSTS, PACE).expect("a fleet");
    let mut config = shipped();
    for (shipped, fast) in [
        ("interval: 15s", "interval: 1s"),
        ("timeout: 10s", "timeout: 1s"),
        ("rules/*.yaml", "rules-*.yaml"),
        ("targets/*.yaml", "targets.yaml"),
    ] {
        assert!(config.contains(shipped), "{shipped} is not in prometheus.yaml");
        config = config.replace(shipped, fast);
    }
    let mut files = vec![("targets.yaml".to_owned(), fleet.targets())];
    for path in yaml_files(&repository().join("dashboards/rules")).expect("rules") {
        let name = path.file_name().expect("a name").to_string_lossy();
        let text = std::fs::read_to_string(&path).expect("rules");
        files.push((format!("rules-{name}"), text));
    }
    let files: Vec<_> = files.iter().map(|(n, t)| (n.as_str(), t.as_str())).collect();
    let prometheus = Prometheus::start_with(&config, &files, &[]).expect("prometheus");
    std::thread::sleep(Duration::from_secs(DURATION));

    let over = |function: &str, of: &str| {
        let query = format!("{function}({of}{{job=\"memsensor\"}}[{}s])", DURATION - 5);
        by_instance(&prometheus.query(&query).expect("a result"))
    };
    let scrapes = over("count_over_time", "up");
    assert_eq!(scrapes.len(), HOSTS as usize, "{scrapes:?}");
    // The first and the last scrape may be outside the window; two more may not.
    let fewest = scrapes.values().copied().fold(f64::INFINITY, f64::min);
    assert!(fewest >= (DURATION - 7) as f64, "{scrapes:?}");
    // On a busy machine a scrape may take its whole second. The silent host is silent for seven of
    // these seventeen.
    let down: Vec<_> =
        over("avg_over_time", "up").into_iter().filter(|(_, up)| *up < 0.7).map(|h| h.0).collect();
    assert_eq!(down, fleet.silent(), "only the silent hosts are down");

    let rules = prometheus.api("rules", &[]).expect("rules");
    let groups = rules["groups"].as_array().expect("groups");
    let rules: Vec<_> = groups.iter().flat_map(|g| g["rules"].as_array().expect("rules")).collect();
    assert!(rules.len() > 4, "{rules:?}");
    for rule in rules {
        assert_eq!(rule["health"], "ok", "{rule}");
    }
    let own = get(prometheus.addr, "/metrics", "").expect("metrics").body;
    let missed = "prometheus_rule_group_iterations_missed_total{";
    let missed: Vec<_> = own.lines().filter(|line| line.starts_with(missed)).collect();
    assert!(!missed.is_empty() && missed.iter().all(|l| l.ends_with(" 0")), "{missed:?}");
}
