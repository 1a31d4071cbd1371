//! Alerts as a person on call gets them: the shipped rules, in a hurry.
//!
//! A test has no quarter of an hour. [`hurried`] divides every duration of a rule file or of
//! Alertmanager's configuration by a factor; who scrapes and evaluates as many times faster meets the same
//! rules. What does not scale: thresholds (rates are per second in either case), the sensor's own windows of
//! one, ten and sixty seconds, and the time that a kill or a verdict takes. Not here: another copy of the rules.

use std::fmt::Write as _;

/// What stands before a duration in rules and in Alertmanager's configuration.
const BEFORE: [&str; 9] = [
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

/// The same file with every duration divided by `factor`.
pub fn hurried(text: &str, factor: u64) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let stands_here = BEFORE.iter().any(|before| out.ends_with(before));
        if stands_here && let Some((ms, length)) = duration(rest) {
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

/// A duration as Prometheus writes it (`90s`, `4h`, `1h30m`), in milliseconds, and how long it is.
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
    fn every_duration_is_divided_and_nothing_else() {
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
        assert_eq!(hurried(rules, 20), faster);
        assert_eq!(
            hurried("group_wait: 30s, group_interval: 5m", 20),
            "group_wait: 1500ms, group_interval: 15000ms"
        );
    }

    #[test]
    fn what_is_no_duration_is_left_alone() {
        for text in ["for: ever", "[5]", "offset x", "for: 5x", "[m]", "for: 0s", "é [", "a:5b"] {
            assert_eq!(hurried(text, 20), text);
        }
    }
}
