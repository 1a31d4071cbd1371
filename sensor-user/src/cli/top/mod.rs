//! `memsensor top`: who has the memory, as the daemon last saw it, for people and for scripts.
//!
//! Names are chosen by whoever runs a process or makes a cgroup: in the table they are escaped.

mod live;
mod screen;

use std::{cmp::Reverse, collections::BTreeMap, fmt::Write as _};

use comfy_table::{CellAlignment, ContentArrangement, Table, presets::UTF8_FULL_CONDENSED};
use serde::{Deserialize, Serialize};

use crate::who::{CgroupUsage, Growth, MemoryUsage, ProcessUsage};

pub use live::run;

/// How the host is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// As balancers are told.
    pub state: String,
    /// Share of its usual traffic: 0 to 1.
    pub weight: f64,
    /// What the verdict follows from, by name.
    pub signals: BTreeMap<String, f64>,
}

/// The daemon's answer.
#[derive(Debug, Serialize, Deserialize)]
pub struct Top {
    /// The host.
    pub host: Summary,
    /// How old it is.
    pub seen_seconds_ago: f64,
    /// When the cgroups' `stall_seconds` were read, which is not at every answer: seconds of
    /// CLOCK_MONOTONIC. Absent if they were not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stall_clock_seconds: Option<f64>,
    /// It.
    #[serde(flatten)]
    pub who: MemoryUsage,
}

/// What comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum By {
    /// Who has most
    Memory,
    /// Who took most within a minute
    Minute,
    /// Within ten minutes
    TenMinutes,
    /// Within an hour
    Hour,
    /// Whose tasks stalled most: cgroups since the daemon started, processes by their cgroup
    Stall,
}

impl By {
    fn label(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Minute => "what they took within a minute",
            Self::TenMinutes => "what they took within ten minutes",
            Self::Hour => "what they took within an hour",
            Self::Stall => "how many of a cgroup's tasks are stalled",
        }
    }

    fn of(self, own_bytes: u64, growth: Growth) -> i64 {
        match self {
            Self::Stall => 0,
            Self::Memory => i64::try_from(own_bytes).unwrap_or(i64::MAX),
            Self::Minute => growth.minute_bytes,
            Self::TenMinutes => growth.ten_minutes_bytes,
            Self::Hour => growth.hour_bytes,
        }
    }
}

impl Top {
    fn sort(&mut self, by: By) {
        let (processes, cgroups) = (&mut self.who.processes, &mut self.who.cgroups);
        if by == By::Stall {
            let stalled: BTreeMap<_, _> =
                cgroups.iter().map(|g| (g.cgroup, g.stall_seconds)).collect();
            let of = |cgroup: u64| stalled.get(&cgroup).copied().unwrap_or(0.0);
            cgroups.sort_by(|a, b| of(b.cgroup).total_cmp(&of(a.cgroup)));
            processes.sort_by(|a, b| of(b.cgroup).total_cmp(&of(a.cgroup)));
            return;
        }
        processes.sort_by_key(|p| Reverse(by.of(p.own_bytes, p.growth)));
        cgroups.sort_by_key(|g| Reverse(by.of(g.own_bytes, g.growth)));
    }

    /// The first so many processes and cgroups by that.
    pub fn first(&mut self, most: usize, by: By) {
        self.sort(by);
        self.who.processes.truncate(most);
        self.who.cgroups.truncate(most);
        self.who.processes.iter_mut().for_each(ProcessUsage::identify);
        self.who.cgroups.iter_mut().for_each(CgroupUsage::identify);
    }

    /// Two tables: cgroups, and processes.
    pub fn tables(&self) -> String {
        let Self { seen_seconds_ago, who, .. } = self;
        let mut groups = table(
            &["own MiB", "swap", "1 min", "10 min", "1 h", "stalled s", "processes", "cgroup"],
            7,
        );
        for group in &who.cgroups {
            let [minute, ten, hour] = grown(group.growth);
            groups.add_row([
                mib(group.own_bytes),
                mib(group.swap_bytes),
                minute,
                ten,
                hour,
                format!("{:.2}", group.stall_seconds),
                group.processes.to_string(),
                group.place(),
            ]);
        }
        let header = [
            "own MiB", "swap", "file", "1 min", "10 min", "1 h", "pid", "age", "adj", "name",
            "cgroup",
        ];
        let mut processes = table(&header, 9);
        for held in &who.processes {
            processes.add_row(cells(held));
        }
        let mut text = String::new();
        let _ = writeln!(
            text,
            "{} processes in {} cgroups, {seen_seconds_ago:.1} s ago{}{}. Own memory is anonymous and shared, \
             in memory or in swap; 1 min, 10 min, 1 h: how much more than then.\n{groups}\n{processes}",
            who.seen,
            who.cgroups_seen,
            if who.usage_from_proc { ", read from /proc" } else { "" },
            match who.calm_seconds_ago {
                Some(ago) => format!("; the host was last calm {} ago, * is new since", age(ago)),
                None => String::new(),
            },
        );
        text
    }
}

