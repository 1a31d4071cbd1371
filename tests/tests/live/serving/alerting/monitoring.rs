//! Prometheus and Alertmanager with what we ship, in a hurry.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use sensor_tests::{
    alerting::hurried,
    daemon::{Daemon, get},
};

use super::{FACTOR, PATIENCE, STEP, webhook::Webhook};

/// A program of ours that ends with us.
pub(super) struct Running(pub(super) Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Prometheus and Alertmanager, with a directory of their own.
pub(super) struct Monitoring {
    dir: PathBuf,
    prometheus: SocketAddr,
    running: Vec<Running>,
}

fn free() -> SocketAddr {
    let free = TcpListener::bind("127.0.0.1:0").expect("bind");
    free.local_addr().expect("address")
}

fn shipped(path: &str) -> String {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../dashboards")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

impl Monitoring {
    /// Scrapes these jobs, and posts what it finds.
    pub(super) fn start(jobs: &[(&str, Vec<&Daemon>)], webhook: &Webhook) -> Self {
        let dir = std::env::temp_dir().join(format!("memsensor-alerting-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("mkdir");
        for name in ["memsensor-records.yaml", "memsensor-alerts.yaml", "memsensor-witness.yaml"] {
            let rules = hurried(&shipped(&format!("rules/{name}")), FACTOR);
            fs::write(dir.join(name), rules).expect("write");
        }
        let routes = hurried(&shipped("alertmanager/alertmanager.yaml"), FACTOR);
        assert!(routes.contains("127.0.0.1:9095"), "the shipped webhooks");
        let routes = routes.replace("127.0.0.1:9095", &webhook.addr.to_string());
        fs::write(dir.join("alertmanager.yaml"), routes).expect("write");

        let (prometheus, alertmanager) = (free(), free());
        let mut config = format!(
            "global: {{scrape_interval: {STEP}, scrape_timeout: {STEP}, evaluation_interval: {STEP}}}\n\
             rule_files: [memsensor-*.yaml]\n\
             alerting: {{alertmanagers: [{{static_configs: [{{targets: ['{alertmanager}']}}]}}]}}\n\
             scrape_configs:\n"
        );
        for (job, daemons) in jobs {
            let targets: Vec<_> = daemons.iter().map(|d| format!("'{}'", d.listening[0])).collect();
            let targets = targets.join(", ");
            let job = format!("{{job_name: {job}, static_configs: [{{targets: [{targets}]}}]}}");
            config.push_str("  - ");
            config.push_str(&job);
            config.push('\n');
        }
        fs::write(dir.join("prometheus.yaml"), config).expect("write");
        let mut monitoring = Self { dir, prometheus, running: Vec::new() };
        monitoring.run(
            "prometheus-alertmanager",
            &[
                "--config.file=alertmanager.yaml".to_owned(),
                format!("--web.listen-address={alertmanager}"),
                "--cluster.listen-address=".to_owned(),
                "--storage.path=alertmanager".to_owned(),
            ],
        );
        monitoring.run_prometheus();
        let hosts: usize = jobs.iter().map(|(_, daemons)| daemons.len()).sum();
        monitoring.wait_for("count(instance:memsensor:silent == 0)", hosts);
        monitoring
    }

    fn run_prometheus(&mut self) {
        let args = [
            "--config.file=prometheus.yaml".to_owned(),
            format!("--web.listen-address={}", self.prometheus),
            "--storage.tsdb.path=prometheus".to_owned(),
            // Five minutes and one minute by default.
            format!("--query.lookback-delta={}s", 300 / FACTOR),
            format!("--rules.alert.resend-delay={}s", 60 / FACTOR),
        ];
        self.run("prometheus", &args);
    }

    /// Stops it in order and starts it again so much later, with the same data.
    pub(super) fn restart_prometheus(&mut self, later: Duration) {
        let mut prometheus = self.running.pop().expect("it was started last");
        kill_process(Pid::from_child(&prometheus.0), Signal::TERM).expect("stop it");
        prometheus.0.wait().expect("wait");
        std::thread::sleep(later);
        self.run_prometheus();
    }

    fn run(&mut self, name: &str, args: &[String]) {
        let log = fs::File::create(self.dir.join(format!("{name}.log"))).expect("create");
        let child = Command::new(name)
            .args(args)
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a descriptor"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|e| panic!("start {name} (cargo xtask setup --tests): {e}"));
        self.running.push(Running(child));
    }

    /// Waits until a query says this number.
    pub(super) fn wait_for(&self, query: &str, number: usize) {
        let path = format!("/api/v1/query?query={}", query.replace(' ', "%20"));
        let end = Instant::now() + PATIENCE;
        loop {
            let answer = get(self.prometheus, &path, "").map(|answer| answer.body);
            if answer.as_ref().is_ok_and(|body| body.contains(&format!(",\"{number}\"]"))) {
                return;
            }
            assert!(Instant::now() < end, "{query} is not {number}: {answer:?}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Monitoring {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // A kill by anybody on this machine excuses thrash: was there one?
            for query in [
                "scope:memsensor:unfit{scope=\"web\"}",
                "scope:memsensor:refault_rate5m{scope=\"web\"}",
                "max(increase(memsensor_oom_kills_total[5m]))",
                "sum(increase(memsensor_kill_signals_total{sender!=\"other\"}[5m]))by(sender)",
                "ALERTS",
            ] {
                let path = format!("/api/v1/query?query={query}");
                eprintln!("{query}: {:?}", get(self.prometheus, &path, "").map(|a| a.body));
            }
            for name in ["prometheus", "prometheus-alertmanager"] {
                let log = fs::read_to_string(self.dir.join(format!("{name}.log")));
                let log = log.unwrap_or_default();
                let last: Vec<_> = log.lines().rev().take(20).collect();
                eprintln!("{name}:\n{}", last.join("\n"));
            }
        }
        self.running.clear();
        let _ = fs::remove_dir_all(&self.dir);
    }
}
