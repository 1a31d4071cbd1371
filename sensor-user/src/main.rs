//! `memsensor`: parses the command line, does what it says, turns an error into one line and a code.

use std::{
    io::{IsTerminal as _, Write as _},
    net::IpAddr,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use clap::Parser as _;
use sensor_user::{
    check::{self, Code},
    cli::{Cli, Command, ConfigArg, ConfigCommand, SocketArg},
    config::Config,
    host::survive::Hardening,
    kernel::{load, privilege},
    report,
    run::{self, Failure},
    serve::{
        admin::{self, Request, Response},
        askers::DrainAcks,
        client,
        state::FailOn,
    },
    top::{self, By, Top},
};
use tracing_subscriber::{
    Layer as _,
    filter::{LevelFilter, Targets},
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

/// A mistake in the configuration.
#[derive(Debug)]
struct Misconfigured;

impl std::fmt::Display for Misconfigured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("configuration")
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    init_log(matches!(cli.command, Command::Run { .. }));
    match act(cli.command) {
        Ok(code) => code,
        Err(e) => {
            // One line, causes included.
            let line = format!("{e:#}").replace('\n', " ");
            let _ = writeln!(std::io::stderr(), "memsensor: {line}");
            if e.downcast_ref::<Misconfigured>().is_some() {
                return ExitCode::from(2);
            }
            match e.downcast_ref::<Failure>() {
                Some(Failure::Unsupported) => ExitCode::from(3),
                Some(Failure::InUse) => ExitCode::from(4),
                None => ExitCode::from(1),
            }
        }
    }
}

fn init_log(daemon: bool) {
    let told = std::env::var("RUST_LOG").ok().and_then(|told| told.parse::<Targets>().ok());
    let level = if daemon { LevelFilter::INFO } else { LevelFilter::WARN };
    let targets = told.unwrap_or_else(|| Targets::new().with_default(level));
    let log = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        // It would report a log that nobody reads by eprintln!, which panics on the same: a daemon
        // must outlive its journal.
        .log_internal_errors(false);
    // journald adds the time itself and shows escape sequences as they are.
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        let log = log.without_time().with_ansi(false);
        tracing_subscriber::registry().with(log.with_filter(targets)).init();
    } else {
        let log = log.with_ansi(std::io::stderr().is_terminal());
        tracing_subscriber::registry().with(log.with_filter(targets)).init();
    }
}

fn act(command: Command) -> Result<ExitCode> {
    match command {
        Command::Run { config, listen, agent_listen, allow_degraded } => {
            let mut config = read(&config)?;
            if !listen.is_empty() {
                config.listen = listen;
            }
            config.agent_listen = agent_listen.or(config.agent_listen);
            config.allow_degraded |= allow_degraded;
            config.check().context(Misconfigured)?;
            run::run(&config)?;
        }
        Command::Probes { config, json } => return probes(&read(&config)?, json),
        Command::Events { follow, json, socket } => {
            ask(&socket, &Request::Events { follow }, json)?;
        }
        Command::Event { id, json, socket } => one_event(&socket, id, json)?,
        Command::Top { most, by, once, json, socket } => {
            let live = !once && !json && std::io::stdout().is_terminal();
            if live {
                top::run(by, || ask_top(&socket))?;
            } else {
                show_top(ask_top(&socket)?, most, by, json)?;
            }
        }
        Command::Explain { scope, json, socket } => {
            ask(&socket, &Request::Explain { scope }, json)?;
        }
        Command::Check { scope, fail_on, url, timeout } => {
            return check(&scope, fail_on, &url, timeout);
        }
        Command::Drain { reason, lasts, wait, socket } => {
            let seconds = lasts.map(|l| l.as_secs_f64());
            ask(&socket, &Request::Drain { reason, seconds }, false)?;
            if let Some(patience) = wait {
                return wait_for_balancers(&socket, patience);
            }
        }
        Command::Undrain { socket } => ask(&socket, &Request::Undrain, false)?,
        Command::Config { command: ConfigCommand::Check { file } } => {
            Config::read(&file).context(Misconfigured)?;
            show(&format!("{}: valid\n", file.display()))?;
        }
        Command::Config { command: ConfigCommand::Defaults } => {
            show(&Config::default().to_toml()?)?;
        }
        Command::Config { command: ConfigCommand::Rules } => show(&report::rules())?,
    }
    Ok(ExitCode::SUCCESS)
}

fn read(arg: &ConfigArg) -> Result<Config> {
    arg.config.as_deref().map_or_else(|| Ok(Config::default()), Config::read).context(Misconfigured)
}

