//! The tables in `docs/metrics.md` and the schema of events match the code, and documents and alert
//! rules name only metrics that exist. `UPDATE_README=1 cargo test -p sensor-tests --test docs`
//! writes the generated parts. Links are checked in `links.rs`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    path::Path,
    sync::Arc,
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use sensor_core::{
    common::state_file::StateFile,
    model::{
        cgroup_report::{CgroupCounters, CgroupReport, CgroupStats, ShownCgroup},
        counters::ProgramCost,
        coverage::{AttachState, Coverage, ProbeState, ProgramState},
        event::Event,
        memory_usage::{Growth, MemoryUsage, ProcessUsage},
        snapshot::{Sample, Snapshot},
        workload::WorkloadId,
    },
    verdict::{
        evaluator::Evaluator,
        reading::Reading,
        scope::{HOST, ScopeVerdict},
        weight::Settings,
    },
};
use sensor_ebpf::{
    loss, probes,
    spec::{Probe, Program, Row},
};
use sensor_tests::support::repository::repository;
use sensor_user::{
    daemon::config::Config,
    host::own_process,
    publish::{
        event_log::EventLog,
        loop_lag::{self, LoopLags},
        record::RecordFigures,
        usage::PublishedUsage,
    },
    serve::{
        metrics::render::Renderer,
        state::{
            app::{AppState, Published},
            background::Background,
            clients::ClientTracker,
            connections::Connections,
            drain::OperatorDrain,
        },
    },
};

/// Holds the tables of probes and of metrics.
const METRICS_PAGE: &str = "docs/metrics.md";
const SCHEMA: &str = "docs/event.schema.json";
const TROUBLESHOOTING: &str = "docs/troubleshooting.md";
const SECURITY: &str = "SECURITY.md";

/// Documents that name metrics, beside those in [`RULE_DIRECTORIES`].
const DOCUMENTS: [&str; 4] =
    ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "dashboards/README.md"];
/// Where tests are.
const SOURCES: [&str; 5] = ["tests", "sensor-user", "sensor-ebpf", "xtask", "dashboards"];
const RULE_DIRECTORIES: [&str; 4] =
    ["docs", "docs/runbooks", "dashboards/rules", "dashboards/rules/tests"];

fn read(file: &str) -> String {
    std::fs::read_to_string(repository().join(file)).expect(file)
}

/// Writes a generated file with `UPDATE_README`, and otherwise compares it.
fn assert_up_to_date(file: &str, generated: &str) {
    if std::env::var_os("UPDATE_README").is_some() {
        std::fs::write(repository().join(file), generated).expect(file);
    } else {
        assert!(
            read(file) == generated,
            "{file} is not up to date: UPDATE_README=1 cargo test -p sensor-tests --test docs"
        );
    }
}

/// `/metrics` of a host where every probe is attached and every label has a value.
fn exposition() -> String {
    Renderer::default().render(&complete_state())
}

fn complete_state() -> AppState {
    let usage = PublishedUsage::default();
    usage.store(Some(Arc::new(memory_usage())));
    let record = RecordFigures::default();
    record.set_on();
    let published = Published {
        sample: Arc::new(ArcSwapOption::from_pointee(complete_sample())),
        usage: Arc::new(usage),
        cgroups: Arc::new(ArcSwapOption::from_pointee(cgroup_report())),
        events: Arc::new(EventLog::new("")),
        coverage: Arc::new(complete_coverage()),
        lags: Arc::new(LoopLags::new(Duration::from_secs(1), loop_lag::WATCHDOG, 0)),
        process: Arc::new(ArcSwapOption::from_pointee(own_process::figures())),
        record: Arc::new(record),
        answers: Arc::default(),
    };
    let no_file = StateFile::beside(Path::new("/nonexistent/socket"), "drain.json");
    AppState {
        published,
        scopes: [HOST.to_owned()].into(),
        settings: Arc::new(ArcSwap::from_pointee(Config::default().served(Arc::default()))),
        background: Background::new().0,
        reload: None,
        drain: Arc::new(OperatorDrain::load(no_file).expect("an eventfd")),
        clients: Arc::new(ClientTracker::new(0)),
        connections: Connections::default(),
        unknown_scopes: Arc::default(),
        protection: Arc::default(),
    }
}

