//! Prints the results of the guests: failures, one line per guest, and the probe table.

use super::{
    guest::Guest,
    qemu::{GuestExit, GuestRun},
};
use crate::reports::{
    libtest::TestCounts,
    probe_table::{self, KernelColumn},
};

/// The result of a suite.
#[derive(Debug)]
pub(crate) struct SuiteResult {
    /// Whether all guests passed and tested all probes.
    pub(crate) passed: bool,
    /// The probe table as Markdown; None if no guest is a column of it.
    pub(crate) table: Option<String>,
    /// The sum over all guests.
    counts: TestCounts,
    guests: usize,
}

impl SuiteResult {
    /// Prints the number of tests.
    pub(crate) fn print_counts(&self) {
        let TestCounts { passed, failed, .. } = self.counts;
        println!("{passed} passed, {failed} failed on {} guests", self.guests);
    }
}

/// Prints the results and the probe table. A guest that leaves a probe untested is a failure.
pub(crate) fn print(guests: &[Guest], runs: &[GuestRun]) -> SuiteResult {
    let mut all_passed = true;
    let mut columns = Vec::new();
    let mut total = TestCounts::default();
    println!();
    for (guest, run) in guests.iter().zip(runs) {
        let name = guest.display_name();
        let counts = TestCounts::parse(&run.output);
        all_passed &= print_guest(&name, run, &counts);
        total.passed += counts.passed;
        total.failed += counts.failed;
        if guest.is_column {
            let column = KernelColumn::parse(guest.heading(), &run.output);
            let untested = column.untested();
            if !untested.is_empty() {
                all_passed = false;
                println!("{name}: no test covered {}", untested.join(", "));
            }
            columns.push(column);
        }
    }
    let table = (!columns.is_empty()).then(|| probe_table::table(&columns));
    if let Some(table) = &table {
        println!("\n{}\n{table}", probe_table::details(&columns));
    }
    SuiteResult { passed: all_passed, table, counts: total, guests: guests.len() }
}

/// Prints the result of one guest and returns whether it passed.
fn print_guest(name: &str, run: &GuestRun, counts: &TestCounts) -> bool {
    let exit = run.exit.describe();
    let TestCounts { passed, failed, .. } = *counts;
    let guest_passed = run.exit == GuestExit::Passed && failed == 0 && passed > 0;
    if !guest_passed {
        println!("== {name}: {exit} ==\n{}", excerpt(&run.output));
    }
    for skipped in run.output.lines().filter(|line| line.starts_with("skipped: ")) {
        println!("{name}: {skipped}");
    }
    let seconds = run.duration.as_secs();
    println!("{name:<44} {exit:<24} {passed:>4} passed {failed:>3} failed {seconds:>5} s");
    guest_passed
}

/// The output from the first failure on, or the last lines; without passed tests.
fn excerpt(output: &str) -> String {
    const MAX_LINES: usize = 150;
    const LAST_LINES: usize = 40;
    let lines: Vec<_> = output.lines().filter(|line| !line.ends_with("... ok")).collect();
    let first_failure = lines.iter().position(|line| *line == "failures:");
    let start = first_failure.unwrap_or(lines.len().saturating_sub(LAST_LINES));
    lines[start..].iter().take(MAX_LINES).copied().collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_starts_at_the_first_failure() {
        let output = "test a ... ok\ntest b ... FAILED\n\nfailures:\n\nb panicked\ntest c ... ok\n";
        assert_eq!(excerpt(output), "failures:\n\nb panicked");
    }

    #[test]
    fn an_excerpt_without_a_failure_has_the_last_lines() {
        let lines: Vec<_> = (0..60).map(|i| format!("line {i}")).collect();
        let excerpt = excerpt(&lines.join("\n"));
        assert!(excerpt.starts_with("line 20\n") && excerpt.ends_with("line 59"), "{excerpt}");
    }
}
