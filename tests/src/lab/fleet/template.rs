//! The exposition of one real memsensor as a pattern for other hosts: every series, with a value
//! that changes as the kernel's would. Series of this machine's cgroups are left out;
//! [`cgroups`](super::cgroups) writes those of the fleet.

use std::fmt::Write as _;

use anyhow::{Context as _, Result, ensure};

use super::{
    cgroups,
    format::Format,
    timeline::{self, Moment, State},
};

/// How a series changes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Motion {
    /// It does not.
    Fixed,
    /// The Unix time.
    Clock,
    /// A rate per second when calm and in a shortage, in steps.
    Rate { calm: f64, shortage: f64, step: f64 },
    /// Around this share of the template's value, when calm and in a shortage.
    Level { calm: f64, shortage: f64 },
    /// This share of the number of stalls.
    Stalls(f64),
    /// 1 in this state.
    In(State),
    /// 1, 0.5 or 0.
    Weight,
    /// 1 unless it is overloaded.
    Ready,
    /// 1 in a shortage.
    Reason,
    /// How many shortages began, or ended.
    Shortages(usize),
    /// OOM kills.
    Kills,
}

/// Counters that change: rate per second when calm, in a shortage, and the step. The rates are
/// those of a small server; other counters stay constant.
const RATES: &[(&str, f64, f64, f64)] = &[
    ("memsensor_memory_some_seconds_total", 4e-5, 0.4, 1e-6),
    ("memsensor_memory_full_seconds_total", 1e-5, 0.2, 1e-6),
    ("memsensor_io_full_seconds_total", 1e-3, 0.3, 1e-6),
    ("memsensor_refaulted_bytes_total", 600.0, 3e7, 4096.0),
    ("memsensor_swapped_in_bytes_total", 30.0, 4e6, 4096.0),
    ("memsensor_swapped_out_bytes_total", 30.0, 5e6, 4096.0),
    ("memsensor_stall_seconds_total{cause=\"direct_reclaim\"}", 1e-6, 0.4, 1e-6),
    ("memsensor_stall_seconds_total{cause=\"memcg_reclaim\"}", 0.0, 0.3, 1e-6),
    ("memsensor_stall_seconds_total{cause=\"throttle\"}", 0.0, 0.1, 1e-6),
    ("memsensor_stall_seconds_total{cause=\"compaction\"}", 1e-6, 0.02, 1e-6),
    ("memsensor_reclaim_scanned_pages_total{by=\"kswapd\",lru=\"file\"}", 4.0, 2e4, 256.0),
    ("memsensor_reclaim_stolen_pages_total{by=\"kswapd\",lru=\"file\"}", 3.9, 1e4, 256.0),
    ("memsensor_reclaim_scanned_pages_total{by=\"direct\"", 0.01, 9e3, 32.0),
    ("memsensor_reclaim_stolen_pages_total{by=\"direct\"", 0.01, 2e3, 32.0),
    ("memsensor_direct_reclaim_pages_total", 0.02, 4e3, 32.0),
    ("memsensor_memcg_reclaim_pages_total", 0.0, 1e3, 32.0),
    ("memsensor_kswapd_wakeups_total", 0.003, 1.0, 1.0),
    ("memsensor_kswapd_active_seconds_total", 1e-5, 0.3, 1e-6),
    ("memsensor_compaction_results_total{result=\"success\"}", 0.002, 1.0, 1.0),
    ("memsensor_alloc_retries_total", 0.0, 10.0, 1.0),
    ("memsensor_cgroups_created_total", 0.01, 0.01, 1.0),
    ("memsensor_cgroups_removed_total", 0.01, 0.01, 1.0),
    ("memsensor_kill_signals_total{sender=\"other\"}", 0.004, 0.004, 1.0),
    ("memsensor_reclaim_throttle_seconds_total{reason=\"noprogress\"}", 0.0, 0.1, 1e-6),
    ("process_cpu_seconds_total", 0.01, 0.02, 0.01),
];

/// Gauges that change: their share of the template's value when calm and in a shortage.
const LEVELS: &[(&str, f64, f64)] = &[
    ("memsensor_memory_available_bytes", 0.6, 0.03),
    ("memsensor_memory_unused_bytes", 0.3, 0.01),
    ("memsensor_above_low_watermark_bytes", 0.3, -0.002),
    ("memsensor_reclaim_priority_min", 1.0, 0.3),
    ("process_resident_memory_bytes", 1.0, 1.0),
    ("memsensor_deadline_overrun_max_seconds", 1.0, 1.0),
];

/// A line of the exposition.
#[derive(Debug)]
enum Line {
    /// Written as it is.
    Comment(String),
    Series {
        name: String,
        base: f64,
        whole: bool,
        motion: Motion,
    },
}

/// The exposition of one host, as a pattern.
#[derive(Debug)]
pub struct Template {
    format: Format,
    lines: Vec<Line>,
}

