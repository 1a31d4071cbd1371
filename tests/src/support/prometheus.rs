//! A real Prometheus on a free port: started with a configuration, queried over its HTTP API,
//! stopped and removed when dropped. Not here: what to query, and whether the result is right.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::daemon::PATIENCE;

/// File name of the configuration in Prometheus' directory.
const CONFIG: &str = "prometheus.yml";

/// The log of a running program.
type Log = Arc<Mutex<String>>;

/// A running Prometheus.
#[derive(Debug)]
pub struct Prometheus {
    child: Child,
    dir: PathBuf,
    args: Vec<String>,
    /// Its address.
    pub addr: SocketAddr,
    log: Log,
}

impl Prometheus {
    /// Starts it with this configuration (YAML), and waits until it is ready.
    pub fn start(config: &str) -> Result<Self> {
        Self::start_with(config, &[], &[])
    }

    /// The same, with more files in its directory, by name, and more arguments.
    pub fn start_with(config: &str, files: &[(&str, &str)], args: &[&str]) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Relaxed);
        let dir = std::env::temp_dir().join(format!("memsensor-prom-{}-{n}", std::process::id()));
        std::fs::create_dir_all(&dir)?;
        for (name, text) in files.iter().chain([&(CONFIG, config)]) {
            std::fs::write(dir.join(name), text).with_context(|| format!("write {name}"))?;
        }
        let args: Vec<_> = args.iter().map(|&arg| arg.to_owned()).collect();
        let (child, log) = launch(&dir, &args)?;
        let unknown = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut started = Self { child, dir, args, addr: unknown, log };
        started.wait_until_ready()?;
        Ok(started)
    }

    /// Stops it with SIGTERM and starts it after `pause` with the same data, on another port.
    pub fn restart(&mut self, pause: Duration) -> Result<()> {
        kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        self.child.wait()?;
        std::thread::sleep(pause);
        (self.child, self.log) = launch(&self.dir, &self.args)?;
        self.wait_until_ready()
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait()? {
                bail!("prometheus ended with {status}: {}", self.log());
            }
            let log = self.log();
            let line = log.lines().find(|line| line.contains("msg=\"Listening on\""));
            if let Some(addr) = line.and_then(|line| line.split("address=").nth(1)) {
                self.addr = addr.trim().parse().with_context(|| format!("address {addr}"))?;
                if self.request("GET", "/-/ready", "").is_ok_and(|(status, _)| status == 200) {
                    return Ok(());
                }
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("prometheus is not ready after {PATIENCE:?}: {}", self.log());
    }

    /// Its log since the last start.
    pub fn log(&self) -> String {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The directory of its configuration and data, removed on drop.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Reloads configuration and rules.
    pub fn reload(&self) -> Result<()> {
        let (status, body) = self.request("POST", "/-/reload", "")?;
        ensure!(status == 200, "prometheus does not reload: {body}");
        Ok(())
    }

    /// The `data` of an API response, by the path below `/api/v1/` and parameters.
    pub fn api(&self, path: &str, parameters: &[(&str, &str)]) -> Result<Value> {
        let query: String =
            form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish();
        let (status, body) = self.request("GET", &format!("/api/v1/{path}?{query}"), "")?;
        let mut response: Value =
            serde_json::from_str(&body).with_context(|| format!("HTTP {status}: {body}"))?;
        if response["status"] != "success" {
            bail!("{}: {}", response["errorType"], response["error"]);
        }
        Ok(response["data"].take())
    }

    /// The series of an expression now: objects with `metric` and `value`.
    pub fn query(&self, expression: &str) -> Result<Vec<Value>> {
        let data = self.api("query", &[("query", expression)]);
        series(data.with_context(|| expression.to_owned())?)
    }

    /// The series of an expression in a range of Unix time: objects with `metric` and `values`.
    pub fn query_range(
        &self,
        expression: &str,
        [start, end]: [f64; 2],
        step: f64,
    ) -> Result<Vec<Value>> {
        let [start, end, step] = [start, end, step].map(|n| n.to_string());
        let parameters = [("query", expression), ("start", &start), ("end", &end), ("step", &step)];
        let data = self.api("query_range", &parameters);
        series(data.with_context(|| expression.to_owned())?)
    }

    /// Status and body of a response. By HTTP/1.0, without chunks and keep-alive.
    fn request(&self, method: &str, path: &str, body: &str) -> Result<(u16, String)> {
        let mut stream = TcpStream::connect_timeout(&self.addr, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.0\r\nHost: test\r\nContent-Length: {length}\r\n\r\n{body}"
        )?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let (head, body) = text.split_once("\r\n\r\n").context("no end of head")?;
        let status = head.split(' ').nth(1).context("no status")?.parse()?;
        Ok((status, body.to_owned()))
    }
}

fn launch(dir: &Path, args: &[String]) -> Result<(Child, Log)> {
    let mut child = Command::new("prometheus")
        .arg("--config.file=prometheus.yml")
        // It picks a free port and logs it.
        .args(["--web.listen-address=127.0.0.1:0", "--web.enable-lifecycle"])
        .args(["--storage.tsdb.path=data", "--enable-feature=exemplar-storage"])
        .args(args)
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("start prometheus (apt-get install prometheus)")?;
    let stderr = child.stderr.take().context("no stderr")?;
    let log = Log::default();
    let shared = Arc::clone(&log);
    std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            let mut log = shared.lock().unwrap_or_else(PoisonError::into_inner);
            log.push_str(&line);
            log.push('\n');
        }
    });
    Ok((child, log))
}

/// The series of a response; a scalar is an error.
fn series(mut data: Value) -> Result<Vec<Value>> {
    match data["result"].take() {
        Value::Array(series) if data["resultType"] != "scalar" => Ok(series),
        other => bail!("not series but {}: {other}", data["resultType"]),
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
