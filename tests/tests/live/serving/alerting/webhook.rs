//! The webhook that Alertmanager posts to: it records each alert and its time of arrival.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::TIMEOUT;

/// A notification of one alert.
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

/// The notifications of Alertmanager.
#[derive(Debug, Clone)]
pub(super) struct Webhook {
    pub(super) addr: SocketAddr,
    notices: Arc<Mutex<Vec<Notice>>>,
}

impl Webhook {
    pub(super) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let addr = listener.local_addr().expect("address");
        let notices = Arc::<Mutex<Vec<Notice>>>::default();
        let received = Arc::clone(&notices);
        // The thread ends with the process of the test.
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let received = Arc::clone(&received);
                std::thread::spawn(move || serve(&stream, &received));
            }
        });
        Self { addr, notices }
    }

    fn notices(&self) -> Vec<Notice> {
        self.notices.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until an alert of a job fires, and prints the time that it took. Alerts of the scope
    /// `host` do not count: whether they fire depends on the other load of this machine.
    pub(super) fn wait_for(&self, alert: &str, job: &str, since: Instant) -> Notice {
        self.wait(alert, job, true, since)
    }

    /// Waits until an alert of a job resolves.
    pub(super) fn wait_for_end(&self, alert: &str, job: &str, since: Instant) {
        self.wait(alert, job, false, since);
    }

    fn wait(&self, alert: &str, job: &str, firing: bool, since: Instant) -> Notice {
        let of_host = |n: &Notice| n.labels.get("scope").is_some_and(|scope| scope == "host");
        let wanted =
            |n: &Notice| n.is(alert, job) && n.firing == firing && n.at >= since && !of_host(n);
        let end = Instant::now() + TIMEOUT;
        loop {
            let notices = self.notices();
            if let Some(notice) = notices.iter().find(|n| wanted(n)) {
                let took = notice.at.duration_since(since).as_secs_f64();
                let event = if firing { "fires" } else { "resolves" };
                println!("{alert} of {job} {event} at {} after {took:.1} s", notice.receiver);
                return notice.clone();
            }
            assert!(Instant::now() < end, "no {alert} of {job}, but {notices:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Asserts that an alert of a job has not fired since then.
    pub(super) fn has_none(&self, alert: &str, job: &str, since: Instant) {
        let notices = self.notices();
        let unexpected = notices.iter().find(|n| n.is(alert, job) && n.firing && n.at >= since);
        // All alerts of the job in order: they show which alert did not inhibit this one.
        let of_job = || notices.iter().filter(|n| n.labels.get("job").is_some_and(|j| j == job));
        assert!(unexpected.is_none(), "{alert} of {job}: {:#?}", of_job().collect::<Vec<_>>());
    }
}

/// Responds to the requests of one connection.
fn serve(mut stream: &TcpStream, received: &Mutex<Vec<Notice>>) {
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
        let json: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        let notices = json["alerts"].as_array().expect("alerts").iter().map(|alert| Notice {
            at: Instant::now(),
            receiver: path.clone(),
            firing: alert["status"] == "firing",
            labels: serde_json::from_value(alert["labels"].clone()).expect("labels"),
        });
        received.lock().unwrap_or_else(PoisonError::into_inner).extend(notices);
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").expect("answer");
    }
}
