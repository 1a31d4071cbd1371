//! The table of kernels and probes, from the output of guests. Pure.
//!
//! A guest writes one line per probe: `cell`, probe, state and detail, separated by tabs. A probe
//! without a line is an empty cell. An empty cell is a failure: no test covered the probe.

use std::fmt::Write as _;

use sensor_ebpf::probes;

/// The result for a probe in a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ProbeState {
    /// It counted the events that the test caused and that the kernel counted.
    Verified,
    /// It is attached, but the test could not cause its event in this guest.
    Attached,
    /// It is not attached, and cannot be on this kernel.
    Missing,
}

impl ProbeState {
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
struct Cell {
    probe: String,
    state: ProbeState,
    /// The compared counts, or the reason why there are none.
    detail: String,
}

/// One kernel, from one guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KernelColumn {
    heading: String,
    cells: Vec<Cell>,
}

impl KernelColumn {
    /// Parses the cells in a guest's output.
    pub(crate) fn parse(heading: String, output: &str) -> Self {
        let cells = output.lines().filter_map(|line| {
            let mut fields = line.strip_prefix("cell\t")?.split('\t');
            let (probe, state) = (fields.next()?.to_owned(), ProbeState::parse(fields.next()?)?);
            let detail = fields.next().unwrap_or_default().trim().to_owned();
            Some(Cell { probe, state, detail })
        });
        Self { heading, cells: cells.collect() }
    }

    fn cell(&self, probe: &str) -> Option<&Cell> {
        self.cells.iter().find(|cell| cell.probe == probe)
    }

    /// The probes without a cell.
    pub(crate) fn untested(&self) -> Vec<&'static str> {
        let names = probes::ALL.iter().map(|probe| probe.name);
        names.filter(|name| self.cell(name).is_none()).collect()
    }
}

/// The table as Markdown, for the terminal and the documents.
pub(crate) fn table(columns: &[KernelColumn]) -> String {
    let mut text = String::from("| probe |");
    for column in columns {
        let _ = write!(text, " {} |", column.heading);
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
                Some(Cell { state: ProbeState::Verified, .. }) => write!(text, " ✓ |"),
                Some(Cell { state, detail, .. }) => {
                    let attached = *state == ProbeState::Attached;
                    let word = if attached { "attached only" } else { "–" };
                    write!(text, " {word} <sup>{}</sup> |", note_number(&mut notes, detail))
                }
            };
        }
        text.push('\n');
    }
    text.push_str("\n✓: counted the events that the test caused and that the kernel counted.");
    for (i, note) in notes.iter().enumerate() {
        let _ = write!(text, " <sup>{}</sup> {note}.", i + 1);
    }
    text.push('\n');
    text
}

/// The number of a note below the table. Adds the note if it is new.
fn note_number(notes: &mut Vec<String>, note: &str) -> usize {
    let position = notes.iter().position(|known| known == note).unwrap_or_else(|| {
        notes.push(note.to_owned());
        notes.len() - 1
    });
    position + 1
}

/// The compared counts of each cell: the evidence for the table.
pub(crate) fn details(columns: &[KernelColumn]) -> String {
    let mut text = String::new();
    for column in columns {
        for Cell { probe, detail, .. } in &column.cells {
            let _ = writeln!(text, "{:<24} {probe:<20} {detail}", column.heading);
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
    fn cells_are_parsed_between_other_lines() {
        let column = KernelColumn::parse("5.10".into(), OUTPUT);
        assert_eq!(column.cells.len(), 3);
        assert_eq!(column.cell("kswapd").map(|cell| cell.state), Some(ProbeState::Verified));
        let untested = column.untested();
        assert!(untested.contains(&"oom_kill") && !untested.contains(&"throttle"));
    }

    #[test]
    fn empty_cells_are_marked_and_states_explained() {
        let columns = ["5.10", "6.1"].map(|name| KernelColumn::parse(name.into(), OUTPUT));
        let table = table(&columns);
        assert!(table.starts_with("| probe | 5.10 | 6.1 |\n|---|:-:|:-:|\n"), "{table}");
        assert!(table.contains("| kswapd | ✓ | ✓ |\n"), "{table}");
        assert!(table.contains("| throttle | – <sup>1</sup> | – <sup>1</sup> |\n"), "{table}");
        assert!(table.contains("| oom_kill | **EMPTY** | **EMPTY** |\n"), "{table}");
        assert!(table.contains("<sup>1</sup> this kernel has no tracepoint x."), "{table}");
    }
}
