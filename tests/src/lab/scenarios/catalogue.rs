//! The scenarios. Which half each is in was chosen before any was run: they alternate, so that what is
//! alike is in different halves.
//!
//! In the words of a load, `@NAME` is a file of [`Scenario::files`] and `%` a tmpfs of its own.

/// What its author expects. What counts is what the probe says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// The service waits.
    Harm,
    /// It does not.
    Fine,
}

/// Thresholds may be tuned on the one half; the other shows what they are worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    /// Looked at while tuning.
    Tune,
    /// Not looked at.
    HeldOut,
}

impl Half {
    /// As it is called in tables and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tune => "tune",
            Self::HeldOut => "held-out",
        }
    }
}

/// What the cgroup may swap to, and so many MiB of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Swap {
    /// Nothing.
    None,
    /// Swap as fast as memory.
    Fast(u64),
    /// Swap that gives 300 pages a second.
    Slow(u64),
}

impl Swap {
    /// How much there is, in MiB.
    pub const fn mib(self) -> u64 {
        match self {
            Self::None => 0,
            Self::Fast(mib) | Self::Slow(mib) => mib,
        }
    }
}

/// Which cgroups there are, and whose verdict is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// One for service and load.
    One,
    /// The load is in a cgroup beside the service's, below one that has the limit: that is watched.
    NeighbourWatchAbove,
    /// The same; the service's own cgroup is watched.
    NeighbourWatchOwn,
}

/// A workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub about: &'static str,
    /// What its author expects.
    pub expected: Expected,
    /// Which half it is in.
    pub half: Half,
    /// Limit of the cgroup, in MiB; the service takes 24 of them and its files.
    pub limit: u64,
    /// The service's files, all of which it uses, in MiB.
    pub service_files: u64,
    /// What it may swap to.
    pub swap: Swap,
    /// Reads a second that the disk gives the cgroup, if it is a slow one.
    pub disk: Option<u32>,
    /// Cgroups.
    pub layout: Layout,
    /// Files that are on disk and not in memory: names and MiB.
    pub files: &'static [(&'static str, u64)],
    /// What runs before, and says when it is ready. Only then the limit is set.
    pub before: &'static [&'static [&'static str]],
    /// What runs in the load phase.
    pub load: &'static [&'static [&'static str]],
    /// How long that is, in seconds.
    pub seconds: u64,
}

/// What most have in common.
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

/// All of them.
pub const ALL: &[Scenario] = &[
    Scenario {
        name: "leak-collected",
        about: "a heap that leaks 10 MiB/s and is walked by its collector, slow swap",
        half: Half::Tune,
        swap: Swap::Slow(256),
        load: &[&["leak", "10", "300", "walked"]],
        seconds: 20,
        ..HARM
    },
    Scenario {
        name: "leak-no-swap",
        about: "3 MiB/s leak out of a service that has a slow disk and no swap",
        half: Half::HeldOut,
        disk: SLOW_DISK,
        before: &[&["anon", "64"]],
        load: &[&["leak", "3", "300", "cold"]],
        seconds: 20,
        ..HARM
    },
    Scenario {
        name: "burst",
        about: "twice the limit is wanted at once, slow swap",
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
        about: "a heap leaves no room for the service's files, slow disk, no swap",
        half: Half::HeldOut,
        disk: SLOW_DISK,
        service_files: 48,
        load: &[&["anon", "72"]],
        ..HARM
    },
    Scenario {
        name: "cache-thrash",
        about: "files that another reads again and again push out the service's, slow disk",
        half: Half::Tune,
        disk: SLOW_DISK,
        service_files: 64,
        files: &[("hot", 96)],
        load: &[&["again", "@hot"]],
        ..HARM
    },
    Scenario {
        name: "tmpfs-fill",
        about: "somebody fills a tmpfs, and its pages outlive him, slow disk, no swap",
        half: Half::HeldOut,
        disk: SLOW_DISK,
        load: &[&["fill", "%", "10"]],
        ..HARM
    },
    Scenario {
        name: "fork-storm",
        about: "forty processes a second, each with 4 MiB for three seconds, no swap",
        half: Half::Tune,
        load: &[&["storm", "40", "4", "3000"]],
        ..HARM
    },
    Scenario {
        name: "slab-growth",
        about: "inodes and names that cannot be reclaimed, slow disk, no swap",
        half: Half::HeldOut,
        disk: SLOW_DISK,
        load: &[&["inodes", "%", "12000"]],
        ..HARM
    },
    Scenario {
        name: "mmap-thrash",
        about: "the same, and the other has mapped its files",
        half: Half::Tune,
        disk: SLOW_DISK,
        service_files: 64,
        files: &[("mapped", 96)],
        load: &[&["map", "@mapped"]],
        ..HARM
    },
    Scenario {
        name: "neighbour-above",
        about: "the neighbour thrashes to slow swap; the cgroup of both is watched",
        half: Half::HeldOut,
        swap: Swap::Slow(256),
        layout: Layout::NeighbourWatchAbove,
        load: &[&["anon", "115"]],
        ..HARM
    },
    Scenario {
        name: "neighbour-own",
        about: "the same; the service's own cgroup is watched",
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
        about: "jars are read, a heap is filled, the compiler is busy, then young objects come and go",
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
        about: "the limit is reached, by cache that nobody needs; small buffers come and go",
        half: Half::HeldOut,
        files: &[("old", 192)],
        before: &[&["readonce", "@old"]],
        load: &[&["sawtooth", "16", "400"]],
        ..BASE
    },
    Scenario {
        name: "short-burst",
        about: "a fifth too much for half a second, fast swap",
        half: Half::Tune,
        swap: Swap::Fast(256),
        load: &[&["burst", "115", "500"]],
        ..BASE
    },
    Scenario {
        name: "compile",
        about: "two short-lived compilers at a time, 25 MiB each",
        half: Half::HeldOut,
        files: &[("sources", 24)],
        load: &[&["jobs", "2", "25", "@sources"]],
        ..BASE
    },
    Scenario {
        name: "reclaim-efficient",
        about: "reclaim is always busy, as kswapd is under two readers, and finds what it samples for",
        half: Half::Tune,
        files: &[("a", 512), ("b", 512)],
        load: &[&["read", "@a", "40"], &["read", "@b", "40"]],
        ..BASE
    },
    Scenario {
        name: "swap-full-cold",
        about: "swap is full of what nobody needs; small buffers come and go",
        half: Half::HeldOut,
        limit: 112,
        swap: Swap::Fast(64),
        before: &[&["hold", "112"]],
        load: &[&["sawtooth", "8", "400"]],
        ..BASE
    },
    Scenario {
        name: "high-but-flat",
        about: "nine tenths of the limit are in use, and stay so, no swap",
        half: Half::Tune,
        before: &[&["anon", "82"]],
        load: &[],
        ..BASE
    },
    Scenario {
        name: "batch-that-fits",
        about: "a job takes all but a tenth of the limit within three seconds, and works on it",
        half: Half::HeldOut,
        load: &[&["leak", "25", "75", "walked"]],
        ..BASE
    },
    Scenario {
        name: "sawtooth",
        about: "a collected heap grows by 60 MiB in four seconds, and falls, and grows",
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
    fn files_that_are_read_are_there() {
        for s in ALL {
            let words = s.before.iter().chain(s.load).flat_map(|words| words.iter());
            for name in words.filter_map(|word| word.strip_prefix('@')) {
                assert!(s.files.iter().any(|f| f.0 == name), "{}: {name}", s.name);
            }
        }
    }
}
