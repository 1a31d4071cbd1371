//! The users' view of nights, and their timelines, as text. Pure.

use std::{fmt::Write as _, time::Duration};

use super::{
    Variant, Way,
    reaction::{Reaction, STEPS, asked_weight, reaches},
    story::{Night, Plot},
    traffic::Request,
};

/// The users' view of some requests.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Users {
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

/// The users' view.
pub fn users<'a>(requests: impl Iterator<Item = &'a Request>) -> Users {
    let all: Vec<_> = requests.collect();
    let served = all.iter().filter(|r| r.outcome.is_ok()).count();
    let first = all.iter().filter(|r| r.outcome == Ok(0)).count();
    let mut took: Vec<_> = all
        .iter()
        .map(|r| if r.outcome.is_ok() { r.took } else { r.took.max(super::scale::PATIENCE) })
        .collect();
    took.sort_unstable();
    Users {
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

/// The phases of a night, and from when to when they are.
pub fn phases(night: &Night) -> [(&'static str, Duration, Duration); 4] {
    let stall = if night.plot.variant == Variant::Freeze { None } else { night.stall() };
    let stall = stall.map_or(night.disturbed, |at| at.min(night.relieved));
    [
        ("calm", Duration::ZERO, night.disturbed),
        ("leak", night.disturbed, stall),
        ("night", stall, night.relieved),
        ("after", night.relieved, night.end),
    ]
}

fn between(night: &Night, from: Duration, to: Duration) -> impl Iterator<Item = &Request> {
    night.requests.iter().filter(move |r| (from..to).contains(&r.at))
}

/// When the pages of web-01 took twice as long as in calm, by the slowest of a hundred, for the last
/// hundred of them.
pub fn doubled(night: &Night) -> Option<Duration> {
    // Who was not served would have been by web-01: web-02 serves all others.
    let mine = |r: &&Request| r.outcome != Ok(1);
    let calm = users(between(night, Duration::ZERO, night.disturbed).filter(mine)).p99;
    let mut answers: Vec<_> = between(night, night.disturbed, night.relieved)
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

/// What happened when, and what the users had of it.
pub fn chronicle(night: &Night) -> String {
    let mut out = String::new();
    let Plot { way, form, variant, .. } = night.plot;
    let _ = writeln!(out, "{} / swap {} / {}", variant.name(), form.name(), way.name());
    for (at, what) in timeline(night) {
        let _ = writeln!(out, "  {:7.2} s  {what}", at.as_secs_f64());
    }
    for (name, from, to) in phases(night) {
        let u = users(between(night, from, to));
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
    let mut whys: Vec<_> = night.requests.iter().filter_map(|r| r.outcome.as_ref().err()).collect();
    whys.sort_unstable();
    for why in whys.chunk_by(|a, b| a == b) {
        let _ = writeln!(out, "  failed: {} x {}", why.len(), why[0]);
    }
    out
}

fn timeline(night: &Night) -> Vec<(Duration, String)> {
    let (begins, ends) = match night.plot.variant {
        Variant::Night => ("agent installed on web-01", "agent removed"),
        Variant::Fleet => ("agent installed on both hosts", "agents removed"),
        Variant::Freeze => ("web-01 frozen", "web-01 thawed"),
    };
    let mut all = vec![(night.disturbed, begins.to_owned()), (night.relieved, ends.to_owned())];
    all.extend(night.stall().map(|at| (at, "first stall on web-01".to_owned())));
    all.extend(doubled(night).map(|at| (at, "p99 of web-01 has doubled".to_owned())));
    let seen = &night.seen[0];
    for (what, total, seconds, percent) in [
        ("memory full", &seen.full_us, 1, 20u8),
        ("memory full", &seen.full_us, 1, 50),
        ("memory full", &seen.full_us, 10, 8),
        ("memory full", &seen.full_us, 10, 25),
        ("I/O full", &seen.io_full_us, 1, 50),
    ] {
        let share = f64::from(percent) / 100.0;
        let at = reaches(total, night.disturbed, Duration::from_secs(seconds), share);
        let line = format!("PSI {what} of web-01 reaches {percent} % of {seconds} s");
        all.extend(at.map(|at| (at, line)));
    }
    for (host, seen) in night.seen.iter().enumerate() {
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
    if night.restarts > 0 {
        all.push((night.relieved, format!("the agents were killed {} times", night.restarts)));
    }
    all.extend(night.dead.iter().map(|what| (night.end, format!("killed for good: {what}"))));
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

/// All nights of a plot as a row.
fn row(nights: &[&Night]) -> String {
    let of = |which: &dyn Fn(&Night) -> (Duration, Duration)| {
        users(nights.iter().flat_map(|night| {
            let (from, to) = which(night);
            between(night, from, to)
        }))
    };
    let phase = |n: usize| of(&|night: &Night| (phases(night)[n].1, phases(night)[n].2));
    let [calm, night, after] = [phase(0), phase(2), phase(3)];
    let all = of(&|_| (Duration::ZERO, Duration::MAX));
    let disturbed = of(&|n: &Night| (n.disturbed, n.end));
    let out: Vec<_> = nights.iter().filter_map(|n| out_after(n)).collect();
    let out = if out.len() < nights.len() { "never".into() } else { seconds(&out) };
    let Plot { variant, form, way, .. } = nights[0].plot;
    format!(
        "| {}, {} | {} | {} of {} | {} | {} | {} | {} | {:.0} % | {out} |",
        variant.name(),
        form.name(),
        way.name(),
        all.failed,
        all.asked,
        ms(calm.p99),
        ms(night.p99),
        ms(after.p99),
        ms(disturbed.worst),
        100.0 * night.share,
    )
}

/// From the first stall (or the freeze) until HAProxy gives web-01 nothing more.
fn out_after(night: &Night) -> Option<Duration> {
    let from = phases(night)[2].1;
    let until = night.relieved.checked_sub(from)?;
    Reaction::of(&night.seen[0], night.disturbed, from).balancer_none.filter(|took| *took <= until)
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

/// The tables of all nights, as Markdown. Nights of the same plot are rounds.
pub fn tables(nights: &[Night]) -> String {
    let mut plots: Vec<Plot> = Vec::new();
    for night in nights {
        if !plots.contains(&night.plot) {
            plots.push(night.plot);
        }
    }
    let of = |plot: &Plot| nights.iter().filter(|n| n.plot == *plot).collect::<Vec<_>>();
    let mut out = String::from(
        "| what happens, swap | who decides | failed | p99 calm | p99 night | p99 after | worst | \
         night's share on web-01 | web-01 out after |\n|---|---|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    for plot in &plots {
        let _ = writeln!(out, "{}", row(&of(plot)));
    }
    let sensed = |p: &&Plot| p.way == Way::Memsensor && p.variant != Variant::Freeze;
    if plots.iter().any(|p| sensed(&p)) {
        out += "\n| from web-01's first stall until | what happens, swap | seen | least / median / most |\n\
                |---|---|---:|---:|\n";
    }
    for plot in plots.iter().filter(sensed) {
        let nights = of(plot);
        let reactions: Vec<_> = nights
            .iter()
            .filter_map(|n| Some(Reaction::of(&n.seen[0], n.disturbed, n.stall()?).all()))
            .collect();
        for (step, name) in STEPS.iter().enumerate() {
            let times: Vec<_> = reactions.iter().filter_map(|r| r[step]).collect();
            let (variant, form) = (plot.variant.name(), plot.form.name());
            let (seen, of) = (times.len(), nights.len());
            let _ = writeln!(
                out,
                "| {name} | {variant}, {form} | {seen} of {of} | {} |",
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
        let u = users(all.iter());
        assert_eq!((u.asked, u.failed, u.p50, u.worst), (4, 1, t(4), t(5000)));
        assert!((u.share - 1.0 / 3.0).abs() < 1e-9, "{u:?}");
        assert_eq!(users([].iter()), Users::default());
    }

    #[test]
    fn a_column_of_times_is_least_median_most() {
        assert_eq!(seconds(&[]), "");
        assert_eq!(seconds(&[t(1500)]), "1.50 s");
        assert_eq!(seconds(&[t(3000), t(1000), t(2000)]), "1.00 / 2.00 / 3.00 s");
    }
}
