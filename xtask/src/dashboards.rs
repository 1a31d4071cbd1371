//! `dashboards`: the Grafana dashboards as JSON, from `dashboards/grafana/src`, and pictures of them for the README.
//! What they are and how they are checked is in `dashboards/grafana/README.md`.

use std::process::Command;

use anyhow::{Context as _, Result};

use crate::{
    exec::{self, Root},
    setup,
    survey::{self, Group},
};

/// Where sources and pictures are, from the repository's root.
const SOURCES: &str = "dashboards/grafana/src";
const PICTURES: &str = "docs";

/// Make the dashboards' JSON anew; a test fails while it is not what the sources make.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Also let a night happen (five minutes, as root, on a machine with little else to do), ask all that the
    /// dashboards ask, and draw it
    #[arg(long)]
    pictures: bool,
    /// A shorter night, by this factor
    #[arg(long, default_value_t = 1.0)]
    pace: f64,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    setup::ensure(&[Group::Build, Group::Tests])?;
    // -B: no compiled modules among the sources.
    let python = |name: &str, script: &str| {
        let mut python = Command::new(survey::tools_dir().join(name));
        python.current_dir(exec::workspace()).arg("-B").arg(format!("{SOURCES}/{script}"));
        python
    };
    exec::run(&mut python("dashboards-python", "generate.py"))?;
    if !args.pictures {
        return Ok(());
    }
    let root = Root::find().context("pictures need real pressure, in cgroups")?;
    setup::ensure(&[Group::Pictures])?;
    let mut build = exec::cargo();
    build.args(["build", "--release", "--package", "sensor-tests", "--package", "sensor-user"]);
    exec::run(build.arg("--bins"))?;
    let target = exec::target_dir()?;
    let program = target.join("release/night");
    let program = program.to_str().context("the target directory's path is not UTF-8")?;
    let answers = target.join("night.json");
    let mut night = root.command(program);
    exec::run(night.arg(&answers).arg(args.pace.to_string()))?;
    exec::run(python("pictures-python", "draw.py").arg(&answers).arg(PICTURES))
}
