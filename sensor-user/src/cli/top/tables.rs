//! `memsensor top --once`: two tables.

use comfy_table::{ContentArrangement, Table, presets::UTF8_FULL_CONDENSED};
use sensor_core::model::memory_usage::{CgroupUsage, ProcessUsage};

use crate::{
    cli::format::{self, age, growth_mib, mib},
    serve::admin_protocol::Top,
};

/// Cgroups, then processes.
pub fn text(top: &Top) -> String {
    let Top { seen_seconds_ago, usage, .. } = top;
    let source = if usage.usage_from_proc { ", read from /proc" } else { "" };
    let calm = usage.calm_seconds_ago.map_or_else(String::new, |ago| {
        format!("; the host was last calm {} ago, * marks processes started since", age(ago))
    });
    format!(
        "{} processes in {} cgroups, {seen_seconds_ago:.1} s ago{source}{calm}. Own memory is \
         anonymous and shared memory, in memory or in swap; 1 min, 10 min, 1 h: growth in that \
         time.\n{}\n{}\n",
        usage.seen,
        usage.cgroups_seen,
        cgroups(&usage.cgroups),
        processes(&usage.processes),
    )
}

fn table(header: &[&str], numbers: usize) -> Table {
    let mut table = format::table(UTF8_FULL_CONDENSED, header, numbers);
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table
}

fn cgroups(cgroups: &[CgroupUsage]) -> Table {
    let header = ["own MiB", "swap", "1 min", "10 min", "1 h", "stalled s", "processes", "cgroup"];
    let mut table = table(&header, 7);
    for cgroup in cgroups {
        let [minute, ten, hour] = growth_mib(cgroup.growth);
        table.add_row([
            mib(cgroup.own_bytes),
            mib(cgroup.swap_bytes),
            minute,
            ten,
            hour,
            format!("{:.2}", cgroup.stall_seconds),
            cgroup.processes.to_string(),
            format::cgroup(cgroup.cgroup, cgroup.cgroup_path.as_deref()),
        ]);
    }
    table
}

fn processes(processes: &[ProcessUsage]) -> Table {
    let header = [
        "own MiB", "swap", "file", "1 min", "10 min", "1 h", "pid", "age", "adj", "name", "cgroup",
    ];
    let mut table = table(&header, 9);
    for process in processes {
        table.add_row(process_cells(process));
    }
    table
}

/// Nine numbers, the name and the cgroup of a process.
pub(super) fn process_cells(process: &ProcessUsage) -> [String; 11] {
    let [minute, ten, hour] = growth_mib(process.growth);
    [
        mib(process.own_bytes),
        mib(process.swap_bytes),
        mib(process.file_bytes),
        minute,
        ten,
        hour,
        process.pid.to_string(),
        age(process.age_seconds),
        process.oom_score_adj.to_string(),
        format!("{}{}", if process.is_new { "*" } else { "" }, process.comm.escape_debug()),
        format::cgroup(process.cgroup, process.cgroup_path.as_deref()),
    ]
}

#[cfg(test)]
mod tests {
    use super::{super::sort::tests::top, *};

    #[test]
    fn no_escape_sequence_reaches_a_terminal() {
        let text = text(&top());
        assert!(!text.contains('\u{1b}') && !text.contains('\u{7}'), "{text}");
        for part in ["\\u{1b}[31mleaks", "+50.0", "+190.0", "-1.0", "(id 2)", "1m 30s", "900.0"] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }
}
