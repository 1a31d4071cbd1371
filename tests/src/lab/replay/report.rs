//! The user_stats' report of runs, and their timelines, as text. Pure.

use std::{fmt::Write as _, time::Duration};

use super::{
    Variant, CheckMode,
    reaction::{Reaction, STEPS, asked_weight, reaches},
    run::{ReplayRun, ReplayConfig},
    traffic::Request,
};

/// The user_stats' report of some requests.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct UserStats {
    /// Requests.
    pub asked: usize,
    /// Those without a page in time.
    pub failed: usize,
    /// Time that half of them, 99 of 100 and all were served in; who was not served counts as the
    /// slowest.
    pub p50: Duration,
    /// See `p50`.
    pub p99: Duration,
    /// See `p50`.
    pub worst: Duration,
    /// Part of the pages that came from web-01.
    pub share: f64,
}

/// The user_stats' report.
pub fn user_stats<'a>(requests: impl Iterator<Item = &'a Request>) -> UserStats {
    let all: Vec<_> = requests.collect();
    let served = all.iter().filter(|r| r.outcome.is_ok()).count();
    let first = all.iter().filter(|r| r.outcome == Ok(0)).count();
    let mut took: Vec<_> = all
        .iter()
        .map(|r| if r.outcome.is_ok() { r.took } else { r.took.max(super::scale::PATIENCE) })
        .collect();
    took.sort_unstable();
    UserStats {
        asked: all.len(),
        failed: all.len() - served,
        p50: quantile(&took, 50),
        p99: quantile(&took, 99),
        worst: quantile(&took, 100),
        share: if served == 0 { 0.0 } else { first as f64 / served as f64 },
    }
}

/// So many of 100 took no longer; 0 if there is nothing.
pub fn quantile(sorted: &[Duration], percent: usize) -> Duration {
    let at = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(at).copied().unwrap_or_default()
}

