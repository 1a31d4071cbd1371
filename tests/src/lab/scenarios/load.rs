//! The workloads beside the service. Each load is a process with one memory access pattern, runs
//! until it is killed, and is the first choice of the OOM killer.

use std::{
    collections::VecDeque,
    fs::{self, File},
    io::{Read as _, Seek as _, Write as _},
    os::unix::fs::FileExt as _,
    path::Path,
    process::{Child, Command},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::support::{random::Random, scope::MIB};

const PAGE: usize = 4096;
/// Interval of the steps of a load with a rate.
const STEP: Duration = Duration::from_millis(50);
const STEPS_A_SECOND: usize = 20;

/// Runs the load of these words.
pub fn run(words: &[&str]) -> Result<()> {
    prepare("1000")?;
    match *words {
        ["anon", mib] => anon(bytes(mib)?),
        ["hold", mib] => hold(bytes(mib)?),
        ["wake", mib, seconds] => wake(bytes(mib)?, Duration::from_secs(seconds.parse()?)),
        ["leak", mib_per_second, most, how] => leak(bytes(mib_per_second)?, bytes(most)?, how),
        ["burst", mib, ms] => burst(bytes(mib)?, Duration::from_millis(ms.parse()?)),
        ["sawtooth", mib, ms] => sawtooth(bytes(mib)?, Duration::from_millis(ms.parse()?)),
        ["random", path] => random(Path::new(path)),
        ["map", path] => map(Path::new(path)),
        ["readonce", path] => {
            read(Path::new(path), usize::MAX)?;
            ready()?;
            sleep_for_ever()
        }
        ["again", path] => loop {
            read(Path::new(path), usize::MAX)?;
        },
        ["read", path, mib_per_second] => {
            read(Path::new(path), bytes(mib_per_second)?)?;
            sleep_for_ever()
        }
        ["copy", path, mib_per_second] => copy(Path::new(path), bytes(mib_per_second)?),
        ["fill", dir, mib_per_second] => fill(Path::new(dir), bytes(mib_per_second)?),
        ["inodes", dir, per_second] => inodes(Path::new(dir), per_second.parse()?),
        ["storm", per_second, mib, ms] => storm(per_second.parse()?, mib, ms),
        ["for", mib, ms] => {
            let _memory = Memory::of(bytes(mib)?);
            std::thread::sleep(Duration::from_millis(ms.parse()?));
            Ok(())
        }
        ["jvm", mib, jars] => jvm(bytes(mib)?, Path::new(jars)),
        ["jobs", n, mib, sources] => jobs(n.parse()?, mib, sources),
        ["job", mib, sources] => job(bytes(mib)?, Path::new(sources)),
        _ => bail!("there is no load {words:?}"),
    }
}

/// Touches all of its memory repeatedly.
fn anon(bytes: usize) -> Result<()> {
    let mut memory = Memory::of(bytes);
    ready()?;
    loop {
        memory.walk();
    }
}

/// Touches its memory once.
fn hold(bytes: usize) -> Result<()> {
    let _memory = Memory::of(bytes);
    ready()?;
    sleep_for_ever()
}

/// Touches its memory, and once more after a time, as a program that slept.
fn wake(bytes: usize, after: Duration) -> Result<()> {
    let mut memory = Memory::of(bytes);
    ready()?;
    std::thread::sleep(after);
    memory.walk();
    sleep_for_ever()
}

/// Uses its memory for a while, then frees it.
fn burst(bytes: usize, time: Duration) -> Result<()> {
    let mut memory = Memory::of(bytes);
    let end = Instant::now() + time;
    while Instant::now() < end {
        memory.walk();
    }
    drop(memory);
    sleep_for_ever()
}

/// Makes the process end with its parent, use base pages, and have this OOM score adjustment.
pub(super) fn prepare(oom_score_adj: &str) -> Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    rustix::thread::disable_transparent_huge_pages(true)?;
    fs::write("/proc/self/oom_score_adj", oom_score_adj).context("set oom_score_adj")
}

/// Reports to the parent that the setup is done.
pub(super) fn ready() -> Result<()> {
    println!("ready");
    std::io::stdout().flush().context("write to stdout")
}

fn sleep_for_ever() -> ! {
    loop {
        std::thread::sleep(Duration::from_mins(1));
    }
}

fn bytes(mib: &str) -> Result<usize> {
    let mib: u64 = mib.parse().with_context(|| format!("{mib:?} MiB"))?;
    Ok(usize::try_from(mib * MIB)?)
}

/// Anonymous memory that grows.
#[derive(Default)]
struct Memory(Vec<Vec<u8>>);

impl Memory {
    fn of(bytes: usize) -> Self {
        let mut memory = Self::default();
        memory.grow(bytes);
        memory
    }

    fn grow(&mut self, bytes: usize) {
        self.0.push(vec![0; bytes]);
        if let Some(new) = self.0.last_mut() {
            touch(new);
        }
    }

    fn walk(&mut self) {
        self.0.iter_mut().for_each(|chunk| touch(chunk));
    }

    fn len(&self) -> usize {
        self.0.iter().map(Vec::len).sum()
    }
}

fn touch(memory: &mut [u8]) {
    for page in memory.chunks_mut(PAGE) {
        page[0] = page[0].wrapping_add(1);
    }
}

