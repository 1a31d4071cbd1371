//! The table of kernels and probes, from what the guests said of each probe. Pure.
//!
//! A guest writes a line per probe: `cell`, probe, state, detail, separated by tabs. A probe without
//! a line is an empty cell, and an empty cell is a failure: nobody looked.

use std::fmt::Write as _;

use sensor_ebpf::probes;

/// What a guest found of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// It counted what the test planted and the kernel counted.
    Verified,
    /// It is attached; nothing in the guest could make its event happen.
    Attached,
    /// Not attached, and rightly so.
    Missing,
}

impl State {
    fn parse(word: &str) -> Option<Self> {
        match word {
            "verified" => Some(Self::Verified),
            "attached" => Some(Self::Attached),
            "missing" => Some(Self::Missing),
            _ => None,
        }
    }
}

/// One probe on one kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cell {
    probe: String,
    state: State,
    /// What was compared, or why not.
    detail: String,
}

/// A kernel, as one guest found it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Column {
    /// Heading.
    pub(crate) name: String,
    pub(crate) cells: Vec<Cell>,
}

impl Column {
    /// Reads the cells out of what a guest wrote.
    pub(crate) fn read(name: String, output: &str) -> Self {
        let cells = output.lines().filter_map(|line| {
            let mut words = line.strip_prefix("cell\t")?.split('\t');
            let (probe, state) = (words.next()?.to_owned(), State::parse(words.next()?)?);
            Some(Cell { probe, state, detail: words.next().unwrap_or_default().trim().to_owned() })
        });
        Self { name, cells: cells.collect() }
    }

    fn cell(&self, probe: &str) -> Option<&Cell> {
        self.cells.iter().find(|c| c.probe == probe)
    }

    /// Probes that nobody looked at.
    pub(crate) fn empty(&self) -> Vec<&'static str> {
        probes::ALL.iter().map(|p| p.name).filter(|name| self.cell(name).is_none()).collect()
    }
}

/// The table for a terminal and the README: Markdown.
pub(crate) fn table(columns: &[Column]) -> String {
    let mut text = String::from("| probe |");
    for column in columns {
        let _ = write!(text, " {} |", column.name);
    }
    text.push_str("\n|---|");
    text.push_str(&":-:|".repeat(columns.len()));
    text.push('\n');
    let mut notes: Vec<String> = Vec::new();
    for probe in probes::ALL {
        let _ = write!(text, "| {} |", probe.name);
        for column in columns {
            let _ = match column.cell(probe.name) {
                None => write!(text, " **EMPTY** |"),
                Some(Cell { state: State::Verified, .. }) => write!(text, " ✓ |"),
                Some(Cell { state, detail, .. }) => {
                    let word = if *state == State::Attached { "attached only" } else { "–" };
                    let note = notes.iter().position(|n| n == detail).unwrap_or_else(|| {
                        notes.push(detail.clone());
                        notes.len() - 1
                    });
                    write!(text, " {word} <sup>{}</sup> |", note + 1)
                }
            };
        }
        text.push('\n');
    }
    text.push_str("\n✓: counted what the test planted and the kernel itself counted.");
    for (i, note) in notes.iter().enumerate() {
        let _ = write!(text, " <sup>{}</sup> {note}.", i + 1);
    }
    text.push('\n');
    text
}

/// What was compared, for each cell: the evidence behind the table.
pub(crate) fn details(columns: &[Column]) -> String {
    let mut text = String::new();
    for column in columns {
        for Cell { probe, detail, .. } in &column.cells {
            let _ = writeln!(text, "{:<24} {probe:<20} {detail}", column.name);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
test probes::kswapd ... ok
cell\tkswapd\tverified\t12 wake-ups
cell\tthrottle\tmissing\tthis kernel has no tracepoint x
cell\tcompaction\tattached\tnothing to compact
cell\tnonsense
";

    #[test]
    fn cells_are_found_between_other_lines() {
        let column = Column::read("5.10".into(), OUTPUT);
        assert_eq!(column.cells.len(), 3);
        assert_eq!(column.cell("kswapd").map(|c| c.state), Some(State::Verified));
        assert!(column.empty().contains(&"oom_kill") && !column.empty().contains(&"throttle"));
    }

    #[test]
    fn a_hole_is_seen_and_explained() {
        let columns = ["5.10", "6.1"].map(|name| Column::read(name.into(), OUTPUT));
        let table = table(&columns);
        assert!(table.starts_with("| probe | 5.10 | 6.1 |\n|---|:-:|:-:|\n"), "{table}");
        assert!(table.contains("| kswapd | ✓ | ✓ |\n"), "{table}");
        assert!(table.contains("| throttle | – <sup>1</sup> | – <sup>1</sup> |\n"), "{table}");
        assert!(table.contains("| oom_kill | **EMPTY** | **EMPTY** |\n"), "{table}");
        assert!(table.contains("<sup>1</sup> this kernel has no tracepoint x."), "{table}");
    }
}
