//! A program that scrapes or stores the fleet's series or evaluates rules on them: started in a
//! directory of its own, queried over HTTP, stopped when dropped; and its resource usage.

use std::{
    fs::{self, File},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use procfs::process::Process;
use serde_json::Value;

use crate::support::{daemon, open_loop::exchange};

/// Timeout of a response: a thousand hosts are half a million series.
const PATIENCE: Duration = Duration::from_mins(2);

/// A running program.
#[derive(Debug)]
pub struct Engine {
    /// Its name in messages.
    pub name: &'static str,
    child: Child,
    dir: PathBuf,
    /// Where it listens.
    pub addr: SocketAddr,
}

impl Engine {
    /// Starts a program in `dir` and waits until a GET of `ready` succeeds. `args` gets the address
    /// to listen on.
    pub fn start(
        name: &'static str,
        program: &str,
        dir: &Path,
        ready: &str,
        args: impl FnOnce(SocketAddr) -> Vec<String>,
    ) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let addr = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let log = File::create(dir.join("log"))?;
        // The kernel kills it when this process ends.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", program])
            .args(args(addr))
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {program} (is it installed?)"))?;
        let mut engine = Self { name, child, dir: dir.to_owned(), addr };
        let end = Instant::now() + daemon::PATIENCE;
        while !engine.get(ready).is_ok_and(|(status, _)| status == 200) {
            if let Some(status) = engine.child.try_wait()? {
                bail!("{name} ended with {status}: {}", engine.log());
            }
            ensure!(Instant::now() < end, "{name} is not ready: {}", engine.log());
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(engine)
    }

    /// Its log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// Status and body of a GET.
    pub fn get(&self, path: &str) -> Result<(u16, String)> {
        self.request("GET", path)
    }

    /// Status and body of a POST without a body.
    pub fn post(&self, path: &str) -> Result<(u16, String)> {
        self.request("POST", path)
    }

    fn request(&self, method: &str, path: &str) -> Result<(u16, String)> {
        let request = format!("{method} {path} HTTP/1.0\r\nHost: {}\r\n\r\n", self.addr);
        let response =
            exchange(self.addr, request.as_bytes(), Instant::now() + PATIENCE, |_| false)
                .map_err(|error| anyhow::anyhow!("{}: {method} {path}: {error}", self.name))?;
        let text = String::from_utf8(response).context("not UTF-8")?;
        let (head, body) = text.split_once("\r\n\r\n").context("no end of head")?;
        let status = head.split(' ').nth(1).context("no status")?.parse()?;
        Ok((status, body.to_owned()))
    }

    /// The series of an expression at a Unix time.
    pub fn query_at(&self, expression: &str, unix: f64) -> Result<Vec<Value>> {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("query", expression).append_pair("time", &unix.to_string());
        // VictoriaMetrics would return cached results.
        query.append_pair("nocache", "1");
        let (status, body) = self.get(&format!("/api/v1/query?{}", query.finish()))?;
        let mut response: Value = serde_json::from_str(&body)
            .with_context(|| format!("{}: HTTP {status}: {body}", self.name))?;
        let is_vector =
            response["status"] == "success" && response["data"]["resultType"] == "vector";
        ensure!(is_vector, "{}: {expression}: {body}", self.name);
        match response["data"]["result"].take() {
            Value::Array(series) => Ok(series),
            other => bail!("{}: {expression}: {other}", self.name),
        }
    }

    /// The value of an expression with at most one series; 0 without one, as for a sum of nothing.
    pub fn number_at(&self, expression: &str, unix: f64) -> Result<f64> {
        let series = self.query_at(expression, unix)?;
        ensure!(series.len() < 2, "{expression} has {} series", series.len());
        let value = series.first().map(|one| one["value"][1].as_str().map(str::parse));
        Ok(value.flatten().transpose()?.unwrap_or(0.0))
    }

    /// Its own metrics, by series.
    pub fn own_metrics(&self) -> Result<std::collections::BTreeMap<String, f64>> {
        let (status, body) = self.get("/metrics")?;
        ensure!(status == 200, "{}: {body}", self.name);
        Ok(daemon::parse(&body))
    }

    /// CPU seconds so far, and resident bytes.
    pub fn resource_use(&self) -> Result<(f64, u64)> {
        let process = Process::new(i32::try_from(self.child.id())?)?;
        let stat = process.stat()?;
        let seconds = (stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64;
        Ok((seconds, stat.rss * procfs::page_size()))
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
