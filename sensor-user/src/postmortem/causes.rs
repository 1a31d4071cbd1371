//! Causes of an incident, ranked by evidence for and against.

use serde::Serialize;

use super::{
    growth::{Grown, Track, Tracks},
    incident::{Incident, SECOND},
    text::Text,
};

/// What an incident cost, and when it began to hurt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loss {
    /// Memory that was available before.
    pub before: u64,
    /// The least that was available.
    pub least: u64,
    /// All memory of the scope; 0 if it is not known.
    pub total: u64,
    /// The first stall, or the first trouble.
    pub first_stall: i64,
}

impl Loss {
    /// Memory that was lost.
    pub const fn bytes(&self) -> u64 {
        self.before.saturating_sub(self.least)
    }
}

/// How sure a cause is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Confidence {
    /// One of several explanations.
    Low,
    /// It explains most of it.
    Medium,
    /// It explains nearly all of it, and nothing else does.
    High,
}

impl Confidence {
    /// In words.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
        }
    }
}

/// The kind of a cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Processes of a cgroup grew.
    Growth,
    /// A cgroup started many processes.
    ManyProcesses,
    /// A kind of memory that belongs to no process grew: tmpfs, slab, page tables.
    KernelMemory,
    /// Nothing grew, and there was too little from the begin.
    TooSmall,
    /// Nothing grew; files were read again and again.
    PageCache,
}

/// A cause.
#[derive(Debug, Clone, Serialize)]
pub struct Cause {
    /// Its kind.
    pub kind: Kind,
    /// In one sentence.
    pub what: Text,
    /// Path of the cgroup, or the kind of memory; empty if there is none.
    pub name: String,
    /// Name of the process that grew most; empty if it is not known.
    pub process: String,
    /// Bytes that it took.
    pub bytes: u64,
    /// The part of the lost memory that this is: 0 to 1.
    pub share: f64,
    /// When it began: nanoseconds since 1970.
    pub since: Option<i64>,
    /// Bytes a second.
    pub bytes_per_second: f64,
    /// Whether it was started within the incident or shortly before.
    pub is_new: bool,
    /// How sure it is; set by the order.
    pub confidence: Confidence,
    /// Evidence for it.
    pub supports: Vec<Text>,
    /// Evidence against it.
    pub contradicts: Vec<Text>,
    #[serde(skip)]
    score: f64,
}

/// Less of the lost memory is not worth a line.
const LEAST_SHARE: f64 = 0.1;
/// A growth that begins so much later than the first stall did not cause it.
const LATE: i64 = 5 * SECOND;
/// That many processes, and so many times as many as before, are many.
const MANY: (u32, u32) = (50, 4);

/// The causes, the most likely first. Empty if nothing explains the incident.
pub fn causes(tracks: &Tracks, incident: &Incident, loss: &Loss, rules: &[&str]) -> Vec<Cause> {
    let (from, to) = (incident.lead_in, incident.end);
    let mut all: Vec<Cause> = Vec::new();
    for cgroup in &tracks.cgroups {
        let Some(grown) = cgroup.grown(from, to) else { continue };
        all.extend(of_cgroup(tracks, cgroup, grown, incident, loss));
    }
    let of_processes: f64 = all.iter().map(|cause| cause.share).sum();
    // That of processes is counted above, and page cache gives way.
    for kind in tracks.memory.iter().filter(|k| !["anon", "file"].contains(&k.name.as_str())) {
        let Some(grown) = kind.grown(from, to) else { continue };
        all.extend(of_kind(kind, grown, loss, of_processes));
    }
    all.retain(|cause| cause.share >= LEAST_SHARE);
    if all.iter().all(|cause| cause.share < 0.3) {
        all.extend(of_nobody(loss, rules));
    }
    all.sort_by(|a, b| b.score.total_cmp(&a.score));
    let second = all.get(1).map_or(0.0, |cause| cause.score);
    for (n, cause) in all.iter_mut().enumerate() {
        cause.confidence = match cause.score {
            score if n == 0 && score >= 0.7 && second < 0.3 => Confidence::High,
            score if n == 0 && score >= 0.4 => Confidence::Medium,
            _ => Confidence::Low,
        };
    }
    all
}

/// The part of the lost memory; less than a twentieth of all memory is no loss that a growth explains.
fn share(bytes: u64, loss: &Loss) -> f64 {
    let whole = loss.bytes().max(loss.total / 20);
    if whole == 0 { 0.0 } else { (bytes as f64 / whole as f64).min(1.0) }
}

