//! Who grew: the sizes of cgroups, processes and kinds of memory over the scans of a record.

use std::collections::BTreeMap;

use sensor_core::{common::text::is_at_or_below, record::content::Content};

use super::incident::SECOND;
use crate::history::timeline::Timeline;

/// The sizes of something, in the order of time.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Track {
    /// Path of a cgroup, name of a process, or a kind of memory.
    pub name: String,
    /// Process id; 0 for others.
    pub pid: u32,
    /// Path of the cgroup that it is in, or is.
    pub cgroup: String,
    /// When the process was started: nanoseconds since 1970.
    pub started: Option<i64>,
    /// Time and bytes.
    pub points: Vec<(i64, u64)>,
    /// Processes of a cgroup: first and most.
    pub processes: (u32, u32),
}

/// How much a track grew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grown {
    /// Its size before.
    pub base: u64,
    /// Its largest size.
    pub peak: u64,
    /// When it had that.
    pub peak_at: i64,
    /// When it began to grow.
    pub begin: i64,
}

impl Grown {
    /// By so many bytes.
    pub const fn bytes(&self) -> u64 {
        self.peak - self.base
    }

    /// Bytes a second, on average.
    pub fn rate(&self) -> f64 {
        let seconds = (self.peak_at - self.begin) as f64 / SECOND as f64;
        self.bytes() as f64 / seconds.max(1.0)
    }
}

impl Track {
    /// The growth between two times; `None` if it did not grow.
    pub fn grown(&self, from: i64, to: i64) -> Option<Grown> {
        let within = || self.points.iter().filter(|(at, _)| (from..=to).contains(at));
        let before = self.points.iter().rev().find(|(at, _)| *at < from);
        // What was started since then began with nothing.
        let new = self.started.is_some_and(|started| started >= from);
        let first = before.or_else(|| within().next())?.1;
        // The first of equal ones.
        let (peak_at, peak) = within().rev().max_by_key(|(_, bytes)| *bytes).copied()?;
        let until_peak = || within().filter(|(at, _)| *at <= peak_at);
        let least = until_peak().map(|(_, bytes)| *bytes).min().unwrap_or(first);
        let base = if new { 0 } else { first.min(least) };
        if peak <= base {
            return None;
        }
        // The last time at which it had grown by less than a twentieth.
        let limit = base + (peak - base) / 20;
        let small =
            until_peak().filter(|(_, bytes)| *bytes <= limit).map(|(at, _)| *at).next_back();
        let first_seen = until_peak().next().map_or(peak_at, |(at, _)| *at);
        let started = self.started.filter(|_| new);
        let begin = small.max(started).unwrap_or(first_seen);
        Some(Grown { base, peak, peak_at, begin: begin.min(peak_at) })
    }

    /// Its size at a time: that of the last scan before.
    pub fn at(&self, time: i64) -> Option<u64> {
        self.points.iter().rev().find(|(at, _)| *at <= time).map(|(_, bytes)| *bytes)
    }
}

/// All tracks of a record.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tracks {
    /// Cgroups.
    pub cgroups: Vec<Track>,
    /// Processes.
    pub processes: Vec<Track>,
    /// Kinds of the host's memory.
    pub memory: Vec<Track>,
}

