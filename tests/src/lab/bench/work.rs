//! The workload: a fixed number of passes over more memory than the cgroup's limit, timed from
//! inside. Runs as a process of its own in the arena's cgroup.

use std::{fs::File, io::Read as _, path::Path, time::Instant};

use anyhow::{Context as _, Result};

use crate::support::{scope::MIB, swap::fill};

const PAGE: usize = 4096;

/// The memory that thrashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// Anonymous memory: reclaim swaps out, faults swap in.
    Anon,
    /// A file, read again and again: reclaim drops clean page cache.
    File,
}

impl Load {
    /// Both kinds.
    pub const ALL: [Self; 2] = [Self::Anon, Self::File];

    /// Its name in tables and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Anon => "anon",
            Self::File => "file",
        }
    }

    /// Passes that take about a second: the machine's state should change less within a pair of
    /// rounds than between pairs.
    pub const fn passes(self) -> u32 {
        match self {
            Self::Anon => 2,
            Self::File => 8,
        }
    }
}

/// Makes one pass over `mib` unmeasured and then `passes` measured ones; returns their nanoseconds.
pub fn run(load: Load, mib: u64, passes: u32, file: &Path) -> Result<u64> {
    let bytes = usize::try_from(mib * MIB)?;
    let mut pass: Box<dyn FnMut() -> Result<()>> = match load {
        Load::Anon => {
            let mut memory = vec![0u8; bytes];
            Box::new(move || {
                for page in memory.chunks_mut(PAGE) {
                    page[0] = page[0].wrapping_add(1);
                }
                Ok(())
            })
        }
        Load::File => {
            // Inside the cgroup: page cache is charged to the cgroup that reads it first.
            if !file.exists() {
                fill(file, mib)?;
            }
            let mut chunk = vec![0u8; usize::try_from(MIB)?];
            Box::new(move || {
                let mut input = File::open(file)
                    .with_context(|| format!("open {} to read it again", file.display()))?;
                while input.read(&mut chunk)? > 0 {}
                Ok(())
            })
        }
    };
    pass()?;
    let started = Instant::now();
    for _ in 0..passes {
        pass()?;
    }
    Ok(u64::try_from(started.elapsed().as_nanos())?)
}