fn probes(config: &Config, json: bool) -> Result<ExitCode> {
    if let Some(why) = privilege::missing() {
        return Err(anyhow::anyhow!(why).context(Failure::Unsupported));
    }
    let loaded = load::load(config).context(Failure::Unsupported)?;
    let required = &config.probes.required;
    // As the daemon would, to tell what it would have.
    let mut survival = Hardening::prepare();
    survival.lock();
    if json {
        show(&format!("{:#}\n", report::json(&loaded.coverage, required, &survival)))?;
    } else {
        show(&report::table(&loaded.coverage, required, &survival))?;
    }
    let complete = loaded.coverage.missing_required(required).next().is_none();
    Ok(if complete { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn ask(socket: &SocketArg, question: &Request, json: bool) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let shown = admin::ask(&socket.socket, question, |line, answer| {
        match answer {
            _ if json => writeln!(out, "{line}")?,
            Response::Event(event) => writeln!(out, "{event}")?,
            Response::Missed { missed } => writeln!(out, "(too slow: {missed} events not shown)")?,
            Response::Explanation(why) => write!(out, "{why}")?,
            Response::DrainAcks(_) | Response::Top(_) | Response::Error { .. } => {}
            Response::Done { done } => writeln!(out, "{done}")?,
        }
        Ok(out.flush()?)
    });
    unless_nobody_reads(shown)
}

fn one_event(socket: &SocketArg, id: String, json: bool) -> Result<()> {
    let mut told = String::new();
    admin::ask(&socket.socket, &Request::Event { id }, |line, answer| {
        match answer {
            Response::Event(_) if json => told = format!("{line}\n"),
            Response::Event(event) => told = event.whole(),
            _ => {}
        }
        Ok(())
    })?;
    show(&told)
}

/// The one answer that the question has.
fn answer<T>(
    socket: &SocketArg,
    question: &Request,
    pick: impl Fn(Response) -> Option<T>,
) -> Result<T> {
    let mut told = None;
    admin::ask(&socket.socket, question, |_, answer| {
        told = pick(answer).or(told.take());
        Ok(())
    })?;
    told.context("the daemon did not answer")
}

fn ask_top(socket: &SocketArg) -> Result<Top> {
    answer(socket, &Request::Top, |answer| match answer {
        Response::Top(top) => Some(*top),
        _ => None,
    })
}

fn show_top(mut top: Top, most: usize, by: By, json: bool) -> Result<()> {
    top.first(most, by);
    show(&if json { serde_json::to_string(&top)? + "\n" } else { top.tables() })
}

fn ask_heard(socket: &SocketArg) -> Result<DrainAcks> {
    answer(socket, &Request::DrainAcks, |answer| match answer {
        Response::DrainAcks(heard) => Some(heard),
        _ => None,
    })
}

/// Until whoever asks for readiness knows of the drain.
fn wait_for_balancers(socket: &SocketArg, patience: Duration) -> Result<ExitCode> {
    let end = Instant::now() + patience;
    let names = |all: &[IpAddr]| all.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", ");
    let mut shown = None;
    loop {
        let heard = ask_heard(socket).context("drained, but it is not known who was told")?;
        if heard.is_all() {
            show(&if heard.told.is_empty() {
                "nobody asked for readiness within the last minute: no balancer to wait for\n"
                    .to_owned()
            } else {
                format!("told: {}\n", names(&heard.told))
            })?;
            return Ok(ExitCode::SUCCESS);
        }
        let (waiting, lacking) = if heard.not_yet.is_empty() {
            let who = "whoever asked before the daemon was started, less than a minute ago";
            (who.to_owned(), "nobody has asked the daemon, which was just started".to_owned())
        } else {
            let who = names(&heard.not_yet);
            (who.clone(), format!("these have not asked again: {who}"))
        };
        if Instant::now() >= end {
            anyhow::bail!("drained, but after {patience:?} {lacking}");
        }
        if shown.as_ref() != Some(&waiting) {
            show(&format!("waiting for {waiting}\n"))?;
            shown = Some(waiting);
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn check(scope: &str, fail_on: Option<FailOn>, url: &str, timeout: Duration) -> Result<ExitCode> {
    let (mut code, line) = match client::readiness(url, scope, timeout) {
        Ok(readiness) => {
            let (code, line) = check::result(&readiness);
            let by_state = fail_on.map(|fail_on| check::is_fit(&readiness, fail_on));
            let by_state = by_state.map(|fit| if fit { Code::Ok } else { Code::Critical });
            (by_state.unwrap_or(code), line)
        }
        Err(e) => {
            let why = format!("{e:#}").replace(['|', '\n'], " ");
            (Code::Unknown, format!("MEMSENSOR UNKNOWN - {why}"))
        }
    };
    if fail_on.is_some() && code == Code::Unknown {
        code = Code::Critical;
    }
    show(&format!("{line}\n"))?;
    Ok(ExitCode::from(code as u8))
}

fn show(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    unless_nobody_reads(
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Into::into),
    )
}

/// `memsensor events | head` is no error.
fn unless_nobody_reads(written: Result<()>) -> Result<()> {
    let broken_pipe = |e: &anyhow::Error| {
        let io = e.downcast_ref::<std::io::Error>();
        io.is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
    };
    match written {
        Err(e) if broken_pipe(&e) => Ok(()),
        other => other,
    }
}
