//! Runs each command.
//!
//! Not here: options and help (`args`), and the text of output (`check`, `probes`, `format`,
//! `top`).

use std::{
    io::{IsTerminal as _, Write as _},
    path::Path,
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Context as _, Result, anyhow};
use sensor_core::{common::text::Sentence, model::readiness::FailOn};
use serde_json::Value;

use super::{
    admin_client::{call, call_one},
    args::{Command, ConfigArg, ConfigCommand, RunOptions},
    check, drain_wait,
    exit::Misconfigured,
    format::event as show_event,
    logging::Log,
    output::{ignore_closed_pipe, print},
    past, probes, readyz_client, rules, running_daemon,
    top::{
        live,
        sort::{By, keep_first},
        tables,
    },
};
use crate::{
    daemon::{
        config::Config,
        failure::Failure,
        hardening::Hardening,
        listeners,
        own_user::OwnUser,
        run::{self, Start},
    },
    kernel::{load, privilege},
    serve::{
        admin_protocol::{Request, Response, Top},
        listen,
    },
};

/// Runs a command.
pub fn dispatch(command: Command, log: &Log) -> Result<ExitCode> {
    match command {
        Command::Run { config, options } => run_daemon(config, options, log)?,
        Command::Reload { socket } => ask(&socket.socket, &Request::Reload, false)?,
        Command::Probes { config, json } => return probe(&read(&config)?, json),
        Command::Events { since: Some(since), until, dir, json, .. } => {
            print(&past::events::read(&dir, &since, &until, json)?)?;
        }
        Command::History(args) => print(&past::history::read(&args)?)?,
        Command::Postmortem(args) => print(&past::postmortem::read(&args)?)?,
        Command::Events { follow, json, socket, .. } => {
            if follow || json {
                ask(&socket.socket, &Request::Events { follow }, json)?;
            } else {
                events(&socket.socket)?;
            }
        }
        Command::Event { id, json, socket } => event(&socket.socket, id, json)?,
        Command::Top { at: Some(at), dir, rows, json, .. } => {
            print(&past::top::read(&dir, &at, rows, json)?)?;
        }
        Command::Top { rows, by, once, json, socket, .. } => {
            let live = !once && !json && std::io::stdout().is_terminal();
            top(&socket.socket, live, rows, by, json)?;
        }
        Command::Explain { scope, json, socket } => {
            ask(&socket.socket, &Request::Explain { scope }, json)?;
        }
        Command::Check { scope, fail_on, weight, server, timeout } => {
            let answer = readyz_client::readiness(&server, &scope, timeout);
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
            let config = Config::read(file).context(Misconfigured)?;
            listeners::check_files(&config).context(Misconfigured)?;
            print(&format!("{}: valid\n", file.display()))
        }
        ConfigCommand::Defaults => print(include_str!("defaults.toml")),
        ConfigCommand::Rules => print(&rules::toml()),
    }
}

fn read(arg: &ConfigArg) -> Result<Config> {
    arg.config.as_deref().map_or_else(|| Ok(Config::default()), Config::read).context(Misconfigured)
}

fn run_daemon(arg: ConfigArg, options: RunOptions, log: &Log) -> Result<()> {
    let file = arg.config.clone();
    let reread = move || with_options(read(&arg)?, &options);
    let config = reread()?;
    let user = OwnUser::find(&config.user);
    log.start_thread(user.as_ref().ok().cloned().flatten());
    run::run(&config, Start { user, file, reread: Box::new(reread) })
}

/// The options of the command line replace settings of the file.
fn with_options(mut config: Config, options: &RunOptions) -> Result<Config> {
    let RunOptions { listen, agent_listen, user, allow_degraded } = options.clone();
    config.listen = config.listeners();
    listen::replace(&mut config.listen, &listen, agent_listen);
    config.user = user.unwrap_or(config.user);
    config.allow_degraded |= allow_degraded;
    config.check().context(Misconfigured)?;
    Ok(config)
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
    let running = running_daemon::ask(Path::new(&config.socket));
    if json {
        let mut json = probes::json(&loaded.coverage, required, &hardening);
        json["daemon"] = running_daemon::json(&running);
        print(&format!("{json:#}\n"))?;
    } else {
        print(&probes::table(&loaded.coverage, required, &hardening))?;
        print(&running_daemon::text(&running))?;
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
            response => write!(out, "{}", shown(&response))?,
        }
        Ok(out.flush()?)
    });
    ignore_closed_pipe(printed)
}

/// Prints the kept events; a group of kills is one line.
fn events(socket: &Path) -> Result<()> {
    let mut all = Vec::new();
    call(socket, &Request::Events { follow: false }, |_, response| {
        if let Response::Event(event) = response {
            all.push(Arc::unwrap_or_clone(event));
        }
        Ok(())
    })?;
    print(&show_event::lines(&all))
}

/// An answer as `events`, `explain`, `drain`, `undrain` and `reload` print it.
pub fn shown(response: &Response) -> String {
    match response {
        Response::Event(event) => show_event::line(event) + "\n",
        Response::Missed { missed } => format!("(too slow: {missed} events not shown)\n"),
        Response::Explanation(explanation) => explanation.to_string(),
        Response::Done { done } => format!("{}\n", Sentence(done)),
        Response::DrainAcks(_)
        | Response::Protection(_)
        | Response::Top(_)
        | Response::Error { .. } => String::new(),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_escape_sequence_reaches_a_terminal() {
        let done = "it's \"done\" \u{1b}[2J\n\u{9b}".to_owned();
        let text = shown(&Response::Done { done });
        assert_eq!(text, "it's \"done\" \\u{1b}[2J\\n\\u{9b}\n");
    }
}