impl Template {
    /// Parses a daemon's exposition in this format.
    pub fn parse(format: Format, text: &str) -> Result<Self> {
        let mut lines = Vec::new();
        for line in text.lines().filter(|line| !of_cgroups(line) && *line != "# EOF") {
            if line.starts_with('#') {
                lines.push(Line::Comment(line.to_owned()));
                continue;
            }
            let parts = line.rsplit_once(' ').with_context(|| format!("no value: {line}"))?;
            let base = parts.1.parse().with_context(|| format!("no number: {line}"))?;
            let whole = !parts.1.contains('.');
            let name = parts.0.to_owned();
            lines.push(Line::Series { motion: Motion::Fixed, name, base, whole });
        }
        let template = Self { format, lines: set_in_motion(lines) };
        ensure!(template.series() > 100, "not an exposition of memsensor: {text}");
        Ok(template)
    }

    /// Number of series of a host without those of its cgroups.
    pub fn series(&self) -> usize {
        self.lines.iter().filter(|line| matches!(line, Line::Series { .. })).count()
    }

    /// The exposition of a host at one time, with so many cgroups.
    pub fn render(&self, moment: &Moment, cgroups: u32) -> String {
        let mut text = String::with_capacity(32 << 10);
        for line in &self.lines {
            match line {
                Line::Comment(comment) => text.push_str(comment),
                Line::Series { name, base, whole, motion } => {
                    let value = motion.value(*base, moment);
                    let _ = if *whole {
                        write!(text, "{name} {}", timeline::whole(value))
                    } else {
                        write!(text, "{name} {value:?}")
                    };
                }
            }
            text.push('\n');
        }
        cgroups::write(&mut text, self.format, moment, cgroups);
        if moment.state != State::Ready {
            let name = "memsensor_exhaustion_seconds";
            self.format.head(&mut text, name, "gauge", "Until memory and swap are gone");
            let seconds = 40.0 + moment.seconds % 20.0;
            let _ = writeln!(text, "{name}{{scope=\"host\"}} {seconds:?}");
        }
        if self.format == Format::OpenMetrics {
            text.push_str("# EOF\n");
        }
        text
    }
}

/// Whether [`cgroups::write`] writes the series of this line.
fn of_cgroups(line: &str) -> bool {
    let name = line.trim_start_matches("# ").trim_start_matches("HELP ");
    let name = name.trim_start_matches("TYPE ").trim_start_matches("UNIT ");
    ["memsensor_cgroup_", "memsensor_cgroup ", "memsensor_process_growth", "memsensor_exhaustion"]
        .iter()
        .any(|start| name.starts_with(start))
}

/// Sets how each series changes; buckets by their position in the histogram.
fn set_in_motion(mut lines: Vec<Line>) -> Vec<Line> {
    let buckets = |lines: &[Line], family: &str| {
        let start = format!("{family}_bucket{{");
        let is = |l: &&Line| matches!(l, Line::Series { name, .. } if name.starts_with(&start));
        lines.iter().filter(is).count()
    };
    let mut place = 0;
    for i in 0..lines.len() {
        let Line::Series { name, .. } = &lines[i] else {
            place = 0;
            continue;
        };
        let made = match name.split_once("_bucket{") {
            Some((family, _)) => {
                place += 1;
                let share = f64::from(place) / buckets(&lines, family) as f64;
                if has_stalls(family) { Motion::Stalls(share * share) } else { Motion::Fixed }
            }
            None => Motion::of(name),
        };
        if let Line::Series { motion, .. } = &mut lines[i] {
            *motion = made;
        }
    }
    lines
}

/// Whether hosts of a fleet have stalls of this family.
fn has_stalls(family: &str) -> bool {
    ["memsensor_direct_reclaim_seconds", "memsensor_memcg_reclaim_seconds"].contains(&family)
}

impl Motion {
    fn of(name: &str) -> Self {
        let has = |label: &str| name.contains(label);
        if let Some(row) = RATES.iter().find(|row| name.starts_with(row.0)) {
            return Self::Rate { calm: row.1, shortage: row.2, step: row.3 };
        }
        if let Some(row) = LEVELS.iter().find(|row| name.starts_with(row.0)) {
            return Self::Level { calm: row.1, shortage: row.2 };
        }
        if name.strip_suffix("_count").is_some_and(has_stalls) {
            return Self::Stalls(1.0);
        }
        if name.strip_suffix("_sum").is_some_and(has_stalls) {
            return Self::Stalls(0.003);
        }
        let states = [State::Ready, State::Degraded, State::Overloaded];
        let in_state = |s: &State| has(&format!("state=\"{}\"", s.label()));
        match name.split('{').next().unwrap_or(name) {
            "memsensor_last_sample_timestamp_seconds" => Self::Clock,
            "memsensor_state" => states.into_iter().find(in_state).map_or(Self::Fixed, Self::In),
            "memsensor_weight_ratio" => Self::Weight,
            "memsensor_ready" => Self::Ready,
            "memsensor_verdict_reason" if has("\"thrashing\"") => Self::Reason,
            "memsensor_oom_kills_total" if has("\"memcg\"") => Self::Kills,
            "memsensor_state_transitions_total" if has("from=\"ready\",to=\"degraded\"") => {
                Self::Shortages(0)
            }
            "memsensor_state_transitions_total" if has("from=\"degraded\",to=\"ready\"") => {
                Self::Shortages(1)
            }
            _ => Self::Fixed,
        }
    }

