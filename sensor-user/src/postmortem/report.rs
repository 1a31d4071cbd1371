//! Puts the parts of a postmortem together.

use sensor_core::{
    record::content::{Content, ScopeLook},
    verdict::{policy::Policy, scope::HOST},
};
use serde::Serialize;

use super::{
    actions::{Action, actions},
    causes::{Cause, Confidence, Kind, Loss, causes},
    earlier::{self, Limit, RuleTimes},
    growth::Tracks,
    incident::{self, Incident, SECOND, Wanted, find, looks},
    moments::{Moment, moments},
    text::Text,
};
use crate::{
    history::{timeline::Timeline, times},
    recorder::archive::Entry,
};

/// PSI *some* within a second at which tasks wait for memory.
const STALLS: f32 = 0.05;

/// A postmortem.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Name of the host.
    pub host: String,
    /// Release of its kernel.
    pub kernel: String,
    /// Version of memsensor that wrote the record.
    pub version: String,
    /// The scope that the incident was about.
    pub scope: String,
    /// Begin: nanoseconds since 1970.
    #[serde(serialize_with = "times::serialize")]
    pub begin: i64,
    /// End.
    #[serde(serialize_with = "times::serialize")]
    pub end: i64,
    /// Whether the scope had all of its weight again at the end of the record.
    pub is_over: bool,
    /// Seconds from begin to end.
    pub seconds: f64,
    /// Seconds without any weight.
    pub seconds_without_weight: f64,
    /// Seconds with some of the weight.
    pub seconds_with_less_weight: f64,
    /// Seconds without any record.
    pub seconds_silent: f64,
    /// Processes that were killed.
    pub kills: usize,
    /// The cause, in one sentence.
    pub summary: Text,
    /// How sure that is; absent if the cause is not known.
    pub confidence: Option<Confidence>,
    /// What happened, in order.
    pub moments: Vec<Moment>,
    /// Causes, the most likely first.
    pub causes: Vec<Cause>,
    /// When each rule fired, or would have fired.
    pub rules: Vec<RuleTimes>,
    /// What a limit on the first cause would have meant.
    pub limit: Option<Limit>,
    /// What to do: a reason and a command or a snippet of a configuration.
    pub actions: Vec<Action>,
    /// What contradicts itself, and what was not measured.
    pub open: Vec<Text>,
    /// Data of the charts.
    #[serde(skip)]
    pub curves: Vec<Curve>,
}

/// A curve of a chart: times in nanoseconds since 1970, and values.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    /// What it shows.
    pub title: Text,
    /// Unit of the values.
    pub unit: &'static str,
    /// Time and value.
    pub points: Vec<(i64, f64)>,
}

/// The postmortem of an incident in a record; `None` if there is no such incident.
pub fn report(timeline: &Timeline, wanted: Wanted<'_>, policy: &Policy) -> Option<Report> {
    let incident = find(timeline, wanted)?;
    let mut tracks = Tracks::of(timeline, &incident.scope);
    let all: Vec<_> = looks(&timeline.entries, &incident.scope).collect();
    let loss = loss(&all, timeline, &incident);
    let fired = fired(&all, timeline, &incident);
    let mut causes = causes(&tracks, &incident, &loss, &fired);
    if causes.is_empty() && incident.scope != HOST {
        tracks = Tracks { memory: Vec::new(), ..Tracks::of(timeline, HOST) };
        causes = neighbours(&tracks, &incident, &loss);
    }
    let first = causes.first();
    let path = timeline.schema.scopes.iter().find(|(name, _)| *name == incident.scope);
    // A limit on the scope itself would not have helped those in it.
    let is_other = |name: &str| path.is_none_or(|(_, path)| path != name);
    let named = first.filter(|cause| is_other(&cause.name));
    let track = named.and_then(|cause| tracks.cgroups.iter().find(|t| t.name == cause.name));
    let limit = track.and_then(|track| earlier::limit(track, &incident));
    let weights = Weights::of(&all, &incident);
    let silent: i64 = incident.silences.iter().map(|(from, to)| to - from).sum();
    let kills = timeline.entries.iter().filter(|entry| is_kill(entry, &incident)).count();
    Some(Report {
        host: timeline.schema.host.clone(),
        kernel: timeline.schema.kernel.clone(),
        version: timeline.schema.version.clone(),
        scope: incident.scope.clone(),
        begin: incident.begin,
        end: incident.end,
        is_over: incident.is_over,
        seconds: seconds(incident.end - incident.begin),
        seconds_without_weight: weights.none,
        seconds_with_less_weight: weights.less,
        seconds_silent: seconds(silent),
        kills,
        summary: summary(first),
        confidence: first.map(|cause| cause.confidence),
        moments: moments(timeline, &incident, &loss, &causes),
        rules: earlier::rules(timeline, &incident, policy),
        actions: first.map(|cause| actions(cause, limit, &incident)).unwrap_or_default(),
        open: open(timeline, &incident, &loss),
        curves: curves(&all, &tracks, &causes, &incident),
        limit,
        causes,
    })
}

