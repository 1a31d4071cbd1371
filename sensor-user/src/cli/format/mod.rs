//! Sizes, ages, places and tables for a terminal, and [`event`]s. Names in them are escaped.

pub mod event;

use std::time::Duration;

use comfy_table::{CellAlignment, Table};
use sensor_core::model::memory_usage::Growth;

/// Bytes as MiB, with one digit after the point.
pub fn mib(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / 1024.0 / 1024.0)
}

/// Growth over a minute, ten minutes and an hour as MiB with a sign; empty where there is none.
pub fn growth_mib(growth: Growth) -> [String; 3] {
    let Growth { minute_bytes, ten_minutes_bytes, hour_bytes } = growth;
    [minute_bytes, ten_minutes_bytes, hour_bytes].map(|bytes| match bytes {
        0 => String::new(),
        bytes => format!("{:+.1}", bytes as f64 / 1024.0 / 1024.0),
    })
}

/// Seconds as a duration of at most two units.
pub fn age(seconds: u32) -> String {
    let units = [(86_400, 3600), (3600, 60)];
    let unit = units.iter().find(|(from, _)| seconds >= *from).map_or(1, |(_, unit)| *unit);
    let rounded = Duration::from_secs((seconds / unit * unit).into());
    let text = humantime::format_duration(rounded).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// A cgroup by its path, or by its id if the path is not known.
pub fn cgroup(id: u64, path: Option<&str>) -> String {
    path.map_or_else(|| format!("(id {id})"), |path| path.escape_debug().to_string())
}

/// A table whose first `numbers` columns are aligned to the right.
pub fn table(preset: &str, header: &[&str], numbers: usize) -> Table {
    let mut table = Table::new();
    table.load_preset(preset).set_header(header);
    for column in table.column_iter_mut().take(numbers) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_has_two_units() {
        for (seconds, text) in
            [(0, "0s"), (59, "59s"), (90, "1m 30s"), (3_661, "1h 1m"), (90_061, "1day 1h")]
        {
            assert_eq!(age(seconds), text);
        }
    }

    #[test]
    fn a_cgroup_is_escaped() {
        assert_eq!(cgroup(7, Some("/\u{1b}[2J")), "/\\u{1b}[2J");
        assert_eq!(cgroup(7, None), "(id 7)");
    }
}