impl Tracks {
    /// Of the host, or of one of its scopes: of the cgroups at or below its own.
    pub fn of(timeline: &Timeline, scope: &str) -> Self {
        let schema = &timeline.schema;
        let index = schema.scopes.iter().position(|(name, _)| name == scope);
        let below = index.map(|index| schema.scopes[index].1.as_str());
        let is_in = |path: &str| below.is_none_or(|below| is_at_or_below(path, below));
        let (mut cgroups, mut processes) = (BTreeMap::new(), BTreeMap::new());
        let mut memory = BTreeMap::new();
        for entry in &timeline.entries {
            let Content::Usage(usage) = &entry.content else { continue };
            let at = entry.time.wall_ns;
            for cgroup in usage.cgroups.iter().filter(|cgroup| is_in(&cgroup.path)) {
                let track: &mut Track = cgroups.entry(cgroup.path.clone()).or_default();
                (track.name, track.cgroup) = (cgroup.path.clone(), cgroup.path.clone());
                track.points.push((at, cgroup.own_bytes));
                let (first, most) = track.processes;
                let first = if track.points.len() == 1 { cgroup.processes } else { first };
                track.processes = (first, most.max(cgroup.processes));
            }
            for process in usage.processes.iter().filter(|process| is_in(&process.cgroup)) {
                let started = at.saturating_sub(i64::from(process.age_seconds) * SECOND);
                // A process id is used again at some time: then its age is less.
                let key = (process.pid, process.comm.clone(), process.cgroup.clone());
                let track: &mut Track = processes.entry(key).or_default();
                (track.name, track.cgroup) = (process.comm.clone(), process.cgroup.clone());
                track.pid = process.pid;
                // Ages are whole seconds, rounded down: the least is the nearest.
                track.started = Some(track.started.map_or(started, |other| other.min(started)));
                track.points.push((at, process.own_bytes));
            }
            let of_scope = index.map(|index| usage.scopes.get(index).map_or(&[][..], |s| s));
            let names = if of_scope.is_some() { &schema.scope_memory } else { &schema.memory };
            for (name, bytes) in names.iter().zip(of_scope.unwrap_or(&usage.memory)) {
                let Some(bytes) = *bytes else { continue };
                let track: &mut Track = memory.entry(name.clone()).or_default();
                track.name.clone_from(name);
                track.points.push((at, bytes));
            }
        }
        if let Some((path, anon)) = below.zip(memory.get("anon")) {
            let is_inside = |path: &String| path.as_str() != below.unwrap_or_default();
            // The first scans of a daemon do not know all paths: the cgroup's own file does.
            if !cgroups.keys().any(is_inside) {
                let track: &mut Track = cgroups.entry(path.to_owned()).or_default();
                (track.name, track.cgroup) = (path.to_owned(), path.to_owned());
                track.points.clone_from(&anon.points);
            }
        }
        Self {
            cgroups: cgroups.into_values().collect(),
            processes: processes.into_values().collect(),
            memory: memory.into_values().collect(),
        }
    }

    /// The process in a cgroup that grew most.
    pub fn largest_in(&self, cgroup: &str, from: i64, to: i64) -> Option<(&Track, Grown)> {
        let inside = self.processes.iter().filter(|process| process.cgroup == cgroup);
        let grown = inside.filter_map(|process| Some((process, process.grown(from, to)?)));
        grown.max_by_key(|(_, grown)| grown.bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn track(started: Option<i64>, points: &[(i64, u64)]) -> Track {
        Track { started, points: points.to_vec(), ..Track::default() }
    }

    #[test]
    fn growth_is_from_the_least_before_to_the_peak() {
        let steady =
            track(Some(-900), &[(0, 100), (10, 100), (20, 101), (30, 200), (40, 300), (50, 10)]);
        let grown = steady.grown(5, 50).expect("it grew");
        assert_eq!(grown, Grown { base: 100, peak: 300, peak_at: 40, begin: 20 });
        assert_eq!((grown.bytes(), steady.at(25), steady.at(-1)), (200, Some(101), None));
        assert_eq!(steady.grown(41, 60), None, "it shrank");
        // Seen late, but started within the time: everything is growth.
        let new = track(Some(12), &[(20, 50), (30, 80)]);
        assert_eq!(new.grown(0, 50), Some(Grown { base: 0, peak: 80, peak_at: 30, begin: 12 }));
        // Seen late, and old: only what was seen is.
        let old = track(Some(-12), &[(20, 50), (30, 80)]);
        assert_eq!(old.grown(0, 50), Some(Grown { base: 50, peak: 80, peak_at: 30, begin: 20 }));
    }
}
