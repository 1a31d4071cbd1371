//! The shipped rules with shorter durations, for tests that cannot run for an hour.
//!
//! [`accelerate`] divides every duration in a rule file or in Alertmanager's configuration by a
//! factor. With scrape and evaluation intervals divided by the same factor the rules behave the
//! same. Not scaled: thresholds (rates are per second), the sensor's own windows of 1, 10 and 60
//! seconds, and the time that a kill or a verdict takes.

use std::fmt::Write as _;

/// The text before a duration in rules and in Alertmanager's configuration.
const PREFIXES: [&str; 9] = [
    "for: ",
    "keep_firing_for: ",
    "interval: ",
    "group_wait: ",
    "group_interval: ",
    "repeat_interval: ",
    "offset ",
    // A range, and the step of a subquery.
    "[",
    ":",
];

/// The file with every duration divided by `factor`.
pub fn accelerate(text: &str, factor: u64) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let has_prefix = PREFIXES.iter().any(|prefix| out.ends_with(prefix));
        if has_prefix && let Some((ms, length)) = duration(rest) {
            // Writing to a String cannot fail.
            let _ = write!(out, "{}ms", ms / factor);
            rest = &rest[length..];
        } else {
            out.push(c);
            rest = &rest[c.len_utf8()..];
        }
    }
    out
}

/// A duration in the format of Prometheus (`90s`, `4h`, `1h30m`): milliseconds, and the length of
/// its text.
fn duration(text: &str) -> Option<(u64, usize)> {
    let end = text.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(text.len());
    let (mut word, mut ms) = (&text[..end], 0);
    while !word.is_empty() {
        let digits = word.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = word[..digits].parse().ok()?;
        word = &word[digits..];
        let unit = word.find(|c: char| c.is_ascii_digit()).unwrap_or(word.len());
        ms += number
            * match &word[..unit] {
                "ms" => 1,
                "s" => 1000,
                "m" => 60_000,
                "h" => 3_600_000,
                "d" => 86_400_000,
                _ => return None,
            };
        word = &word[unit..];
    }
    (ms > 0).then_some((ms, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_duration_is_divided() {
        let rules = "\
# for: an hour, (5m)
- name: memsensor-1m
  interval: 1m
- record: instance:memsensor:stall_rate5m
  expr: rate(x_5m{job=~\"a:b\",for=\"5m\"}[5m] offset 1h30m) > 300 and max_over_time(y[30m:5m]) == 1
  for: 4h
  keep_firing_for: 30m
  summary: \"for 5m\"
  url: http://127.0.0.1:9095/page
";
        let faster = rules
            .replace("interval: 1m", "interval: 3000ms")
            .replace("[5m] offset 1h30m", "[15000ms] offset 270000ms")
            .replace("[30m:5m]", "[90000ms:15000ms]")
            .replace("for: 4h", "for: 720000ms")
            .replace("keep_firing_for: 30m", "keep_firing_for: 90000ms");
        assert_eq!(accelerate(rules, 20), faster);
        assert_eq!(
            accelerate("group_wait: 30s, group_interval: 5m", 20),
            "group_wait: 1500ms, group_interval: 15000ms"
        );
    }

    #[test]
    fn other_text_is_not_changed() {
        for text in ["for: ever", "[5]", "offset x", "for: 5x", "[m]", "for: 0s", "é [", "a:5b"] {
            assert_eq!(accelerate(text, 20), text);
        }
    }
}
