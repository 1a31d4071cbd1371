//! Commands and options, with their help. Not here: what they do (`dispatch`).

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{
    Parser, Subcommand,
    builder::{PossibleValuesParser, TypedValueParser},
};
use humantime::parse_duration;
use sensor_core::model::readiness::FailOn;

use super::{
    past::{history::HistoryArgs, postmortem::PostmortemArgs},
    readyz_client::Server,
    top::sort::By,
};

const EXIT_CODES: &str = "\
Exit codes:
  0  success, or the daemon was stopped by a signal
  1  failure; for `probes`: a required probe cannot be attached
  2  mistake in the command line or the configuration
  3  the kernel does not support the probes, or privileges are missing
  4  an address or the socket is in use
`check` has exit codes of its own, see `memsensor check --help`.

The environment variable RUST_LOG sets the log level: error, warn, info (default), debug or trace.";

const RUN_EXAMPLES: &str = "\
Examples:
  memsensor run
  memsensor run --config /etc/memsensor/config.toml
  memsensor run --listen 127.0.0.1:9817 --listen '[::1]:9817'

`memsensor config defaults` prints all settings with their meaning.";

const CHECK_CODES: &str = "\
Exit codes, as Nagios and Consul expect them:
  0  OK: ready, full traffic
  1  WARNING: degraded, less traffic
  2  CRITICAL: overloaded, drained, stale (the last sample is too old) or starting, no traffic
  3  UNKNOWN: no response, or stalls cannot be measured
