//! The README's tables follow from the probes' specs and from a real exposition, and the alert
//! rules name only metrics that exist. `UPDATE_README=1 cargo test -p sensor-tests --test readme`
//! writes the tables anew.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    path::Path,
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwapOption;
use sensor_ebpf::{
    probes,
    spec::{Probe, Row},
};
use sensor_tests::support::repository::repository;
use sensor_user::{
    cgroups::{Found, Report, Shown, Totals},
    config::OnBlind,
    deadlines::Deadlines,
    identity::Identity,
    kernel::{
        load::{Coverage, ProbeState, ProgramState, State},
        read::{Cost, Inside},
    },
    scopes::{HOST, Judged},
    serve::{self, maintenance::Maintenance, metrics::Renderer},
    snapshot::Snapshot,
    verdict::{judge::Judge, pace::Settings, reading::Reading},
    who::{Growth, Holder, Who},
};

/// What a host shows on which every probe is attached and every label has a value.
fn exposition() -> String {
    let rows: Vec<Row> = vec![[1; sensor_ebpf::spec::ROW_WORDS]; probes::ALL.len() + 1];
    let snapshot = Snapshot {
        taken_ns: 0,
        taken_unix: 0.0,
        rows: Arc::new(rows.clone()),
        window_start: Arc::new(rows.clone()),
        recent_start: Arc::new(rows),
        tells_skipped: true,
        inside: Inside::default(),
        costs: vec![Cost { program: "mark_victim", run_ns: 1, runs: 1 }],
        stalls: BTreeMap::new(),
        stall_clock: Arc::default(),
        stall_clock_ns: None,
        reclaim: Arc::default(),
        scopes: vec![judged()],
        who: Some(Arc::new(who())),
    };
    let attached = |probe: &&Probe| ProbeState {
        name: probe.name,
        state: State::Attached,
        reason: String::new(),
        programs: probe
            .programs
            .iter()
            .map(|p| ProgramState {
                name: p.name,
                event: p.event,
                missing: None,
                verified_instructions: None,
            })
            .collect(),
    };
    let enums = ["vmscan_throttle_state", "compact_result"];
    let coverage = Coverage {
        probes: probes::ALL.iter().map(attached).collect(),
        enums: enums.map(|e| (e, vec![Some("writeback".to_owned())])).into(),
        senders: vec!["other".to_owned()],
        map_bytes: BTreeMap::from([("EVENTS".to_owned(), 1)]),
    };
    let state = serve::state::State {
        published: Arc::new(ArcSwapOption::from_pointee(snapshot)),
        coverage: Arc::new(coverage),
        cgroups: Arc::new(ArcSwapOption::from_pointee(cgroups())),
        buckets: serve::histogram::Buckets::default(),
        growing_processes: 5,
        events: Arc::new(sensor_user::events::Log::new("")),
        maintenance: Arc::new(Maintenance::beside(Path::new("/nonexistent/socket"))),
        policy: Arc::default(),
        scopes: [HOST.to_owned()].into(),
        stale_after: Duration::from_secs(5),
        on_blind: OnBlind::Pass,
        askers: Arc::new(serve::askers::Askers::new(0)),
        unknown_scopes: Arc::default(),
        deadlines: Arc::new(Deadlines::new(Duration::from_secs(1))),
    };
    Renderer::default().render(&state)
}

/// A process that grows.
fn who() -> Who {
    let growth = Growth { minute_bytes: 1, ..Growth::default() };
    let held = Holder { growth, minute_seconds: 1, ..Holder::default() };
    Who { processes: vec![held], ..Who::default() }
}

/// A cgroup of which everything is told.
fn cgroups() -> Report {
    let some = |text: &str| Some(text.to_owned());
    let identity = Identity {
        unit: some("a.service"),
        container: some("b"),
        runtime: some("docker"),
        pod: some("c"),
        pod_name: None,
    };
    let found = Found {
        memory_bytes: Some(1),
        limit_bytes: Some(1),
        swap_bytes: Some(1),
        refaulted_bytes: Some(1),
        limit_hits: Some(1),
        pressure_ns: Some([1, 1]),
    };
    let mut totals = Totals { stall_ns: [1; 4], oom_kills: 1, reclaim: Some(Box::default()) };
    totals.reclaim.iter_mut().for_each(|h| h[0][0] = 1);
    Report {
        shown: vec![Shown { path: "/a".into(), identity, totals, found }],
        ..Report::default()
    }
}

/// A host that tells everything, and has a minute left.
fn judged() -> Judged {
    let mut judge = Judge::new(Arc::default(), Settings::default());
    let reading = |second: u64| Reading {
        at_ns: second * 1_000_000_000,
        some_ns: Some(0),
        full_ns: Some(0),
        before: None,
        io_full_ns: Some(0),
        stall_ns: Some(0),
        refaulted_bytes: Some(0),
        swapped_in_bytes: Some(0),
        swapped_out_bytes: Some(0),
        scanned_pages: Some(0),
        reclaimed_pages: Some(0),
        oom_kills: Some(0),
        total_bytes: Some(1 << 30),
        unused_bytes: Some(1),
        available_bytes: Some((120 - second) << 20),
        swap_free_bytes: Some(0),
        above_low_bytes: Some(0),
        priority: Some(12),
        no_progress: Some(0),
    };
    let verdict = (1..60).map(|second| judge.judge(reading(second))).last().expect("some");
    Judged { scope: HOST.into(), reading: reading(60), verdict, blind: None }
}

