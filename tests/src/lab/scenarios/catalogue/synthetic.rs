//! The scenarios whose service is a small program of this repository ([`probe`](super::super::probe)):
//! one memory access pattern each, in small cgroups. The halves were assigned before any was run:
//! similar scenarios are in different halves.

use super::scenario::{
    Half, Layout, SLOW_DISK, SYNTHETIC as BASE, SYNTHETIC_HARM as HARM, Scenario, Swap,
};

/// All of them.
pub(super) const ALL: &[Scenario] = &[
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
        data: 48,
        load: &[&["anon", "72"]],
        ..HARM
    },
    Scenario {
        name: "cache-thrash",
        about: "a file read repeatedly evicts the service's file, slow disk",
        half: Half::Tune,
        disk: SLOW_DISK,
        data: 64,
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
        data: 64,
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
        name: "cold-wakes",
        about: "memory is plentiful again; a program that slept reads its pages from slow swap",
        limit: 96,
        half: Half::Tune,
        swap: Swap::Slow(256),
        before: &[&["wake", "90", "18"]],
        load: &[&["sh", "echo 268435456 >\"$LIMIT\"; sleep 600"]],
        seconds: 25,
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
