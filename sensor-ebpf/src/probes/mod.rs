//! The probes, one file each, and the list of them.
//!
//! A new probe is its file and one line in `probes!`; what else there is of it (attaching,
//! `/metrics`, the README's tables) follows from its [`Probe`]. The tests at the end hold every
//! probe to the rules.

use crate::spec::{Label, Probe};

macro_rules! probes {
    ($($name:ident,)*) => {
        $(pub mod $name;)*

        /// Index of a probe: its row in the counters.
        #[allow(non_camel_case_types, reason = "the variants are the probes' names")]
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u32)]
        pub enum Id { $(
            /// The probe of this name.
            $name,
        )* }

        /// Every probe, in the order of [`Id`].
        pub const ALL: &[&Probe] = &[$(&$name::PROBE,)*];
    };
}

probes! {
    oom_kill,
    victim_exit,
    direct_reclaim,
    memcg_reclaim,
    kswapd,
    reclaim_scan,
    throttle,
    pfmemalloc_throttle,
    compaction,
    alloc_retry,
    alloc_failure,
    kill_signal,
    processes,
    cgroups,
}

/// Kernel enums whose names are labels of metrics, or are shown in events.
pub fn kernel_enums() -> impl Iterator<Item = Label> {
    let labels = ALL.iter().flat_map(|p| p.metrics).flat_map(|m| m.labels).copied();
    labels.filter(|l| matches!(l, Label::KernelEnum { .. })).chain([oom_kill::CONSTRAINT])
}

/// Why a task stalled on memory. The causes are exclusive: their sum is the time stalled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// In global direct reclaim.
    DirectReclaim,
    /// In limit reclaim of a memory cgroup.
    MemcgReclaim,
    /// Put to sleep by the reclaim code, inside reclaim or before it.
    Throttle,
    /// In direct compaction.
    Compaction,
}

impl Cause {
    /// Number of causes.
    pub const COUNT: usize = 4;

    /// Every cause, in order.
    pub const ALL: [Self; Self::COUNT] =
        [Self::DirectReclaim, Self::MemcgReclaim, Self::Throttle, Self::Compaction];

    /// The `cause` label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::DirectReclaim => "direct_reclaim",
            Self::MemcgReclaim => "memcg_reclaim",
            Self::Throttle => "throttle",
            Self::Compaction => "compaction",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::{
        hist,
        spec::{Hook, MAX_NODES, MAX_SENDERS, ROW_WORDS, Shape},
    };

    #[test]
    fn every_probe_file_is_in_the_list() {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/src/probes");
        let files: BTreeSet<_> = std::fs::read_dir(dir)
            .expect("list src/probes")
            .map(|f| f.expect("entry").file_name().into_string().expect("UTF-8"))
            .filter(|f| f != "mod.rs")
            .collect();
        let listed: BTreeSet<_> = ALL.iter().map(|p| format!("{}.rs", p.name)).collect();
        assert_eq!(files, listed);
    }

    #[test]
    fn program_names_survive_the_kernel() {
        let mut seen = BTreeSet::new();
        for program in ALL.iter().flat_map(|p| p.programs) {
            assert!(program.name.len() <= 15, "{} is cut by the kernel", program.name);
            assert!(program.event.contains(':'), "{} has no system", program.event);
            let reads = program.args.len() + program.one_of.len();
            let in_registers = matches!(program.hook(), Hook::Kprobe(_));
            assert!(reads == 0 || !in_registers, "{} reads arguments of a kprobe", program.name);
            assert!(seen.insert(program.name), "{} twice", program.name);
        }
    }

    #[test]
    fn metric_names_follow_prometheus() {
        for probe in ALL {
            let read = probe.programs.iter().all(|p| matches!(p.hook(), Hook::Iterator(_)));
            assert!(!probe.metrics.is_empty() || read, "{} shows nothing", probe.name);
            for metric in probe.metrics {
                assert!(metric.is_well_named(), "{}", metric.name);
                assert!(!metric.help.ends_with('.'), "{}: {}", metric.name, metric.help);
            }
        }
    }

    #[test]
    fn a_metric_of_several_probes_says_the_same_everywhere() {
        let mut seen = BTreeMap::new();
        for metric in ALL.iter().flat_map(|p| p.metrics) {
            let say = (metric.help, metric.unit == crate::spec::Unit::None);
            assert_eq!(*seen.entry(metric.name).or_insert(say), say, "{}", metric.name);
        }
    }

    fn words(metric: &crate::spec::Metric) -> Vec<usize> {
        let span = |label: &Label| match label {
            Label::Fixed { values, .. } => values.len(),
            Label::Node => MAX_NODES,
            Label::KernelEnum { len, .. } => *len,
            Label::Sender => MAX_SENDERS,
        };
        let (at, len) = match metric.shape {
            Shape::Counter { at } => (at, metric.labels.iter().map(span).product()),
            Shape::Histogram { at } => (at, hist::WORDS),
            Shape::Stall { at, .. } => (at, 1),
            Shape::NodeActive { at, .. } => (at, MAX_NODES),
            Shape::Lowest { at, len, .. } | Shape::Highest { at, len } => (at, len),
            Shape::Inside { .. } => (0, 0),
        };
        (at..at + len).collect()
    }

    #[test]
    fn no_two_metrics_of_a_probe_share_a_word() {
        for probe in ALL {
            let mut owner = BTreeMap::new();
            for metric in probe.metrics {
                for word in words(metric) {
                    assert!(word < ROW_WORDS, "{}: word {word}", metric.name);
                    if let Some(other) = owner.insert(word, metric.name) {
                        panic!("{} and {other} share word {word}", metric.name);
                    }
                }
            }
        }
    }

    #[test]
    fn causes_are_in_order() {
        for (i, cause) in Cause::ALL.iter().enumerate() {
            assert_eq!(*cause as usize, i);
        }
    }
}
