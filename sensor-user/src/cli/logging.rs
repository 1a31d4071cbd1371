//! The log on stderr: `RUST_LOG` sets the level.

use std::io::IsTerminal as _;

use tracing_subscriber::{
    Layer as _,
    filter::{LevelFilter, Targets},
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

/// Starts the log. The default level is `info` for the daemon, `warn` for other commands.
pub fn init(daemon: bool) {
    let level = if daemon { LevelFilter::INFO } else { LevelFilter::WARN };
    let filter = std::env::var("RUST_LOG").ok().and_then(|text| text.parse::<Targets>().ok());
    let filter = filter.unwrap_or_else(|| Targets::new().with_default(level));
    let log = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        // If stderr is closed, tracing would report that with eprintln!, which then panics. The
        // daemon must outlive the journal.
        .log_internal_errors(false);
    // journald adds the time itself, and shows escape sequences as they are.
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        let log = log.without_time().with_ansi(false);
        tracing_subscriber::registry().with(log.with_filter(filter)).init();
    } else {
        let log = log.with_ansi(std::io::stderr().is_terminal());
        tracing_subscriber::registry().with(log.with_filter(filter)).init();
    }
}
