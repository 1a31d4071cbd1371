//! Debian's packages of every suite that holds kernels, read with package lists of our own: the
//! machine's apt configuration and installed packages are not touched.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, bail};

use crate::{
    apt,
    exec::{self, Root, typed},
};

/// Environment: a Debian mirror, where apt's own sources name none (Ubuntu).
const MIRROR_VAR: &str = "MEMSENSOR_DEBIAN_MIRROR";

/// Where kernels are found: long-supported series in the releases, newer ones in the rest.
const SUITES: [&str; 7] = [
    "bullseye",
    "bookworm",
    "trixie",
    "bookworm-backports",
    "trixie-backports",
    "sid",
    "experimental",
];
/// Those of them that have security updates, in an archive of their own.
const SECURITY: [&str; 3] = ["bullseye", "bookworm", "trixie"];

/// Lists that are older are fetched again.
const FRESH: Duration = Duration::from_hours(24);

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Package lists of one architecture.
#[derive(Debug)]
pub(crate) struct Archive {
    config: PathBuf,
}

impl Archive {
    /// Opens the lists in a directory, and fetches them if they are missing or old.
    pub(crate) fn open(dir: &Path, arch: &str) -> Result<Self> {
        let archive = Self { config: dir.join("apt.conf") };
        let stamp = dir.join("fetched");
        if is_fresh(&stamp) {
            return Ok(archive);
        }
        let mirror = mirror()?;
        for sub in ["state/lists/partial", "cache/archives/partial", "preferences.d"] {
            fs::create_dir_all(dir.join(sub))
                .with_context(|| format!("mkdir in {}", dir.display()))?;
        }
        fs::write(dir.join("state/status"), "")?;
        fs::write(dir.join("sources.list"), sources(&mirror))?;
        fs::write(&archive.config, config(dir, arch))?;
        println!("vm: fetching package lists ({arch})");
        match exec::run(archive.apt("apt-get").args(["--quiet", "--quiet", "update"])) {
            Ok(()) => fs::write(&stamp, "")?,
            Err(why) if stamp.exists() => println!("vm: using the old lists: {why:#}"),
            Err(why) => return Err(why).context("fetch Debian's package lists"),
        }
        Ok(archive)
    }

    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", &self.config);
        command
    }

    fn ask(&self, words: &[&str]) -> Result<String> {
        let mut command = self.apt("apt-cache");
        command.args(words);
        let out = command.output().with_context(|| format!("start `{}`", typed(&command)))?;
        if !out.status.success() {
            bail!("`{}`: {}", typed(&command), String::from_utf8_lossy(&out.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    }

    /// Names that begin so, of packages that may or may not be downloadable.
    pub(crate) fn names(&self, prefix: &str) -> Result<Vec<String>> {
        Ok(self.ask(&["pkgnames", prefix])?.lines().map(str::to_owned).collect())
    }

    /// The version that can be downloaded.
    pub(crate) fn version(&self, package: &str) -> Result<Option<String>> {
        // Lines of "package | version | where".
        let said = self.ask(&["madison", package])?;
        Ok(said.lines().next().and_then(|l| Some(l.split('|').nth(1)?.trim().to_owned())))
    }

    /// Names of the packages that a package depends on.
    pub(crate) fn depends(&self, package: &str) -> Result<Vec<String>> {
        let said = self.ask(&["show", "--no-all-versions", package])?;
        let line = said.lines().find_map(|l| l.strip_prefix("Depends: ")).unwrap_or_default();
        let name = |d: &str| d.split_whitespace().next().map(str::to_owned);
        Ok(line.split(',').filter_map(name).collect())
    }

    /// Downloads packages and unpacks them all into a directory.
    pub(crate) fn unpack(&self, packages: &[String], into: &Path) -> Result<()> {
        let debs = into.join("debs");
        fs::create_dir_all(&debs).with_context(|| format!("mkdir {}", debs.display()))?;
        let mut download = self.apt("apt-get");
        exec::run(
            download.current_dir(&debs).args(["--quiet", "--quiet", "download"]).args(packages),
        )?;
        for deb in fs::read_dir(&debs)? {
            exec::run(Command::new("dpkg-deb").arg("--extract").arg(deb?.path()).arg(into))?;
        }
        Ok(fs::remove_dir_all(&debs)?)
    }
}

/// Installs packages of this release's backports, which apt's own sources need not name.
pub(crate) fn install_from_backports(cache: &Path, packages: &[&str]) -> Result<()> {
    let root = Root::find().context("install QEMU")?;
    let release = fs::read_to_string("/etc/os-release").context("read /etc/os-release")?;
    let codename = release.lines().find_map(|l| l.strip_prefix("VERSION_CODENAME="));
    let codename = codename.context("/etc/os-release has no VERSION_CODENAME")?.trim_matches('"');
    let suite = format!("{codename}-backports");
    let dir = cache.join("apt-backports");
    fs::create_dir_all(dir.join("lists/partial"))?;
    let mirror = mirror()?;
    let line = |suite: &str| format!("deb [signed-by={KEYRING}] {mirror} {suite} main\n");
    fs::write(dir.join("sources.list"), [line(codename), line(&suite)].concat())?;
    let options = [
        format!("Dir::Etc::sourcelist={}/sources.list", dir.display()),
        "Dir::Etc::sourceparts=-".to_owned(),
        format!("Dir::State::lists={}/lists", dir.display()),
    ];
    let from_backports: Vec<_> = packages.iter().map(|p| format!("{p}/{suite}")).collect();
    let words = ["install", "--yes", "--no-remove", "--no-install-recommends"];
    let install = words.into_iter().chain(from_backports.iter().map(String::as_str)).collect();
    for words in [vec!["update"], install] {
        let options = options.iter().flat_map(|o| ["-o", o]);
        apt::apt_get(root, &options.chain(words).collect::<Vec<_>>())?;
    }
    Ok(())
}

fn is_fresh(stamp: &Path) -> bool {
    let age = |m: fs::Metadata| SystemTime::now().duration_since(m.modified().ok()?).ok();
    fs::metadata(stamp).ok().and_then(age).is_some_and(|age| age < FRESH)
}

/// The mirror that this machine uses for Debian.
fn mirror() -> Result<String> {
    if let Some(mirror) = env::var(MIRROR_VAR).ok().filter(|m| !m.is_empty()) {
        return Ok(mirror.trim_end_matches('/').to_owned());
    }
    let mut list = Command::new("apt-get");
    list.args(["indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]);
    let out = list.output().context("start apt-get")?;
    debian_of(&String::from_utf8_lossy(&out.stdout)).with_context(|| {
        format!("apt's sources have no Debian mirror: set {MIRROR_VAR} to the address of one")
    })
}

fn debian_of(uris: &str) -> Option<String> {
    let is_debian = |l: &&str| l.trim_end_matches('/').ends_with("/debian");
    Some(uris.lines().find(is_debian)?.trim_end_matches('/').to_owned())
}

fn sources(mirror: &str) -> String {
    let line = |base: &str, suite: &str| format!("deb [signed-by={KEYRING}] {base} {suite} main\n");
    let security = format!("{mirror}-security");
    let main = SUITES.iter().map(|suite| line(mirror, suite));
    main.chain(SECURITY.iter().map(|s| line(&security, &format!("{s}-security")))).collect()
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
    fn the_mirror_is_the_one_with_debian_itself() {
        let uris = "http://m.example/debian-security/\nhttp://m.example/debian/\n";
        assert_eq!(debian_of(uris).as_deref(), Some("http://m.example/debian"));
        assert_eq!(debian_of("http://m.example/ubuntu/\n"), None);
    }

    #[test]
    fn security_updates_come_from_their_own_archive() {
        let list = sources("http://m.example/debian");
        assert!(
            list.contains("http://m.example/debian-security bullseye-security main\n"),
            "{list}"
        );
        assert_eq!(list.lines().count(), SUITES.len() + SECURITY.len());
    }
}
