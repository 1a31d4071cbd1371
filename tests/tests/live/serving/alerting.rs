//! The shipped rules in Debian's Prometheus and the shipped configuration in its Alertmanager, over real
//! sensors and real pressure: which alerts arrive at a webhook, which do not, and when.
//!
//! Durations are a twentieth of the shipped ones (see [`sensor_tests::alerting`]), or this would take an
//! hour. Each case is a job of its own, because rules compare the hosts of a job with each other.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use sensor_tests::{
    alerting::hurried,
    daemon::{Daemon, get},
    scope::{MIB, Scope},
    swap::Swap,
};

use super::verdict::judging_at;
use crate::{hog, killed};

/// How many times faster than shipped.
const FACTOR: u64 = 20;
/// Of scrapes and evaluations: a twentieth of ten seconds.
const STEP: &str = "500ms";
/// The longest that an alert may take here: `for` of ten minutes, what leads to it, and a turn of a group.
const PATIENCE: Duration = Duration::from_secs(100);

/// A notice of one alert.
#[derive(Debug, Clone)]
struct Notice {
    at: Instant,
    receiver: String,
    firing: bool,
    labels: BTreeMap<String, String>,
}

impl Notice {
    fn is(&self, alert: &str, job: &str) -> bool {
        self.labels["alertname"] == alert && self.labels.get("job").is_some_and(|j| j == job)
    }
}

/// What Alertmanager posts.
#[derive(Debug, Clone)]
struct Webhook {
    addr: SocketAddr,
    got: Arc<Mutex<Vec<Notice>>>,
}

