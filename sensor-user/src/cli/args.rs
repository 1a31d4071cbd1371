//! Commands and options, with their help. Not here: what they do (`dispatch`).

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{
    Parser, Subcommand,
    builder::{PossibleValuesParser, TypedValueParser},
};
use sensor_core::model::readiness::FailOn;

use super::top::sort::By;

const EXIT_CODES: &str = "\
Exit codes:
  0  success, or stopped by a signal
  1  failure; for `probes`: a required probe cannot be attached
  2  a mistake in the command line or the configuration
  3  the kernel or the privileges do not allow what is needed
  4  an address or the socket is in use
`check` has its own codes: 0 full traffic, 1 less, 2 none, 3 unknown.

RUST_LOG sets the log level, e.g. RUST_LOG=debug or RUST_LOG=memsensor=debug (default: info).";

const CHECK_CODES: &str = "\
Exit codes, by the convention of Nagios and Consul:
  0  ready: full traffic
  1  degraded: less traffic
  2  overloaded, drained by an operator, or the last sample is too old: no traffic
  3  no answer, or the state is unknown
With --fail-on, for tools that only distinguish success and failure (keepalived's vrrp_script):
  0  the scope should get traffic
  2  it should not, or there was no answer";

/// Memory pressure and OOM kills of a Linux host, for Prometheus and load balancers
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
    /// Configuration file (TOML); default settings without one
    #[arg(long, short, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// The daemon's socket.
#[derive(Debug, clap::Args)]
pub struct SocketArg {
    /// Socket of the daemon
    #[arg(long, value_name = "PATH", default_value = "/run/memsensor/memsensor.sock")]
    pub socket: PathBuf,
}

/// All commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Load the probes and serve metrics and readiness until stopped
    Run {
        /// The configuration.
        #[command(flatten)]
        config: ConfigArg,
        /// Serve HTTP here instead; may be given several times
        #[arg(long, value_name = "ADDR")]
        listen: Vec<SocketAddr>,
        /// Answer HAProxy's agent-check here
        #[arg(long, value_name = "ADDR")]
        agent_listen: Option<SocketAddr>,
        /// Start even if required probes cannot be attached
        #[arg(long)]
        allow_degraded: bool,
    },
    /// Show for each probe whether it can be attached on this host, or why not (attaches them briefly)
    Probes {
        /// The configuration.
        #[command(flatten)]
        config: ConfigArg,
        /// JSON instead of a table
        #[arg(long)]
        json: bool,
    },
    /// Show OOM kills and kills by user-space OOM daemons that the running daemon recorded
    Events {
        /// Keep running and show new events as they happen
        #[arg(long, short)]
        follow: bool,
        /// One JSON object per line
        #[arg(long)]
        json: bool,
        /// The daemon's socket.
        #[command(flatten)]
        socket: SocketArg,
    },
    /// Show one kill with its report: cgroup limits, largest and growing processes, stalls
    Event {
        /// Id of the event, as shown by `events` [default: the last kill]
        #[arg(default_value = "")]
        id: String,
        /// JSON instead of text
        #[arg(long)]
        json: bool,
        /// The daemon's socket.
        #[command(flatten)]
        socket: SocketArg,
    },
    /// Show processes and cgroups by memory and growth, from the running daemon: live on a terminal (h shows
    /// the keys), otherwise once
    Top {
        /// Print tables once
        #[arg(long)]
        once: bool,
        /// Rows per table (with --once)
        #[arg(long, short = 'n', value_name = "N", default_value_t = 15)]
        rows: usize,
        /// Sort key
        #[arg(long, value_name = "BY", default_value = "memory")]
        by: By,
        /// JSON instead of tables
        #[arg(long)]
        json: bool,
        /// The daemon's socket.
        #[command(flatten)]
        socket: SocketArg,
    },
    /// Explain the verdict: rules with their values and thresholds, and what would change it
    Explain {
        /// Name of a scope [default: the host]
        #[arg(long, value_name = "NAME", default_value = "")]
        scope: String,
        /// JSON instead of text
        #[arg(long)]
        json: bool,
        /// The daemon's socket.
        #[command(flatten)]
        socket: SocketArg,
    },
    /// Report readiness as one line and an exit code: for Nagios, Consul, keepalived
    #[command(after_help = CHECK_CODES)]
    Check {
        /// Name of a scope [default: the host]
        #[arg(long, value_name = "NAME", default_value = "")]
        scope: String,
        /// Use only 0 and 2 as exit codes: 2 from this state on
        #[arg(long, value_name = "STATE", value_parser = fail_on_parser())]
        fail_on: Option<FailOn>,
        /// URL of the daemon
        #[arg(long, default_value = "http://127.0.0.1:9817")]
        url: String,
        /// Timeout; no response is UNKNOWN (exit code 3, or 2 with --fail-on)
        #[arg(long, value_name = "TIME", default_value = "2s", value_parser = humantime::parse_duration)]
        timeout: Duration,
    },
    /// Drain this host: load balancers send it no new traffic
    Drain {
        /// Reason, shown with the state
        #[arg(long)]
        reason: String,
        /// End the drain after this time, e.g. 10m [default: until `undrain`]
        #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration)]
        lasts: Option<Duration>,
        /// Wait until all load balancers that asked in the last minute know of the drain. After this time the
        /// exit code is 1, and the drain stays. A daemon that was started less than a minute ago waits for
        /// the first client
        #[arg(long, value_name = "TIME", num_args = 0..=1, default_missing_value = "60s", value_parser = humantime::parse_duration)]
        wait: Option<Duration>,
        /// The daemon's socket.
        #[command(flatten)]
        socket: SocketArg,
    },
    /// End a `drain`
    Undrain {
        /// The daemon's socket.
        #[command(flatten)]
        socket: SocketArg,
    },
    /// Check configuration files, print defaults
    Config {
        /// The command.
        #[command(subcommand)]
        command: ConfigCommand,
    },
}

/// Commands on configuration files.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Check a file and report mistakes
    Check {
        /// The file to check
        file: PathBuf,
    },
    /// Print every setting with its default
    Defaults,
    /// Print the rules of the verdict with their thresholds, as configuration
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
