//! What a probe says of itself, once: its kernel events, what it reads of them, its metrics.
//!
//! The attach loop, `memsensor probes`, `/metrics`, and the README's tables all follow from these
//! values; nothing else names a metric or an event. Pure data: no I/O here.

use crate::inflight::Kind;

/// Words in one probe's row of counters. 128 words = 1 KiB per probe and possible CPU.
pub const ROW_WORDS: usize = 128;

/// One probe's counters on one CPU, as user space reads them.
pub type Row = [u64; ROW_WORDS];

/// The value of an argument global that was not resolved: the program then does not read it.
pub const NO_ARG: u32 = u32::MAX;

/// A probe: one memory-management phenomenon, the kernel events that show it, what is counted.
#[derive(Debug)]
pub struct Probe {
    /// Noun of the phenomenon, `snake_case`; also the name of its file.
    pub name: &'static str,
    /// One sentence for `memsensor probes`.
    pub about: &'static str,
    /// Kernel programs, in the order in which they attach.
    pub programs: &'static [Program],
    /// What `/metrics` shows of its row.
    pub metrics: &'static [Metric],
}

/// One BPF program and where in the kernel it attaches.
#[derive(Debug)]
pub struct Program {
    /// Function name in the BPF object; at most 15 characters, the kernel cuts the rest.
    pub name: &'static str,
    /// As bpftrace writes it: `system:event` of a tracepoint, `fentry:function`, `fexit:function`,
    /// `kprobe:function` or `iter:what`; see [`Program::hook`].
    pub event: &'static str,
    /// Arguments that must be there, or the program is not attached. A kprobe reads none: there they
    /// are in registers, which differ by architecture.
    pub args: &'static [Arg],
    /// Alternatives of which at least one must be there (an event whose prototype changed).
    pub one_of: &'static [Arg],
    /// Kernel structure members that the program reads.
    pub fields: &'static [Field],
    /// Whether the probe makes sense without this program.
    pub need: Need,
}

/// Where a program attaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// A raw tracepoint: kernel developers put it there for us, and it seldom moves.
    Tracepoint(&'static str),
    /// The entry of a function, which may be renamed or inlined in any kernel.
    Fentry(&'static str),
    /// Its return.
    Fexit(&'static str),
    /// The entry of a function by a breakpoint or ftrace, for functions that `fentry` cannot have:
    /// those with `...`. It costs several times as much.
    Kprobe(&'static str),
    /// An iterator over all objects of a kind: it runs when user space reads it, and writes what is
    /// read.
    Iterator(&'static str),
}

impl Program {
    /// What [`Program::event`] names.
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

/// Whether a probe can do without a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Without it the probe is not attached at all.
    Required,
    /// Without it the probe works; the text says what is then missing. The named global is set to
    /// 1 in every program when the event can be attached.
    Optional {
        /// What is lost without it.
        lost: &'static str,
        /// `Global<u32>` that tells the other programs that this one is there.
        present: Option<&'static str>,
        /// Metrics that are not measured without it, hence absent.
        metrics: &'static [&'static str],
    },
}

/// An argument of a tracepoint or function, found by its parameter name in the running kernel's BTF.
#[derive(Debug, Clone, Copy)]
pub struct Arg {
    /// Parameter name in the prototype (of an event: `TP_PROTO`).
    pub param: &'static str,
    /// The `Global<u32>` that carries its index into the program.
    pub global: &'static str,
    /// What the prototype must say of its type.
    pub ty: ArgType,
}

/// The type an argument must have for us to read it.
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
    /// Where in the row, and how it is read.
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
    /// Stall nanoseconds of one cause; stalls still under way are added by user space, and so are
    /// those of other probes with the same cause.
    Stall {
        /// Word of the ended stalls.
        at: usize,
        /// The `cause` label; `None` for a metric that has but one.
        cause: Option<&'static str>,
        /// Which slots of [`crate::inflight`] are such stalls under way.
        kind: Option<Kind>,
    },
    /// Active nanoseconds per NUMA node, starting at `at`; activity under way is added.
    NodeActive {
        /// Word of node 0.
        at: usize,
        /// Which slots of [`crate::inflight`] are such activity under way.
        kind: Kind,
    },
    /// Tasks that are inside now, from [`crate::inflight`].
    Inside {
        /// Which slots.
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
    /// NUMA node numbers 0 to [`MAX_NODES`] - 1; nodes that never counted are left out.
    Node,
    /// Names of a kernel enum, read from BTF; values without a name are left out.
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

/// Set in a sender's value in the kernel half's table when its kills are worth an event.
pub const SENDER_WITH_EVENT: u32 = 1 << 31;

impl Metric {
    /// The full name as Prometheus knows it, e.g. `memsensor_kswapd_wakeups_total`.
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
