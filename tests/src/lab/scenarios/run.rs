//! Runs a scenario and returns its record. Removes all that it makes, also if this process is
//! killed.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{BufRead as _, BufReader, Read as _, Seek as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::ScopedJoinHandle,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use procfs::{FromBufRead as _, MemoryPressure};
use sensor_core::{
    common::clock::monotonic_ns,
    model::{coverage::Coverage, snapshot::Snapshot},
    verdict::weight,
};
use sensor_user::{
    collect::{
        scopes::{self, Scopes},
        settings::ScopeSettings,
    },
    host::cgroup::mounts::CgroupMounts,
};

use super::{
    catalogue::{self, Layout, Scenario},
    harm::{self, Phases},
    probe::{self, Request},
    record::{Course, Record, Sample, WeightChange},
};
use crate::support::{
    daemon::Daemon,
    scope::{MIB, Scope},
    swap::{Swap, cold},
    undo::Undo,
};

/// Duration of the calm phase.
const CALM: Duration = Duration::from_secs(6);
/// Sampling continues so long after the load: a late verdict still counts.
const AFTER: Duration = Duration::from_secs(1);
/// Interval of samples of the cgroup.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(100);
/// Interval of queries to the daemon.
const QUERY_INTERVAL: Duration = Duration::from_millis(20);
/// Reads per second of slow swap.
const SLOW_SWAP: u32 = 300;
/// The limit during the setup, in MiB.
const ROOMY: u64 = 1024;
/// MiB of the file of the service outside the cgroup.
const CONTROL_FILES: u64 = 8;
/// The cgroup's name in the daemon.
const WATCHED: &str = "web";

/// Runs it. Needs root, 2 GiB on disk, and util-linux.
pub fn run(scenario: &Scenario) -> Result<Record> {
    let testbed = Testbed::new(scenario).context("set up the scenario")?;
    let mut before = testbed.start(scenario.before, &testbed.scope, Stdio::piped)?;
    for running in &mut before {
        running.ready()?;
    }
    let mut service = testbed.service(Some(testbed.service_scope()))?;
    service.ready()?;
    testbed.set_limit(scenario)?;
    let mut control = testbed.service(None)?;
    control.ready()?;
    let path = testbed.watched().path();
    let config = format!("[[scope]]\nname = \"{WATCHED}\"\ncgroup = \"{path}\"\n");
    let daemon = Daemon::as_shipped(&config)?;

    let stop = AtomicBool::new(false);
    std::thread::scope(|threads| {
        let stopped = StopOnDrop(&stop);
        let requests = listen(threads, &mut service)?;
        let control_requests = listen(threads, &mut control)?;
        let samples = threads.spawn(|| sample(&stop, &path));
        let weight_changes = threads.spawn(|| poll_weight(&stop, &daemon));
        let begin = monotonic_ns();
        std::thread::sleep(CALM);
        let load = monotonic_ns();
        let running = testbed.start(scenario.load, testbed.load_scope(), Stdio::null)?;
        std::thread::sleep(Duration::from_secs(scenario.seconds));
        let end = monotonic_ns();
        drop(running);
        std::thread::sleep(AFTER);
        drop(stopped);
        drop((service, control));
        let phases = Phases { begin, load, end };
        let judge =
            |requests| harm::judge(&harm::with_unserved(requests, probe::PERIOD, end), phases);
        let course = Course {
            name: scenario.name.to_owned(),
            machine: machine()?,
            phases,
            harm: judge(join(requests)?),
            control: judge(join(control_requests)?),
            weight_changes: join(weight_changes)??,
        };
        Ok(Record { course, samples: join(samples)?? })
    })
}

/// Stops the sampling threads, also after an error.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn join<T>(thread: ScopedJoinHandle<'_, T>) -> Result<T> {
    thread.join().map_err(|_| anyhow!("a thread panicked"))
}

fn listen<'t>(
    threads: &'t std::thread::Scope<'t, '_>,
    running: &mut Running,
) -> Result<ScopedJoinHandle<'t, Vec<Request>>> {
    let out = running.out.take().context("its output is already read")?;
    Ok(threads.spawn(|| probe::listen(out)))
}

/// A process, killed when dropped.
struct Running {
    child: Child,
    out: Option<BufReader<ChildStdout>>,
    name: String,
}

