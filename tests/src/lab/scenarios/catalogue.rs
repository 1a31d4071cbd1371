//! The scenarios. The halves were assigned before any was run: similar scenarios are in different
//! halves.
//!
//! In the words of a load, `@NAME` is a file of [`Scenario::files`] and `%` a tmpfs.

/// The author's expectation. The result is decided by the probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// The service is harmed.
    Harm,
    /// The service is not harmed.
    Fine,
}

/// Thresholds may be tuned on one half; the other one validates them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    /// For tuning.
    Tune,
    /// Not used for tuning.
    HeldOut,
}

impl Half {
    /// Its name in tables and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tune => "tune",
            Self::HeldOut => "held-out",
        }
    }
}

/// The swap device of the cgroup, with its size in MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Swap {
    /// No swap.
    None,
    /// Swap as fast as memory.
    Fast(u64),
    /// Swap with 300 reads per second.
    Slow(u64),
}

impl Swap {
    /// Its size in MiB.
    pub const fn mib(self) -> u64 {
        match self {
            Self::None => 0,
            Self::Fast(mib) | Self::Slow(mib) => mib,
        }
    }
}

/// The cgroups, and which of them is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// One cgroup for service and load.
    One,
    /// Service and load have sibling cgroups; their parent has the limit and is judged.
    NeighbourWatchAbove,
    /// The same, but the service's cgroup is judged.
    NeighbourWatchOwn,
}

