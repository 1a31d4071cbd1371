//! System calls of each thread of a running process, by strace. Not here: which are allowed.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader},
    ops::Range,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

/// A system call, as strace prints it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Its name.
    pub name: String,
    /// Its arguments, its result and the name of each descriptor.
    pub rest: String,
}

impl Call {
    /// `None` for lines about signals and the end of a thread.
    fn parse(line: &str) -> Option<Self> {
        let (name, rest) = line.split_once('(')?;
        let is_name =
            !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        is_name.then(|| Self { name: name.to_owned(), rest: rest.to_owned() })
    }

    /// The name of the descriptor that is its first argument: `3</proc/vmstat>` or `4<TCP:[...]>`.
    pub fn descriptor(&self) -> Option<&str> {
        let (number, rest) = self.rest.split_once('<')?;
        number.bytes().all(|b| b.is_ascii_digit()).then(|| rest.split(['>', '[']).next())?
    }

    /// The address that is its first argument.
    pub fn address(&self) -> Option<u64> {
        let digits = self.rest.strip_prefix("0x")?;
        let end = digits.find(|c: char| !c.is_ascii_hexdigit())?;
        u64::from_str_radix(digits.get(..end)?, 16).ok()
    }
}

/// The calls of each thread, by its name.
pub type Calls = BTreeMap<String, Vec<Call>>;

/// A process that is traced.
#[derive(Debug)]
pub struct Trace {
    strace: Child,
    pid: u32,
    dir: PathBuf,
}

impl Trace {
    /// Traces all threads of a process, from now on.
    pub fn start(pid: u32) -> Result<Self> {
        let dir = std::env::temp_dir().join(format!("memsensor-trace-{pid}"));
        fs::create_dir_all(&dir).with_context(|| format!("mkdir {}", dir.display()))?;
        let mut strace = Command::new("strace");
        // A file per thread, and the name of each descriptor.
        strace.args(["-ff", "-yy", "-o"]).arg(dir.join("thread"));
        strace.args(["-p", &pid.to_string()]).stderr(Stdio::piped()).stdin(Stdio::null());
        let strace = strace.spawn().context("start strace (cargo xtask setup --tests)")?;
        let mut trace = Self { strace, pid, dir };
        let stderr = trace.strace.stderr.take().context("no stderr")?;
        let mut lines = BufReader::new(stderr);
        let mut line = String::new();
        lines.read_line(&mut line)?;
        ensure!(line.contains("attached"), "strace: {line}");
        // It must be able to write more.
        std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
        Ok(trace)
    }

    /// Ends the trace while the process runs; returns the calls.
    pub fn finish(mut self) -> Result<Calls> {
        let names = thread_names(self.pid)?;
        self.detach()?;
        let mut calls = Calls::new();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            let tid = path.extension().and_then(|tid| tid.to_str()).context("no thread id")?;
            // One that has ended already.
            let name = names.get(tid).map_or("ended", String::as_str);
            // Names of processes may be in it.
            let text = String::from_utf8_lossy(&fs::read(&path)?).into_owned();
            let of_thread = calls.entry(name.to_owned()).or_default();
            of_thread.extend(text.lines().filter_map(Call::parse));
        }
        Ok(calls)
    }

    fn detach(&mut self) -> Result<()> {
        kill_process(Pid::from_child(&self.strace), Signal::TERM).context("stop strace")?;
        self.strace.wait().context("wait for strace")?;
        Ok(())
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let _ = self.strace.kill();
        let _ = self.strace.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn thread_names(pid: u32) -> Result<BTreeMap<String, String>> {
    let mut names = BTreeMap::new();
    for task in fs::read_dir(format!("/proc/{pid}/task")).context("list threads")? {
        let task = task?;
        let name = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        names.insert(task.file_name().to_string_lossy().into_owned(), name.trim().to_owned());
    }
    Ok(names)
}

/// The writable data of the C library of a process, where the lock of malloc's only arena is.
pub fn libc_data(pid: u32) -> Result<Range<u64>> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).context("read its maps")?;
    let data = maps.lines().find(|line| line.contains("/libc.so") && line.contains(" rw-p "));
    let range = data.and_then(|line| line.split(' ').next()?.split_once('-'));
    let (start, end) = range.context("no writable data of libc")?;
    Ok(u64::from_str_radix(start, 16)?..u64::from_str_radix(end, 16)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_strace_are_parsed() {
        let call = Call::parse("pread64(16</proc/vmstat>, \"nr\", 8192, 0) = 3 <0.00>");
        let call = call.expect("a call");
        assert_eq!((&*call.name, call.descriptor()), ("pread64", Some("/proc/vmstat")));
        let call =
            Call::parse("accept4(9<TCP:[127.0.0.1:9]>, 0x7ffe) = -1 EAGAIN").expect("a call");
        assert_eq!(call.descriptor(), Some("TCP:"));
        let call = Call::parse("futex(0x55a0, FUTEX_WAIT_PRIVATE, 2, NULL) = 0").expect("a call");
        assert_eq!((call.address(), call.descriptor()), (Some(0x55a0), None));
        for line in ["--- SIGTERM {si_signo=SIGTERM} ---", "+++ exited with 0 +++", "", "?(x"] {
            assert_eq!(Call::parse(line), None, "{line}");
        }
    }
}