/// Every counter of every probe is 1.
fn complete_sample() -> Sample {
    let rows: Arc<Vec<Row>> =
        Arc::new(vec![[1; sensor_ebpf::spec::ROW_WORDS]; probes::ALL.len() + 1]);
    let snapshot = Snapshot {
        rows: Arc::clone(&rows),
        window_start: Arc::clone(&rows),
        recent_start: rows,
        reports_skipped: true,
        costs: vec![ProgramCost { program: "mark_victim", run_ns: 1, runs: 1 }],
        ..Snapshot::default()
    };
    Sample { snapshot, scopes: vec![host_verdict()], vmstat_kills: None }
}

fn complete_coverage() -> Coverage {
    let enums = ["vmscan_throttle_state", "compact_result"];
    Coverage {
        probes: probes::ALL.iter().map(|probe| attached(probe)).collect(),
        enums: enums.map(|e| (e, vec![Some("writeback".to_owned())])).into(),
        senders: vec!["other".to_owned()],
        map_bytes: BTreeMap::from([("EVENTS".to_owned(), 1)]),
    }
}

fn attached(probe: &Probe) -> ProbeState {
    let program = |program: &Program| ProgramState {
        name: program.name,
        event: program.event,
        missing: None,
        verified_instructions: None,
    };
    ProbeState {
        name: probe.name,
        state: AttachState::Attached,
        reason: String::new(),
        programs: probe.programs.iter().map(program).collect(),
    }
}

/// One process, which grows.
fn memory_usage() -> MemoryUsage {
    let growth = Growth { minute_bytes: 1, ..Growth::default() };
    let process = ProcessUsage { growth, minute_seconds: 1, ..ProcessUsage::default() };
    MemoryUsage { processes: vec![process], ..MemoryUsage::default() }
}

/// One cgroup, with a value for every metric.
fn cgroup_report() -> CgroupReport {
    let some = |text: &str| Some(text.to_owned());
    let workload = WorkloadId {
        unit: some("a.service"),
        container: some("b"),
        runtime: some("docker"),
        pod: some("c"),
        pod_name: None,
    };
    let stats = CgroupStats {
        memory_bytes: Some(1),
        limit_bytes: Some(1),
        swap_bytes: Some(1),
        refaulted_bytes: Some(1),
        limit_hits: Some(1),
        pressure_ns: Some([1, 1]),
    };
    let mut counters =
        CgroupCounters { stall_ns: [1; 5], oom_kills: 1, reclaim: Some(Box::default()) };
    counters.reclaim.iter_mut().for_each(|histograms| histograms[0][0] = 1);
    let shown = ShownCgroup { path: "/a".into(), workload, counters, stats };
    CgroupReport { shown: vec![shown], ..CgroupReport::default() }
}

/// The verdict of a host with every signal, whose memory is exhausted within a minute.
fn host_verdict() -> ScopeVerdict {
    let mut evaluator = Evaluator::new(Arc::default(), Settings::default());
    let reading = |second: u64| Reading {
        at_ns: second * 1_000_000_000,
        some_ns: Some(0),
        full_ns: Some(0),
        io_full_ns: Some(0),
        stall_ns: Some(0),
        refaulted_bytes: Some(0),
        lost_bytes: Some(0),
        read_bytes: Some(0),
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
        ..Reading::default()
    };
    let verdict = (1..60).map(|second| evaluator.evaluate(reading(second))).last().expect("some");
    ScopeVerdict {
        scope: HOST.into(),
        cgroup_id: None,
        reading: reading(60),
        verdict,
        decided_by: None,
        unknown_reason: None,
    }
}

struct Family {
    kind: String,
    help: String,
    labels: BTreeSet<String>,
}