/// A workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    /// A description.
    pub about: &'static str,
    /// The author's expectation.
    pub expected: Expected,
    /// Its half.
    pub half: Half,
    /// Limit of the cgroup, in MiB; the service uses 24 of them and its files.
    pub limit: u64,
    /// The service's file, all in its working set, in MiB.
    pub service_files: u64,
    /// The swap device.
    pub swap: Swap,
    /// Reads per second of the disk, if it is throttled.
    pub disk: Option<u32>,
    /// The cgroups.
    pub layout: Layout,
    /// Files that are on disk and not in the page cache: names and MiB.
    pub files: &'static [(&'static str, u64)],
    /// Loads that must be ready before the limit is set.
    pub before: &'static [&'static [&'static str]],
    /// Loads of the load phase.
    pub load: &'static [&'static [&'static str]],
    /// Duration of the load phase, in seconds.
    pub seconds: u64,
}

/// Defaults of a scenario.
const BASE: Scenario = Scenario {
    name: "",
    about: "",
    expected: Expected::Fine,
    half: Half::Tune,
    limit: 128,
    service_files: 8,
    swap: Swap::None,
    disk: None,
    layout: Layout::One,
    files: &[],
    before: &[],
    load: &[],
    seconds: 15,
};

const HARM: Scenario = Scenario { expected: Expected::Harm, ..BASE };
const SLOW_DISK: Option<u32> = Some(300);

/// All scenarios.
pub const ALL: &[Scenario] = &[
    Scenario {
        name: "leak-collected",
        about: "a heap leaks 10 MiB/s and a garbage collector walks it, slow swap",
        half: Half::Tune,
        swap: Swap::Slow(256),
        load: &[&["leak", "10", "300", "walked"]],
        seconds: 20,
        ..HARM
    },
    Scenario {
        name: "leak-no-swap",
        about: "a leak of 3 MiB/s, slow disk, no swap",
        half: Half::HeldOut,
        disk: SLOW_DISK,
        before: &[&["anon", "64"]],
        load: &[&["leak", "3", "300", "cold"]],
        seconds: 20,
        ..HARM
    },
    Scenario {
        name: "burst",
        about: "an allocation of twice the limit at once, slow swap",
        half: Half::Tune,
        swap: Swap::Slow(384),
        load: &[&["anon", "240"]],
        ..HARM
    },
    Scenario {
        name: "thrash-fast-swap",
        about: "the working set is a fifth too large, swap as fast as memory",
        half: Half::HeldOut,
        swap: Swap::Fast(256),
        load: &[&["anon", "115"]],
        ..HARM
    },
    Scenario {
        name: "thrash-slow-swap",
        about: "the working set is a fifth too large, slow swap",
        half: Half::Tune,
        swap: Swap::Slow(256),
        load: &[&["anon", "115"]],
        ..HARM
    },
    Scenario {
        name: "thrash-no-swap",
        about: "a heap evicts the service's file, slow disk, no swap",
        half: Half::HeldOut,
        disk: SLOW_DISK,
        service_files: 48,
        load: &[&["anon", "72"]],
        ..HARM
    },
    Scenario {
        name: "cache-thrash",
        about: "a file read repeatedly evicts the service's file, slow disk",
        half: Half::Tune,
        disk: SLOW_DISK,
        service_files: 64,
        files: &[("hot", 96)],
        load: &[&["again", "@hot"]],
        ..HARM
    },
    Scenario {
        name: "tmpfs-fill",
        about: "a tmpfs fills up, slow disk, no swap",
        half: Half::HeldOut,
        disk: SLOW_DISK,
        load: &[&["fill", "%", "10"]],
        ..HARM
    },
    Scenario {
        name: "fork-storm",
        about: "40 processes per second, each with 4 MiB for 3 s, no swap",
        half: Half::Tune,
        load: &[&["storm", "40", "4", "3000"]],
        ..HARM
    },
    Scenario {
        name: "slab-growth",
        about: "slab growth: inodes and dentries of a tmpfs, slow disk, no swap",
        half: Half::HeldOut,
        disk: SLOW_DISK,
        load: &[&["inodes", "%", "12000"]],
        ..HARM
    },
    Scenario {
        name: "mmap-thrash",
        about: "a mapped file read repeatedly evicts the service's file, slow disk",
        half: Half::Tune,
        disk: SLOW_DISK,
        service_files: 64,
        files: &[("mapped", 96)],
        load: &[&["map", "@mapped"]],
        ..HARM
    },
    Scenario {
        name: "neighbour-above",
        about: "the neighbour thrashes, slow swap; the parent cgroup is judged",
        half: Half::HeldOut,
        swap: Swap::Slow(256),
        layout: Layout::NeighbourWatchAbove,
        load: &[&["anon", "115"]],
        ..HARM
    },
    Scenario {
        name: "neighbour-own",
        about: "the neighbour thrashes, slow swap; the service's cgroup is judged",
        half: Half::Tune,
        swap: Swap::Slow(256),
        layout: Layout::NeighbourWatchOwn,
        load: &[&["anon", "115"]],
        ..HARM
    },
    Scenario {
        name: "backup",
        about: "a huge file is read once",
        half: Half::HeldOut,
        files: &[("huge", 1024)],
        load: &[&["read", "@huge", "70"]],
        ..BASE
    },
    Scenario {
        name: "copy",
        about: "a big file is copied",
        half: Half::Tune,
        files: &[("big", 512)],
        load: &[&["copy", "@big", "40"]],
        ..BASE
    },
    Scenario {
        name: "jvm-start",
        about: "JVM start: jars are read, a heap is filled and walked, then short-lived objects",
        half: Half::HeldOut,
        files: &[("jars", 48)],
        load: &[&["jvm", "48", "@jars"]],
        ..BASE
    },
    Scenario {
        name: "db-warming",
        about: "a database warms its cache up to the limit, slow disk",
        half: Half::Tune,
        disk: Some(3000),
        files: &[("tables", 80)],
        load: &[&["random", "@tables"]],
        ..BASE
    },
    Scenario {
        name: "cold-cache",
        about: "unused page cache up to the limit; small short-lived buffers",
        half: Half::HeldOut,
        files: &[("old", 192)],
        before: &[&["readonce", "@old"]],
        load: &[&["sawtooth", "16", "400"]],
        ..BASE
    },
    Scenario {
        name: "short-burst",
        about: "a working set a fifth too large for half a second, fast swap",
        half: Half::Tune,
        swap: Swap::Fast(256),
        load: &[&["burst", "115", "500"]],
        ..BASE
    },
    Scenario {
        name: "compile",
        about: "two compiler processes at a time, 25 MiB each",
        half: Half::HeldOut,
        files: &[("sources", 24)],
        load: &[&["jobs", "2", "25", "@sources"]],
        ..BASE
    },
    Scenario {
        name: "reclaim-efficient",
        about: "constant and efficient reclaim, caused by two readers of large files",
        half: Half::Tune,
        files: &[("a", 512), ("b", 512)],
        load: &[&["read", "@a", "40"], &["read", "@b", "40"]],
        ..BASE
    },
    Scenario {
        name: "swap-full-cold",
        about: "swap full of unused pages; small short-lived buffers",
        half: Half::HeldOut,
        limit: 112,
        swap: Swap::Fast(64),
        before: &[&["hold", "112"]],
        load: &[&["sawtooth", "8", "400"]],
        ..BASE
    },
    Scenario {
        name: "high-but-flat",
        about: "usage constant at nine tenths of the limit, no swap",
        half: Half::Tune,
        before: &[&["anon", "82"]],
        load: &[],
        ..BASE
    },
    Scenario {
        name: "batch-that-fits",
        about: "a job allocates all but a tenth of the limit within 3 s, and uses it",
        half: Half::HeldOut,
        load: &[&["leak", "25", "75", "walked"]],
        ..BASE
    },
    Scenario {
        name: "sawtooth",
        about: "a garbage-collected heap grows by 60 MiB every 4 s",
        half: Half::Tune,
        load: &[&["sawtooth", "60", "4000"]],
        ..BASE
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_halves_are_balanced() {
        let mut names: Vec<_> = ALL.iter().map(|s| s.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
        assert!(ALL.len() >= 20);
        for expected in [Expected::Harm, Expected::Fine] {
            let of = |half| ALL.iter().filter(|s| s.expected == expected && s.half == half).count();
            assert!(of(Half::Tune).abs_diff(of(Half::HeldOut)) <= 1, "{expected:?}");
        }
    }

    #[test]
    fn every_file_of_a_load_is_declared() {
        for s in ALL {
            let words = s.before.iter().chain(s.load).flat_map(|words| words.iter());
            for name in words.filter_map(|word| word.strip_prefix('@')) {
                assert!(s.files.iter().any(|f| f.0 == name), "{}: {name}", s.name);
            }
        }
    }
}