/// The phases of a run, and from when to when they are.
pub fn phases(run: &ReplayRun) -> [(&'static str, Duration, Duration); 4] {
    let stall = if run.config.variant == Variant::Freeze { None } else { run.stall() };
    let stall = stall.map_or(run.fault_at, |at| at.min(run.cleared_at));
    [
        ("calm", Duration::ZERO, run.fault_at),
        ("leak", run.fault_at, stall),
        ("run", stall, run.cleared_at),
        ("after", run.cleared_at, run.end),
    ]
}

fn between(run: &ReplayRun, from: Duration, to: Duration) -> impl Iterator<Item = &Request> {
    run.requests.iter().filter(move |r| (from..to).contains(&r.at))
}

/// When the pages of web-01 took twice as long as in calm, by the slowest of a hundred, for the last
/// hundred of them.
pub fn p99_doubled_at(run: &ReplayRun) -> Option<Duration> {
    // Who was not served would have been by web-01: web-02 serves all others.
    let mine = |r: &&Request| r.outcome != Ok(1);
    let calm = user_stats(between(run, Duration::ZERO, run.fault_at).filter(mine)).p99;
    let mut answers: Vec<_> = between(run, run.fault_at, run.cleared_at)
        .filter(mine)
        .map(|r| (r.at + r.took, r.took))
        .collect();
    answers.sort_unstable();
    answers.windows(100).find_map(|last| {
        let mut took: Vec<_> = last.iter().map(|(_, took)| *took).collect();
        took.sort_unstable();
        (quantile(&took, 99) > 2 * calm).then(|| last[last.len() - 1].0)
    })
}

/// What happened when, and what the user_stats had of it.
pub fn timeline(run: &ReplayRun) -> String {
    let mut out = String::new();
    let ReplayConfig { check_mode, swap_speed, variant, .. } = run.config;
    let _ = writeln!(out, "{} / swap {} / {}", variant.name(), swap_speed.name(), check_mode.name());
    for (at, what) in timeline_events(run) {
        let _ = writeln!(out, "  {:7.2} s  {what}", at.as_secs_f64());
    }
    for (name, from, to) in phases(run) {
        let u = user_stats(between(run, from, to));
        let _ = writeln!(
            out,
            "  {name:<6} {:5} requests, {:4} failed, p50 {} ms, p99 {} ms, worst {} ms, {:.0} % on web-01",
            u.asked,
            u.failed,
            ms(u.p50),
            ms(u.p99),
            ms(u.worst),
            100.0 * u.share
        );
    }
    let mut whys: Vec<_> = run.requests.iter().filter_map(|r| r.outcome.as_ref().err()).collect();
    whys.sort_unstable();
    for why in whys.chunk_by(|a, b| a == b) {
        let _ = writeln!(out, "  failed: {} x {}", why.len(), why[0]);
    }
    out
}

fn timeline_events(run: &ReplayRun) -> Vec<(Duration, String)> {
    let (begins, ends) = match run.config.variant {
        Variant::Leak => ("agent installed on web-01", "agent removed"),
        Variant::Fleet => ("agent installed on both hosts", "agents removed"),
        Variant::Freeze => ("web-01 frozen", "web-01 thawed"),
    };
    let mut all = vec![(run.fault_at, begins.to_owned()), (run.cleared_at, ends.to_owned())];
    all.extend(run.stall().map(|at| (at, "first stall on web-01".to_owned())));
    all.extend(p99_doubled_at(run).map(|at| (at, "p99 of web-01 has p99_doubled_at".to_owned())));
    let seen = &run.seen[0];
    for (what, total, seconds, percent) in [
        ("memory full", &seen.full_us, 1, 20u8),
        ("memory full", &seen.full_us, 1, 50),
        ("memory full", &seen.full_us, 10, 8),
        ("memory full", &seen.full_us, 10, 25),
        ("I/O full", &seen.io_full_us, 1, 50),
    ] {
        let share = f64::from(percent) / 100.0;
        let at = reaches(total, run.fault_at, Duration::from_secs(seconds), share);
        let line = format!("PSI {what} of web-01 reaches {percent} % of {seconds} s");
        all.extend(at.map(|at| (at, line)));
    }
    for (host, seen) in run.seen.iter().enumerate() {
        let name = format!("web-0{}", host + 1);
        let kind = |weight| match weight {
            None => "nothing",
            Some(0) => "drain",
            Some(100) => "full weight",
            Some(_) => "less",
        };
        let said = seen.verdicts.iter().map(|(at, line)| (*at, kind(asked_weight(line)), line));
        all.extend(changes(said).map(|(at, _, l)| (at, format!("memsensor of {name}: {l}"))));
        let gets = seen.servers.iter().map(|(at, s)| {
            let weight = if s.serves() { s.weight } else { 0 };
            (*at, (kind(Some(weight)), s.status.as_str()), s.weight)
        });
        all.extend(changes(gets).map(|(at, (_, status), weight)| {
            (at, format!("HAProxy on {name}: {status}, weight {weight}"))
        }));
    }
    if run.restarts > 0 {
        all.push((run.cleared_at, format!("the agents were killed {} times", run.restarts)));
    }
    all.extend(run.dead.iter().map(|what| (run.end, format!("killed for good: {what}"))));
    all.sort_by_key(|(at, _)| *at);
    all
}

/// Those that are of another kind than the one before.
fn changes<K: PartialEq + Copy, T>(
    all: impl Iterator<Item = (Duration, K, T)>,
) -> impl Iterator<Item = (Duration, K, T)> {
    let mut last = None;
    all.filter(move |(_, kind, _)| last.replace(*kind) != Some(*kind))
}

/// Milliseconds, with a digit behind the point where it tells something.
pub fn ms(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1e3;
    if ms < 10.0 { format!("{ms:.1}") } else { format!("{ms:.0}") }
}

/// All runs of a config as a row.
fn row(runs: &[&ReplayRun]) -> String {
    let of = |which: &dyn Fn(&ReplayRun) -> (Duration, Duration)| {
        user_stats(runs.iter().flat_map(|run| {
            let (from, to) = which(run);
            between(run, from, to)
        }))
    };
    let phase = |n: usize| of(&|run: &ReplayRun| (phases(run)[n].1, phases(run)[n].2));
    let [calm, stalled, after] = [phase(0), phase(2), phase(3)];
    let all = of(&|_| (Duration::ZERO, Duration::MAX));
    let fault_at = of(&|n: &ReplayRun| (n.fault_at, n.end));
    let out: Vec<_> = runs.iter().filter_map(|n| removed_after(n)).collect();
    let out = if out.len() < runs.len() { "never".into() } else { seconds(&out) };
    let ReplayConfig { variant, swap_speed, check_mode, .. } = runs[0].config;
    format!(
        "| {}, {} | {} | {} of {} | {} | {} | {} | {} | {:.0} % | {out} |",
        variant.name(),
        swap_speed.name(),
        check_mode.name(),
        all.failed,
        all.asked,
        ms(calm.p99),
        ms(stalled.p99),
        ms(after.p99),
        ms(fault_at.worst),
        100.0 * stalled.share,
    )
}

/// From the first stall (or the freeze) until HAProxy gives web-01 nothing more.
fn removed_after(run: &ReplayRun) -> Option<Duration> {
    let from = phases(run)[2].1;
    let until = run.cleared_at.checked_sub(from)?;
    Reaction::of(&run.seen[0], run.fault_at, from).balancer_none.filter(|took| *took <= until)
}

/// Least, median and most, in seconds.
fn seconds(times: &[Duration]) -> String {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let at = |percent| quantile(&sorted, percent).as_secs_f64();
    match sorted.len() {
        0 => String::new(),
        1 => format!("{:.2} s", at(100)),
        _ => format!("{:.2} / {:.2} / {:.2} s", at(0), at(50), at(100)),
    }
}

/// The tables of all runs, as Markdown. Nights of the same config are rounds.
pub fn tables(runs: &[ReplayRun]) -> String {
    let mut configs: Vec<ReplayConfig> = Vec::new();
    for run in runs {
        if !configs.contains(&run.config) {
            configs.push(run.config);
        }
    }
    let of = |config: &ReplayConfig| runs.iter().filter(|n| n.config == *config).collect::<Vec<_>>();
    let mut out = String::from(
        "| what happens, swap | who decides | failed | p99 calm | p99 run | p99 after | worst | \
         run's share on web-01 | web-01 out after |\n|---|---|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    for config in &configs {
        let _ = writeln!(out, "{}", row(&of(config)));
    }
    let with_memsensor = |p: &&ReplayConfig| p.check_mode == CheckMode::Memsensor && p.variant != Variant::Freeze;
    if configs.iter().any(|p| with_memsensor(&p)) {
        out += "\n| from web-01's first stall until | what happens, swap | seen | least / median / most |\n\
                |---|---|---:|---:|\n";
    }
    for config in configs.iter().filter(with_memsensor) {
        let runs = of(config);
        let reactions: Vec<_> = runs
            .iter()
            .filter_map(|n| Some(Reaction::of(&n.seen[0], n.fault_at, n.stall()?).all()))
            .collect();
        for (step, name) in STEPS.iter().enumerate() {
            let times: Vec<_> = reactions.iter().filter_map(|r| r[step]).collect();
            let (variant, swap_speed) = (config.variant.name(), config.swap_speed.name());
            let (seen, of) = (times.len(), runs.len());
            let _ = writeln!(
                out,
                "| {name} | {variant}, {swap_speed} | {seen} of {of} | {} |",
                seconds(&times)
            );
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn t(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn quantiles_are_of_what_there_is() {
        let hundred: Vec<_> = (1..=100).map(t).collect();
        for (sorted, percent, is) in [
            (&hundred[..], 50, t(50)),
            (&hundred[..], 99, t(99)),
            (&hundred[..], 100, t(100)),
            (&hundred[..], 0, t(1)),
            (&hundred[..1], 99, t(1)),
            (&[], 99, t(0)),
        ] {
            assert_eq!(quantile(sorted, percent), is, "{percent} of {}", sorted.len());
        }
    }

    #[test]
    fn who_was_not_served_is_the_slowest() {
        let request = |took, outcome| Request { at: t(0), took: t(took), outcome };
        let all = [
            request(3, Ok(0)),
            request(5, Ok(1)),
            request(4, Ok(1)),
            request(1, Err("503 of a proxy")),
        ];
        let u = user_stats(all.iter());
        assert_eq!((u.asked, u.failed, u.p50, u.worst), (4, 1, t(4), t(5000)));
        assert!((u.share - 1.0 / 3.0).abs() < 1e-9, "{u:?}");
        assert_eq!(user_stats([].iter()), UserStats::default());
    }

    #[test]
    fn a_column_of_times_is_least_median_most() {
        assert_eq!(seconds(&[]), "");
        assert_eq!(seconds(&[t(1500)]), "1.50 s");
        assert_eq!(seconds(&[t(3000), t(1000), t(2000)]), "1.00 / 2.00 / 3.00 s");
    }
}
