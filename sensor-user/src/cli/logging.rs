//! The log on stderr: `RUST_LOG` sets the level. The daemon's goes through a queue, so that no
//! thread waits for a reader of the log.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    cell::Cell,
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
use crate::{
    daemon::{hardening, own_user::OwnUser, sandbox},
    kernel::privilege,
    publish::log_losses::LOST_LINES,
};

/// The log of this process. The last lines are written when it is dropped.
#[derive(Debug)]
pub struct Log {
    /// `None` for commands other than the daemon.
    queue: Option<LogQueue>,
    /// Whether the thread that writes is started.
    is_started: Cell<bool>,
}

/// Starts the log. The default level is `info` for the daemon, `warn` for other commands.
pub fn init(daemon: bool) -> Log {
    let level = if daemon { LevelFilter::INFO } else { LevelFilter::WARN };
    let filter = std::env::var("RUST_LOG").ok().and_then(|text| text.parse::<Targets>().ok());
    let filter = filter.unwrap_or_else(|| Targets::new().with_default(level));
    // Without a descriptor for the queue, the daemon writes the log itself.
    let queue = daemon.then(|| LogQueue::new(&LOST_LINES).ok()).flatten();
    match queue.clone() {
        Some(queue) => {
            start(filter, queue);
            std::panic::set_hook(Box::new(log_panic));
        }
        None => start(filter, std::io::stderr),
    }
    Log { queue, is_started: Cell::new(false) }
}

/// Gives up the rights of the log's thread. They belong to threads, and this one starts before the
/// others lose theirs.
fn drop_rights(user: Option<&OwnUser>) {
    if let Some(Err(e)) = user.map(OwnUser::become_it) {
        warn!("the thread of the log keeps its user: {e:#}");
    }
    if let Err(e) = privilege::drop_for_thread() {
        warn!("the thread of the log keeps its capabilities: {e:#}");
    }
    // Without Landlock in the kernel, the main thread logs a warning.
    let _ = sandbox::restrict_to_open_files();
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
    /// Starts the thread that writes the daemon's log, as this user. Until then lines wait.
    pub fn start_thread(&self, user: Option<OwnUser>) {
        let Some(queue) = self.queue.as_ref().filter(|_| !self.is_started.replace(true)) else {
            return;
        };
        hardening::use_one_arena();
        let report = |lost| warn!("{lost} lines of this log are lost: nothing read it");
        let (done, prepared) = std::sync::mpsc::channel();
        let prepare = move || {
            drop_rights(user.as_ref());
            let _ = done.send(());
        };
        // Without a thread nothing can report that.
        let _ = queue.start(std::io::stderr(), prepare, report);
        // The filter of system calls, which will restrict this thread too, forbids these steps.
        let _ = prepared.recv();
    }

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
        // The start may have failed early.
        self.start_thread(None);
        if let Some(queue) = &self.queue {
            queue.flush();
        }
    }
}
