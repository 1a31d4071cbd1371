//! Prometheus and Alertmanager with the shipped files and shorter durations.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use sensor_tests::support::{alerting::accelerate, daemon::Daemon, prometheus::Prometheus};
use serde_json::Value;

use super::{FACTOR, INTERVAL, TIMEOUT, webhook::Webhook};
use crate::Running;

/// Prometheus and Alertmanager. Alertmanager uses the directory of Prometheus.
pub(super) struct Monitoring {
    _alertmanager: Running,
    prometheus: Prometheus,
}

/// Alertmanager's log in that directory.
const LOG: &str = "alertmanager.log";

fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    listener.local_addr().expect("address")
}

/// A shipped file with shorter durations.
fn shipped(path: &str) -> String {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../dashboards")).join(path);
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    accelerate(&text, FACTOR)
}

/// Prometheus' configuration: it scrapes these jobs and sends alerts to Alertmanager.
fn config(jobs: &[(&str, Vec<&Daemon>)], alertmanager: SocketAddr) -> String {
    let mut config = format!(
        "global: {{scrape_interval: {INTERVAL}, scrape_timeout: {INTERVAL}, \
         evaluation_interval: {INTERVAL}}}\n\
         rule_files: [memsensor-*.yaml]\n\
         alerting: {{alertmanagers: [{{static_configs: [{{targets: ['{alertmanager}']}}]}}]}}\n\
         scrape_configs:\n"
    );
    for (job, daemons) in jobs {
        let targets: Vec<_> = daemons.iter().map(|d| format!("'{}'", d.listening[0])).collect();
        let targets = targets.join(", ");
        let job = format!("{{job_name: {job}, static_configs: [{{targets: [{targets}]}}]}}");
        config.extend(["  - ", &job, "\n"]);
    }
    config
}

fn start_alertmanager(dir: &Path, addr: SocketAddr) -> Running {
    let log = fs::File::create(dir.join(LOG)).expect("create");
    let child = Command::new("prometheus-alertmanager")
        .args(["--config.file=alertmanager.yaml", "--storage.path=alertmanager"])
        .args([format!("--web.listen-address={addr}"), "--cluster.listen-address=".to_owned()])
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a descriptor"))
        .stderr(log)
        .spawn()
        .unwrap_or_else(|e| panic!("start Alertmanager (cargo xtask setup --tests): {e}"));
    Running(child)
}

impl Monitoring {
    /// Starts both programs. Alertmanager posts to the webhook.
    pub(super) fn start(jobs: &[(&str, Vec<&Daemon>)], webhook: &Webhook) -> Self {
        let rules = ["records", "alerts", "witness"].map(|name| {
            let name = format!("memsensor-{name}.yaml");
            let text = shipped(&format!("rules/{name}"));
            (name, text)
        });
        let routes = shipped("alertmanager/alertmanager.yaml");
        assert!(routes.contains("127.0.0.1:9095"), "the shipped webhooks");
        let routes = routes.replace("127.0.0.1:9095", &webhook.addr.to_string());
        let mut files: Vec<_> =
            rules.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        files.push(("alertmanager.yaml", &routes));

        let alertmanager = free_address();
        // Five minutes and one minute by default.
        let lookback = format!("--query.lookback-delta={}s", 300 / FACTOR);
        let resend = format!("--rules.alert.resend-delay={}s", 60 / FACTOR);
        let config = config(jobs, alertmanager);
        let prometheus = Prometheus::start_with(&config, &files, &[&lookback, &resend]);
        let prometheus = prometheus.expect("prometheus");
        let alertmanager = start_alertmanager(prometheus.dir(), alertmanager);
        let monitoring = Self { _alertmanager: alertmanager, prometheus };
        let hosts: usize = jobs.iter().map(|(_, daemons)| daemons.len()).sum();
        monitoring.wait_for("count(instance:memsensor:silent == 0)", hosts);
        monitoring
    }

    /// Stops Prometheus and starts it again after `later`, with the same data.
    pub(super) fn restart_prometheus(&mut self, later: Duration) {
        self.prometheus.restart(later).expect("restart");
    }

    /// Waits until a query returns this value.
    pub(super) fn wait_for(&self, query: &str, number: usize) {
        let (number, end) = (number.to_string(), Instant::now() + TIMEOUT);
        loop {
            let result = self.prometheus.query(query);
            let matches = |series: &Vec<Value>| series.iter().any(|s| s["value"][1] == *number);
            if result.as_ref().is_ok_and(matches) {
                return;
            }
            assert!(Instant::now() < end, "{query} is not {number}: {result:?}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Monitoring {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        // A kill that ends the thrashing prevents MemsensorThrashingWithoutKill, so print the kills.
        for query in [
            "scope:memsensor:unfit{scope=\"web\"}",
            "scope:memsensor:refault_rate5m{scope=\"web\"}",
            "max(increase(memsensor_oom_kills_total[5m]))",
            "sum(increase(memsensor_kill_signals_total{sender!=\"other\"}[5m]))by(sender)",
            "ALERTS",
        ] {
            eprintln!("{query}: {:?}", self.prometheus.query(query));
        }
        let alertmanager = fs::read_to_string(self.prometheus.dir().join(LOG)).unwrap_or_default();
        for (name, log) in [("prometheus", self.prometheus.log()), ("alertmanager", alertmanager)] {
            let last: Vec<_> = log.lines().rev().take(20).collect();
            eprintln!("{name}:\n{}", last.join("\n"));
        }
    }
}
