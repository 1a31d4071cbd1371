//! The probes, one file each, and all of them as data.
//!
//! A new probe is its file here and one line in [`crate::probe_id`]; attaching, `/metrics` and the
//! tables in the documentation follow from its [`Probe`]. The tests at the end hold every probe to
//! the rules.

use crate::{
    loss::Loss,
    probe_id::for_each_probe,
    spec::{Label, Probe},
};
pub use crate::{probe_id::Id, stall_kind::Cause};

macro_rules! modules {
    ($($name:ident,)*) => {
        $(pub mod $name;)*

        /// Every probe, in the order of [`Id`].
        pub const ALL: &[&Probe] = &[$(&$name::PROBE,)*];
    };
}

for_each_probe!(modules);

/// Probes that can lose this, and so measure it: where none of them is attached, the loss is not
/// measured. None for [`Loss::Recursion`], which the kernel counts for every program.
pub fn that_lose(loss: Loss) -> impl Iterator<Item = Id> {
    Id::ALL.iter().copied().filter(move |id| ALL[*id as usize].loses(loss))
}

/// Every probe, in the order in which they attach: the one that removes victims and exiting tasks
/// from the tables is there before the others add them.
pub fn in_attach_order() -> impl Iterator<Item = Id> {
    let others = Id::ALL.iter().copied().filter(|id| *id != Id::victim_exit);
    core::iter::once(Id::victim_exit).chain(others)
}

/// Kernel enums whose names are labels of metrics, or are shown in events.
pub fn kernel_enums() -> impl Iterator<Item = Label> {
    let labels = ALL.iter().flat_map(|p| p.metrics).flat_map(|m| m.labels).copied();
    labels.filter(|l| matches!(l, Label::KernelEnum { .. })).chain([oom_kill::CONSTRAINT])
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::{
        hist,
        spec::{Hook, MAX_NODES, MAX_SENDERS, Metric, ROW_WORDS, Shape, Unit},
    };

    #[test]
    fn each_file_is_the_probe_of_its_name() {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/src/probes");
        let files: BTreeSet<_> = std::fs::read_dir(dir)
            .expect("list src/probes")
            .map(|f| f.expect("entry").file_name().into_string().expect("UTF-8"))
            .filter(|f| f != "mod.rs")
            .collect();
        let listed: BTreeSet<_> = Id::ALL.iter().map(|id| format!("{}.rs", id.name())).collect();
        assert_eq!(files, listed);
        for (id, probe) in Id::ALL.iter().zip(ALL) {
            assert_eq!(probe.name, id.name());
        }
    }

    #[test]
    fn program_names_are_unique_and_short_enough() {
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

    /// How the names of programs end that begin something, and of those that end it.
    const PAIRS: [(&str, &str); 3] = [("_begin", "_end"), ("_wake", "_sleep"), ("_made", "_gone")];

    /// Otherwise a task that enters in between has a begin and no end.
    #[test]
    fn each_end_attaches_before_its_begin() {
        let mut pairs = 0;
        for probe in ALL {
            let place = |name: &str| probe.programs.iter().position(|p| p.name == name);
            for (at, program) in probe.programs.iter().enumerate() {
                let pair = PAIRS.iter().find_map(|(begin, end)| {
                    let noun = program.name.strip_suffix(begin)?;
                    Some(place(&format!("{noun}{end}")))
                });
                let Some(end) = pair else { continue };
                assert!(end.is_some_and(|end| end < at), "{} attaches too early", program.name);
                pairs += 1;
            }
        }
        assert_eq!(pairs, 7, "a pair has other names");
    }

    /// It ends what the others begin: victims, and stalls of tasks that exit.
    #[test]
    fn victim_exit_attaches_first_and_each_probe_once() {
        let order: Vec<_> = in_attach_order().collect();
        assert_eq!(order.first(), Some(&Id::victim_exit));
        assert_eq!(order.len(), Id::COUNT);
        assert!(Id::ALL.iter().all(|id| order.contains(id)));
    }

    #[test]
    fn metric_names_follow_prometheus() {
        for probe in ALL {
            let read = probe.programs.iter().all(|p| matches!(p.hook(), Hook::Iterator(_)));
            assert!(!probe.metrics.is_empty() || read, "{} has no metric", probe.name);
            for metric in probe.metrics {
                assert!(metric.is_well_named(), "{}", metric.name);
                assert!(!metric.help.ends_with('.'), "{}: {}", metric.name, metric.help);
            }
        }
    }

    #[test]
    fn a_shared_metric_has_one_help_and_unit() {
        let mut seen = BTreeMap::new();
        for metric in ALL.iter().flat_map(|p| p.metrics) {
            let declared = (metric.help, metric.unit == Unit::None);
            assert_eq!(*seen.entry(metric.name).or_insert(declared), declared, "{}", metric.name);
        }
    }

    #[test]
    fn each_loss_is_declared_by_a_probe_once() {
        for loss in Loss::ALL {
            let by_kernel = *loss == Loss::Recursion;
            assert_eq!(that_lose(*loss).next().is_none(), by_kernel, "{loss:?}");
        }
        for probe in ALL {
            let reasons: BTreeSet<_> = probe.losses.iter().map(|loss| *loss as u32).collect();
            assert_eq!(reasons.len(), probe.losses.len(), "{} declares one twice", probe.name);
        }
    }

    /// User space computes evictions from the same table that `CgroupsFull` is about.
    #[test]
    fn cgroup_evictions_are_measured_with_full_tables() {
        for probe in ALL {
            let (full, evicted) =
                (probe.loses(Loss::CgroupsFull), probe.loses(Loss::CgroupEvicted));
            assert_eq!(full, evicted, "{}", probe.name);
        }
    }

    fn words(metric: &Metric) -> Vec<usize> {
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
}