fn seconds(ns: i64) -> f64 {
    ns as f64 / SECOND as f64
}

fn is_kill(entry: &Entry, incident: &Incident) -> bool {
    let within = (incident.begin..=incident.end).contains(&entry.time.wall_ns);
    within && matches!(&entry.content, Content::Event(event) if incident::is_kill(&event.kind))
}

fn summary(first: Option<&Cause>) -> Text {
    match first {
        None => Text::words("The cause is not known: nothing in the record explains the incident."),
        Some(cause) if cause.confidence == Confidence::Low => {
            Text::words("The cause is not known for sure. The most likely one: ")
                .join(cause.what.clone())
                .and(".")
        }
        Some(cause) => cause.what.clone().and("."),
    }
}

/// Growth outside of the scope's cgroup: both may have a limit above them.
fn neighbours(tracks: &Tracks, incident: &Incident, loss: &Loss) -> Vec<Cause> {
    let mut all = causes(tracks, incident, loss, &[]);
    all.retain(|cause| matches!(cause.kind, Kind::Growth | Kind::ManyProcesses));
    for cause in &mut all {
        let text = "it is a neighbour: outside of the scope's cgroup";
        cause.contradicts.push(Text::words(text));
        cause.confidence = cause.confidence.min(Confidence::Medium);
    }
    all
}

/// The memory that was lost, and the first stall.
fn loss(all: &[(i64, &ScopeLook)], timeline: &Timeline, incident: &Incident) -> Loss {
    let some = timeline.schema.signals.iter().position(|name| name == "some_share_1s");
    let stalls = |look: &ScopeLook| {
        let value = some.and_then(|some| look.signals.get(some).copied().flatten());
        value.is_some_and(|value| value >= STALLS)
    };
    // Stalls that lead to the incident: from the last quiet look before it.
    let before: Vec<_> =
        all.iter().filter(|(at, _)| (incident.lead_in..=incident.begin).contains(at)).collect();
    let quiet = before.iter().rposition(|(_, look)| !stalls(look) && look.fires == 0);
    let first_stall = match quiet {
        Some(quiet) => before.get(quiet + 1).map_or(incident.begin, |(at, _)| *at),
        None => before.first().map_or(incident.begin, |(at, _)| *at),
    };
    let available = |(_, look): &&(i64, &ScopeLook)| look.available_bytes;
    let within = all.iter().filter(|(at, _)| (incident.lead_in..=incident.end).contains(at));
    Loss {
        before: before.iter().filter_map(&available).max().unwrap_or(0),
        least: within.clone().filter_map(|entry| available(&entry)).min().unwrap_or(0),
        total: within.filter_map(|(_, look)| look.total_bytes).max().unwrap_or(0),
        first_stall,
    }
}