fn leak(per_second: usize, most: usize, how: &str) -> Result<()> {
    let walked = match how {
        "walked" => true,
        "cold" => false,
        _ => bail!("leaked memory is walked or cold, not {how:?}"),
    };
    let mut memory = Memory::default();
    let mut walk = Instant::now();
    loop {
        if memory.len() < most {
            memory.grow(per_second / STEPS_A_SECOND);
        }
        if walked && walk.elapsed() > Duration::from_secs(1) {
            memory.walk();
            walk = Instant::now();
        }
        std::thread::sleep(STEP);
    }
}

fn sawtooth(most: usize, period: Duration) -> Result<()> {
    let step = period / u32::try_from(STEPS_A_SECOND)?;
    loop {
        let mut memory = Memory::default();
        for _ in 0..STEPS_A_SECOND {
            memory.grow(most / STEPS_A_SECOND);
            std::thread::sleep(step);
        }
    }
}

fn random(path: &Path) -> Result<()> {
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    // No readahead: neighbouring pages belong to other requests.
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Random)?;
    let pages = file.metadata()?.len() / PAGE as u64;
    let (mut at, mut page) = (Random::new(), [0; PAGE]);
    loop {
        file.read_exact_at(&mut page, at.below(pages) * PAGE as u64)?;
        // Some work on each page.
        std::hint::black_box(page.iter().fold(0u8, |a, b| a.wrapping_add(*b)));
    }
}

fn map(path: &Path) -> Result<()> {
    use rustix::mm::{MapFlags, ProtFlags, mmap};
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    let len = usize::try_from(file.metadata()?.len())?;
    // SAFETY: a new read-only mapping of a file that is not truncated while this process runs.
    let start = unsafe {
        mmap(std::ptr::null_mut(), len, ProtFlags::READ, MapFlags::SHARED, &file, 0)?.cast::<u8>()
    };
    loop {
        for offset in (0..len).step_by(PAGE) {
            // SAFETY: the offset is within the mapping.
            std::hint::black_box(unsafe { start.add(offset).read_volatile() });
        }
    }
}

/// Reads a file once, with a rate limit.
fn read(path: &Path, per_second: usize) -> Result<()> {
    let mut file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    let mut chunk = vec![0; usize::try_from(MIB)?];
    let mut limit = RateLimit::new(per_second);
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(()),
            n => limit.spend(n),
        }
    }
}

/// Copies a file repeatedly.
fn copy(path: &Path, per_second: usize) -> Result<()> {
    let mut from = File::open(path).with_context(|| format!("open {}", path.display()))?;
    let to = path.with_extension("copy");
    let mut chunk = vec![0; usize::try_from(MIB)?];
    let mut limit = RateLimit::new(per_second);
    loop {
        let mut to = File::create(&to).with_context(|| format!("create {}", to.display()))?;
        from.rewind()?;
        while let n @ 1.. = from.read(&mut chunk)? {
            to.write_all(&chunk[..n])?;
            limit.spend(n);
        }
    }
}

/// A limit of bytes per second.
struct RateLimit {
    begun: Instant,
    per_second: f64,
    spent: f64,
}

impl RateLimit {
    fn new(per_second: usize) -> Self {
        Self { begun: Instant::now(), per_second: per_second as f64, spent: 0.0 }
    }

    fn spend(&mut self, bytes: usize) {
        self.spent += bytes as f64;
        let due = self.begun + Duration::from_secs_f64(self.spent / self.per_second);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
}

fn fill(dir: &Path, per_second: usize) -> Result<()> {
    let mut file = File::create(dir.join("filled")).context("create a file on the tmpfs")?;
    let chunk = vec![7; per_second / STEPS_A_SECOND];
    loop {
        file.write_all(&chunk)?;
        std::thread::sleep(STEP);
    }
}

fn inodes(dir: &Path, per_second: usize) -> Result<()> {
    for n in 0.. {
        File::create(dir.join(format!("{n:064}"))).context("create a file on the tmpfs")?;
        if n % (per_second / STEPS_A_SECOND) == 0 {
            std::thread::sleep(STEP);
        }
    }
    Ok(())
}

fn load_command(words: &[&str]) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("load").args(words);
    Ok(command)
}

fn storm(per_second: u32, mib: &str, ms: &str) -> Result<()> {
    let mut children: VecDeque<Child> = VecDeque::new();
    loop {
        // Some forks fail under memory pressure.
        if let Ok(child) = load_command(&["for", mib, ms])?.spawn() {
            children.push_back(child);
        }
        children.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
        std::thread::sleep(Duration::from_secs(1) / per_second);
    }
}

fn jvm(heap: usize, jars: &Path) -> Result<()> {
    read(jars, usize::MAX)?;
    let mut memory = Memory::default();
    memory.grow(heap);
    let compiled = Instant::now() + Duration::from_secs(3);
    while Instant::now() < compiled {
        memory.walk();
    }
    sawtooth(usize::try_from(16 * MIB)?, Duration::from_secs(1))
}

fn jobs(n: usize, mib: &str, sources: &str) -> Result<()> {
    let mut children: Vec<Child> = Vec::new();
    loop {
        while children.len() < n {
            children.push(load_command(&["job", mib, sources])?.spawn().context("start a job")?);
        }
        children.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Reads the sources, then allocates memory in ten steps over half a second.
fn job(most: usize, sources: &Path) -> Result<()> {
    read(sources, usize::MAX)?;
    let mut memory = Memory::default();
    for _ in 0..10 {
        memory.grow(most / 10);
        let end = Instant::now() + Duration::from_millis(50);
        while Instant::now() < end {
            memory.walk();
        }
    }
    Ok(())
}
