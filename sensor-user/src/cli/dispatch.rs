//! Runs each command.
//!
//! Not here: options and help (`args`), and the text of output (`check`, `probes`, `show_event`,
//! `top`).

use std::{
    io::{IsTerminal as _, Write as _},
    net::SocketAddr,
    path::Path,
    process::ExitCode,
};

use anyhow::{Context as _, Result, anyhow};
use sensor_core::model::readiness::FailOn;
use serde_json::Value;

use super::{
    admin_client::{call, call_one},
    args::{Command, ConfigArg, ConfigCommand},
    check, drain_wait,
    exit::Misconfigured,
    output::{ignore_closed_pipe, print},
    probes, readyz_client, rules, show_event,
    top::{
        live,
        sort::{By, keep_first},
        tables,
    },
};
use crate::{
    daemon::{config::Config, failure::Failure, hardening::Hardening, run},
    kernel::{load, privilege},
    serve::{
        admin_protocol::{Request, Response, Top},
        listen,
    },
};

/// Runs a command.
pub fn dispatch(command: Command) -> Result<ExitCode> {
    match command {
        Command::Run { config, listen, agent_listen, allow_degraded } => {
            run_daemon(read(&config)?, &listen, agent_listen, allow_degraded)?;
        }
        Command::Probes { config, json } => return probe(&read(&config)?, json),
        Command::Events { follow, json, socket } => {
            ask(&socket.socket, &Request::Events { follow }, json)?;
        }
        Command::Event { id, json, socket } => event(&socket.socket, id, json)?,
        Command::Top { rows, by, once, json, socket } => {
            let live = !once && !json && std::io::stdout().is_terminal();
            top(&socket.socket, live, rows, by, json)?;
        }
        Command::Explain { scope, json, socket } => {
            ask(&socket.socket, &Request::Explain { scope }, json)?;
        }
        Command::Check { scope, fail_on, weight, url, timeout } => {
            let answer = readyz_client::readiness(&url, &scope, timeout);
            return print_check(&answer, fail_on, weight);
        }
        Command::Drain { reason, lasts, wait, socket } => {
            let seconds = lasts.map(|lasts| lasts.as_secs_f64());
            ask(&socket.socket, &Request::Drain { reason, seconds }, false)?;
            if let Some(timeout) = wait {
                return drain_wait::wait(&socket.socket, timeout);
            }
        }
        Command::Undrain { socket } => ask(&socket.socket, &Request::Undrain, false)?,
        Command::Config { command } => configuration(&command)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints the line of `check`, or only the weight. Without a weight the line goes to stderr.
fn print_check(answer: &Result<Value>, fail_on: Option<FailOn>, weight: bool) -> Result<ExitCode> {
    let (code, line) = check::outcome(answer, fail_on);
    if !weight {
        print(&format!("{line}\n"))?;
    } else if let Some(percent) = check::percent(answer, fail_on.unwrap_or_default()) {
        print(&format!("{percent}\n"))?;
    } else {
        let _ = writeln!(std::io::stderr(), "{line}");
    }
    Ok(ExitCode::from(code as u8))
}

fn configuration(command: &ConfigCommand) -> Result<()> {
    match command {
        ConfigCommand::Check { file } => {
            Config::read(file).context(Misconfigured)?;
            print(&format!("{}: valid\n", file.display()))
        }
        ConfigCommand::Defaults => print(include_str!("defaults.toml")),
        ConfigCommand::Rules => print(&rules::toml()),
    }
}

fn read(arg: &ConfigArg) -> Result<Config> {
    arg.config.as_deref().map_or_else(|| Ok(Config::default()), Config::read).context(Misconfigured)
}

fn run_daemon(
    mut config: Config,
    listen: &[SocketAddr],
    agent_listen: Option<SocketAddr>,
    allow_degraded: bool,
) -> Result<()> {
    config.listen = config.listeners();
    listen::replace(&mut config.listen, listen, agent_listen);
    config.allow_degraded |= allow_degraded;
    config.check().context(Misconfigured)?;
    run::run(&config)
}

fn probe(config: &Config, json: bool) -> Result<ExitCode> {
    if let Some(missing) = privilege::missing() {
        return Err(anyhow!(missing).context(Failure::Unsupported));
    }
    let loaded = load::load(&config.kernel()).context(Failure::Unsupported)?;
    let required = &config.probes.required;
    // Lock memory as the daemon does, so that the output has the daemon's memory.
    let mut hardening = Hardening::prepare();
    hardening.lock();
    if json {
        print(&format!("{:#}\n", probes::json(&loaded.coverage, required, &hardening)))?;
    } else {
        print(&probes::table(&loaded.coverage, required, &hardening))?;
    }
    let complete = loaded.coverage.missing_required(required).next().is_none();
    Ok(if complete { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// Prints each line of the daemon's answer.
fn ask(socket: &Path, request: &Request, json: bool) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let printed = call(socket, request, |line, response| {
        match response {
            _ if json => writeln!(out, "{line}")?,
            Response::Event(event) => writeln!(out, "{}", show_event::line(&event))?,
            Response::Missed { missed } => {
                writeln!(out, "(too slow: {missed} events not shown)")?;
            }
            Response::Explanation(explanation) => write!(out, "{explanation}")?,
            Response::Done { done } => writeln!(out, "{done}")?,
            Response::DrainAcks(_) | Response::Top(_) | Response::Error { .. } => {}
        }
        Ok(out.flush()?)
    });
    ignore_closed_pipe(printed)
}

fn event(socket: &Path, id: String, json: bool) -> Result<()> {
    let mut text = String::new();
    call(socket, &Request::Event { id }, |line, response| {
        match response {
            Response::Event(_) if json => text = format!("{line}\n"),
            Response::Event(event) => text = show_event::report(&event),
            _ => {}
        }
        Ok(())
    })?;
    print(&text)
}

fn fetch_top(socket: &Path) -> Result<Top> {
    call_one(socket, &Request::Top, |response| match response {
        Response::Top(top) => Some(*top),
        _ => None,
    })
}

/// Shows the live screen, or prints once.
fn top(socket: &Path, live: bool, rows: usize, by: By, json: bool) -> Result<()> {
    if live {
        return live::run(by, || fetch_top(socket));
    }
    let mut top = fetch_top(socket)?;
    keep_first(&mut top, rows, by);
    print(&if json { serde_json::to_string(&top)? + "\n" } else { tables::text(&top) })
}