/// The rules that fired in the incident.
fn fired<'a>(
    all: &[(i64, &ScopeLook)],
    timeline: &'a Timeline,
    incident: &Incident,
) -> Vec<&'a str> {
    let within = all.iter().filter(|(at, _)| (incident.begin..=incident.end).contains(at));
    let bits = within.fold(0, |bits, (_, look)| bits | look.fires);
    let names = timeline.schema.rules.iter().enumerate().take(64);
    names.filter(|(n, _)| bits >> n & 1 == 1).map(|(_, name)| name.as_str()).collect()
}

/// Seconds by weight: each look counts until the next one.
struct Weights {
    none: f64,
    less: f64,
}

impl Weights {
    fn of(all: &[(i64, &ScopeLook)], incident: &Incident) -> Self {
        let mut sums = Self { none: 0.0, less: 0.0 };
        for pair in all.windows(2) {
            let [(at, look), (next, _)] = pair else { continue };
            let (from, to) = ((*at).max(incident.begin), (*next).min(incident.end));
            let length = seconds((to - from).max(0));
            if look.weight <= 0.0 {
                sums.none += length;
            } else if look.weight < 1.0 {
                sums.less += length;
            }
        }
        sums
    }
}

/// Contradictions, and what was not measured.
fn open(timeline: &Timeline, incident: &Incident, loss: &Loss) -> Vec<Text> {
    let mut all = Vec::new();
    for loss in &timeline.losses {
        all.push(Text::words("The record is damaged: ").and_name(&loss.to_string()));
    }
    for (from, to) in &incident.silences {
        all.push(Text::words(format!(
            "Nothing is known of {:.0} s from {} on.",
            seconds(to - from),
            times::text(*from)
        )));
    }
    let within = |at: i64| (incident.lead_in..=incident.end).contains(&at);
    let scans = timeline
        .entries
        .iter()
        .filter(|entry| within(entry.time.wall_ns) && matches!(entry.content, Content::Usage(_)));
    if scans.count() == 0 {
        all.push(Text::words("There is no scan of processes: who grew is not known."));
    }
    if loss.before == 0 {
        all.push(Text::words("Available memory was not measured: shares are not known."));
    }
    all.push(Text::words("Alert rules were not replayed: that needs the metrics in a Prometheus."));
    all.push(Text::words(
        "Requests of users are not in the record: compare it with the log of the load balancer.",
    ));
    all
}

fn curves(
    all: &[(i64, &ScopeLook)],
    tracks: &Tracks,
    causes: &[Cause],
    incident: &Incident,
) -> Vec<Curve> {
    let from = incident.lead_in.max(incident.begin - 600 * SECOND);
    let to = incident.end.saturating_add(60 * SECOND);
    let within = |at: i64| (from..=to).contains(&at);
    let looks = || all.iter().filter(|(at, _)| within(*at));
    let mib = |bytes: u64| bytes as f64 / 1_048_576.0;
    let weight = looks().map(|(at, look)| (*at, f64::from(look.weight) * 100.0));
    let available = looks().filter_map(|(at, look)| Some((*at, mib(look.available_bytes?))));
    let mut curves = vec![
        Curve { title: Text::words("weight"), unit: "%", points: weight.collect() },
        Curve { title: Text::words("available memory"), unit: "MiB", points: available.collect() },
    ];
    for cause in causes.iter().take(3).filter(|cause| !cause.name.is_empty()) {
        let mut known = tracks.cgroups.iter().chain(&tracks.memory);
        let Some(track) = known.find(|track| track.name == cause.name) else { continue };
        let points = track.points.iter().filter(|(at, _)| within(*at));
        let points = points.map(|(at, bytes)| (*at, mib(*bytes))).collect();
        curves.push(Curve { title: Text::name(&track.name), unit: "MiB", points });
    }
    curves
}
