//! Debian and Ubuntu packages: which are installed, and installing them. Other distributions get
//! an error that says what to install.

use std::{
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
};

use anyhow::{Context, Result, bail};

use crate::{
    exec::{self, Copy, Root, typed},
    toolchain::in_path,
};

/// Whether this run has fetched the package lists.
static UPDATED: AtomicBool = AtomicBool::new(false);

/// Installs the packages that are not there yet; returns those that it installed.
pub(crate) fn install(packages: &[&str]) -> Result<Vec<String>> {
    if in_path("apt-get").is_none() {
        bail!("no apt-get here: install what {} hold by other means", packages.join(", "));
    }
    let missing = missing(packages)?;
    if missing.is_empty() {
        return Ok(missing);
    }
    let root = Root::find().with_context(|| {
        format!("install packages: run `apt-get install {}`", missing.join(" "))
    })?;
    if !UPDATED.swap(true, Ordering::Relaxed) {
        apt_get(root, &["update"])?;
    }
    let words: Vec<_> = ["install", "--yes", "--no-install-recommends"]
        .into_iter()
        .chain(missing.iter().map(String::as_str))
        .collect();
    apt_get(root, &words)?;
    disable_services(root, &missing)?;
    Ok(missing)
}

/// Services of packages that are there for tests must not begin with the machine's next start.
fn disable_services(root: Root, packages: &[String]) -> Result<()> {
    if in_path("systemctl").is_none() {
        return Ok(());
    }
    let mut query = Command::new("dpkg-query");
    let out = query.arg("--listfiles").args(packages).output().context("start dpkg-query")?;
    let units = services(&String::from_utf8_lossy(&out.stdout));
    if units.is_empty() {
        return Ok(());
    }
    exec::run(root.command("systemctl").args(["disable", "--quiet"]).args(units))
}

/// Units among files, but not templates.
fn services(files: &str) -> Vec<String> {
    let mut units: Vec<_> = files
        .lines()
        .filter(|file| file.contains("/systemd/system/"))
        .filter_map(|file| file.rsplit('/').next())
        .filter(|unit| unit.ends_with(".service") && !unit.contains('@'))
        .map(str::to_owned)
        .collect();
    units.sort();
    units.dedup();
    units
}

/// Runs its arguments, meanwhile forbidding packages to start their services (invoke-rc.d(8)): no sshd
/// and no OOM killer begins to run because somebody wants to test memsensor.
const START_NOTHING: &str = "p=/usr/sbin/policy-rc.d; \
    if [ ! -e $p ]; then trap 'rm -f $p' EXIT; trap 'exit 1' INT TERM HUP; \
    echo '#!/bin/sh' >$p && echo 'exit 101' >>$p && chmod 755 $p || exit 1; fi; \"$@\"";

fn missing(packages: &[&str]) -> Result<Vec<String>> {
    let mut query = Command::new("dpkg-query");
    query.args(["--show", "--showformat=${Package} ${db:Status-Status}\n"]).args(packages);
    // It fails when it does not know one of them, and still tells of the others.
    let out = query.output().with_context(|| format!("start `{}`", typed(&query)))?;
    Ok(not_installed(packages, &String::from_utf8_lossy(&out.stdout)))
}

fn not_installed(packages: &[&str], status: &str) -> Vec<String> {
    let is_there =
        |p: &str| status.lines().any(|l| l.strip_prefix(p).is_some_and(|s| s == " installed"));
    packages.iter().filter(|p| !is_there(p)).map(ToString::to_string).collect()
}

pub(crate) fn apt_get(root: Root, words: &[&str]) -> Result<()> {
    let mut command = root.command("sh");
    command.args(["-c", START_NOTHING, "sh"]);
    command.args(["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--quiet"]);
    // Without a terminal of its own dpkg draws no progress into a log.
    command.args(["-o", "Dpkg::Use-Pty=0"]);
    // Another package manager at work is waited for, a while.
    command.args(["-o", "DPkg::Lock::Timeout=120"]).args(words);
    let name = typed(&command);
    let (status, said) = exec::tee(&mut command, Copy::Stderr)?;
    let done = exec::succeeded(&name, status);
    match explain(&said) {
        Some(why) if done.is_err() => done.context(why),
        // `update` succeeds without a network; the packages are then missing, or old.
        Some(why) => {
            println!("setup: warning: {why}");
            Ok(())
        }
        None => done,
    }
}

/// The cause, in words, of what apt-get complains about.
fn explain(said: &str) -> Option<&'static str> {
    const CAUSES: [(&[&str], &str); 3] = [
        (
            &["Could not get lock", "Unable to lock", "Unable to acquire the dpkg frontend lock"],
            "another package manager holds the lock: let it end, then try again",
        ),
        (
            &["Could not resolve", "failure resolving", "Could not connect", "Failed to fetch"],
            "the package mirror is out of reach: check the network, then try again",
        ),
        (
            &["Unable to locate package", "has no installation candidate"],
            "this distribution has no such package",
        ),
    ];
    let says = |words: &[&str]| words.iter().any(|w| said.contains(w));
    CAUSES.into_iter().find(|(words, _)| says(words)).map(|(_, cause)| cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removed_package_is_missing() {
        let status = "zlib1g-dev installed\nbpftool config-files\n";
        let missing = not_installed(&["zlib1g-dev", "bpftool", "zlib1g"], status);
        assert_eq!(missing, ["bpftool", "zlib1g"]);
    }

    #[test]
    fn templates_and_timers_are_no_services() {
        let files = "/.\n/lib/systemd/system/ssh.service\n/lib/systemd/system/ssh@.service\n\
                     /usr/lib/systemd/system/logs.timer\n/etc/init.d/ssh\n/usr/share/x.service\n\
                     /usr/lib/systemd/system/earlyoom.service\n";
        assert_eq!(services(files), ["earlyoom.service", "ssh.service"]);
    }

    #[test]
    fn a_held_lock_and_a_dead_network_are_told_apart() {
        let lock = "E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 7";
        assert!(explain(lock).is_some_and(|why| why.contains("lock")));
        let network = "W: Failed to fetch x  Temporary failure resolving 'mirror'";
        assert!(explain(network).is_some_and(|why| why.contains("network")));
        assert_eq!(explain("W: some warning"), None);
    }
}
