//! `memsensor`: parses the command line, runs the command, and reports an error as one line and an
//! exit code.

use std::process::ExitCode;

use clap::Parser as _;
use sensor_user::cli::{
    args::{Cli, Command},
    dispatch::dispatch,
    exit, logging,
};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let log = logging::init(matches!(cli.command, Command::Run { .. }));
    dispatch(cli.command, &log).unwrap_or_else(|error| exit::report(&error, &log))
}
