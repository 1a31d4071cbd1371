//! The command line: what can be asked of `memsensor`, and what its help says. No doing here.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Parser, Subcommand};

use crate::{serve::state::FailOn, top::By};

const EXIT_CODES: &str = "\
Exit codes:
  0  done, or stopped by a signal
  1  something failed; for `probes`: a required probe cannot be attached
  2  a mistake in the command line or the configuration
  3  the kernel or our privileges do not allow what is needed
  4  an address or the socket is in use
`check` has codes of its own: 0 full traffic, 1 less, 2 none, 3 nothing can be told.

RUST_LOG sets what is logged, e.g. RUST_LOG=debug or RUST_LOG=memsensor=debug (default: info).";

const CHECK_CODES: &str = "\
Exit codes, as Nagios and Consul understand them:
  0  ready: full traffic
  1  degraded: less traffic
  2  draining, drained by an operator, or the sensor's last sample is too old: no traffic
  3  no answer, or nothing can be told
With --fail-on, for who knows but good and bad (keepalived's vrrp_script):
  0  fit for traffic
  2  not, or no answer";

/// Memory pressure and OOM kills of a Linux host, for Prometheus and load balancers
#[derive(Debug, Parser)]
#[command(name = "memsensor", version, after_help = EXIT_CODES, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Where the configuration is.
#[derive(Debug, clap::Args)]
pub struct ConfigArg {
    /// Configuration file (TOML); without one, the defaults hold
    #[arg(long, short, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Where the daemon's socket is.
#[derive(Debug, clap::Args)]
pub struct SocketArg {
    /// The daemon's socket, if it is not the default
    #[arg(long, value_name = "PATH", default_value = "/run/memsensor/memsensor.sock")]
    pub socket: PathBuf,
}

/// What can be asked.
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
        /// Serve what can be had, even if required probes cannot be attached
        #[arg(long)]
        allow_degraded: bool,
    },
    /// Show each probe and what it needs: attached here, or why not (loads them for a moment)
    Probes {
        /// The configuration.
        #[command(flatten)]
        config: ConfigArg,
        /// JSON instead of a table
        #[arg(long)]
        json: bool,
    },
    /// Show OOM kills and kills by user-space OOM daemons, from the running daemon
    Events {
        /// Stay and show new events as they happen
        #[arg(long, short)]
        follow: bool,
        /// One JSON object per line
        #[arg(long)]
        json: bool,
        /// The daemon's socket.
        #[command(flatten)]
        socket: SocketArg,
    },
    /// Show all that is known of one kill: limits, who had the memory, who had taken it, who stalled
    Event {
        /// Which, as `events` shows it; the last one without
        #[arg(default_value = "")]
        id: String,
        /// JSON instead of text
        #[arg(long)]
        json: bool,
        /// The daemon's socket.
        #[command(flatten)]
        socket: SocketArg,
    },
    /// Show who has the memory and who took it lately, processes and cgroups, from the running daemon: live
    /// on a terminal (h shows the keys), else once
    Top {
        /// Once, as tables
        #[arg(long)]
        once: bool,
        /// How many of each, once
        #[arg(long, short = 'n', value_name = "N", default_value_t = 15)]
        most: usize,
        /// Who comes first
        #[arg(long, value_name = "BY", default_value = "memory")]
        by: By,
        /// JSON instead of tables
        #[arg(long)]
        json: bool,
        /// The daemon's socket.
        #[command(flatten)]
        socket: SocketArg,
    },
    /// Show why the verdict is what it is: rules, numbers, thresholds, what would change it
    Explain {
        /// Of this scope instead of the host
        #[arg(long, value_name = "NAME", default_value = "")]
        scope: String,
        /// JSON instead of text
        #[arg(long)]
        json: bool,
        /// The daemon's socket.
        #[command(flatten)]
        socket: SocketArg,
    },
    /// Say in one line and by exit code whether a scope is fit: for Nagios, Consul, keepalived
    #[command(after_help = CHECK_CODES)]
    Check {
        /// Of this scope instead of the host
        #[arg(long, value_name = "NAME", default_value = "")]
        scope: String,
        /// Only 0 or 2 as exit code: 2 from this state on
        #[arg(long, value_name = "STATE")]
        fail_on: Option<FailOn>,
        /// Where the daemon serves HTTP
        #[arg(long, default_value = "http://127.0.0.1:9817")]
        url: String,
        /// No answer within this is an answer as well
        #[arg(long, value_name = "TIME", default_value = "2s", value_parser = humantime::parse_duration)]
        timeout: Duration,
    },
    /// Take this host out of service: balancers send it no new traffic
    Drain {
        /// Shown to whoever asks why
        #[arg(long)]
        reason: String,
        /// Back in service by itself after this, e.g. 10m; without it only by `undrain`
        #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration)]
        lasts: Option<Duration>,
        /// Return only when all balancers that asked within the last minute have been told; give up
        /// after this time (the drain stays) with exit code 1. A daemon that was started less than a minute
        /// ago waits until somebody asks
        #[arg(long, value_name = "TIME", num_args = 0..=1, default_missing_value = "60s", value_parser = humantime::parse_duration)]
        wait: Option<Duration>,
        /// The daemon's socket.
        #[command(flatten)]
        socket: SocketArg,
    },
    /// Take back a `drain`
    Undrain {
        /// The daemon's socket.
        #[command(flatten)]
        socket: SocketArg,
    },
    /// Work with configuration files
    Config {
        /// What to do with them.
        #[command(subcommand)]
        command: ConfigCommand,
    },
}

/// Work with configuration files.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Check a file and say what is wrong with it
    Check {
        /// The file
        file: PathBuf,
    },
    /// Print every setting with its default
    Defaults,
    /// Print the verdict's rules with their thresholds, as they can be changed
    Rules,
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
        assert_eq!(socket.socket, PathBuf::from(crate::config::Config::default().socket));
    }
}
