//! The service: two hundred times per second it touches pages of its heap and reads pages of its
//! file, like a request. Requests are due at fixed times, also while an earlier one is still
//! waiting, so that a wait counts for all requests due meanwhile.
//!
//! It runs at nice -10, so that its waits are for memory, not for a CPU.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Read, Write as _},
    os::unix::fs::FileExt as _,
    path::Path,
};

use anyhow::{Context as _, Result};
use rustix::thread::ClockId;
use sensor_core::common::clock::monotonic_ns;

use super::{
    SECOND,
    load::{prepare, ready},
};
use crate::support::{random::Random, scope::MIB};

/// Interval of requests, in nanoseconds.
pub const PERIOD: u64 = SECOND / 200;
/// MiB of its heap, all in the working set.
pub const HEAP: u64 = 24;

const HEAP_PAGES: u32 = 64;
const FILE_PAGES: u32 = 16;
const PAGE: u64 = 4096;
/// Timeout of a client: a request that is later than this is not served.
const TIMEOUT: u64 = 2 * SECOND;

/// A request: CLOCK_MONOTONIC nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// When it was due.
    pub due: u64,
    /// When it was served.
    pub done: u64,
}

/// Serves until killed; prints a line for each request.
pub fn run(file: &Path) -> Result<()> {
    prepare("0")?;
    rustix::process::setpriority_process(None, -10)
        .context("take a nice value of -10 (needs CAP_SYS_NICE)")?;
    let file = File::open(file).with_context(|| format!("open {}", file.display()))?;
    let file_pages = file.metadata()?.len() / PAGE;
    let mut service = Service {
        heap: vec![1; usize::try_from(HEAP * MIB)?],
        file,
        file_pages,
        page: vec![0; usize::try_from(PAGE)?],
        random: Random::new(),
    };
    service.warm()?;
    // From now on without readahead.
    rustix::fs::fadvise(&service.file, 0, None, rustix::fs::Advice::Random)?;
    ready()?;
    let mut out = std::io::stdout();
    let mut line = Vec::with_capacity(64);
    let mut due = monotonic_ns();
    loop {
        sleep_until(due)?;
        if monotonic_ns().saturating_sub(due) < TIMEOUT {
            service.serve()?;
        }
        line.clear();
        writeln!(line, "{due} {}", monotonic_ns())?;
        out.write_all(&line)?;
        due += PERIOD;
    }
}

fn sleep_until(ns: u64) -> Result<()> {
    let until = rustix::thread::Timespec {
        tv_sec: i64::try_from(ns / SECOND)?,
        tv_nsec: i64::try_from(ns % SECOND)?,
    };
    while let Err(e) = rustix::thread::clock_nanosleep_absolute(ClockId::Monotonic, &until) {
        if e != rustix::io::Errno::INTR {
            return Err(e).context("sleep until the next request");
        }
    }
    Ok(())
}

struct Service {
    heap: Vec<u8>,
    file: File,
    file_pages: u64,
    page: Vec<u8>,
    random: Random,
}

impl Service {
    fn serve(&mut self) -> Result<()> {
        for _ in 0..HEAP_PAGES {
            let at = usize::try_from(self.random.below(HEAP * MIB / PAGE) * PAGE)?;
            self.heap[at] = self.heap[at].wrapping_add(1);
        }
        for _ in 0..FILE_PAGES {
            let at = self.random.below(self.file_pages) * PAGE;
            self.file.read_exact_at(&mut self.page, at)?;
        }
        Ok(())
    }

    fn warm(&mut self) -> Result<()> {
        // Twice: pages that were read once are reclaimed first.
        for page in (0..self.file_pages).chain(0..self.file_pages) {
            self.file.read_exact_at(&mut self.page, page * PAGE)?;
        }
        Ok(())
    }
}

/// Parses the output of a probe until it ends. The last line may be cut off.
pub fn listen(out: impl Read) -> Vec<Request> {
    let lines = BufReader::new(out).lines().map_while(Result::ok);
    lines.filter_map(|line| parse(&line)).collect()
}

fn parse(line: &str) -> Option<Request> {
    let (due, done) = line.split_once(' ')?;
    Some(Request { due: due.parse().ok()?, done: done.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complete_lines_are_parsed_and_others_are_skipped() {
        let output = "ready\n1 2\n3 4\n5".as_bytes();
        assert_eq!(listen(output), [Request { due: 1, done: 2 }, Request { due: 3, done: 4 }]);
    }
}
