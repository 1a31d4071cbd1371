//! Orders of processes and cgroups.

use std::{cmp::Reverse, collections::BTreeMap};

use sensor_core::model::memory_usage::{CgroupUsage, Growth, ProcessUsage};

use crate::serve::admin_protocol::Top;

/// The sort key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum By {
    /// Own memory
    Memory,
    /// Growth in the last minute
    Minute,
    /// Growth in the last ten minutes
    TenMinutes,
    /// Growth in the last hour
    Hour,
    /// Time stalled since the daemon started; processes by their cgroup
    Stall,
}

impl By {
    /// Name in the head of the screen.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Memory => "own memory",
            Self::Minute => "growth in a minute",
            Self::TenMinutes => "growth in ten minutes",
            Self::Hour => "growth in an hour",
            Self::Stall => "stalled tasks of the cgroup",
        }
    }

    fn key(self, own_bytes: u64, growth: Growth) -> i64 {
        match self {
            Self::Stall => 0,
            Self::Memory => i64::try_from(own_bytes).unwrap_or(i64::MAX),
            Self::Minute => growth.minute_bytes,
            Self::TenMinutes => growth.ten_minutes_bytes,
            Self::Hour => growth.hour_bytes,
        }
    }
}

/// Sorts processes and cgroups, the largest key first.
pub(super) fn sort(top: &mut Top, by: By) {
    let (processes, cgroups) = (&mut top.usage.processes, &mut top.usage.cgroups);
    if by == By::Stall {
        let stalled: BTreeMap<_, _> = cgroups.iter().map(|c| (c.cgroup, c.stall_seconds)).collect();
        let stall = |cgroup: u64| stalled.get(&cgroup).copied().unwrap_or(0.0);
        cgroups.sort_by(|a, b| stall(b.cgroup).total_cmp(&stall(a.cgroup)));
        processes.sort_by(|a, b| stall(b.cgroup).total_cmp(&stall(a.cgroup)));
        return;
    }
    processes.sort_by_key(|p| Reverse(by.key(p.own_bytes, p.growth)));
    cgroups.sort_by_key(|c| Reverse(by.key(c.own_bytes, c.growth)));
}

/// Keeps the first `count` processes and cgroups, and fills in their unit, container and pod.
pub fn keep_first(top: &mut Top, count: usize, by: By) {
    sort(top, by);
    top.usage.processes.truncate(count);
    top.usage.cgroups.truncate(count);
    top.usage.processes.iter_mut().for_each(ProcessUsage::fill_workload);
    top.usage.cgroups.iter_mut().for_each(CgroupUsage::fill_workload);
}

#[cfg(test)]
pub(super) mod tests {
    use sensor_core::model::{memory_usage::MemoryUsage, workload::WorkloadId};

    use super::*;
    use crate::serve::admin_protocol::HostSummary;

    pub(in crate::cli::top) fn top() -> Top {
        let growth =
            |minute_bytes, hour_bytes| Growth { minute_bytes, ten_minutes_bytes: 0, hour_bytes };
        let process = |pid, comm: &str, own_mib: u64, growth| ProcessUsage {
            pid,
            comm: comm.to_owned(),
            cgroup: u64::from(pid),
            age_seconds: 90,
            own_bytes: own_mib << 20,
            growth,
            ..ProcessUsage::default()
        };
        let cgroup = CgroupUsage {
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
            process(1, "large", 900, growth(0, 0)),
            process(2, "\u{1b}[31mleaks", 100, growth(50 << 20, 60 << 20)),
            ProcessUsage { is_new: true, ..process(3, "grew", 200, growth(0, 190 << 20)) },
        ];
        let (seen, cgroups_seen, cgroups) = (3, 1, vec![cgroup]);
        let usage =
            MemoryUsage { seen, cgroups_seen, processes, cgroups, ..MemoryUsage::default() };
        let signals = BTreeMap::from([("full_share_10s".to_owned(), 0.125)]);
        let host = HostSummary { state: "degraded".to_owned(), weight: 0.35, signals };
        Top { host, seen_seconds_ago: 0.25, stall_clock_seconds: Some(1.0), usage }
    }

    #[test]
    fn each_key_has_its_order() {
        for (by, expected) in [
            (By::Memory, [1, 3]),
            (By::Minute, [2, 1]),
            (By::TenMinutes, [1, 2]),
            (By::Hour, [3, 2]),
            (By::Stall, [1, 2]),
        ] {
            let mut top = top();
            keep_first(&mut top, 2, by);
            let pids: Vec<_> = top.usage.processes.iter().map(|p| p.pid).collect();
            assert_eq!(pids, expected, "{by:?}");
        }
    }

    #[test]
    fn an_answer_round_trips_through_json() {
        let json = serde_json::to_string(&top()).expect("JSON");
        let parsed: Top = serde_json::from_str(&json).expect("the same");
        assert_eq!(parsed, top());
    }
}
