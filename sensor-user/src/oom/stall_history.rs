//! Stalls of the host over the last minute, for the report on a kill. Pure.

use std::collections::VecDeque;

use sensor_core::{model::oom_report::StallWindow, verdict::reading::Reading};

/// Readings of the last minute.
#[derive(Debug, Default)]
pub(super) struct StallHistory(VecDeque<Reading>);

/// Length of the window.
const WINDOW_NS: u64 = 60_000_000_000;

/// Shortest time between two readings that are kept.
const SPACING_NS: u64 = 1_000_000_000;

impl StallHistory {
    /// Adds a reading of the host.
    pub(super) fn add(&mut self, reading: &Reading) {
        let soon = |last: &Reading| reading.at_ns < last.at_ns.saturating_add(SPACING_NS);
        if self.0.back().is_some_and(soon) {
            return;
        }
        // One reading at or before the beginning of the window stays.
        let old = |r: &Reading| r.at_ns.saturating_add(WINDOW_NS) <= reading.at_ns;
        while self.0.get(1).is_some_and(old) {
            self.0.pop_front();
        }
        self.0.push_back(*reading);
    }

    /// Stalls in the minute before this reading; `None` without an earlier one.
    pub(super) fn window(&self, now: &Reading) -> Option<StallWindow> {
        let then = self.0.iter().rfind(|r| r.at_ns.saturating_add(WINDOW_NS) <= now.at_ns);
        let then = then.or(self.0.front()).filter(|then| then.at_ns < now.at_ns)?;
        let rose =
            |of: fn(&Reading) -> Option<u64>| Some(of(now)?.saturating_sub(of(then)?) as f64 / 1e9);
        Some(StallWindow {
            within_seconds: (now.at_ns - then.at_ns) as f64 / 1e9,
            some_seconds: rose(|r| r.some_ns),
            full_seconds: rose(|r| r.full_ns),
            stall_seconds: rose(|r| r.stall_ns),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_is_a_minute_or_as_long_as_known() {
        let mut history = StallHistory::default();
        let at = |seconds: u64| Reading {
            at_ns: seconds * 1_000_000_000,
            some_ns: Some(seconds * 500_000_000),
            ..Reading::default()
        };
        assert_eq!(history.window(&at(1)), None);
        for seconds in 1..=200 {
            history.add(&at(seconds));
            // Ten samples a second under pressure.
            history.add(&Reading { at_ns: at(seconds).at_ns + 1, ..Reading::default() });
        }
        assert!(history.0.len() <= 62, "{}", history.0.len());
        let window = history.window(&at(200)).expect("known");
        assert_eq!((window.within_seconds, window.some_seconds), (60.0, Some(30.0)));
        assert_eq!((window.full_seconds, window.stall_seconds), (None, None));
        let mut young = StallHistory::default();
        young.add(&at(5));
        assert_eq!(young.window(&at(15)).map(|w| w.within_seconds), Some(10.0));
    }
}
