//! `dashboards`: generates the JSON of the Grafana dashboards from `dashboards/grafana/src`, and
//! pictures of them for the documents. `dashboards/grafana/README.md` explains the dashboards.

use std::process::Command;

use anyhow::{Context as _, Result};

use super::measurement::{build_release, release_program};
use crate::host::{
    exec::{self, Root},
    install,
    inventory::{self, Group},
};

/// The directories of sources and pictures, relative to the root of the repository.
const SOURCES: &str = "dashboards/grafana/src";
const PICTURES: &str = "docs";

/// Generate the JSON of the Grafana dashboards
///
/// A test fails if the JSON differs from its sources.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Also record an incident (five minutes, as root, on an idle machine), run the queries of the
    /// dashboards on it, and draw the results
    #[arg(long)]
    pictures: bool,
    /// Multiply the length of the incident by this factor
    #[arg(long, default_value_t = 1.0)]
    pace: f64,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    install::ensure(&[Group::Build, Group::Tests])?;
    exec::run(&mut python("dashboards-python", "generate.py"))?;
    if !args.pictures {
        return Ok(());
    }
    let root = Root::find().context("the pictures need memory pressure in cgroups")?;
    install::ensure(&[Group::Pictures])?;
    build_release(&[])?;
    let data = exec::target_dir()?.join("dashboard-data.json");
    let mut incident = root.command(&release_program("dashboard-data")?);
    exec::run(incident.arg(&data).arg(args.pace.to_string()))?;
    exec::run(python("pictures-python", "draw.py").arg(&data).arg(PICTURES))
}

/// Runs a script of the sources with an installed Python.
fn python(tool: &str, script: &str) -> Command {
    let mut python = Command::new(inventory::tools_dir().join(tool));
    // -B: write no compiled modules into the sources.
    python.current_dir(exec::workspace()).arg("-B").arg(format!("{SOURCES}/{script}"));
    python
}
