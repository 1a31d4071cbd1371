//! Parses the output of Rust's test harness: the numbers of passed and failed tests, and the
//! ignored tests with their reasons. Doc-tests have the same output. Pure. And the slowest tests of a
//! run that has one at a time, for which it gets the time of each line.

use std::time::Duration;

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

/// How long each test took, in a run of one test at a time. The harness prints no times itself.
#[derive(Debug, Default)]
pub(crate) struct TestTimes {
    /// The end of the last test.
    begun: Duration,
    took: Vec<(Duration, String)>,
    /// The test whose name was printed last, and the begin of a line without an end.
    test: Option<String>,
    rest: String,
}

impl TestTimes {
    /// Reads a part of the output that was printed at this time.
    pub(crate) fn read(&mut self, at: Duration, text: &str) {
        self.rest.push_str(text);
        while let Some(end) = self.rest.find('\n') {
            let line: String = self.rest.drain(..=end).collect();
            self.read_line(at, line.trim_end());
        }
    }

    fn read_line(&mut self, at: Duration, line: &str) {
        if line.starts_with("running ") {
            self.begun = at;
        }
        if let Some((name, _)) = line.strip_prefix("test ").and_then(|l| l.split_once(" ... ")) {
            self.test = Some(name.to_owned());
        }
        // Output of the test may be in between.
        if let (true, Some(name)) = (line.ends_with("ok") || line.ends_with("FAILED"), &self.test) {
            self.took.push((at.saturating_sub(self.begun), name.clone()));
            (self.begun, self.test) = (at, None);
        }
    }

    /// The slowest tests, as `34 s a::test, 12 s another`. None if no test took a second.
    pub(crate) fn slowest(&self, most: usize) -> Option<String> {
        let mut all: Vec<_> = self.took.iter().filter(|(took, _)| took.as_secs() > 0).collect();
        all.sort_by(|a, b| b.cmp(a));
        let list = all.iter().take(most).map(|(took, name)| format!("{} s {name}", took.as_secs()));
        let list = list.collect::<Vec<_>>().join(", ");
        (!list.is_empty()).then_some(list)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_tests_are_listed_first() {
        let mut times = TestTimes::default();
        let chunks = [
            (30, "   Compiling a\nrunning 3 tests\ntest a::quick ... "),
            (31, "ok\ntest a::slow ... measured: 5\n"),
            (50, "ok\ntest a::failed ... FAIL"),
            (52, "ED\n\ntest result: FAILED. 2 passed; 1 failed; finished in 22.0s\n"),
        ];
        for (seconds, text) in chunks {
            times.read(Duration::from_secs(seconds), text);
        }
        assert_eq!(times.slowest(2).as_deref(), Some("19 s a::slow, 2 s a::failed"));
        assert_eq!(times.slowest(9).map(|list| list.matches(" s ").count()), Some(3));
        assert_eq!(TestTimes::default().slowest(9), None);
    }

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
