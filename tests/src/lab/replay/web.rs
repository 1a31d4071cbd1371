//! A host: nginx and an application in a cgroup with a limit, memsensor outside of it, and in a
//! fault the leaking agent inside.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::{
    Loads,
    net::{self, Net},
    scale,
};
use crate::support::{
    load_words,
    scope::{Scope, program},
    swap,
};

/// A host.
#[derive(Debug)]
pub struct Web {
    scope: Arc<Scope>,
    net: Net,
    number: u8,
    dir: PathBuf,
    sensor: Option<Child>,
    /// nginx and the application.
    servers: Vec<Child>,
    agent: Option<Agent>,
    loads: Vec<Child>,
    tmpfs: Option<PathBuf>,
}

/// The agent, restarted when it is killed, as systemd would.
#[derive(Debug)]
struct Agent {
    removed: Arc<AtomicBool>,
    starts: Arc<AtomicU32>,
    keeper: JoinHandle<()>,
}

impl Web {
    /// Starts a host's servers, and memsensor if requested, with its files in `dir`.
    pub fn start(
        scope: Scope,
        net: Net,
        number: u8,
        dir: &Path,
        with_memsensor: bool,
    ) -> Result<Self> {
        let dir = dir.join(format!("web-0{}", number + 1));
        fs::create_dir(&dir).with_context(|| format!("mkdir {}", dir.display()))?;
        let file = dir.join("working-set");
        // Not in the page cache yet: the cgroup that reads it first is charged for it.
        swap::cold(&file, scale::FILE)?;
        let scope = Arc::new(scope);
        let mut web = Self {
            scope,
            net,
            number,
            dir,
            sensor: None,
            servers: Vec::new(),
            agent: None,
            loads: Vec::new(),
            tmpfs: None,
        };
        let sample_app = program("sample-app")?;
        let words = ["127.0.0.1:9000", &web.name(), &scale::WORKING_SET.to_string()];
        let mut sample_app = web.command(&sample_app);
        sample_app.args(words).arg(&file);
        web.spawn(sample_app, "sample-app")?;
        let config = web.dir.join("nginx.conf");
        fs::write(&config, web.nginx()).with_context(|| format!("write {}", config.display()))?;
        let mut nginx = web.command("nginx");
        nginx.arg("-p").arg(&web.dir).arg("-c").arg(&config);
        web.spawn(nginx, "nginx")?;
        if with_memsensor {
            web.start_memsensor()?;
        }
        web.wait_until_up()?;
        Ok(web)
    }

    /// Its name in HAProxy.
    pub fn name(&self) -> String {
        format!("web-0{}", self.number + 1)
    }

    /// Its cgroup.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// The address of one of its ports.
    pub fn port(&self, port: u16) -> SocketAddr {
        (IpAddr::from(net::address(self.number)), port).into()
    }

