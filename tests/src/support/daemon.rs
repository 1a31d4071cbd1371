//! The daemon as an operator runs it: started, queried over HTTP and its socket, stopped.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use sensor_core::{
    model::event::{Event, EventKind},
    verdict::policy::RULES,
};

use crate::support::scope::program;

/// Timeout of anything that a test waits for: many sampling intervals, and some starts of the daemon
/// in an emulated guest of a busy machine (there one took more than 20 s).
pub const PATIENCE: Duration = Duration::from_mins(1);

/// Free ports.
const LOCAL: [&str; 2] = ["127.0.0.1:0"; 2];
/// The daemon's own user: nobody has this id, and no name is needed.
pub const DAEMON_UID: u32 = 64_917;
/// Short intervals, so that tests are fast.
const OFTEN: &str = "interval = \"100ms\"\nstale_after = \"2s\"\n";

/// A running `memsensor run`.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    dir: PathBuf,
    /// Its addresses: HTTP, the agent-check, then those that a test added.
    pub listening: Vec<SocketAddr>,
    log: Log,
    /// Number of `[[listen]]`.
    listeners: usize,
}

impl Daemon {
    /// Starts it with extra configuration (TOML, inserted before any table) and waits for a sample.
    /// Its rules are off: the load of other tests must not change its verdict.
    pub fn start(config: &str) -> Result<Self> {
        Self::also_listening("", config)
    }

    /// The same with more `[[listen]]` after the usual two.
    pub fn also_listening(more: &str, config: &str) -> Result<Self> {
        let quiet = RULES.iter().map(|r| format!("rules.{}.enabled = false\n", r.name));
        let config = format!("{OFTEN}{}{config}", quiet.collect::<String>());
        Self::with(&(listeners(LOCAL) + more), &config, &[])
    }

    /// The same with its rules on.
    pub fn judging(config: &str) -> Result<Self> {
        Self::listening_on(LOCAL, &format!("{OFTEN}{config}"))
    }

    /// The same on the default ports of an address of this machine.
    pub fn at(ip: &str, config: &str) -> Result<Self> {
        let addrs = [&*format!("{ip}:9817"), &*format!("{ip}:9818")];
        Self::listening_on(addrs, &format!("{OFTEN}{config}"))
            .context("start a daemon on the default ports (is memsensor already running?)")
    }

    /// With its rules on and the default intervals.
    pub fn as_shipped(config: &str) -> Result<Self> {
        Self::listening_on(LOCAL, config)
    }

    /// As a systemd service with this notify socket and watchdog interval.
    pub fn supervised(notify: &Path, watchdog: Duration) -> Result<Self> {
        let env = [
            ("NOTIFY_SOCKET", notify.display().to_string()),
            ("WATCHDOG_USEC", watchdog.as_micros().to_string()),
        ];
        Self::with(&listeners(LOCAL), OFTEN, &env)
    }

    /// With its rules on and its files in this directory, which must exist. `wrapper` is a command
    /// that must become the daemon, such as `unshare --mount`; it may be empty.
    pub fn in_directory(dir: &Path, wrapper: &[&str], config: &str) -> Result<Self> {
        Self::launch(dir.to_owned(), &listeners(LOCAL), &format!("{OFTEN}{config}"), wrapper, &[])
    }

    fn listening_on(addrs: [&str; 2], config: &str) -> Result<Self> {
        Self::with(&listeners(addrs), config, &[])
    }

