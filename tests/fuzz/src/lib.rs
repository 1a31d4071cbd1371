//! What fuzz targets share: the state that servers answer from, and text that is safe to print.
//!
//! Not here: the readers. The private ones are reached by `sensor_user::fuzzing`.

use std::{path::Path, sync::Arc, time::Duration};

use arc_swap::{ArcSwap, ArcSwapOption};
use sensor_core::{
    common::{clock::monotonic_ns, state_file::StateFile},
    model::{
        coverage::Coverage,
        memory_usage::{MemoryUsage, ProcessUsage},
        snapshot::{Sample, Snapshot},
    },
    verdict::{
        evaluator::Evaluator,
        reading::Reading,
        scope::{HOST, ScopeVerdict},
        weight::Settings,
    },
};
use sensor_user::{
    daemon::config::Config,
    oom::decode::decode,
    publish::{
        event_log::EventLog,
        loop_lag::{LoopLags, WATCHDOG},
        usage::PublishedUsage,
    },
    serve::state::{
        app::{AppState, Published},
        background::Background,
        clients::ClientTracker,
        drain::OperatorDrain,
    },
};

/// The state of a daemon with two scopes, a process and an event. It saves nothing.
pub fn app_state() -> AppState {
    let usage = PublishedUsage::default();
    let processes = vec![ProcessUsage::default()];
    usage.store(Some(Arc::new(MemoryUsage { processes, ..MemoryUsage::default() })));
    let scopes = [HOST, "web"];
    let snapshot = Snapshot { taken_ns: monotonic_ns(), ..Snapshot::default() };
    let sample = Sample { snapshot, scopes: scopes.map(scope).into(), ..Sample::default() };
    let lags = LoopLags::new(Duration::from_secs(1), WATCHDOG, monotonic_ns());
    let published = Published {
        sample: Arc::new(ArcSwapOption::from_pointee(sample)),
        usage: Arc::new(usage),
        ..Published::new(events(), Coverage::none("fuzzing"), lags)
    };
    let no_file = StateFile::beside(Path::new("/nonexistent/socket"), "drain.json");
    // The sample stays as it is.
    let config = Config { stale_after: Duration::MAX, ..Config::default() };
    let settings = Arc::new(ArcSwap::from_pointee(config.served(Arc::default())));
    let drain = OperatorDrain::load(no_file).expect("an eventfd");
    let scopes = scopes.map(str::to_owned).into();
    AppState {
        // The first moment: all clients are new.
        clients: Arc::new(ClientTracker::new(0)),
        ..AppState::new(published, scopes, settings, background(), drain)
    }
}

/// Work of commands, on a thread of its own as in the daemon.
fn background() -> Background {
    let (background, jobs) = Background::new();
    std::thread::spawn(move || jobs.run());
    background
}

fn scope(name: &str) -> ScopeVerdict {
    let reading = Reading { at_ns: 1, full_ns: Some(0), ..Reading::default() };
    let verdict = Evaluator::new(Arc::default(), Settings::default()).evaluate(reading);
    ScopeVerdict {
        scope: name.into(),
        cgroup_id: None,
        reading,
        verdict,
        decided_by: None,
        unknown_reason: None,
    }
}

/// A log with one kill, `b-1`.
fn events() -> EventLog {
    let log = EventLog::new("b");
    let mut kill = [0; size_of::<sensor_ebpf::event::OomKill>()];
    kill[0] = sensor_ebpf::event::Tag::OomKill as u8;
    let (_, kind) = decode(&kill, 4096, log.boot()).expect("a record of a kill");
    log.push(1, kind, None);
    log
}

/// A runtime of one thread, as the daemon's.
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// Fails on text that could change what a terminal shows, but for line feeds.
pub fn assert_printable(text: &str) {
    let control = |c: char| (c.is_control() && c != '\n') || matches!(c, '\u{2028}' | '\u{2029}');
    assert!(!text.contains(control), "control characters in {text:?}");
}