    fn value(self, base: f64, m: &Moment) -> f64 {
        let is = |holds: bool| f64::from(u8::from(holds));
        let in_shortage = m.state != State::Ready;
        match self {
            Self::Fixed => base,
            Self::Clock => m.unix,
            Self::Rate { calm, shortage, step } => {
                let calm = calm * (0.5 + m.character) * m.uptime;
                ((calm + shortage * m.shortage_seconds) / step).floor() * step
            }
            Self::Level { calm, shortage } => {
                let wave = (m.seconds / 97.0 + m.character * 6.0).sin() * 0.01;
                base * if in_shortage { shortage } else { calm * (0.8 + 0.2 * m.character + wave) }
            }
            Self::Stalls(share) => {
                let stalls = (0.001 * m.character * m.uptime + 20.0 * m.shortage_seconds).floor();
                if share < 0.01 { stalls * share } else { (stalls * share).floor() }
            }
            Self::In(state) => is(m.state == state),
            Self::Weight => match m.state {
                State::Ready => 1.0,
                State::Degraded => 0.5,
                State::Overloaded => 0.0,
            },
            Self::Ready => is(m.state != State::Overloaded),
            Self::Reason => is(in_shortage),
            Self::Shortages(which) => f64::from(m.shortages[which]),
            Self::Kills => f64::from(m.kills),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{lab::fleet::timeline::moment, support::daemon::parse};

    /// A few families as a daemon exports them, and enough lines to be accepted.
    fn exposition() -> String {
        let mut text = String::from(
            "# TYPE memsensor_direct_reclaim_seconds histogram\n\
             memsensor_direct_reclaim_seconds_sum 0.0\n\
             memsensor_direct_reclaim_seconds_count 0\n\
             memsensor_direct_reclaim_seconds_bucket{le=\"1.0\"} 0\n\
             memsensor_direct_reclaim_seconds_bucket{le=\"4.0\"} 0\n\
             memsensor_direct_reclaim_seconds_bucket{le=\"+Inf\"} 0\n\
             # TYPE memsensor_cgroup_memory_bytes gauge\n\
             memsensor_cgroup_memory_bytes{cgroup=\"/of this machine\"} 1.0\n\
             # TYPE memsensor_state gauge\n\
             memsensor_state{scope=\"host\",state=\"ready\"} 1.0\n\
             memsensor_state{scope=\"host\",state=\"overloaded\"} 0.0\n",
        );
        for n in 0..100 {
            let _ = writeln!(text, "memsensor_events_lost_total{{reason=\"{n}\"}} {n}.0");
        }
        text + "# EOF\n"
    }

    fn fleet() -> Template {
        Template::parse(Format::OpenMetrics, &exposition()).expect("an exposition")
    }

    #[test]
    fn a_histogram_stays_one() {
        let m = moment(19, 400.0, 0.0);
        let series = parse(&fleet().render(&m, 0));
        let of = |rest: &str| series[&format!("memsensor_direct_reclaim_seconds_{rest}")];
        let buckets = ["1.0", "4.0", "+Inf"].map(|le| of(&format!("bucket{{le=\"{le}\"}}")));
        assert!(
            buckets[0] > 0.0 && buckets[0] < buckets[1] && buckets[1] < buckets[2],
            "{buckets:?}"
        );
        assert_eq!((of("count") - buckets[2], of("sum") > 0.0), (0.0, true));
    }

    #[test]
    fn cgroups_of_this_machine_are_left_out() {
        let text = fleet().render(&moment(0, 0.0, 0.0), 12);
        assert!(!text.contains("of this machine"), "{text}");
        assert_eq!(text.matches("memsensor_cgroup_memory_bytes{").count(), 12);
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn series_are_unique_and_counters_never_decrease() {
        for host in [3, 7, 19, 31, 43] {
            let mut before = parse("");
            for t in (0..1200).step_by(15) {
                let text = fleet().render(&moment(host, f64::from(t), f64::from(t)), 12);
                let lines = text.lines().filter(|line| !line.starts_with('#')).count();
                let now = parse(&text);
                assert_eq!(now.len(), lines, "{text}");
                for (series, value) in &now {
                    let decreases = before.get(series).is_some_and(|before| value < before);
                    let counter = ["_total", "_bucket", "_count", "_sum"];
                    let counter = counter
                        .iter()
                        .any(|s| series.split('{').next().is_some_and(|n| n.ends_with(s)));
                    assert!(!(decreases && counter), "{series} fell to {value} at {t} s");
                }
                before = now;
            }
        }
    }

    #[test]
    fn a_text_that_is_no_exposition_is_refused() {
        assert!(Template::parse(Format::Classic, "<html>no</html>").is_err());
    }
}
