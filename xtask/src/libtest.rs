//! Reads what Rust's test harness prints: how many tests passed, failed, and were ignored and why.
//! Pure; doc-tests print the same.

/// Counts over any number of test binaries.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    /// Name of each ignored test, and why it is.
    pub(crate) ignored: Vec<(String, String)>,
}

impl Tally {
    /// Of everything that a `cargo test` printed.
    pub(crate) fn read(output: &str) -> Self {
        let mut tally = Self::default();
        for line in output.lines() {
            if let Some(counts) = line.strip_prefix("test result: ") {
                tally.passed += count(counts, " passed");
                tally.failed += count(counts, " failed");
            } else if let Some((name, why)) = ignored(line) {
                tally.ignored.push((name.to_owned(), why.to_owned()));
            }
        }
        tally
    }

    /// Tests that ran.
    pub(crate) fn ran(&self) -> u64 {
        self.passed + self.failed
    }
}

fn count(counts: &str, word: &str) -> u64 {
    let number = counts.split([';', '.']).find_map(|part| part.strip_suffix(word));
    number.and_then(|n| n.trim().parse().ok()).unwrap_or(0)
}

fn ignored(line: &str) -> Option<(&str, &str)> {
    let (name, rest) = line.strip_prefix("test ")?.split_once(" ... ignored")?;
    match rest.strip_prefix(", ") {
        Some(why) => Some((name, why)),
        None => rest.is_empty().then_some((name, "ignored without a reason")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "
running 3 tests
test hist::tests::a_bucket_holds_its_bound ... ok
test swap::fills ... ignored, needs a swap device
test swap::drains ... ignored

test result: ok. 1 passed; 0 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.00s

     Running tests/kernel.rs
running 12 tests
test verifier ... FAILED

test result: FAILED. 10 passed; 2 failed; 0 ignored; 0 measured; 3 filtered out; finished in 1.20s

   Doc-tests sensor_ebpf

test result: ok. 4 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.10s
";

    #[test]
    fn counts_add_up_over_binaries() {
        let tally = Tally::read(OUTPUT);
        assert_eq!((tally.passed, tally.failed, tally.ran()), (15, 2, 17));
    }

    #[test]
    fn an_ignored_test_says_why() {
        let ignored = Tally::read(OUTPUT).ignored;
        assert_eq!(ignored[0], ("swap::fills".into(), "needs a swap device".into()));
        assert_eq!(ignored[1], ("swap::drains".into(), "ignored without a reason".into()));
        assert_eq!(ignored.len(), 2);
    }

    #[test]
    fn a_run_that_died_counts_nothing() {
        assert_eq!(Tally::read("running 1 test\ntest a ... "), Tally::default());
    }
}