/// Metric families by the name that queries use.
fn families(exposition: &str) -> BTreeMap<String, Family> {
    let mut families = BTreeMap::new();
    let mut last = String::new();
    let mut help = "";
    for line in exposition.lines() {
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

/// The document with another text between the markers of a section.
fn with_section(document: &str, name: &str, body: &str) -> String {
    let (begin, end) = (format!("<!-- {name}:begin -->\n"), format!("<!-- {name}:end -->"));
    let (before, rest) = document.split_once(&begin).expect("a begin marker");
    let (_, after) = rest.split_once(&end).expect("an end marker");
    format!("{before}{begin}{body}{end}{after}")
}

/// Files that may name metrics, relative to the repository.
fn files_that_name_metrics() -> Vec<String> {
    let mut files: Vec<_> = DOCUMENTS.map(str::to_owned).into();
    for directory in RULE_DIRECTORIES {
        for entry in std::fs::read_dir(repository().join(directory)).expect(directory) {
            let path = entry.expect("an entry").path();
            if path.extension().is_some_and(|e| e == "md" || e == "yaml") {
                let name = path.file_name().expect("a name").to_string_lossy().into_owned();
                files.push(format!("{directory}/{name}"));
            }
        }
    }
    files
}

/// Names of metrics in a text. The Datadog Agent's rules name counters without their `_total`.
fn metric_names(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| word.starts_with("memsensor_") && *word != "memsensor_")
}

fn is_known(families: &BTreeMap<String, Family>, name: &str) -> bool {
    let is_histogram = |name: &str| families.get(name).is_some_and(|f| f.kind == "histogram");
    let mut histograms =
        ["_bucket", "_sum", "_count"].iter().filter_map(|suffix| name.strip_suffix(suffix));
    families.contains_key(name)
        || histograms.any(is_histogram)
        || families.contains_key(&format!("{name}_total"))
}

#[test]
fn the_event_schema_is_up_to_date() {
    let schema = schemars::schema_for!(Event);
    let generated = serde_json::to_string_pretty(&schema).expect("JSON") + "\n";
    assert_up_to_date(SCHEMA, &generated);
}

#[test]
fn the_tables_of_metrics_and_probes_are_up_to_date() {
    let page = read(METRICS_PAGE);
    let generated = with_section(&page, "probes", &probes_table());
    let generated = with_section(&generated, "metrics", &metrics_table(&families(&exposition())));
    assert_up_to_date(METRICS_PAGE, &generated);
}

/// Otherwise its labels are missing in the table: a family without a sample has a HELP only.
#[test]
fn the_complete_host_has_a_sample_of_every_metric() {
    let exposition = exposition();
    let samples: BTreeSet<_> = exposition
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(['{', ' ']).next())
        .collect();
    for (name, family) in families(&exposition) {
        let sample = if family.kind == "histogram" { format!("{name}_count") } else { name };
        assert!(samples.contains(sample.as_str()), "{sample} has no sample");
    }
}

#[test]
fn troubleshooting_explains_every_reason_of_lost_events() {
    let page = read(TROUBLESHOOTING);
    let (_, table) = page.split_once("\n## Lost events\n").expect("a heading");
    let explained: BTreeSet<_> = table
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(reason, _)| reason)
        .collect();
    assert_eq!(explained, BTreeSet::from(loss::REASONS));
}

#[test]
fn documents_and_rules_name_only_metrics_that_exist() {
    let families = families(&exposition());
    let mut checked = 0;
    for file in files_that_name_metrics() {
        for name in metric_names(&read(&file)) {
            assert!(is_known(&families, name), "{file} names {name}, which does not exist");
            checked += 1;
        }
    }
    assert!(checked > 30, "only {checked} names were checked");
    assert!(!is_known(&families, "memsensor_gone_total"));
}

/// Adds the names of the tests below a directory.
fn add_tests(directory: &Path, names: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() && !path.ends_with("target") {
            add_tests(&path, names);
        }
        if path.extension().is_none_or(|e| e != "rs" && e != "py") {
            continue;
        }
        let (text, mut is_test) = (std::fs::read_to_string(&path).expect("a source"), false);
        for line in text.lines().map(str::trim) {
            let function = line.strip_prefix("fn ").filter(|_| is_test);
            if let Some(function) = function.or_else(|| line.strip_prefix("def ")) {
                names.extend(function.split_once('(').map(|(name, _)| name.to_owned()));
            }
            is_test = line == "#[test]" || (is_test && line.starts_with(['#', '/']));
        }
    }
}

/// A claim of the threat model without its test would be only a promise.
#[test]
fn the_security_policy_names_only_tests_that_exist() {
    let mut tests = BTreeSet::new();
    for directory in SOURCES {
        add_tests(&repository().join(directory), &mut tests);
    }
    let text = read(SECURITY);
    let is_name = |word: &&str| {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        word.bytes().all(plain) && word.matches('_').count() >= 3
    };
    let named: BTreeSet<_> = text.split('`').skip(1).step_by(2).filter(is_name).collect();
    assert!(named.len() >= 20, "{named:?}");
    let missing: Vec<_> = named.iter().filter(|name| !tests.contains(**name)).collect();
    assert!(missing.is_empty(), "{SECURITY} names tests that do not exist: {missing:?}");
    assert!(!tests.contains("add_tests"), "not every function is a test");
}