fn of_cgroup(
    tracks: &Tracks,
    cgroup: &Track,
    grown: Grown,
    incident: &Incident,
    loss: &Loss,
) -> Option<Cause> {
    let process = tracks.largest_in(&cgroup.name, incident.lead_in, incident.end);
    let (first, most) = cgroup.processes;
    let (many, times) = MANY;
    let is_many = most >= many && most / times >= first.max(1);
    let started = process.and_then(|(process, _)| process.started);
    let is_new = started.is_some_and(|started| started >= incident.lead_in);
    let since = process.map_or(grown.begin, |(_, of_process)| of_process.begin.min(grown.begin));
    let share = share(grown.bytes(), loss);
    let mut cause = Cause {
        kind: if is_many { Kind::ManyProcesses } else { Kind::Growth },
        what: Text::default(),
        name: cgroup.name.clone(),
        process: process.map_or_else(String::new, |(process, _)| process.name.clone()),
        bytes: grown.bytes(),
        share,
        since: Some(since),
        bytes_per_second: grown.rate(),
        is_new,
        confidence: Confidence::Low,
        supports: Vec::new(),
        contradicts: Vec::new(),
        score: share,
    };
    let mib = cause.bytes >> 20;
    cause.what = match (cause.kind, cause.process.as_str()) {
        (Kind::ManyProcesses, _) => Text::name(&cgroup.name)
            .and(format!(" started many processes, from {first} to {most}, with {mib} MiB")),
        (_, "") => Text::name(&cgroup.name).and(format!(" grew by {mib} MiB")),
        (_, process) => Text::name(process)
            .and(" in ")
            .and_name(&cgroup.name)
            .and(format!(" grew by {mib} MiB")),
    };
    cause.weigh(grown, loss);
    (cause.bytes > 0).then_some(cause)
}

impl Cause {
    fn weigh(&mut self, grown: Grown, loss: &Loss) {
        let percent = self.share * 100.0;
        self.supports.push(Text::words(format!(
            "{:.0} MiB of the {} MiB that were lost ({percent:.0} %), {:.1} MiB/s on average",
            self.bytes as f64 / 1_048_576.0,
            loss.bytes() >> 20,
            self.bytes_per_second / 1_048_576.0
        )));
        if self.is_new {
            self.supports.push(Text::words("it was started shortly before"));
            self.score += 0.1;
        }
        let since = self.since.unwrap_or(grown.begin);
        let ahead = (loss.first_stall - since) as f64 / SECOND as f64;
        if since <= loss.first_stall + LATE {
            if ahead >= 0.0 {
                let text = format!("it began {ahead:.1} s before the first stall");
                self.supports.push(Text::words(text));
            }
        } else {
            self.contradicts.push(Text::words(format!(
                "it began {:.1} s after the first stall: it may be a consequence",
                -ahead
            )));
            self.score *= 0.5;
        }
    }
}

fn of_kind(kind: &Track, grown: Grown, loss: &Loss, of_processes: f64) -> Option<Cause> {
    // Memory that processes share is theirs, too.
    let share = share(grown.bytes(), loss);
    let about = match kind.name.as_str() {
        "shmem" => "files in tmpfs, or shared memory",
        "slab_reclaimable" => "caches of the kernel, such as inodes",
        "slab_unreclaimable" => "memory of the kernel (slab)",
        "kernel" => "memory of the kernel (slab, page tables, sockets)",
        "page_tables" => "page tables",
        "hugetlb" => "huge pages of the pools",
        "zfs_arc" => "the cache of ZFS",
        "kernel_stack" => "stacks of tasks in the kernel",
        "percpu" => "memory of the kernel per CPU",
        _ => return None,
    };
    let mut cause = Cause {
        kind: Kind::KernelMemory,
        what: Text::words(format!("{about} grew by {} MiB (", grown.bytes() >> 20))
            .and_name(&kind.name)
            .and(")"),
        name: kind.name.clone(),
        process: String::new(),
        bytes: grown.bytes(),
        share,
        since: Some(grown.begin),
        bytes_per_second: grown.rate(),
        is_new: false,
        confidence: Confidence::Low,
        supports: Vec::new(),
        contradicts: Vec::new(),
        score: share,
    };
    cause.weigh(grown, loss);
    if kind.name == "shmem" && of_processes >= share * 0.7 {
        cause
            .contradicts
            .push(Text::words("processes grew by as much: it may be memory that they share"));
        cause.score *= 0.5;
    }
    if kind.name == "slab_reclaimable" {
        cause.contradicts.push(Text::words("the kernel can free it"));
        cause.score *= 0.7;
    }
    Some(cause)
}

/// Without growth: too little memory from the begin, or files that are read again and again.
fn of_nobody(loss: &Loss, rules: &[&str]) -> Option<Cause> {
    let grew = Text::words("no process, cgroup or kind of memory grew by much");
    let cause = |kind, what: &str, supports, score| Cause {
        kind,
        what: Text::words(what),
        name: String::new(),
        process: String::new(),
        bytes: 0,
        share: 0.0,
        since: None,
        bytes_per_second: 0.0,
        is_new: false,
        confidence: Confidence::Low,
        supports,
        contradicts: Vec::new(),
        score,
    };
    if rules.contains(&"rereading") {
        let why = Text::words("the rule ").and_name("rereading").and(" fired: lost pages of files");
        let what = "pages of files were read again and again; who read them is not recorded";
        return Some(cause(Kind::PageCache, what, vec![grew, why], 0.5));
    }
    let was_short = loss.total > 0 && loss.before <= loss.total / 10;
    let why = Text::words(format!("{} MiB were available before it began", loss.before >> 20));
    let what = "nothing grew: there is too little memory for what always runs";
    was_short.then(|| cause(Kind::TooSmall, what, vec![grew, why], 0.4))
}
