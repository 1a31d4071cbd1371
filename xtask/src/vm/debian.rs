//! Debian's packages of all suites with kernels. Uses separate package lists, so that the machine's
//! apt configuration and installed packages do not change.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, bail};

use crate::host::{
    apt,
    exec::{self, Root, command_line},
};

/// Environment: a Debian mirror, for machines whose apt sources have none (Ubuntu).
const MIRROR_VAR: &str = "MEMSENSOR_DEBIAN_MIRROR";

/// The suites with kernels: releases have the long-term series, the others have newer ones.
const SUITES: [&str; 7] = [
    "bullseye",
    "bookworm",
    "trixie",
    "bookworm-backports",
    "trixie-backports",
    "sid",
    "experimental",
];
/// The suites that have security updates, which are in a separate archive.
const SECURITY: [&str; 3] = ["bullseye", "bookworm", "trixie"];

/// Package lists of a greater age are fetched again.
const MAX_AGE: Duration = Duration::from_hours(24);

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The package lists of one architecture.
#[derive(Debug)]
pub(crate) struct Archive {
    config: PathBuf,
}

impl Archive {
    /// Opens the lists in a directory. Fetches them if they are missing or old.
    pub(crate) fn open(dir: &Path, arch: &str) -> Result<Self> {
        let archive = Self { config: dir.join("apt.conf") };
        let stamp = dir.join("fetched");
        if is_fresh(&stamp) {
            return Ok(archive);
        }
        let mirror = mirror()?;
        for sub in ["state/lists/partial", "cache/archives/partial", "preferences.d"] {
            fs::create_dir_all(dir.join(sub))
                .with_context(|| format!("create directories in {}", dir.display()))?;
        }
        fs::write(dir.join("state/status"), "")?;
        fs::write(dir.join("sources.list"), sources(&mirror))?;
        fs::write(&archive.config, config(dir, arch))?;
        println!("vm: fetching package lists ({arch})");
        match exec::run(archive.apt("apt-get").args(["--quiet", "--quiet", "update"])) {
            Ok(()) => fs::write(&stamp, "")?,
            Err(error) if stamp.exists() => println!("vm: using the old lists: {error:#}"),
            Err(error) => return Err(error).context("fetch Debian's package lists"),
        }
        Ok(archive)
    }

    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", &self.config);
        command
    }

    fn apt_cache(&self, args: &[&str]) -> Result<String> {
        let mut command = self.apt("apt-cache");
        command.args(args);
        let name = command_line(&command);
        let output = command.output().with_context(|| format!("start `{name}`"))?;
        if !output.status.success() {
            bail!("`{name}`: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The packages whose names have this prefix. Some of them may not be downloadable.
    pub(crate) fn names(&self, prefix: &str) -> Result<Vec<String>> {
        Ok(self.apt_cache(&["pkgnames", prefix])?.lines().map(str::to_owned).collect())
    }

    /// The downloadable version of a package.
    pub(crate) fn version(&self, package: &str) -> Result<Option<String>> {
        // Each line is "package | version | archive".
        let lines = self.apt_cache(&["madison", package])?;
        Ok(lines.lines().next().and_then(|l| Some(l.split('|').nth(1)?.trim().to_owned())))
    }

    /// The names of the packages that a package depends on.
    pub(crate) fn depends(&self, package: &str) -> Result<Vec<String>> {
        let fields = self.apt_cache(&["show", "--no-all-versions", package])?;
        let line = fields.lines().find_map(|l| l.strip_prefix("Depends: ")).unwrap_or_default();
        let name = |dependency: &str| dependency.split_whitespace().next().map(str::to_owned);
        Ok(line.split(',').filter_map(name).collect())
    }

    /// Downloads packages and unpacks them into one directory.
    pub(crate) fn unpack(&self, packages: &[String], dir: &Path) -> Result<()> {
        let debs = dir.join("debs");
        fs::create_dir_all(&debs).with_context(|| format!("create {}", debs.display()))?;
        let mut download = self.apt("apt-get");
        exec::run(
            download.current_dir(&debs).args(["--quiet", "--quiet", "download"]).args(packages),
        )?;
        for deb in fs::read_dir(&debs)? {
            exec::run(Command::new("dpkg-deb").arg("--extract").arg(deb?.path()).arg(dir))?;
        }
        Ok(fs::remove_dir_all(&debs)?)
    }
}

/// Installs packages from this release's backports, which apt's own sources may not include.
pub(crate) fn install_from_backports(cache: &Path, packages: &[&str]) -> Result<()> {
    let root = Root::find().context("install QEMU")?;
    let codename = codename()?;
    let suite = format!("{codename}-backports");
    let dir = cache.join("apt-backports");
    fs::create_dir_all(dir.join("lists/partial"))?;
    let mirror = mirror()?;
    let lines = [source(&mirror, &codename), source(&mirror, &suite)];
    fs::write(dir.join("sources.list"), lines.concat())?;
    let options = [
        format!("Dir::Etc::sourcelist={}/sources.list", dir.display()),
        "Dir::Etc::sourceparts=-".to_owned(),
        format!("Dir::State::lists={}/lists", dir.display()),
    ];
    let from_backports: Vec<_> = packages.iter().map(|p| format!("{p}/{suite}")).collect();
    let install = ["install", "--yes", "--no-remove", "--no-install-recommends"];
    let install = install.into_iter().chain(from_backports.iter().map(String::as_str)).collect();
    for args in [vec!["update"], install] {
        let options = options.iter().flat_map(|option| ["-o", option]);
        apt::apt_get(root, &options.chain(args).collect::<Vec<_>>())?;
    }
    Ok(())
}

/// The lines of sources.list for one release with its security updates.
pub(crate) fn release_sources(codename: &str) -> Result<String> {
    let mirror = mirror()?;
    let security = source(&format!("{mirror}-security"), &format!("{codename}-security"));
    Ok(source(&mirror, codename) + &security)
}

/// The codename of this machine's release.
fn codename() -> Result<String> {
    let release = fs::read_to_string("/etc/os-release").context("read /etc/os-release")?;
    let codename = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let codename = codename.context("/etc/os-release has no VERSION_CODENAME")?;
    Ok(codename.trim_matches('"').to_owned())
}

fn is_fresh(stamp: &Path) -> bool {
    let age = |m: fs::Metadata| SystemTime::now().duration_since(m.modified().ok()?).ok();
    fs::metadata(stamp).ok().and_then(age).is_some_and(|age| age < MAX_AGE)
}

/// The Debian mirror of this machine.
fn mirror() -> Result<String> {
    if let Some(mirror) = env::var(MIRROR_VAR).ok().filter(|m| !m.is_empty()) {
        return Ok(mirror.trim_end_matches('/').to_owned());
    }
    let mut index = Command::new("apt-get");
    index.args(["indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]);
    let output = index.output().context("start apt-get")?;
    debian_mirror(&String::from_utf8_lossy(&output.stdout)).with_context(|| {
        format!("apt's sources have no Debian mirror: set {MIRROR_VAR} to the URL of a mirror")
    })
}

fn debian_mirror(uris: &str) -> Option<String> {
    let is_debian = |uri: &&str| uri.trim_end_matches('/').ends_with("/debian");
    Some(uris.lines().find(is_debian)?.trim_end_matches('/').to_owned())
}

fn sources(mirror: &str) -> String {
    let security = format!("{mirror}-security");
    let main = SUITES.iter().map(|suite| source(mirror, suite));
    main.chain(SECURITY.iter().map(|s| source(&security, &format!("{s}-security")))).collect()
}

/// A line of sources.list.
fn source(mirror: &str, suite: &str) -> String {
    format!("deb [signed-by={KEYRING}] {mirror} {suite} main\n")
}

fn config(dir: &Path, arch: &str) -> String {
    let dir = dir.display();
    format!(
        "Dir::Etc::sourcelist \"{dir}/sources.list\";\n\
         Dir::Etc::sourceparts \"-\";\n\
         Dir::Etc::preferencesparts \"{dir}/preferences.d\";\n\
         Dir::State \"{dir}/state\";\n\
         Dir::State::status \"{dir}/state/status\";\n\
         Dir::Cache \"{dir}/cache\";\n\
         APT::Architecture \"{arch}\";\n\
         APT::Architectures {{ \"{arch}\"; }};\n\
         APT::Sandbox::User \"root\";\n\
         Acquire::Languages \"none\";\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_not_the_security_archive() {
        let uris = "http://m.example/debian-security/\nhttp://m.example/debian/\n";
        assert_eq!(debian_mirror(uris).as_deref(), Some("http://m.example/debian"));
        assert_eq!(debian_mirror("http://m.example/ubuntu/\n"), None);
    }

    #[test]
    fn security_updates_come_from_a_separate_archive() {
        let list = sources("http://m.example/debian");
        assert!(
            list.contains("http://m.example/debian-security bullseye-security main\n"),
            "{list}"
        );
        assert_eq!(list.lines().count(), SUITES.len() + SECURITY.len());
    }
}
