//! Request statistics and timelines of runs, as text. Pure.

use std::{fmt::Write as _, time::Duration};

use super::{
    Policy, Variant,
    reaction::{Reaction, STEPS, reaches, weight},
    run::{ReplayConfig, ReplayRun},
    traffic::Request,
};

/// Statistics of some requests.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct UserStats {
    /// Number of requests.
    pub count: usize,
    /// Requests without a valid page in time.
    pub failed: usize,
    /// Median latency; a failed request counts as the timeout.
    pub p50: Duration,
    /// 99th percentile.
    pub p99: Duration,
    /// The longest.
    pub worst: Duration,
    /// Share of the pages that web-01 served.
    pub web01_share: f64,
}

/// Computes the statistics.
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
        count: all.len(),
        failed: all.len() - served,
        p50: quantile(&took, 50),
        p99: quantile(&took, 99),
        worst: quantile(&took, 100),
        web01_share: if served == 0 { 0.0 } else { first as f64 / served as f64 },
    }
}

/// The latency that `percent` of the requests did not exceed; 0 without requests.
pub fn quantile(sorted: &[Duration], percent: usize) -> Duration {
    let at = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(at).copied().unwrap_or_default()
}

/// The phases of a run, with their begin and end.
pub fn phases(run: &ReplayRun) -> [(&'static str, Duration, Duration); 4] {
    let stall = if run.config.variant == Variant::Freeze { None } else { run.stall() };
    let stall = stall.map_or(run.fault_at, |at| at.min(run.cleared_at));
    [
        ("calm", Duration::ZERO, run.fault_at),
        ("onset", run.fault_at, stall),
        ("stalled", stall, run.cleared_at),
        ("after", run.cleared_at, run.end),
    ]
}

fn between(run: &ReplayRun, from: Duration, to: Duration) -> impl Iterator<Item = &Request> {
    run.requests.iter().filter(move |r| (from..to).contains(&r.at))
}

/// When the 99th percentile of the last hundred pages of web-01 first was twice that of the calm
/// phase.
pub fn p99_doubled_at(run: &ReplayRun) -> Option<Duration> {
    // A failed request was for web-01: web-02 serves all others.
    let of_web01 = |r: &&Request| r.outcome != Ok(1);
    let calm = user_stats(between(run, Duration::ZERO, run.fault_at).filter(of_web01)).p99;
    let mut pages: Vec<_> = between(run, run.fault_at, run.cleared_at)
        .filter(of_web01)
        .map(|r| (r.at + r.took, r.took))
        .collect();
    pages.sort_unstable();
    pages.windows(100).find_map(|last| {
        let mut took: Vec<_> = last.iter().map(|(_, took)| *took).collect();
        took.sort_unstable();
        (quantile(&took, 99) > 2 * calm).then(|| last[last.len() - 1].0)
    })
}

/// The events of a run and the statistics of its phases.
pub fn timeline(run: &ReplayRun) -> String {
    let mut out = String::new();
    let ReplayConfig { policy, swap_speed, variant, .. } = run.config;
    let _ = writeln!(out, "{} / swap {} / {}", variant.name(), swap_speed.name(), policy.name());
    for (at, event) in timeline_events(run) {
        let _ = writeln!(out, "  {:7.2} s  {event}", at.as_secs_f64());
    }
    for (name, from, to) in phases(run) {
        let u = user_stats(between(run, from, to));
        let _ = writeln!(
            out,
            "  {name:<7} {:5} requests, {:4} failed, p50 {} ms, p99 {} ms, worst {} ms, \
             {:.0} % on web-01",
            u.count,
            u.failed,
            ms(u.p50),
            ms(u.p99),
            ms(u.worst),
            100.0 * u.web01_share
        );
    }
    let mut errors: Vec<_> = run.requests.iter().filter_map(|r| r.outcome.as_ref().err()).collect();
    errors.sort_unstable();
    for error in errors.chunk_by(|a, b| a == b) {
        let _ = writeln!(out, "  failed: {} x {}", error.len(), error[0]);
    }
    out
}

fn timeline_events(run: &ReplayRun) -> Vec<(Duration, String)> {
    let (begins, ends) = match run.config.variant {
        Variant::Leak => ("agent installed on web-01", "agent removed"),
        Variant::Fleet => ("agent installed on both hosts", "agents removed"),
        Variant::Freeze => ("web-01 frozen", "web-01 continued"),
        Variant::Loads(_) => ("load on web-01", "load ended"),
    };
    let mut all = vec![(run.fault_at, begins.to_owned()), (run.cleared_at, ends.to_owned())];
    all.extend(run.stall().map(|at| (at, "first stall on web-01".to_owned())));
    all.extend(p99_doubled_at(run).map(|at| (at, "p99 of web-01 doubled".to_owned())));
    let web01 = &run.observed[0];
    for (resource, total, seconds, percent) in [
        ("memory full", &web01.full_us, 1, 20u8),
        ("memory full", &web01.full_us, 1, 50),
        ("memory full", &web01.full_us, 10, 8),
        ("memory full", &web01.full_us, 10, 25),
        ("I/O full", &web01.io_full_us, 1, 50),
    ] {
        let share = f64::from(percent) / 100.0;
        let at = reaches(total, run.fault_at, Duration::from_secs(seconds), share);
        let line = format!("PSI {resource} of web-01 reaches {percent} % of {seconds} s");
        all.extend(at.map(|at| (at, line)));
    }
    for (host, observed) in run.observed.iter().enumerate() {
        let name = format!("web-0{}", host + 1);
        let kind = |weight| match weight {
            None => "none",
            Some(0) => "overloaded",
            Some(100) => "full weight",
            Some(_) => "reduced",
        };
        let verdicts = observed.verdicts.iter().map(|(at, line)| (*at, kind(weight(line)), line));
        all.extend(changes(verdicts).map(|(at, _, l)| (at, format!("memsensor of {name}: {l}"))));
        let servers = observed.servers.iter().map(|(at, s)| {
            let weight = if s.serves() { s.weight } else { 0 };
            (*at, (kind(Some(weight)), s.status.as_str()), s.weight)
        });
        all.extend(changes(servers).map(|(at, (_, status), weight)| {
            (at, format!("balancer on {name}: {status}, weight {weight}"))
        }));
    }
    if run.restarts > 0 {
        all.push((run.cleared_at, format!("the agents were killed {} times", run.restarts)));
    }
    all.extend(run.ended_servers.iter().map(|name| (run.end, format!("ended: {name}"))));
    all.sort_by_key(|(at, _)| *at);
    all
}

/// Entries whose kind differs from the one before.
fn changes<K: PartialEq + Copy, T>(
    all: impl Iterator<Item = (Duration, K, T)>,
) -> impl Iterator<Item = (Duration, K, T)> {
    let mut last = None;
    all.filter(move |(_, kind, _)| last.replace(*kind) != Some(*kind))
}

/// Milliseconds, with one decimal below 10.
pub fn ms(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1e3;
    if ms < 10.0 { format!("{ms:.1}") } else { format!("{ms:.0}") }
}

/// All runs of one configuration as a row.
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
    let since_fault = of(&|n: &ReplayRun| (n.fault_at, n.end));
    let removed: Vec<_> = runs.iter().filter_map(|n| removed_after(n)).collect();
    let removed = if removed.len() < runs.len() { "never".into() } else { seconds(&removed) };
    let ReplayConfig { variant, swap_speed, policy, .. } = runs[0].config;
    format!(
        "| {}, {} | {} | {} of {} | {} | {} | {} | {} | {:.0} % | {removed} |",
        variant.name(),
        swap_speed.name(),
        policy.name(),
        all.failed,
        all.count,
        ms(calm.p99),
        ms(stalled.p99),
        ms(after.p99),
        ms(since_fault.worst),
        100.0 * stalled.web01_share,
    )
}

