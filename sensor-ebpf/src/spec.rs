//! What a probe declares, once: its kernel events, what it reads of them, its metrics, its losses.
//!
//! The attach loop, `memsensor probes`, `/metrics` and the tables in the documentation all follow
//! from these values; no other code names a metric or an event. Pure data: no I/O here.

use crate::{
    loss::Loss,
    stall_kind::{Cause, Kind},
};

/// Words in one probe's row of counters. 128 words = 1 KiB per probe and possible CPU.
pub const ROW_WORDS: usize = 128;

/// One probe's counters on one CPU, as user space reads them.
pub type Row = [u64; ROW_WORDS];

/// The value of an argument global that was not resolved: the program then does not read it.
pub const NO_ARG: u32 = u32::MAX;

/// A probe: one memory-management phenomenon, its kernel events, and what is counted of them.
#[derive(Debug)]
pub struct Probe {
    /// Noun of the phenomenon, `snake_case`; also the name of its file.
    pub name: &'static str,
    /// One sentence for `memsensor probes`.
    pub about: &'static str,
    /// Kernel programs, in the order in which they attach: an end before its begin.
    pub programs: &'static [Program],
    /// The metrics that `/metrics` exposes from its row.
    pub metrics: &'static [Metric],
    /// What it can lose. Where no probe with a given loss is attached, that loss is not measured.
    /// [`Loss::Recursion`] is not listed: the kernel counts it for every program.
    pub losses: &'static [Loss],
}

impl Probe {
    /// Whether the probe declares a loss.
    pub const fn loses(&self, loss: Loss) -> bool {
        let mut i = 0;
        while i < self.losses.len() {
            if self.losses[i] as u32 == loss as u32 {
                return true;
            }
            i += 1;
        }
        false
    }
}

/// One BPF program and the kernel event or function it attaches to.
#[derive(Debug)]
pub struct Program {
    /// Function name in the BPF object; at most 15 characters, the kernel cuts the rest.
    pub name: &'static str,
    /// In bpftrace's notation: `system:event` of a tracepoint, `fentry:function`,
    /// `fexit:function`, `kprobe:function` or `iter:kind`; see [`Program::hook`].
    pub event: &'static str,
    /// Required arguments: without one of them the program is not attached. A kprobe has none:
    /// there they are in registers, which differ by architecture.
    pub args: &'static [Arg],
    /// Alternatives of which at least one is required (an event whose prototype changed).
    pub one_of: &'static [Arg],
    /// Kernel structure members that the program reads.
    pub fields: &'static [Field],
    /// Whether the probe works without this program.
    pub need: Need,
}

/// Where a program attaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// A raw tracepoint: made by kernel developers for tracing, and rarely changed.
    Tracepoint(&'static str),
    /// The entry of a function, which may be renamed or inlined in any kernel.
    Fentry(&'static str),
    /// The return of a function.
    Fexit(&'static str),
    /// The entry of a function by a breakpoint or ftrace, for functions that `fentry` does not
    /// support: variadic ones (`...`). It costs several times as much.
    Kprobe(&'static str),
    /// An iterator over all objects of a kind: it runs when user space reads it, and its output is
    /// what user space reads.
    Iterator(&'static str),
}

impl Program {
    /// The hook that [`Program::event`] names.
    pub fn hook(&self) -> Hook {
        match self.event.split_once(':') {
            Some(("fentry", function)) => Hook::Fentry(function),
            Some(("fexit", function)) => Hook::Fexit(function),
            Some(("kprobe", function)) => Hook::Kprobe(function),
            Some(("iter", kind)) => Hook::Iterator(kind),
            Some((_, event)) => Hook::Tracepoint(event),
            None => Hook::Tracepoint(self.event),
        }
    }
}

/// Whether a probe works without a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Without it the probe is not attached at all.
    Required,
    /// Without it the probe works, and `lost` describes what is missing.
    Optional {
        /// What is missing without it.
        lost: &'static str,
        /// `Global<u32>` that is 1 in every program of the object when this one can be attached.
        present: Option<&'static str>,
        /// Metrics that are not measured without it, hence absent.
        metrics: &'static [&'static str],
    },
}

/// An argument of a tracepoint or function, found by parameter name in the running kernel's BTF.
#[derive(Debug, Clone, Copy)]
pub struct Arg {
    /// Parameter name in the prototype (of an event: `TP_PROTO`).
    pub param: &'static str,
    /// The `Global<u32>` that carries its index into the program.
    pub global: &'static str,
    /// The type it must have in the prototype.
    pub ty: ArgType,
}

impl Arg {
    /// An integer argument.
    pub(crate) const fn int(param: &'static str, global: &'static str) -> Self {
        Self { param, global, ty: ArgType::Int }
    }

    /// An argument that points to `to`.
    pub(crate) const fn ptr(param: &'static str, global: &'static str, to: &'static str) -> Self {
        Self { param, global, ty: ArgType::Ptr(to) }
    }
}

/// The type that an argument must have to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArgType {
    /// An integer, enum or bool.
    Int,
    /// A pointer to the named structure or integer.
    Ptr(&'static str),
}

/// A kernel structure member, found by name in the running kernel's BTF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// `struct.member`, or a derived value that `sensor-user`'s resolver knows by this name.
    pub path: &'static str,
    /// The `Global<u32>` that carries its offset in bytes into the program.
    pub global: &'static str,
}

/// A metric that is rendered from a probe's row.
#[derive(Debug)]
pub struct Metric {
    /// Name without the `memsensor_` prefix, the unit and `_total`.
    pub name: &'static str,
    /// Base unit; appended to the name.
    pub unit: Unit,
    /// One sentence, no full stop.
    pub help: &'static str,
    /// Where in the row it is, and how it is read.
    pub shape: Shape,
    /// Label dimensions of a counter: one word per combination, last dimension fastest.
    pub labels: &'static [Label],
}

/// A metric's base unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// A plain count.
    None,
    /// Seconds; the row holds nanoseconds.
    Seconds,
}