impl Webhook {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let addr = listener.local_addr().expect("address");
        let got = Arc::<Mutex<Vec<Notice>>>::default();
        let kept = Arc::clone(&got);
        // It ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let kept = Arc::clone(&kept);
                std::thread::spawn(move || while_it_posts(&stream, &kept));
            }
        });
        Self { addr, got }
    }

    fn notices(&self) -> Vec<Notice> {
        self.got.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for an alert of a job to fire and tells how long it took since then.
    fn wait_for(&self, alert: &str, job: &str, since: Instant) -> Notice {
        self.wait(alert, job, true, since)
    }

    /// The same when it is over.
    fn wait_for_end(&self, alert: &str, job: &str, since: Instant) {
        self.wait(alert, job, false, since);
    }

    fn wait(&self, alert: &str, job: &str, firing: bool, since: Instant) -> Notice {
        let wanted = |n: &Notice| n.is(alert, job) && n.firing == firing && n.at >= since;
        let end = Instant::now() + PATIENCE;
        loop {
            let notices = self.notices();
            if let Some(notice) = notices.iter().find(|n| wanted(n)) {
                let took = notice.at.duration_since(since).as_secs_f64();
                let what = if firing { "" } else { "is over, " };
                println!("{alert} of {job} {what}at {} after {took:.1} s", notice.receiver);
                return notice.clone();
            }
            assert!(Instant::now() < end, "no {alert} of {job}, but {notices:#?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn has_none(&self, alert: &str, job: &str) {
        let wrong = self.notices().into_iter().find(|n| n.is(alert, job) && n.firing);
        assert!(wrong.is_none(), "{wrong:#?}");
    }
}

/// Answers what one connection posts, one after the other.
fn while_it_posts(mut stream: &TcpStream, kept: &Mutex<Vec<Notice>>) {
    let mut reader = BufReader::new(stream);
    loop {
        let (mut path, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            if let Some(rest) = line.strip_prefix("POST ") {
                path = rest.split(' ').next().unwrap_or_default().to_owned();
            } else if let Some(n) = line.to_lowercase().strip_prefix("content-length:") {
                length = n.trim().parse().expect("a length");
            } else if line.trim().is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).expect("the body");
        let said: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        let notices = said["alerts"].as_array().expect("alerts").iter().map(|alert| Notice {
            at: Instant::now(),
            receiver: path.clone(),
            firing: alert["status"] == "firing",
            labels: serde_json::from_value(alert["labels"].clone()).expect("labels"),
        });
        kept.lock().unwrap_or_else(PoisonError::into_inner).extend(notices);
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").expect("answer");
    }
}

/// A program of ours that ends with us.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Prometheus and Alertmanager, with a directory of their own.
struct Monitoring {
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
    fn start(jobs: &[(&str, &[&Daemon])], webhook: &Webhook) -> Self {
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
            config += &format!(
                "  - {{job_name: {job}, static_configs: [{{targets: [{}]}}]}}\n",
                targets.join(", ")
            );
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
    fn restart_prometheus(&mut self, later: Duration) {
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
    fn wait_for(&self, query: &str, number: usize) {
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

/// Judges a cgroup by the rules as they are shipped.
fn watching(scope: &Scope) -> Daemon {
    let web = format!("[[scope]]\nname = \"web\"\ncgroup = \"{}\"\n", scope.path());
    Daemon::as_shipped(&web).expect("daemon")
}

/// One that is fit, whatever happens on this machine.
fn fit() -> Daemon {
    Daemon::start("").expect("daemon")
}

fn send(daemon: &Daemon, signal: Signal) {
    let pid = Pid::from_raw(daemon.pid().cast_signed()).expect("a pid");
    kill_process(pid, signal).expect("send a signal");
}

fn has_state(daemon: &Daemon, state: &str) -> bool {
    let readiness = daemon.get("/readyz/web", "").expect("readyz").body;
    readiness.contains(&format!("\"state\":\"{state}\""))
}

#[test]
fn the_right_alerts_arrive_at_the_webhook_and_no_others() {
    let swap = Swap::new(256).expect("swap");
    let scope = Scope::with_swap("alerting", 64 * MIB).expect("scope");
    let small = Scope::new("alerting-kills", 16 * MIB).expect("scope");
    let dying = watching(&scope);
    let fleet = [watching(&scope), watching(&scope)];
    let cut = [watching(&scope), fit(), fit()];
    let (quiet, mut planned, kills) = (fit(), fit(), judging_at("", &small));
    let webhook = Webhook::start();
    let mut monitoring = Monitoring::start(
        &[
            ("memsensor-dying", &[&dying]),
            ("memsensor-fleet", &[&fleet[0], &fleet[1]]),
            ("memsensor-cut", &[&cut[0], &cut[1], &cut[2]]),
            ("memsensor-quiet", &[&quiet]),
            ("memsensor-planned", &[&planned]),
            ("memsensor-kills", &[&kills]),
        ],
        &webhook,
    );

    // Silence without pressure: one just stops, another was drained before.
    planned.ask(&["drain", "--reason", "kernel update"]).expect("drain");
    monitoring.wait_for("instance:memsensor:drained{job=\"memsensor-planned\"}", 1);
    planned.stop(Signal::TERM).expect("stop");
    send(&quiet, Signal::STOP);
    let stopped = Instant::now();

    // More is used than there is, and nothing is killed: the swap is fast.
    let pressure = Instant::now();
    let mut thrash = Running(hog(&scope, &["anon", "100", "loop", "600"]).spawn().expect("hog"));
    crate::wait_until("draining", || has_state(&dying, "draining"));
    println!("draining after {:.1} s", pressure.elapsed().as_secs_f64());
    // A cut of the network, as Prometheus sees one: all three at once, of which one is draining.
    crate::wait_until("the cut one too", || has_state(&cut[0], "draining"));
    monitoring.wait_for("sum(instance:memsensor:unfit{job=\"memsensor-cut\"})", 1);
    let at_cut = Instant::now();
    cut.iter().for_each(|daemon| send(daemon, Signal::STOP));

    webhook.wait_for("MemsensorSilent", "memsensor-quiet", stopped);
    webhook.wait_for("MemsensorHostDraining", "memsensor-dying", pressure);
    webhook.wait_for("MemsensorFleetPressure", "memsensor-fleet", pressure);
    webhook.wait_for("MemsensorFleetSilent", "memsensor-cut", at_cut);
    monitoring.wait_for("sum(instance:memsensor:cut_off{job=\"memsensor-cut\"})", 3);
    let thrashes = webhook.wait_for("MemsensorThrashingWithoutKill", "memsensor-dying", pressure);
    assert_eq!((thrashes.receiver.as_str(), thrashes.labels["scope"].as_str()), ("/page", "web"));

    let fleet_fires = "count(ALERTS{job=\"memsensor-fleet\",alertstate=\"firing\",\
                       alertname=~\"MemsensorHostDraining|MemsensorThrashingWithoutKill\"})";
    monitoring.wait_for(fleet_fires, 4);

    // It dies of it.
    let died = Instant::now();
    send(&dying, Signal::STOP);
    let _ = thrash.0.kill();
    killed(&small, &["anon", "32"]);
    let first = Instant::now();
    let notice = webhook.wait_for("MemsensorCgroupOomKill", "memsensor-kills", first);
    assert_eq!(notice.labels["cgroup"], small.path());
    let gone = webhook.wait_for("MemsensorHostUnrecoverable", "memsensor-dying", died);
    assert_eq!(gone.receiver, "/page");
    // What is remembered of it outlives a Prometheus that is away for longer than a query looks back.
    monitoring.restart_prometheus(Duration::from_secs(300 / FACTOR + 2));
    let back = Instant::now();
    // Again, and five minutes later: fifteen seconds here.
    assert!(first.elapsed() > Duration::from_secs(300 / FACTOR));
    monitoring.wait_for("count(instance:memsensor:silent{job=\"memsensor-kills\"} == 0)", 1);
    for _ in 0..2 {
        std::thread::sleep(Duration::from_millis(1300));
        killed(&small, &["anon", "32"]);
    }
    let again = Instant::now();
    webhook.wait_for("MemsensorOomKillsRepeated", "memsensor-kills", again);
    webhook.wait_for("MemsensorHostDraining", "memsensor-kills", again);
    webhook.wait_for("MemsensorHostUnrecoverable", "memsensor-dying", back);
    let mended = Instant::now();
    send(&dying, Signal::CONT);
    webhook.wait_for_end("MemsensorHostUnrecoverable", "memsensor-dying", mended);
    println!("all in {:.0} s", pressure.elapsed().as_secs_f64());

    for job in ["fleet", "cut", "quiet", "planned", "kills"] {
        webhook.has_none("MemsensorHostUnrecoverable", &format!("memsensor-{job}"));
    }
    webhook.has_none("MemsensorSilent", "memsensor-planned");
    webhook.has_none("MemsensorSilent", "memsensor-dying");
    // Alertmanager keeps back what the fleet's alert says already.
    webhook.has_none("MemsensorHostDraining", "memsensor-fleet");
    webhook.has_none("MemsensorThrashingWithoutKill", "memsensor-fleet");
    drop((monitoring, thrash, scope, small));
    drop(swap);
}