impl Running {
    fn start(mut command: Command, name: String, out: Stdio) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(out)
            .spawn()
            .with_context(|| format!("start {name}"))?;
        let out = child.stdout.take().map(BufReader::new);
        Ok(Self { child, out, name })
    }

    fn ready(&mut self) -> Result<()> {
        let mut line = String::new();
        self.out.as_mut().context("its output is not piped")?.read_line(&mut line)?;
        ensure!(line == "ready\n", "{} ended before it was ready", self.name);
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Cgroups, files and swap, removed in this order.
struct Testbed {
    /// The cgroups of the service and of the load, where they have separate ones.
    own: Option<[Scope; 2]>,
    scope: Scope,
    layout: Layout,
    disk: Swap,
    tmpfs: PathBuf,
    _undo: Undo,
}

impl Testbed {
    fn new(scenario: &Scenario) -> Result<Self> {
        // Always made, if only 16 MiB: it also owns the directory on disk.
        let mut disk = Swap::new(scenario.swap.mib().max(16))?;
        let mut undo = Undo::new()?;
        let tmpfs = PathBuf::from(format!("/dev/shm/memsensor-{}", std::process::id()));
        undo.later(r#"rm -rf "$1""#, &[&tmpfs])?;
        fs::create_dir(&tmpfs).with_context(|| format!("mkdir {}", tmpfs.display()))?;
        let own = [("service", scenario.service_files), ("control", CONTROL_FILES)];
        for (name, mib) in scenario.files.iter().chain(&own) {
            cold(&disk.dir().join(name), *mib)?;
        }
        let name = format!("scenario-{}", scenario.name);
        let mut scope = match scenario.swap {
            catalogue::Swap::None => Scope::new(&name, scenario.limit * MIB)?,
            _ => Scope::with_swap(&name, ROOMY * MIB)?,
        };
        for group in scope.groups() {
            undo.remove_group(group)?;
        }
        if let catalogue::Swap::Slow(_) = scenario.swap {
            disk.slow(&mut scope, SLOW_SWAP)?;
        }
        if let Some(reads) = scenario.disk {
            disk.slow_disk(&mut scope, reads)?;
        }
        let own = match scenario.layout {
            Layout::One => None,
            _ => Some([scope.child("service")?, scope.child("neighbour")?]),
        };
        for group in own.iter().flatten().flat_map(Scope::groups) {
            undo.remove_group(group)?;
        }
        Ok(Self { own, scope, layout: scenario.layout, disk, tmpfs, _undo: undo })
    }

    /// Sets the limit from outside: its reclaim must not stall the processes inside.
    fn set_limit(&self, scenario: &Scenario) -> Result<()> {
        self.scope.set_limit(scenario.limit * MIB)?;
        // The machine may have other swap.
        self.scope.set_swap_limit(scenario.limit * MIB, scenario.swap.mib() * MIB)
    }

    fn service_scope(&self) -> &Scope {
        self.own.as_ref().map_or(&self.scope, |[service, _]| service)
    }

    fn load_scope(&self) -> &Scope {
        self.own.as_ref().map_or(&self.scope, |[_, load]| load)
    }

    fn watched(&self) -> &Scope {
        if self.layout == Layout::NeighbourWatchAbove { &self.scope } else { self.service_scope() }
    }

    fn service(&self, scope: Option<&Scope>) -> Result<Running> {
        let exe = std::env::current_exe().context("find our own path")?;
        let (mut command, file) = match scope {
            Some(scope) => (scope.command(exe), "service"),
            None => (Command::new(exe), "control"),
        };
        command.arg("probe").arg(self.disk.dir().join(file));
        Running::start(command, format!("the {file}"), Stdio::piped())
    }

    fn start(&self, loads: &[&[&str]], scope: &Scope, out: fn() -> Stdio) -> Result<Vec<Running>> {
        let start = |words: &&[&str]| {
            let mut command = scope.command(std::env::current_exe()?);
            command.arg("load");
            for word in *words {
                match word.strip_prefix('@') {
                    Some(file) => command.arg(self.disk.dir().join(file)),
                    None if *word == "%" => command.arg(&self.tmpfs),
                    None => command.arg(word),
                };
            }
            Running::start(command, format!("the load {words:?}"), out())
        };
        loads.iter().map(start).collect()
    }
}

impl Drop for Testbed {
    fn drop(&mut self) {
        // Its pages are charged to the cgroup, so it is removed first.
        let _ = fs::remove_dir_all(&self.tmpfs);
    }
}

/// Kernel and number of CPUs.
pub fn machine() -> Result<String> {
    // The version, without the vendor's suffix.
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let kernel = release.split('-').next().unwrap_or(&release);
    Ok(format!("Linux {kernel}, {} CPUs", std::thread::available_parallelism()?))
}

/// The readings are those of a daemon without probes: the probes' own would need a second loader.
fn sample(stop: &AtomicBool, path: &str) -> Result<Vec<Sample>> {
    let roots = CgroupMounts::find()?;
    let unified = roots.unified.clone().context("no v2 hierarchy, so no PSI of a cgroup")?;
    let dir = unified.join(path.trim_start_matches('/'));
    let mut pressure = Psi::open(dir.join("memory.pressure"))?;
    let settings = scopes::Settings {
        policy: Arc::default(),
        weight: weight::Settings::default(),
        max_gap: Duration::from_secs(5),
        scopes: vec![ScopeSettings { name: WATCHED.to_owned(), cgroup: path.to_owned() }],
    };
    let mut scopes = Scopes::open(&settings, Path::new("/"), Arc::default())?;
    let mut openers = scopes.take_openers().context("the openers are taken")?;
    let coverage = Coverage::none("not loaded");
    let mut samples = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let taken_ns = monotonic_ns();
        openers.serve(taken_ns);
        let snapshot = Snapshot { taken_ns, ..Snapshot::default() };
        let (verdicts, _) = scopes.evaluate(&snapshot, &BTreeMap::new(), &coverage);
        let [host, scope] = &verdicts[..] else { bail!("{} scopes", verdicts.len()) };
        let psi = pressure.read()?;
        samples.push(Sample {
            scope: scope.reading,
            host: host.reading,
            some_avg10: f64::from(psi.some.avg10),
            full_avg10: f64::from(psi.full.avg10),
        });
        std::thread::sleep(SAMPLE_INTERVAL);
    }
    Ok(samples)
}

/// An open pressure file of a cgroup.
struct Psi(File, PathBuf);

impl Psi {
    fn open(path: PathBuf) -> Result<Self> {
        let file = File::open(&path)
            .with_context(|| format!("open {} (CONFIG_PSI, psi=1)", path.display()))?;
        Ok(Self(file, path))
    }

    fn read(&mut self) -> Result<MemoryPressure> {
        let mut text = String::new();
        let read = self.0.rewind().and_then(|()| self.0.read_to_string(&mut text));
        read.with_context(|| format!("read {}", self.1.display()))?;
        Ok(MemoryPressure::from_buf_read(text.as_bytes())?)
    }
}

fn poll_weight(stop: &AtomicBool, daemon: &Daemon) -> Result<Vec<WeightChange>> {
    let mut changes: Vec<WeightChange> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let line = daemon.agent_check(&format!("{WATCHED}\n"))?;
        let at_ns = monotonic_ns();
        let weight = weight(&line)?;
        let last = changes.last().map(|change| change.weight);
        if last != Some(weight) {
            // Reasons: at the first reduction, and when the weight becomes 0.
            let query_reasons = weight == 0 || last == Some(100);
            let reasons = if query_reasons { reasons(daemon)? } else { String::new() };
            changes.push(WeightChange { at_ns, weight, reasons });
        }
        std::thread::sleep(QUERY_INTERVAL);
    }
    Ok(changes)
}

fn weight(line: &str) -> Result<u8> {
    let line = line.trim();
    let words: Vec<_> = line.split_whitespace().collect();
    let percent = words.iter().find_map(|word| word.strip_suffix('%'));
    match percent {
        Some(percent) if words.contains(&"up") => Ok(percent.parse()?),
        _ if words.contains(&"drain") => Ok(0),
        _ => Err(anyhow!("memsensor cannot judge the cgroup: {line:?}")),
    }
}

fn reasons(daemon: &Daemon) -> Result<String> {
    let response = daemon.get(&format!("/readyz/{WATCHED}"), "")?;
    let value: serde_json::Value = serde_json::from_str(&response.body)?;
    let reasons = value["reasons"].as_array().context("no reasons in /readyz")?;
    let names: Vec<_> = reasons.iter().filter_map(|r| r.as_str()).collect();
    Ok(names.join(" "))
}

/// Time to start the daemon and make files and swap, in seconds.
const SET_UP: u64 = 3;

/// Estimated duration of a scenario, in seconds.
pub fn duration(scenario: &Scenario) -> u64 {
    (CALM + AFTER).as_secs() + scenario.seconds + SET_UP
}