struct Family {
    kind: String,
    help: String,
    labels: BTreeSet<String>,
}

/// Families by the name that queries use.
fn families(text: &str) -> BTreeMap<String, Family> {
    let mut families = BTreeMap::new();
    let mut last = String::new();
    let mut help = "";
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ').expect("a help").1;
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a type");
            let suffix = match kind {
                "counter" => "_total",
                "info" => "_info",
                _ => "",
            };
            last = format!("{name}{suffix}");
            let family =
                Family { kind: kind.to_owned(), help: help.to_owned(), labels: BTreeSet::new() };
            families.insert(last.clone(), family);
        } else if !line.starts_with('#')
            && let Some((_, labels)) = line.split_once('{')
        {
            let keys = labels.split("=\"").filter_map(|part| part.rsplit([',', '{', '"']).next());
            let keys = keys.filter(|k| !k.is_empty() && *k != "le" && !k.contains('}'));
            let family = families.get_mut(&last).expect("a family");
            family.labels.extend(keys.map(str::to_owned));
        }
    }
    families
}

fn metrics_table(families: &BTreeMap<String, Family>) -> String {
    let mut table = "| metric | type | labels | meaning |\n|---|---|---|---|\n".to_owned();
    for (name, family) in families.iter().filter(|(n, _)| n.starts_with("memsensor_")) {
        let labels: Vec<_> = family.labels.iter().map(|l| format!("`{l}`")).collect();
        writeln!(table, "| `{name}` | {} | {} | {} |", family.kind, labels.join(", "), family.help)
            .expect("a String");
    }
    table
}

fn probes_table() -> String {
    let mut table = "| probe | kernel events | what it sees |\n|---|---|---|\n".to_owned();
    for probe in probes::ALL {
        let events: BTreeSet<_> = probe.programs.iter().map(|p| format!("`{}`", p.event)).collect();
        let events: Vec<_> = events.into_iter().collect();
        writeln!(table, "| {} | {} | {} |", probe.name, events.join(", "), probe.about)
            .expect("a String");
    }
    table
}

/// Replaces what stands between two markers.
fn with_section(readme: &str, name: &str, body: &str) -> String {
    let (begin, end) = (format!("<!-- {name}:begin -->\n"), format!("<!-- {name}:end -->"));
    let (before, rest) = readme.split_once(&begin).expect("a begin marker");
    let (_, after) = rest.split_once(&end).expect("an end marker");
    format!("{before}{begin}{body}{end}{after}")
}

/// Programs that read events may rely on it.
#[test]
fn the_published_schema_is_that_of_events() {
    let path = repository().join("docs/event.schema.json");
    let schema = schemars::schema_for!(sensor_user::events::Event);
    let made = serde_json::to_string_pretty(&schema).expect("JSON") + "\n";
    if std::env::var_os("UPDATE_README").is_some() {
        std::fs::write(&path, &made).expect("write the schema");
    } else {
        assert!(
            std::fs::read_to_string(&path).is_ok_and(|published| published == made),
            "docs/event.schema.json is not up to date: UPDATE_README=1 cargo test -p sensor-tests --test readme"
        );
    }
}

#[test]
fn the_tables_of_the_readme_are_true() {
    let path = repository().join("README.md");
    let readme = std::fs::read_to_string(&path).expect("README.md");
    let made = with_section(&readme, "probes", &probes_table());
    let made = with_section(&made, "metrics", &metrics_table(&families(&exposition())));
    if std::env::var_os("UPDATE_README").is_some() {
        std::fs::write(&path, &made).expect("write README.md");
    } else {
        assert!(
            made == readme,
            "README.md is not up to date: UPDATE_README=1 cargo test -p sensor-tests --test readme"
        );
    }
}

#[test]
fn rules_and_readme_name_only_metrics_that_exist() {
    let families = families(&exposition());
    let known = |name: &str| {
        let of_histogram = ["_bucket", "_sum", "_count"]
            .iter()
            .filter_map(|s| name.strip_suffix(s))
            .any(|n| families.get(n).is_some_and(|f| f.kind == "histogram"));
        // The Datadog Agent knows counters without their `_total`.
        let of_counter = families.contains_key(&format!("{name}_total"));
        families.contains_key(name) || of_histogram || of_counter
    };
    let mut seen = 0;
    let mut files: Vec<_> =
        ["README.md", "CHANGELOG.md", "dashboards/README.md"].map(Into::into).into();
    for dir in ["dashboards/rules", "dashboards/rules/tests", "docs/runbooks"] {
        let listed = std::fs::read_dir(repository().join(dir)).expect(dir);
        let paths = listed.map(|entry| entry.expect("an entry").path());
        files.extend(paths.filter(|path| path.is_file()));
    }
    for path in files {
        let file = path.display();
        let text = std::fs::read_to_string(repository().join(&path)).expect("a text");
        for word in text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
            if word.starts_with("memsensor_") && word != "memsensor_" {
                assert!(known(word), "{file} names {word}, which does not exist");
                seen += 1;
            }
        }
    }
    assert!(seen > 30, "only {seen} names were looked at");
}
