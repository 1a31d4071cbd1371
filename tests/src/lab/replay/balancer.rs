//! HAProxy with the shipped configuration, or with parts of it removed.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use super::CheckMode;

const SHIPPED: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../sensor-user/deploy/haproxy.cfg"));
const AGENT: &str = "agent-inter 250ms";
const OPEN_REQUESTS: &str = "balance random(10)";
/// HAProxy's default.
const ROUNDROBIN: &str = "balance roundrobin";

/// A running HAProxy.
#[derive(Debug)]
pub struct Balancer {
    child: Child,
    dir: PathBuf,
}

/// A server as HAProxy reports it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Server {
    /// `UP`, `DRAIN`, `DOWN` and others.
    pub status: String,
    /// Weight, of 100.
    pub weight: u32,
}

impl Server {
    /// Whether it gets new requests.
    pub fn serves(&self) -> bool {
        (self.status.starts_with("UP") || self.status == "no check") && self.weight > 0
    }
}

impl Balancer {
    /// Starts it in this thread's network namespace, with its files in `dir`.
    pub fn start(check_mode: CheckMode, dir: &Path) -> Result<Self> {
        let socket = dir.join("haproxy.sock");
        let global = format!("global\n    stats socket {} level admin\n\n", socket.display());
        let file = dir.join("haproxy.cfg");
        fs::write(&file, global + &configuration(check_mode)?)
            .with_context(|| format!("write {}", file.display()))?;
        let log = fs::File::create(dir.join("haproxy.log")).context("create haproxy.log")?;
        // The kernel kills it when this process ends.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "haproxy", "-db", "-f"])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start setpriv (install util-linux)")?;
        let mut balancer = Self { child, dir: dir.to_owned() };
        let end = Instant::now() + Duration::from_secs(10);
        while !balancer.servers().is_ok_and(|s| s.iter().all(Server::serves)) {
            let ended = balancer.child.try_wait()?;
            if ended.is_some() || Instant::now() > end {
                let log = fs::read_to_string(dir.join("haproxy.log")).unwrap_or_default();
                bail!(
                    "haproxy has no usable server (cargo xtask setup --tests installs it): {log}"
                );
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(balancer)
    }

    /// Its stats socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("haproxy.sock")
    }

    /// Both servers as they are now.
    pub fn servers(&self) -> Result<[Server; 2]> {
        read_servers(&self.socket())
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads both servers from HAProxy's stats socket.
pub fn read_servers(socket: &Path) -> Result<[Server; 2]> {
    let mut stream = UnixStream::connect(socket)
        .with_context(|| format!("connect to haproxy at {}", socket.display()))?;
    stream.write_all(b"show stat\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    parse(&text)
}

fn parse(text: &str) -> Result<[Server; 2]> {
    let mut lines = text.trim_start_matches("# ").lines().map(|l| l.split(',').collect::<Vec<_>>());
    let names = lines.next().context("haproxy returned no header")?;
    let at = |name: &str| {
        let at = names.iter().position(|n| *n == name);
        at.with_context(|| format!("haproxy's statistics have no {name}"))
    };
    let (status, weight) = (at("status")?, at("weight")?);
    let mut found = [Server::default(), Server::default()];
    for (server, name) in found.iter_mut().zip(["web-01", "web-02"]) {
        let line = lines.by_ref().find(|l| l[0] == "web" && l.get(1) == Some(&name));
        let line = line.with_context(|| format!("haproxy has no server web/{name}"))?;
        let column = |at: usize| line.get(at).copied().unwrap_or_default();
        column(status).clone_into(&mut server.status);
        server.weight = column(weight).parse().unwrap_or(0);
    }
    Ok(found)
}

/// The shipped configuration for a check mode. Its addresses and ports are those of the namespaces.
fn configuration(check_mode: CheckMode) -> Result<String> {
    let mut text = SHIPPED.to_owned();
    let substitute = |text: &mut String, from: &str, to: &str| {
        ensure!(text.contains(from), "the shipped haproxy.cfg has no {from:?}");
        *text = text.replace(from, to);
        Ok(())
    };
    if check_mode == CheckMode::Memsensor {
        // Several hosts share this machine, so each is a scope; a real host would be the scope
        // `host`.
        substitute(&mut text, AGENT, &format!("{AGENT} agent-send \"web\\n\""))?;
        substitute(&mut text, "agent-send \"host?", "agent-send \"web?")?;
        return Ok(text);
    }
    if check_mode != CheckMode::NoSensor {
        substitute(&mut text, OPEN_REQUESTS, ROUNDROBIN)?;
    }
    let lines = text.lines().filter_map(|line| {
        if line.trim_start().starts_with('#') {
            return Some(line);
        }
        let is_check =
            ["option httpchk", "default-server"].iter().any(|w| line.trim().starts_with(w));
        let line = if is_check && check_mode == CheckMode::Unchecked { "" } else { line };
        let (before, _) = line.split_once(" agent-check ").unwrap_or((line, ""));
        let has_options = !is_check || before.trim() != "default-server";
        (has_options && !(is_check && before.is_empty())).then_some(before)
    });
    Ok(lines.flat_map(|line| [line, "\n"]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_check_mode_differs_from_the_shipped_file() {
        let changed = |check_mode| {
            let text = configuration(check_mode).expect("it can be made");
            let ours: Vec<_> = text.lines().map(str::to_owned).collect();
            ours.into_iter().filter(|l| !SHIPPED.lines().any(|s| s == l)).collect::<Vec<_>>()
        };
        let round_robin = ["    balance roundrobin"];
        let check = "    default-server check inter 1s fastinter 500ms fall 2 rise 2";
        assert_eq!(changed(CheckMode::Unchecked), round_robin);
        assert_eq!(changed(CheckMode::Check), [round_robin[0], check]);
        assert_eq!(changed(CheckMode::NoSensor), [check]);
        let lines = changed(CheckMode::Memsensor);
        assert!(lines.len() == 2 && lines[0].ends_with(r#"agent-send "web\n""#), "{lines:?}");
        let fallback =
            SHIPPED.lines().find(|l| l.contains("agent-send \"host?")).expect("a fallback");
        assert_eq!(lines[1], fallback.replace("\"host?", "\"web?"));
        let unchecked = configuration(CheckMode::Unchecked).expect("made");
        assert!(!unchecked.contains("httpchk") && !unchecked.contains("default-server"));
        assert!(!configuration(CheckMode::Check).expect("made").contains("agent-port"));
    }

    #[test]
    fn servers_are_parsed_by_column_name() {
        let text = "# pxname,svname,status,weight,\nwww,FRONTEND,OPEN,,\n\
                    web,web-01,DRAIN (agent),0,\nweb,web-02,UP,100,\nweb,BACKEND,UP,100,\n";
        let [one, two] = parse(text).expect("both");
        assert_eq!((one.status.as_str(), one.weight, one.serves()), ("DRAIN (agent)", 0, false));
        assert_eq!((two.status.as_str(), two.weight, two.serves()), ("UP", 100, true));
        assert!(parse("# pxname,svname,status,weight,\n").is_err());
    }
}