    /// A command that runs on the host, in its cgroup.
    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let enter = self.net.enter();
        let mut command = self.scope.command(&enter[0]);
        command.args(&enter[1..]).arg(program).stdin(Stdio::null());
        command
    }

    fn spawn(&mut self, mut command: Command, name: &str) -> Result<()> {
        let log = File::create(self.dir.join(name).with_extension("log"))?;
        command.stdout(log.try_clone()?).stderr(log);
        self.servers.push(command.spawn().with_context(|| format!("start {name}"))?);
        Ok(())
    }

    fn nginx(&self) -> String {
        let (dir, listen) = (self.dir.display(), self.port(8080));
        format!(
            "daemon off;\nuser root;\nworker_processes 1;\npid {dir}/nginx.pid;\n\
             error_log stderr warn;\nevents {{ worker_connections 1024; }}\n\
             http {{\n  access_log off;\n  client_body_temp_path {dir}/body;\n  \
             proxy_temp_path {dir}/proxy;\n  fastcgi_temp_path {dir}/fastcgi;\n  \
             uwsgi_temp_path {dir}/uwsgi;\n  scgi_temp_path {dir}/scgi;\n  \
             server {{\n    listen {listen};\n    location / {{\n      \
             proxy_pass http://127.0.0.1:9000;\n      proxy_read_timeout 30s;\n    }}\n  }}\n}}\n"
        )
    }

    /// Starts memsensor with its defaults, and the cgroup as a scope.
    fn start_memsensor(&mut self) -> Result<()> {
        let config = self.dir.join("memsensor.toml");
        let (socket, cgroup) = (self.dir.join("memsensor.sock"), self.scope.path());
        let text = format!(
            "socket = \"{}\"\n[[scope]]\nname = \"web\"\ncgroup = \"{cgroup}\"\n",
            socket.display()
        );
        fs::write(&config, text).with_context(|| format!("write {}", config.display()))?;
        let log = File::create(self.dir.join("memsensor.log"))?;
        let enter = self.net.enter();
        let child = Command::new(&enter[0])
            .args(&enter[1..])
            .args(["setpriv", "--pdeathsig", "KILL"])
            .arg(program("memsensor")?)
            .args(["run", "--config"])
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start memsensor")?;
        self.sensor = Some(child);
        Ok(())
    }

    fn wait_until_up(&mut self) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(15);
        let serves = |web: &Self| {
            let page = request(web.port(8080), "GET / HTTP/1.0\r\n\r\n").unwrap_or_default();
            let verdict = web.sensor.is_none() || web.verdict().is_ok_and(|v| v.starts_with("up"));
            page.contains(" 200 ") && verdict
        };
        while !serves(self) {
            if Instant::now() > end {
                let log = |name: &str| {
                    fs::read_to_string(self.dir.join(name)).unwrap_or_default().trim().to_owned()
                };
                let [nginx, sample_app, sensor] =
                    ["nginx.log", "sample-app.log", "memsensor.log"].map(log);
                bail!(
                    "{} is not up (cargo xtask setup --tests installs nginx): \
                     nginx: {nginx}\nshop: {sample_app}\nmemsensor: {sensor}",
                    self.name()
                );
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// The agent-check line of memsensor.
    pub fn verdict(&self) -> Result<String> {
        agent_check(self.port(9818))
    }

    /// Installs the agent, which allocates so many MiB in all and is restarted when killed.
    pub fn install_agent(&mut self, mib: u64) -> Result<()> {
        let hog = program("hog")?;
        let (mib, rate) = (mib.to_string(), scale::AGENT_RATE.to_string());
        let removed = Arc::new(AtomicBool::new(false));
        let starts = Arc::new(AtomicU32::new(0));
        let scope = Arc::clone(&self.scope);
        let (stop, count) = (Arc::clone(&removed), Arc::clone(&starts));
        let keeper = std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let mut agent = scope.command(&hog);
                agent.args(["leak", &mib, &rate]).stdout(Stdio::null()).stderr(Stdio::null());
                let Ok(mut agent) = agent.stdin(Stdio::null()).spawn() else { return };
                count.fetch_add(1, Ordering::Relaxed);
                while matches!(agent.try_wait(), Ok(None)) {
                    if stop.load(Ordering::Relaxed) {
                        let _ = agent.kill();
                        let _ = agent.wait();
                    }
                    std::thread::sleep(Duration::from_millis(20));
                }
                // systemd's RestartSec.
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        self.agent = Some(Agent { removed, starts, keeper });
        Ok(())
    }

    /// Removes it; returns how often it was restarted.
    pub fn remove_agent(&mut self) -> u32 {
        let Some(agent) = self.agent.take() else { return 0 };
        agent.removed.store(true, Ordering::Relaxed);
        let _ = agent.keeper.join();
        agent.starts.load(Ordering::Relaxed).saturating_sub(1)
    }

    /// Makes the files of loads, outside the page cache, and a directory on a tmpfs.
    pub fn prepare_loads(&mut self, loads: &Loads, tmpfs: PathBuf) -> Result<()> {
        for (name, mib) in loads.files {
            swap::cold(&self.dir.join(name), *mib)?;
        }
        fs::create_dir(&tmpfs).with_context(|| format!("mkdir {}", tmpfs.display()))?;
        self.tmpfs = Some(tmpfs);
        Ok(())
    }

    /// Starts loads of the scenarios in the host's cgroup.
    pub fn start_loads(&mut self, loads: &Loads) -> Result<()> {
        let tmpfs = self.tmpfs.clone().context("the loads are not prepared")?;
        for words in loads.commands {
            let mut command = self.scope.command(program("scenarios")?);
            command.args(load_words::arguments(words, &self.dir, &tmpfs));
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            self.loads.push(command.spawn().with_context(|| format!("start {words:?}"))?);
        }
        Ok(())
    }

    /// Ends them, and frees the memory of their files on the tmpfs.
    pub fn stop_loads(&mut self) {
        for load in &mut self.loads {
            let _ = load.kill();
            let _ = load.wait();
        }
        self.loads.clear();
        if let Some(tmpfs) = self.tmpfs.take() {
            let _ = fs::remove_dir_all(tmpfs);
        }
    }

    /// Stops all processes of the host with SIGSTOP, or continues them.
    pub fn freeze(&self, frozen: bool) -> Result<()> {
        let signal = if frozen { Signal::STOP } else { Signal::CONT };
        let procs = self.scope.memory().join("cgroup.procs");
        let procs =
            fs::read_to_string(&procs).with_context(|| format!("read {}", procs.display()))?;
        let inside = procs.lines().filter_map(|l| Pid::from_raw(l.parse().ok()?));
        let sensor = self.sensor.iter().map(Pid::from_child);
        for pid in inside.chain(sensor) {
            kill_process(pid, signal).context("signal the host's processes")?;
        }
        Ok(())
    }

    /// Which of its servers have ended: the application or nginx.
    pub fn ended_servers(&mut self) -> Vec<&'static str> {
        let names = ["sample-app", "nginx"];
        let ended = self.servers.iter_mut().zip(names);
        ended.filter_map(|(c, name)| matches!(c.try_wait(), Ok(Some(_))).then_some(name)).collect()
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.remove_agent();
        self.stop_loads();
        for child in self.sensor.iter_mut().chain(&mut self.servers) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The agent-check line of the memsensor at this address.
pub fn agent_check(address: SocketAddr) -> Result<String> {
    let line = request(address, "web\n")?;
    Ok(line.trim().to_owned())
}

fn request(address: SocketAddr, text: &str) -> Result<String> {
    let timeout = Duration::from_secs(1);
    let mut stream = TcpStream::connect_timeout(&address, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.write_all(text.as_bytes())?;
    let mut response = String::new();
    stream.read_to_string(&mut response)?;
    Ok(response)
}