    fn with(listeners: &str, config: &str, env: &[(&str, String)]) -> Result<Self> {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let n = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("memsensor-test-{}-{n}", std::process::id()));
        Self::launch(dir, listeners, config, &[], env)
    }

    fn launch(
        dir: PathBuf,
        listeners: &str,
        config: &str,
        wrapper: &[&str],
        env: &[(&str, String)],
    ) -> Result<Self> {
        // A directory of its own, which the daemon hands to its user.
        std::fs::create_dir_all(dir.join("run"))?;
        let socket = dir.join("run/socket");
        let file = dir.join("config.toml");
        let has_user = config.lines().any(|line| line.starts_with("user ="));
        let user = if has_user { String::new() } else { format!("user = \"{DAEMON_UID}\"\n") };
        // `$DIR` is the directory of its files, which is removed at the end.
        let config = config.replace("$DIR", &dir.display().to_string());
        // 64 MiB are allocated and written for each record.
        let has_record = config.lines().any(|line| line.starts_with("record."));
        let record = if has_record { "" } else { "record.directory = \"\"\n" };
        std::fs::write(
            &file,
            format!("socket = \"{}\"\n{user}{record}{config}\n{}", socket.display(), listeners),
        )?;
        let (child, log) = spawn(&file, wrapper, env)?;
        let listeners = listeners.matches("[[listen]]").count();
        let mut daemon = Self { child, dir, listening: Vec::new(), log, listeners };
        daemon.wait_until_ready()?;
        Ok(daemon)
    }

    /// Restarts it with the same configuration, on other ports.
    pub fn restart(&mut self) -> Result<()> {
        self.stop(rustix::process::Signal::TERM)?;
        self.restart_after_end()
    }

    /// The same after [`Self::stop`].
    pub fn restart_after_end(&mut self) -> Result<()> {
        (self.child, self.log) = spawn(&self.dir.join("config.toml"), &[], &[])?;
        self.wait_until_ready()
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait()? {
                std::thread::sleep(Duration::from_millis(50));
                bail!("memsensor ended with {status}: {}", self.log());
            }
            let log = self.log();
            self.listening = listening(&log);
            // Not by `/readyz`: `drain --wait` would wait for this client.
            if self.listening.len() == self.listeners && self.sample_time().is_ok() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("memsensor is not ready after {PATIENCE:?}: {}", self.log());
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Path of its configuration.
    pub fn config(&self) -> PathBuf {
        self.dir.join("config.toml")
    }

    /// Path of its socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("run/socket")
    }

    /// Sends a GET request.
    pub fn get(&self, path: &str, accept: &str) -> Result<Response> {
        let addr = self.listening.first().context("not listening yet")?;
        get(*addr, path, accept)
    }

    /// Values of `/metrics` by series, from a sample that began after this call.
    pub fn metrics(&self) -> Result<BTreeMap<String, f64>> {
        let start = self.sample_time()?;
        let end = Instant::now() + PATIENCE;
        // The second new sample: the first may have begun before this call.
        let mut newer = 0;
        let mut last = start;
        while Instant::now() < end {
            let series = parse(&self.get("/metrics", "")?.body);
            let time = series.get(SAMPLE_TIME).copied().unwrap_or_default();
            if time > last {
                (newer, last) = (newer + 1, time);
            }
            if newer == 2 {
                return Ok(series);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("no fresh sample within {PATIENCE:?}: {}", self.log())
    }

    fn sample_time(&self) -> Result<f64> {
        let series = parse(&self.get("/metrics", "")?.body);
        series.get(SAMPLE_TIME).copied().context("no sample yet")
    }

    /// The agent-check line of the host or a scope.
    pub fn agent_check(&self, scope: &str) -> Result<String> {
        let addr = self.listening.get(1).context("not listening yet")?;
        agent_check(*addr, scope)
    }

    /// Runs a subcommand that uses its socket; returns its output and exit code.
    pub fn ask(&self, words: &[&str]) -> Result<(String, Option<i32>)> {
        let mut command = Command::new(program("memsensor")?);
        command.args(words).arg("--socket").arg(self.socket());
        let out = command.output()?;
        let output = [out.stdout, out.stderr].concat();
        Ok((String::from_utf8_lossy(&output).into_owned(), out.status.code()))
    }

    /// `memsensor check`: its line and exit code.
    pub fn check(&self, scope: &str) -> Result<(String, Option<i32>)> {
        self.check_with(&["--scope", scope])
    }

    /// The same with `--fail-on`.
    pub fn check_on(&self, scope: &str, fail_on: &str) -> Result<(String, Option<i32>)> {
        self.check_with(&["--scope", scope, "--fail-on", fail_on])
    }

    fn check_with(&self, words: &[&str]) -> Result<(String, Option<i32>)> {
        let addr = self.listening.first().context("not listening yet")?;
        let mut command = Command::new(program("memsensor")?);
        command.args(["check", "--url", &format!("http://{addr}")]).args(words);
        let out = command.output()?;
        Ok((String::from_utf8_lossy(&out.stdout).trim().to_owned(), out.status.code()))
    }

    /// Its events, from `memsensor events --json`.
    pub fn events(&self) -> Result<Vec<Event>> {
        let out = Command::new(program("memsensor")?)
            .args(["events", "--json", "--socket"])
            .arg(self.socket())
            .output()?;
        if !out.status.success() {
            bail!("memsensor events: {}", String::from_utf8_lossy(&out.stderr));
        }
        let lines = String::from_utf8(out.stdout)?;
        lines.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }

    /// Waits until `n` events pass the filter, and returns them.
    pub fn wait_for_events(
        &self,
        n: usize,
        filter: impl Fn(&EventKind) -> bool,
    ) -> Result<Vec<Event>> {
        let end = Instant::now() + PATIENCE;
        loop {
            let mut events = self.events()?;
            events.retain(|e| filter(&e.kind));
            if events.len() >= n {
                return Ok(events);
            }
            if Instant::now() > end {
                bail!("{} of {n} events after {PATIENCE:?}: {events:#?}", events.len());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Stops it with a signal and waits for its end.
    pub fn stop(&mut self, signal: rustix::process::Signal) -> Result<ExitStatus> {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal)?;
        Ok(self.child.wait()?)
    }
}

/// `[[listen]]` for these addresses: all routes of HTTP, and the agent-check.
pub fn listeners([http, agent]: [&str; 2]) -> String {
    format!(
        "[[listen]]\naddress = \"{http}\"\nroutes = [\"readiness\", \"metrics\", \"events\"]\n\
         [[listen]]\naddress = \"{agent}\"\nroutes = [\"agent\"]\n"
    )
}

/// The addresses in the log of a daemon, in the order of its configuration.
pub fn listening(log: &str) -> Vec<SocketAddr> {
    let words = |line: &str| line.split("listening on ").nth(1)?.split(' ').next()?.parse().ok();
    log.lines().filter(|line| line.contains(" for ")).filter_map(words).collect()
}

type Log = Arc<Mutex<String>>;

fn spawn(config: &Path, wrapper: &[&str], env: &[(&str, String)]) -> Result<(Child, Log)> {
    let memsensor = program("memsensor")?;
    let words = wrapper.iter().map(OsStr::new).chain([memsensor.as_os_str()]);
    let words: Vec<_> = words.collect();
    let mut child = Command::new(words[0])
        .args(&words[1..])
        .args(["run", "--config"])
        .arg(config)
        .envs(env.iter().map(|(name, value)| (name, value)))
        .stderr(Stdio::piped())
        .stdin(Stdio::null())
        .spawn()
        .context("start memsensor")?;
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

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

const SAMPLE_TIME: &str = "memsensor_last_sample_timestamp_seconds";

/// Queries the agent-check at this address; the request may be empty.
pub fn agent_check(addr: SocketAddr, request: &str) -> Result<String> {
    let mut stream = TcpStream::connect(addr)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    if !request.is_empty() {
        stream.write_all(request.as_bytes())?;
        // Marks the end of a request without a newline.
        stream.shutdown(Shutdown::Write)?;
    }
    let mut line = String::new();
    stream.read_to_string(&mut line)?;
    Ok(line)
}

/// An HTTP response.
#[derive(Debug, Clone)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Status line and headers, in lower case.
    pub head: String,
    /// Body.
    pub body: String,
}

/// Sends a GET request.
pub fn get(addr: SocketAddr, path: &str, accept: &str) -> Result<Response> {
    let mut stream = TcpStream::connect_timeout(&addr, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let accept = if accept.is_empty() { String::new() } else { format!("Accept: {accept}\r\n") };
    write!(stream, "GET {path} HTTP/1.1\r\nHost: test\r\n{accept}Connection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").context("no end of head")?;
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    Ok(Response { status, head: head.to_lowercase(), body: body.to_owned() })
}

/// Values of a text exposition, by series.
pub fn parse(text: &str) -> BTreeMap<String, f64> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.rsplit_once(' '))
        .filter_map(|(series, value)| Some((series.to_owned(), value.parse().ok()?)))
        .collect()
}

/// Whether a series is a counter, by its name; `memsensor_memory_total_bytes` is none.
pub fn is_counter(series: &str) -> bool {
    series.split('{').next().is_some_and(|name| name.ends_with("_total"))
}

/// The increase of a counter; a missing series is an error.
pub fn delta(
    before: &BTreeMap<String, f64>,
    after: &BTreeMap<String, f64>,
    series: &str,
) -> Result<f64> {
    let value = |map: &BTreeMap<String, f64>| {
        map.get(series).copied().with_context(|| format!("no series {series}"))
    };
    Ok(value(after)? - value(before)?)
}
