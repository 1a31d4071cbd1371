//! A bounded workload for tests: one memory access pattern, with a given size.
//!
//! `hog anon MIB [THEN]` touches MIB of anonymous memory, then: `exit` (the default), `hold` (sleep
//! for a minute), `loop SECONDS` (touch all of it repeatedly).
//! `hog leak MIB RATE` allocates RATE MiB per second up to MIB, and touches all of it repeatedly.
//! `hog file PATH MIB PASSES` makes a file of MIB if necessary, and reads it PASSES times.
//! `hog forks N MIB` starts N children that hold MIB each, and waits for them.
//! `hog threads N MIB` holds MIB in each of N threads.
//! `hog spawn MIB FIFO` holds MIB and spawns a child that opens FIFO for reading before exec.
//! `hog kill PID` sends SIGKILL.
//! `hog cgroups DIR N` makes and removes N cgroups in DIR, and prints the seconds of CPU that it had.
//!
//! `--comm-hex HEX` sets a thread name of any bytes, `--adj N` the oom_score_adj, and `--wait`
//! waits for a line on stdin before it begins.

use std::{
    ffi::CString,
    io::{Read as _, Write as _},
    path::Path,
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

const MIB: usize = 1 << 20;
const PAGE: usize = 4096;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("hog: {e:#}");
            ExitCode::from(64)
        }
    }
}

fn run() -> Result<()> {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    while args.first().is_some_and(|a| a.starts_with("--")) {
        match args.remove(0).as_str() {
            "--comm-hex" => set_comm(&args.remove(0))?,
            "--adj" => std::fs::write("/proc/self/oom_score_adj", args.remove(0))
                .context("set oom_score_adj")?,
            "--wait" => {
                std::io::stdin().read_line(&mut String::new())?;
            }
            other => bail!("unknown option {other}"),
        }
    }
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["anon", mib] => anon(mib.parse()?, |_| ()),
        ["anon", mib, "exit"] => anon(mib.parse()?, |_| ()),
        ["anon", mib, "hold"] => anon(mib.parse()?, |_| hold()),
        ["anon", mib, "loop", seconds] => {
            let seconds = seconds.parse()?;
            anon(mib.parse()?, |memory| touch_for(memory, Duration::from_secs(seconds)))
        }
        ["leak", mib, rate] => leak(mib.parse()?, rate.parse()?),
        ["cgroups", dir, count] => cgroups(Path::new(dir), count.parse()?),
        ["file", path, mib, passes] => file(path, mib.parse()?, passes.parse()?),
        ["forks", n, mib] => forks(n.parse()?, mib),
        ["threads", n, mib] => threads(n.parse()?, mib.parse()?),
        ["spawn", mib, fifo] => anon(mib.parse()?, |_| spawn(fifo)),
        ["kill", pid] => {
            let pid = rustix::process::Pid::from_raw(pid.parse()?).context("pid 0")?;
            Ok(rustix::process::kill_process(pid, rustix::process::Signal::KILL)?)
        }
        _ => bail!("unknown arguments {args:?}"),
    }
}

fn set_comm(hex: &str) -> Result<()> {
    let byte = |i| u8::from_str_radix(&hex[i..i + 2], 16);
    let bytes: Result<Vec<u8>, _> = (0..hex.len()).step_by(2).map(byte).collect();
    Ok(rustix::thread::set_name(&CString::new(bytes?)?)?)
}

fn anon(mib: usize, then: impl FnOnce(&mut [u8])) -> Result<()> {
    let mut memory = vec![0u8; mib * MIB];
    touch(&mut memory);
    println!("touched");
    std::io::stdout().flush()?;
    then(&mut memory);
    Ok(())
}

fn touch(memory: &mut [u8]) {
    for page in memory.chunks_mut(PAGE) {
        // A different byte each time: the page must become dirty.
        page[0] = page[0].wrapping_add(1);
    }
}

fn touch_for(memory: &mut [u8], time: Duration) {
    let end = Instant::now() + time;
    let mut passes = 0u64;
    while Instant::now() < end {
        touch(memory);
        passes += 1;
    }
    println!("passes {passes}");
}

fn hold() {
    std::thread::sleep(Duration::from_mins(1));
}

fn leak(mib: usize, rate: usize) -> Result<()> {
    // Ten steps per second in one allocation: the kernel allocates pages when they are touched.
    let mut memory = vec![0u8; mib * MIB];
    let started = Instant::now();
    let mut step = 1;
    loop {
        let used = (step * rate * MIB / 10).min(memory.len());
        touch(&mut memory[..used]);
        step += 1;
        let next = Duration::from_millis(100 * u64::try_from(step)?);
        std::thread::sleep(next.saturating_sub(started.elapsed()));
    }
}

fn file(path: &str, mib: usize, passes: usize) -> Result<()> {
    let size = (mib * MIB) as u64;
    if std::fs::metadata(path).map_or(0, |m| m.len()) < size {
        let mut out = std::fs::File::create(path).context("create the file")?;
        let chunk = vec![7u8; MIB];
        for _ in 0..mib {
            out.write_all(&chunk)?;
        }
        // Clean pages can be reclaimed without writing to the disk.
        out.sync_all()?;
    }
    let mut chunk = vec![0u8; MIB];
    for _ in 0..passes {
        let mut input = std::fs::File::open(path)?;
        while input.read(&mut chunk)? > 0 {}
    }
    println!("passes {passes}");
    Ok(())
}

fn forks(n: usize, mib: &str) -> Result<()> {
    let me = std::env::current_exe()?;
    let start = |_| Command::new(&me).args(["anon", mib, "hold"]).spawn();
    let children: Result<Vec<_>, _> = (0..n).map(start).collect();
    for mut child in children? {
        child.wait()?;
    }
    Ok(())
}

/// By posix_spawn, whose child shares its parent's memory until exec (vfork); the file is opened
/// before exec.
fn spawn(fifo: &str) {
    let [fifo, program] = [fifo, "/bin/true"].map(|s| CString::new(s).expect("no NUL in it"));
    let (mut child, argv) = (0, [program.as_ptr().cast_mut(), std::ptr::null_mut()]);
    // SAFETY: plain old data, which posix_spawn_file_actions_init fills in.
    let mut actions = unsafe { std::mem::zeroed() };
    // SAFETY: all pointers are to values that outlive the call; argv ends with a null pointer.
    let failed = unsafe {
        libc::posix_spawn_file_actions_init(&raw mut actions);
        let to_read = libc::O_RDONLY;
        libc::posix_spawn_file_actions_addopen(&raw mut actions, 9, fifo.as_ptr(), to_read, 0);
        let (attributes, environment) = (std::ptr::null(), argv[1..].as_ptr());
        let (path, argv) = (program.as_ptr(), argv.as_ptr());
        libc::posix_spawn(&raw mut child, path, &raw const actions, attributes, argv, environment)
    };
    assert_eq!(failed, 0, "spawn {program:?}");
}

fn threads(n: usize, mib: usize) -> Result<()> {
    let start = |_| std::thread::spawn(move || anon(mib, |_| hold()));
    let all: Vec<_> = (0..n).map(start).collect();
    for thread in all {
        thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
    }
    Ok(())
}

fn cgroups(dir: &Path, count: u32) -> Result<()> {
    for n in 0..count {
        let group = dir.join(format!("churn-{n:0100}"));
        std::fs::create_dir(&group).with_context(|| format!("mkdir {}", group.display()))?;
        std::fs::remove_dir(&group).with_context(|| format!("rmdir {}", group.display()))?;
    }
    let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    println!("{}", Duration::try_from(cpu)?.as_secs_f64());
    Ok(())
}
