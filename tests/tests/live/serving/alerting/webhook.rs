//! Where Alertmanager posts: what arrived there, and when.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::PATIENCE;

/// A notice of one alert.
#[derive(Debug, Clone)]
pub(super) struct Notice {
    at: Instant,
    pub(super) receiver: String,
    firing: bool,
    pub(super) labels: BTreeMap<String, String>,
}

impl Notice {
    fn is(&self, alert: &str, job: &str) -> bool {
        self.labels["alertname"] == alert && self.labels.get("job").is_some_and(|j| j == job)
    }
}

/// What Alertmanager posts.
#[derive(Debug, Clone)]
pub(super) struct Webhook {
    pub(super) addr: SocketAddr,
    got: Arc<Mutex<Vec<Notice>>>,
}

impl Webhook {
    pub(super) fn start() -> Self {
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

    /// Waits for an alert of a job to fire and tells how long it took since then. Not one of the scope
    /// `host`: what a cgroup does to this machine may be an alert as well, or not, with all else that runs.
    pub(super) fn wait_for(&self, alert: &str, job: &str, since: Instant) -> Notice {
        self.wait(alert, job, true, since)
    }

    /// The same when it is over.
    pub(super) fn wait_for_end(&self, alert: &str, job: &str, since: Instant) {
        self.wait(alert, job, false, since);
    }

    fn wait(&self, alert: &str, job: &str, firing: bool, since: Instant) -> Notice {
        let of_host = |n: &Notice| n.labels.get("scope").is_some_and(|scope| scope == "host");
        let wanted =
            |n: &Notice| n.is(alert, job) && n.firing == firing && n.at >= since && !of_host(n);
        let end = Instant::now() + PATIENCE;
        loop {
            let notices = self.notices();
            if let Some(notice) = notices.iter().find(|n| wanted(n)) {
                let took = notice.at.duration_since(since).as_secs_f64();
                let what = if firing { "" } else { "is over, " };
                println!("{alert} of {job} {what}at {} after {took:.1} s", notice.receiver);
                return notice.clone();
            }
            assert!(Instant::now() < end, "no {alert} of {job}, but {notices:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// That none of it fired since then.
    pub(super) fn has_none(&self, alert: &str, job: &str, since: Instant) {
        let notices = self.notices();
        let wrong = notices.iter().find(|n| n.is(alert, job) && n.firing && n.at >= since);
        // In order: it tells which other alert did not keep it back, or no longer.
        let of_job = || notices.iter().filter(|n| n.labels.get("job").is_some_and(|j| j == job));
        assert!(wrong.is_none(), "{alert} of {job}: {:#?}", of_job().collect::<Vec<_>>());
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
                rest.split(' ').next().unwrap_or_default().clone_into(&mut path);
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
