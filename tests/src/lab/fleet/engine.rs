//! A program that scrapes, stores or judges the fleet: started in a directory of its own, asked over HTTP,
//! stopped when dropped; and what it resource_use of the machine meanwhile.

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

/// How long an answer may take: a thousand hosts are half a million series.
const PATIENCE: Duration = Duration::from_mins(2);

/// A running program.
#[derive(Debug)]
pub struct Engine {
    /// What it is called in messages.
    pub name: &'static str,
    child: Child,
    dir: PathBuf,
    /// Where it listens.
    pub addr: SocketAddr,
}

impl Engine {
    /// Starts a program in `dir` with arguments that are made of the address at which it is to listen,
    /// and waits until it answers to `ready`.
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
        // It ends with us, however we end.
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

    /// What it logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// Status and body of an answer.
    pub fn get(&self, path: &str) -> Result<(u16, String)> {
        self.ask("GET", path)
    }

    /// The same to a POST without a body.
    pub fn post(&self, path: &str) -> Result<(u16, String)> {
        self.ask("POST", path)
    }

    fn ask(&self, method: &str, path: &str) -> Result<(u16, String)> {
        let question = format!("{method} {path} HTTP/1.0\r\nHost: {}\r\n\r\n", self.addr);
        let answer = exchange(self.addr, question.as_bytes(), Instant::now() + PATIENCE, |_| false)
            .map_err(|why| anyhow::anyhow!("{}: {method} {path}: {why}", self.name))?;
        let text = String::from_utf8(answer).context("not UTF-8")?;
        let (head, body) = text.split_once("\r\n\r\n").context("no end of head")?;
        let status = head.split(' ').nth(1).context("no status")?.parse()?;
        Ok((status, body.to_owned()))
    }

    /// The series that an expression has at a Unix time.
    pub fn query_at(&self, expression: &str, unix: f64) -> Result<Vec<Value>> {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("query", expression).append_pair("time", &unix.to_string());
        // VictoriaMetrics would else answer from what it cached.
        query.append_pair("nocache", "1");
        let (status, body) = self.get(&format!("/api/v1/query?{}", query.finish()))?;
        let mut answer: Value = serde_json::from_str(&body)
            .with_context(|| format!("{}: HTTP {status}: {body}", self.name))?;
        let whole = answer["status"] == "success" && answer["data"]["resultType"] == "vector";
        ensure!(whole, "{}: {expression}: {body}", self.name);
        match answer["data"]["result"].take() {
            Value::Array(series) => Ok(series),
            other => bail!("{}: {expression}: {other}", self.name),
        }
    }

    /// The one number of an expression; 0 if it has no series, as sums of nothing have.
    pub fn number_at(&self, expression: &str, unix: f64) -> Result<f64> {
        let series = self.query_at(expression, unix)?;
        ensure!(series.len() < 2, "{expression} has {} series", series.len());
        let value = series.first().map(|one| one["value"][1].as_str().map(str::parse));
        Ok(value.flatten().transpose()?.unwrap_or(0.0))
    }

    /// What it says of itself, by series.
    pub fn own_metrics(&self) -> Result<std::collections::BTreeMap<String, f64>> {
        let (status, body) = self.get("/metrics")?;
        ensure!(status == 200, "{}: {body}", self.name);
        Ok(daemon::parse(&body))
    }

    /// Seconds of processor time so far, and resident bytes.
    pub fn resource_use(&self) -> Result<(f64, u64)> {
        let process = Process::new(i32::try_from(self.child.id())?)?;
        let stat = process.stat()?;
        let seconds = (stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64;
        Ok((seconds, stat.rss * procfs::page_size()))
    }

    /// Where it is at home.
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