/// Time from the first stall (or the freeze) until HAProxy sends web-01 no new requests.
fn removed_after(run: &ReplayRun) -> Option<Duration> {
    let from = phases(run)[2].1;
    let until = run.cleared_at.checked_sub(from)?;
    Reaction::of(&run.observed[0], run.fault_at, from).balancer_none.filter(|took| *took <= until)
}

/// Minimum, median and maximum, in seconds.
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

/// The tables of all runs, as Markdown. Runs of the same configuration are rounds.
pub fn tables(runs: &[ReplayRun]) -> String {
    let mut configs: Vec<ReplayConfig> = Vec::new();
    for run in runs {
        if !configs.contains(&run.config) {
            configs.push(run.config);
        }
    }
    let of =
        |config: &ReplayConfig| runs.iter().filter(|n| n.config == *config).collect::<Vec<_>>();
    let mut out = String::from(
        "| fault, swap | health check | failed | p99 calm | p99 stalled | p99 after | worst | \
         web-01's share while stalled | web-01 removed after |\n\
         |---|---|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    for config in &configs {
        let _ = writeln!(out, "{}", row(&of(config)));
    }
    let with_memsensor =
        |p: &&ReplayConfig| p.policy == Policy::Memsensor && p.variant != Variant::Freeze;
    if configs.iter().any(|p| with_memsensor(&p)) {
        out += "\n| from web-01's first stall to | fault, swap | runs | min / median / max |\n\
                |---|---|---:|---:|\n";
    }
    for config in configs.iter().filter(with_memsensor) {
        let runs = of(config);
        let reactions: Vec<_> = runs
            .iter()
            .filter_map(|n| Some(Reaction::of(&n.observed[0], n.fault_at, n.stall()?).all()))
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
    fn quantiles_of_few_or_no_values_are_defined() {
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
    fn a_failed_request_counts_as_the_timeout() {
        let request = |took, outcome| Request { at: t(0), took: t(took), outcome };
        let all = [
            request(3, Ok(0)),
            request(5, Ok(1)),
            request(4, Ok(1)),
            request(1, Err("503 from the proxy")),
        ];
        let u = user_stats(all.iter());
        assert_eq!((u.count, u.failed, u.p50, u.worst), (4, 1, t(4), t(5000)));
        assert!((u.web01_share - 1.0 / 3.0).abs() < 1e-9, "{u:?}");
        assert_eq!(user_stats([].iter()), UserStats::default());
    }

    #[test]
    fn times_are_shown_as_minimum_median_maximum() {
        assert_eq!(seconds(&[]), "");
        assert_eq!(seconds(&[t(1500)]), "1.50 s");
        assert_eq!(seconds(&[t(3000), t(1000), t(2000)]), "1.00 / 2.00 / 3.00 s");
    }
}
