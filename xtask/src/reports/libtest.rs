//! Parses the output of Rust's test harness: the numbers of passed and failed tests, and the
//! ignored tests with their reasons. Doc-tests have the same output. Pure.

/// The results of any number of test binaries.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct TestCounts {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    /// Name and reason of each ignored test.
    pub(crate) ignored: Vec<(String, String)>,
}

impl TestCounts {
    /// Parses the whole output of a `cargo test`.
    pub(crate) fn parse(output: &str) -> Self {
        let mut counts = Self::default();
        for line in output.lines() {
            if let Some(summary) = line.strip_prefix("test result: ") {
                counts.passed += count(summary, " passed");
                counts.failed += count(summary, " failed");
            } else if let Some((name, reason)) = ignored(line) {
                counts.ignored.push((name.to_owned(), reason.to_owned()));
            }
        }
        counts
    }

    /// The number of tests that ran.
    pub(crate) fn ran(&self) -> u64 {
        self.passed + self.failed
    }
}

fn count(summary: &str, suffix: &str) -> u64 {
    let number = summary.split([';', '.']).find_map(|part| part.strip_suffix(suffix));
    number.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
}

fn ignored(line: &str) -> Option<(&str, &str)> {
    let (name, rest) = line.strip_prefix("test ")?.split_once(" ... ignored")?;
    match rest.strip_prefix(", ") {
        Some(reason) => Some((name, reason)),
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
    fn counts_are_summed_over_binaries() {
        let counts = TestCounts::parse(OUTPUT);
        assert_eq!((counts.passed, counts.failed, counts.ran()), (15, 2, 17));
    }

    #[test]
    fn an_ignored_test_has_a_reason() {
        let ignored = TestCounts::parse(OUTPUT).ignored;
        assert_eq!(ignored[0], ("swap::fills".into(), "needs a swap device".into()));
        assert_eq!(ignored[1], ("swap::drains".into(), "ignored without a reason".into()));
        assert_eq!(ignored.len(), 2);
    }

    #[test]
    fn an_aborted_run_has_no_counts() {
        assert_eq!(TestCounts::parse("running 1 test\ntest a ... "), TestCounts::default());
    }
}
