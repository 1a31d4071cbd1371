//! The log on stderr: `RUST_LOG` sets the level. The daemon's goes through a queue, so that no
//! thread waits for a reader of the log.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    io::{IsTerminal as _, Write as _},
    panic::PanicHookInfo,
};

use tracing::{error, warn};
use tracing_subscriber::{
    Layer as _,
    filter::{LevelFilter, Targets},
    fmt::MakeWriter,
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

use super::log_queue::LogQueue;
use crate::{daemon::hardening, kernel::privilege, publish::log_losses::LOST_LINES};

/// The log of this process. The last lines are written when it is dropped.
#[derive(Debug)]
pub struct Log {
    /// `None` for commands other than the daemon.
    queue: Option<LogQueue>,
}

/// Starts the log. The default level is `info` for the daemon, `warn` for other commands.
pub fn init(daemon: bool) -> Log {
    let level = if daemon { LevelFilter::INFO } else { LevelFilter::WARN };
    let filter = std::env::var("RUST_LOG").ok().and_then(|text| text.parse::<Targets>().ok());
    let filter = filter.unwrap_or_else(|| Targets::new().with_default(level));
    let queue = if daemon { start_queue() } else { None };
    match queue.clone() {
        Some(queue) => {
            start(filter, queue);
            std::panic::set_hook(Box::new(log_panic));
        }
        None => start(filter, std::io::stderr),
    }
    Log { queue }
}

/// `None` if no thread can be started.
fn start_queue() -> Option<LogQueue> {
    hardening::use_one_arena();
    let prepare = || {
        // Capabilities belong to threads, and this one starts before the others lose theirs.
        if let Err(e) = privilege::drop_for_thread() {
            warn!("the thread of the log keeps its capabilities: {e:#}");
        }
    };
    let report = |lost| warn!("{lost} lines of this log are lost: nothing read it");
    LogQueue::start(std::io::stderr(), &LOST_LINES, prepare, report).ok()
}

fn start<W>(filter: Targets, writer: W)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let log = tracing_subscriber::fmt::layer()
        .with_writer(writer)
        // If stderr is closed, tracing would report that with eprintln!, which then panics.
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

/// The default hook would write to stderr, and wait for its reader.
fn log_panic(info: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("unnamed");
    let message = info.to_string().replace('\n', " ");
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        error!("the thread {name} {message}\n{backtrace}");
    } else {
        error!("the thread {name} {message}");
    }
}

impl Log {
    /// Writes the last line of a command to stderr.
    pub fn print(&self, line: &str) {
        let line = format!("{line}\n");
        match &self.queue {
            Some(queue) => queue.push(line.as_bytes()),
            None => _ = std::io::stderr().write_all(line.as_bytes()),
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        if let Some(queue) = &self.queue {
            queue.flush();
        }
    }
}