/// How a metric is read from the row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Monotonic words, starting at `at`.
    Counter {
        /// First word.
        at: usize,
    },
    /// A [`crate::hist::Log2Seconds`] at word `at`.
    Histogram {
        /// First word.
        at: usize,
    },
    /// Stall nanoseconds of one cause. User space adds the stalls in progress, and those of other
    /// probes with the same cause.
    Stall {
        /// Word of the ended stalls.
        at: usize,
        /// The `cause` label; `None` for a metric without that label.
        cause: Option<Cause>,
        /// Kind of the slots of [`crate::inflight`] that are such stalls in progress.
        kind: Option<Kind>,
    },
    /// Active nanoseconds per NUMA node, starting at `at`. User space adds activity in progress.
    NodeActive {
        /// Word of node 0.
        at: usize,
        /// Kind of the slots of [`crate::inflight`] that are such activity in progress.
        kind: Kind,
    },
    /// Tasks that are inside now, from [`crate::inflight`].
    Inside {
        /// Kind of the slots.
        kind: Kind,
        /// The `kind` label.
        label: &'static str,
    },
    /// Lowest index among `len` monotonic words that moved in the window; `calm` if none did.
    Lowest {
        /// First word.
        at: usize,
        /// Words.
        len: usize,
        /// Value when nothing moved.
        calm: u32,
    },
    /// Highest index among `len` monotonic words that moved in the window; 0 if none did.
    Highest {
        /// First word.
        at: usize,
        /// Words.
        len: usize,
    },
}

/// A label and its values, in the order of the row's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Label {
    /// Known when compiled.
    Fixed {
        /// Label name.
        key: &'static str,
        /// Label values.
        values: &'static [&'static str],
    },
    /// NUMA node numbers 0 to [`MAX_NODES`] - 1; nodes that never counted are omitted.
    Node,
    /// Names of a kernel enum, read from BTF; values without a name are omitted.
    KernelEnum {
        /// Label name.
        key: &'static str,
        /// Enum type in BTF.
        ty: &'static str,
        /// Prefix that is cut from the names before they are lower-cased.
        prefix: &'static str,
        /// Words reserved in the row.
        len: usize,
    },
    /// `other` at word 0, then the configured senders of SIGKILL.
    Sender,
}

/// NUMA nodes that have words of their own; a higher one is counted as lost.
pub const MAX_NODES: usize = 60;

/// Labels for senders of SIGKILL, `other` included.
pub const MAX_SENDERS: usize = 32;

/// Bit in a sender's value in the kernel half's table: its kills are sent as events.
pub const SENDER_WITH_EVENT: u32 = 1 << 31;

impl Metric {
    /// Stall nanoseconds at word `at`, for the metric that all probes of stalls share.
    pub(crate) const fn stall(at: usize, cause: Cause, kind: Option<Kind>) -> Self {
        Self {
            name: "stall",
            unit: Unit::Seconds,
            help: "Time that tasks were stalled on memory, by exclusive cause, stalls in progress \
                   included",
            shape: Shape::Stall { at, cause: Some(cause), kind },
            labels: &[],
        }
    }

    /// Tasks inside reclaim, for the metric that all probes of reclaim share.
    pub(crate) const fn reclaiming_tasks(kind: Kind, label: &'static str) -> Self {
        Self {
            name: "reclaiming_tasks",
            unit: Unit::None,
            help: "Tasks that are inside reclaim now",
            shape: Shape::Inside { kind, label },
            labels: &[],
        }
    }

    /// Whether the name follows Prometheus' rules, with nothing that the encoder appends.
    #[cfg(test)]
    pub(crate) fn is_well_named(&self) -> bool {
        let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        self.name.chars().all(word)
            && self.name.starts_with(|c: char| c.is_ascii_lowercase())
            && !["total", "seconds", "bytes", "count", "sum", "bucket", "info"]
                .iter()
                .any(|s| self.name.ends_with(s))
    }
}