/// The first so many columns are numbers.
fn table(header: &[&str], numbers: usize) -> Table {
    let mut table = Table::new();
    table
        .load_preset(UTF8_FULL_CONDENSED)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(header);
    for column in table.column_iter_mut().take(numbers) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// A process: nine numbers, its name and its place, as a terminal may show them.
fn cells(held: &ProcessUsage) -> [String; 11] {
    let [minute, ten, hour] = grown(held.growth);
    [
        mib(held.own_bytes),
        mib(held.swap_bytes),
        mib(held.file_bytes),
        minute,
        ten,
        hour,
        held.pid.to_string(),
        age(held.age_seconds),
        held.oom_score_adj.to_string(),
        format!("{}{}", if held.is_new { "*" } else { "" }, held.comm.escape_debug()),
        held.place(),
    ]
}

pub(crate) fn mib(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / 1024.0 / 1024.0)
}

fn grown(growth: Growth) -> [String; 3] {
    let Growth { minute_bytes, ten_minutes_bytes, hour_bytes } = growth;
    [minute_bytes, ten_minutes_bytes, hour_bytes].map(|bytes| match bytes {
        0 => String::new(),
        bytes => format!("{:+.1}", bytes as f64 / 1024.0 / 1024.0),
    })
}

fn age(seconds: u32) -> String {
    // Two units say enough.
    let units = [(86_400, 3600), (3600, 60)];
    let unit = units.iter().find(|(from, _)| seconds >= *from).map_or(1, |(_, unit)| *unit);
    let rounded = seconds / unit * unit;
    let text =
        humantime::format_duration(std::time::Duration::from_secs(rounded.into())).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::WorkloadId;

    pub(super) fn top() -> Top {
        let growth =
            |minute_bytes, hour_bytes| Growth { minute_bytes, ten_minutes_bytes: 0, hour_bytes };
        let held = |pid, comm: &str, own_mib: u64, growth| ProcessUsage {
            pid,
            comm: comm.to_owned(),
            cgroup: u64::from(pid),
            age_seconds: 90,
            own_bytes: own_mib << 20,
            growth,
            ..ProcessUsage::default()
        };
        let group = CgroupUsage {
            cgroup: 1,
            cgroup_path: Some("/\u{1b}]0;owned\u{7}".into()),
            workload: WorkloadId::default(),
            stall_seconds: 0.5,
            processes: 1,
            own_bytes: 3 << 20,
            swap_bytes: 1 << 19,
            growth: growth(-(1 << 20), 0),
        };
        let processes = vec![
            held(1, "large", 900, growth(0, 0)),
            held(2, "\u{1b}[31mleaks", 100, growth(50 << 20, 60 << 20)),
            ProcessUsage { is_new: true, ..held(3, "grew", 200, growth(0, 190 << 20)) },
        ];
        let (seen, cgroups_seen, cgroups) = (3, 1, vec![group]);
        let who = MemoryUsage { seen, cgroups_seen, processes, cgroups, ..MemoryUsage::default() };
        let signals = BTreeMap::from([("full_share_10s".to_owned(), 0.125)]);
        let host = Summary { state: "degraded".to_owned(), weight: 0.35, signals };
        Top { host, seen_seconds_ago: 0.25, stall_clock_seconds: Some(1.0), who }
    }

    #[test]
    fn it_is_sorted_by_what_was_asked_for() {
        for (by, pids) in [
            (By::Memory, [1, 3]),
            (By::Minute, [2, 1]),
            (By::TenMinutes, [1, 2]),
            (By::Hour, [3, 2]),
            (By::Stall, [1, 2]),
        ] {
            let mut top = top();
            top.first(2, by);
            assert_eq!(top.who.processes.iter().map(|p| p.pid).collect::<Vec<_>>(), pids, "{by:?}");
        }
    }

    #[test]
    fn no_escape_sequence_reaches_a_terminal() {
        let text = top().tables();
        assert!(!text.contains('\u{1b}') && !text.contains('\u{7}'), "{text}");
        for part in ["\\u{1b}[31mleaks", "+50.0", "+190.0", "-1.0", "(id 2)", "1m 30s", "900.0"] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }

    #[test]
    fn what_is_said_is_understood() {
        let said = serde_json::to_string(&top()).expect("JSON");
        let understood: Top = serde_json::from_str(&said).expect("the same");
        assert_eq!(understood.who, top().who);
    }

    #[test]
    fn an_age_has_two_units() {
        for (seconds, text) in
            [(0, "0s"), (59, "59s"), (90, "1m 30s"), (3_661, "1h 1m"), (90_061, "1day 1h")]
        {
            assert_eq!(age(seconds), text);
        }
    }
}
