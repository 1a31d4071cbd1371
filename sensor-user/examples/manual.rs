//! Writes man pages and shell completions, generated from the definition of the command line, into
//! a directory. `cargo xtask dist` runs it. It is not part of the daemon, which keeps all of its
//! code in memory.

use std::{error::Error, path::PathBuf};

use clap::CommandFactory as _;
use sensor_user::cli::args::Cli;

fn main() -> Result<(), Box<dyn Error>> {
    let out = std::env::args().nth(1).map(PathBuf::from).ok_or("usage: manual DIRECTORY")?;
    clap_mangen::generate_to(Cli::command(), &out)?;
    for shell in [clap_complete::Shell::Bash, clap_complete::Shell::Zsh, clap_complete::Shell::Fish]
    {
        clap_complete::generate_to(shell, &mut Cli::command(), "memsensor", &out)?;
    }
    Ok(())
}
