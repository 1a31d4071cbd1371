//! What goes wrong on web-01, as data. The loads are those of the scenarios (`scenarios load`).

use super::{Loads, SwapSpeed, Variant};

/// A cause, with the swap device of the hosts.
#[derive(Debug, Clone, Copy)]
pub struct Cause {
    /// Its name on the command line and in tables.
    pub name: &'static str,
    /// A description.
    pub about: &'static str,
    /// The swap device; without swap the disk is slow.
    pub swap_speed: SwapSpeed,
    /// The fault.
    pub variant: Variant,
    /// Duration of the fault, in seconds; of a leak from the first stall on.
    pub seconds: u64,
}

const fn cause(
    name: &'static str,
    about: &'static str,
    swap_speed: SwapSpeed,
    variant: Variant,
    seconds: u64,
) -> Cause {
    Cause { name, about, swap_speed, variant, seconds }
}

/// Duration of most faults.
const FAULT: u64 = 12;
/// Of a leak, which first has to fill the memory.
const STALLED: u64 = 8;

/// All causes, the most different ones first.
#[rustfmt::skip]
pub const ALL: &[Cause] = &[
    cause("leak-slow", "an agent leaks, slow swap",
        SwapSpeed::Slow, Variant::Leak, STALLED),
    cause("backup", "a backup reads 200 MiB again and again, slow disk, no swap",
        SwapSpeed::None, Variant::Loads(&Loads {
            name: "backup",
            files: &[("data", 200)],
            commands: &[&["again", "@data"]],
        }), FAULT),
    cause("freeze", "every process of web-01 stops",
        SwapSpeed::None, Variant::Freeze, FAULT),
    cause("fork-storm", "20 processes per second, each with 6 MiB for 3 s, no swap",
        SwapSpeed::None, Variant::Loads(&Loads {
            name: "fork-storm",
            files: &[],
            commands: &[&["storm", "20", "6", "3000"]],
        }), FAULT),
    cause("burst", "120 MiB for 3 s, slow swap",
        SwapSpeed::Slow, Variant::Loads(&Loads {
            name: "burst",
            files: &[],
            commands: &[&["burst", "120", "3000"]],
        }), FAULT),
    cause("read-once", "400 MiB are read once",
        SwapSpeed::Fast, Variant::Loads(&Loads {
            name: "read-once",
            files: &[("big", 400)],
            commands: &[&["read", "@big", "40"]],
        }), FAULT),
    cause("tmpfs", "a tmpfs fills by 8 MiB/s, slow disk, no swap",
        SwapSpeed::None, Variant::Loads(&Loads {
            name: "tmpfs",
            files: &[],
            commands: &[&["fill", "%", "8"]],
        }), FAULT),
    cause("compile", "compiler processes that fit, 20 MiB each, one at a time",
        SwapSpeed::Fast, Variant::Loads(&Loads {
            name: "compile",
            files: &[("sources", 12)],
            commands: &[&["jobs", "1", "20", "@sources"]],
        }), FAULT),
    cause("leak-none", "an agent leaks, slow disk, no swap",
        SwapSpeed::None, Variant::Leak, STALLED),
    cause("leak-fast", "an agent leaks, fast swap",
        SwapSpeed::Fast, Variant::Leak, STALLED),
    cause("fleet-slow", "an agent leaks on both hosts, slow swap",
        SwapSpeed::Slow, Variant::Fleet, STALLED),
    cause("cold-cache", "reclaim of unused page cache: short-lived buffers of 30 MiB, slow disk, no swap",
        SwapSpeed::None, Variant::Loads(&Loads {
            name: "cold-cache",
            files: &[("old", 120)],
            commands: &[&["readonce", "@old"], &["sawtooth", "30", "800"]],
        }), FAULT),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_kinds_are_distinct() {
        let mut names: Vec<_> = ALL.iter().map(|c| c.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
        for variant in [Variant::Leak, Variant::Fleet, Variant::Freeze] {
            assert!(ALL.iter().any(|c| c.variant == variant), "{variant:?}");
        }
        let loads = ALL.iter().filter(|c| matches!(c.variant, Variant::Loads(_)));
        assert!(loads.count() + 3 >= 8);
    }

    #[test]
    fn every_file_of_a_load_is_declared() {
        for cause in ALL {
            let Variant::Loads(loads) = cause.variant else { continue };
            let words = loads.commands.iter().flat_map(|words| words.iter());
            for name in words.filter_map(|word| word.strip_prefix('@')) {
                assert!(loads.files.iter().any(|f| f.0 == name), "{}: {name}", cause.name);
            }
        }
    }
}