With --fail-on, for tools that only distinguish success and failure (keepalived's vrrp_script):
  0  the scope should get traffic
  2  no response, or the scope is in a state that STATE selects:
       drained     only a drain by an operator
       overloaded  every state without traffic
       degraded    every state with less than full traffic";

const DRAIN_EXAMPLES: &str = "\
Examples:
  memsensor drain --reason 'kernel update' --for 10m --wait
  memsensor drain --reason 'bad DIMM'";

const EVENTS_EXAMPLES: &str = "\
Examples:
  memsensor events --follow
  memsensor events --since yesterday
  memsensor events --since 2h --dir /mnt/web-01/var/lib/memsensor";

const HISTORY_EXAMPLES: &str = "\
Examples:
  memsensor history
  memsensor history --since '2026-11-28 03:00' --until '2026-11-28 03:20' --step 1s
  memsensor history --since yesterday --step 10s --openmetrics > web-01.txt
  memsensor history --dir /mnt/web-01/var/lib/memsensor --since 7d --json";

const POSTMORTEM_EXAMPLES: &str = "\
Examples:
  memsensor postmortem > postmortem.md
  memsensor postmortem --format html --dir /mnt/web-01/var/lib/memsensor > web-01.html
  memsensor postmortem --since '2026-11-28 03:00' --until '2026-11-28 04:00'";

const TOP_EXAMPLES: &str = "\
Examples:
  memsensor top
  memsensor top --once --most 5 --by ten-minutes
  memsensor top --at '2026-11-28 03:12'";

/// Report memory pressure and OOM kills of a Linux host to Prometheus and load balancers
#[derive(Debug, Parser)]
#[command(name = "memsensor", version, after_help = EXIT_CODES, max_term_width = 100)]
pub struct Cli {
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// The configuration file.
#[derive(Debug, clap::Args)]
pub struct ConfigArg {
    /// Configuration file (TOML); without one, every setting has its default
    #[arg(long, short, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Options of `memsensor run` that replace settings of the configuration.
#[derive(Debug, Clone, clap::Args)]
pub struct RunOptions {
    /// Address for HTTP with all routes: readiness, metrics and events; repeat the option for
    /// more [default: `[[listen]]` of the configuration]
    ///
    /// Replaces every `[[listen]]` of HTTP, with `allow`, TLS and passwords. The agent-check
    /// stays.
    #[arg(long, value_name = "ADDR")]
    pub listen: Vec<SocketAddr>,
    /// Address for HAProxy's agent-check [default: `[[listen]]` of the configuration]
    ///
    /// Replaces every `[[listen]]` with the route `agent`. HTTP stays.
    #[arg(long, value_name = "ADDR")]
    pub agent_listen: Option<SocketAddr>,
    /// User to change to after the start, by name or number [default: `user` of the
    /// configuration]
    #[arg(long, value_name = "USER")]
    pub user: Option<String>,
    /// Start even if required probes cannot be attached, as `allow_degraded` in the
    /// configuration
    #[arg(long)]
    pub allow_degraded: bool,
}

/// The daemon's socket.
#[derive(Debug, clap::Args)]
pub struct SocketArg {
    /// Unix socket of the running daemon
    #[arg(long, value_name = "PATH", default_value = "/run/memsensor/memsensor.sock")]
    pub socket: PathBuf,
}

/// All commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the daemon: load the probes, and serve metrics and readiness until a signal stops it
    #[command(after_help = RUN_EXAMPLES)]
    Run {
        /// The configuration.
        #[command(flatten)]
        config: ConfigArg,
        /// Options that replace settings of the configuration.
        #[command(flatten)]
        options: RunOptions,
    },
    /// Make the running daemon read its configuration again
    ///
    /// A mistake in the configuration changes nothing. Settings that need a restart are named.
    Reload {
        /// The daemon's socket.
        #[command(flatten)]
        socket: SocketArg,
    },
    /// Show which probes can be attached on this host, and the reason for each that cannot
    ///
    /// Attaches the probes for a moment. That needs root, or CAP_BPF and CAP_PERFMON.
    Probes {
        /// The configuration.
        #[command(flatten)]
        config: ConfigArg,
        /// Print JSON instead of a table
        #[arg(long)]
        json: bool,
    },
    /// List the OOM kills, kills by user-space OOM daemons, and commands of operators
    ///
    /// Without --since they are those that the running daemon keeps. With it, they are read from the
    /// record, across restarts and boots, together with changes of state and starts of the daemon.
    #[command(after_help = EVENTS_EXAMPLES)]
    Events {
        /// Read the record from this time on: a time in UTC such as "2026-11-28 03:12", "03:12" or
        /// "yesterday", or so long ago, such as 2h
        #[arg(long, value_name = "TIME", conflicts_with = "follow")]
        since: Option<String>,
        /// End, likewise
        #[arg(long, value_name = "TIME", default_value = "now", requires = "since")]
        until: String,
        /// Directory of the record, or of a copy of it from another host
        #[arg(long, value_name = "PATH", default_value = "/var/lib/memsensor", requires = "since")]
        dir: PathBuf,
        /// Keep running, and print new events as they happen
        #[arg(long, short)]
        follow: bool,
        /// Print one JSON object per line
        #[arg(long)]
        json: bool,
        /// The daemon's socket.
        #[command(flatten)]
        socket: SocketArg,
    },
    /// Show what memsensor recorded: state, weight and signals over time
    ///
    /// Reads the record on disk, also without a running daemon, and copies of it from other hosts.
    /// Exit code 1 if nothing can be read; what is damaged is named on stderr.
    #[command(after_help = HISTORY_EXAMPLES)]
    History(HistoryArgs),
    /// Write the postmortem of an incident from the record: what happened, why, and what to do
    ///
    /// Without options it is about the last incident of this host: a time with less weight, with kills,
    /// or without a record. Exit code 1 if there is none.
    #[command(after_help = POSTMORTEM_EXAMPLES)]
    Postmortem(PostmortemArgs),
    /// Show the report of one kill: cgroup limits, largest and growing processes, stalls
    Event {
        /// Id of the event, as printed by `events` [default: the last kill]
        #[arg(default_value = "", hide_default_value = true)]
        id: String,
        /// Print JSON instead of text
        #[arg(long)]
        json: bool,
        /// The daemon's socket.
        #[command(flatten)]
        socket: SocketArg,
    },
    /// Show processes and cgroups by memory, growth or stalls
    ///
    /// On a terminal it is a live screen (press h for its keys), otherwise tables that are printed
    /// once. The data come from the running daemon.
    #[command(after_help = TOP_EXAMPLES)]
    Top {
        /// Print the last scan before this time from the record: a time in UTC such as
        /// "2026-11-28 03:12" or "03:12", or so long ago, such as 2h
        #[arg(long, value_name = "TIME")]
        at: Option<String>,
        /// Directory of the record, or of a copy of it from another host
        #[arg(long, value_name = "PATH", default_value = "/var/lib/memsensor", requires = "at")]
        dir: PathBuf,
        /// Print tables once, also on a terminal
        #[arg(long)]
        once: bool,
        /// Number of rows per printed table
        #[arg(long = "most", short = 'n', value_name = "N", default_value_t = 15)]
        rows: usize,
        /// Sort key
        #[arg(long, value_name = "BY", default_value = "memory")]
        by: By,
        /// Print JSON instead of tables
        #[arg(long)]
        json: bool,
        /// The daemon's socket.
        #[command(flatten)]
        socket: SocketArg,
    },
    /// Explain the verdict: the rules with values and thresholds, and the changes that would alter
    /// it
    Explain {
        /// Name of a scope [default: the host]
        #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
        scope: String,
        /// Print JSON instead of text
        #[arg(long)]
        json: bool,
        /// The daemon's socket.
        #[command(flatten)]
        socket: SocketArg,
    },
    /// Report readiness as one line and an exit code, for Nagios, Consul and keepalived
    #[command(after_help = CHECK_CODES)]
    Check {
        /// Name of a scope [default: the host]
        #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
        scope: String,
        /// Exit only with 0 or 2, and with 2 from this state on
        #[arg(long, value_name = "STATE", value_parser = fail_on_parser())]
        fail_on: Option<FailOn>,
        /// Print only the weight, an integer from 0 to 100, for scripts; nothing without a response
        ///
        /// It is 0 only if the scope should get no traffic. --fail-on selects these states.
        #[arg(long)]
        weight: bool,
        /// The daemon's HTTP server.
        #[command(flatten)]
        server: Server,
        /// Longest time to wait for a response, e.g. 500ms or 2s
        #[arg(long, value_name = "TIME", default_value = "2s", value_parser = parse_duration)]
        timeout: Duration,
    },
    /// Drain this host: load balancers send it no new traffic
    ///
    /// The drain survives a restart of the daemon, but not a reboot. `memsensor undrain` ends it.
    #[command(after_help = DRAIN_EXAMPLES)]
    Drain {
        /// Reason of the drain, which `/readyz` and `explain` show
        #[arg(long, value_name = "TEXT")]
        reason: String,
        /// End the drain after this time, e.g. 10m [default: until `undrain`]
        #[arg(long = "for", value_name = "TIME", value_parser = parse_duration)]
        lasts: Option<Duration>,
        /// Wait until every load balancer that polled within the last minute has received the drain
        ///
        /// Waits for at most TIME [default: 60s]. After that the exit code is 1, and the drain
        /// stays. If the daemon was started less than a minute ago, it waits for at least one load
        /// balancer.
        #[arg(
            long,
            value_name = "TIME",
            num_args = 0..=1,
            default_missing_value = "60s",
            value_parser = parse_duration
        )]
        wait: Option<Duration>,
        /// The daemon's socket.
        #[command(flatten)]
        socket: SocketArg,
    },
    /// End a drain: the host gets traffic again, as its verdict allows
    Undrain {
        /// The daemon's socket.
        #[command(flatten)]
        socket: SocketArg,
    },
    /// Check a configuration file, or print all settings or rules
    Config {
        /// The command.
        #[command(subcommand)]
        command: ConfigCommand,
    },
}

/// Commands on configuration files.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Check a configuration file, and report the first mistake with its key or line
    ///
    /// Reads the files of listeners too: run it as a user who may read their keys.
    Check {
        /// Configuration file (TOML)
        file: PathBuf,
    },
    /// Print every setting with its meaning and default, as a configuration file
    Defaults,
    /// Print the rules of the verdict with their reasons and thresholds, as a configuration file
    Rules,
}

/// Parses a state of `--fail-on`.
fn fail_on_parser() -> impl TypedValueParser<Value = FailOn> {
    let words = PossibleValuesParser::new(FailOn::ALL.map(FailOn::label));
    words.map(|word| FailOn::parse(&word).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_default_socket_is_the_configuration_s() {
        let cli = Cli::try_parse_from(["memsensor", "events"]).expect("parses");
        let Command::Events { socket, .. } = cli.command else { panic!("{cli:?}") };
        assert_eq!(socket.socket, PathBuf::from(crate::daemon::config::Config::default().socket));
    }
}
