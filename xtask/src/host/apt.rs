//! Debian and Ubuntu packages: lists the missing ones and installs them. On other distributions it
//! returns an error that names the packages.

use std::{
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
};

use anyhow::{Context, Result, bail};

use super::{
    exec::{self, Root, Stream},
    toolchain::in_path,
};

/// Whether this process has fetched the package lists.
static LISTS_UPDATED: AtomicBool = AtomicBool::new(false);

/// Runs its arguments and keeps new packages from starting their services meanwhile
/// (invoke-rc.d(8)): a test tool must not start sshd or an OOM killer on this machine.
const WITHOUT_SERVICES: &str = "p=/usr/sbin/policy-rc.d; \
    if [ ! -e $p ]; then trap 'rm -f $p' EXIT; trap 'exit 1' INT TERM HUP; \
    echo '#!/bin/sh' >$p && echo 'exit 101' >>$p && chmod 755 $p || exit 1; fi; \"$@\"";

/// Installs the missing ones of these packages and returns their names.
pub(crate) fn install(packages: &[&str]) -> Result<Vec<String>> {
    if in_path("apt-get").is_none() {
        bail!(
            "apt-get is not installed: install the equivalents of {} manually",
            packages.join(", ")
        );
    }
    let missing = missing(packages)?;
    if missing.is_empty() {
        return Ok(missing);
    }
    let root = Root::find().with_context(|| {
        format!("install packages: run `apt-get install {}`", missing.join(" "))
    })?;
    if !LISTS_UPDATED.swap(true, Ordering::Relaxed) {
        apt_get(root, &["update"])?;
    }
    let args: Vec<_> = ["install", "--yes", "--no-install-recommends"]
        .into_iter()
        .chain(missing.iter().map(String::as_str))
        .collect();
    apt_get(root, &args)?;
    disable_services(root, &missing)?;
    Ok(missing)
}

/// Disables the services of these packages, or they would start when the machine boots.
fn disable_services(root: Root, packages: &[String]) -> Result<()> {
    if in_path("systemctl").is_none() {
        return Ok(());
    }
    let mut query = Command::new("dpkg-query");
    let output = query.arg("--listfiles").args(packages).output().context("start dpkg-query")?;
    let units = service_units(&String::from_utf8_lossy(&output.stdout));
    if units.is_empty() {
        return Ok(());
    }
    exec::run(root.command("systemctl").args(["disable", "--quiet"]).args(units))
}

/// The service units in a list of files, without templates.
fn service_units(files: &str) -> Vec<String> {
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

fn missing(packages: &[&str]) -> Result<Vec<String>> {
    let mut query = Command::new("dpkg-query");
    query.args(["--show", "--showformat=${Package} ${db:Status-Status}\n"]).args(packages);
    // The exit status is an error if one package is unknown; the other packages are still listed.
    let output =
        query.output().with_context(|| format!("start `{}`", exec::command_line(&query)))?;
    Ok(not_installed(packages, &String::from_utf8_lossy(&output.stdout)))
}

fn not_installed(packages: &[&str], status: &str) -> Vec<String> {
    let is_installed = |package: &str| {
        status.lines().any(|l| l.strip_prefix(package).is_some_and(|s| s == " installed"))
    };
    packages.iter().filter(|package| !is_installed(package)).map(ToString::to_string).collect()
}

/// Runs apt-get as root, without questions and without starting services.
pub(crate) fn apt_get(root: Root, args: &[&str]) -> Result<()> {
    let mut command = root.command("sh");
    command.args(["-c", WITHOUT_SERVICES, "sh"]);
    command.args(["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--quiet"]);
    // Without a pseudo-terminal, dpkg writes no progress bar into a log.
    command.args(["-o", "Dpkg::Use-Pty=0"]);
    // Wait up to two minutes for another package manager.
    command.args(["-o", "DPkg::Lock::Timeout=120"]).args(args);
    let name = exec::command_line(&command);
    let (status, stderr) = exec::tee(&mut command, Stream::Stderr)?;
    let result = exec::check_status(&name, status);
    match cause(&stderr) {
        Some(cause) if result.is_err() => result.context(cause),
        // `update` succeeds without a network; packages are then missing or outdated.
        Some(cause) => {
            println!("setup: warning: {cause}");
            Ok(())
        }
        None => result,
    }
}

/// The cause of an apt-get error, with its remedy.
fn cause(stderr: &str) -> Option<&'static str> {
    const CAUSES: [(&[&str], &str); 3] = [
        (
            &["Could not get lock", "Unable to lock", "Unable to acquire the dpkg frontend lock"],
            "another package manager holds the lock: wait for it to finish, then try again",
        ),
        (
            &["Could not resolve", "failure resolving", "Could not connect", "Failed to fetch"],
            "cannot reach the package mirror: check the network, then try again",
        ),
        (
            &["Unable to locate package", "has no installation candidate"],
            "this distribution does not have the package",
        ),
    ];
    let matches = |messages: &[&str]| messages.iter().any(|message| stderr.contains(message));
    CAUSES.into_iter().find(|(messages, _)| matches(messages)).map(|(_, cause)| cause)
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
    fn templates_and_timers_are_not_services() {
        let files = "/.\n/lib/systemd/system/ssh.service\n/lib/systemd/system/ssh@.service\n\
                     /usr/lib/systemd/system/logs.timer\n/etc/init.d/ssh\n/usr/share/x.service\n\
                     /usr/lib/systemd/system/earlyoom.service\n";
        assert_eq!(service_units(files), ["earlyoom.service", "ssh.service"]);
    }

    #[test]
    fn lock_and_network_errors_have_different_causes() {
        let lock = "E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 7";
        assert!(cause(lock).is_some_and(|cause| cause.contains("lock")));
        let network = "W: Failed to fetch x  Temporary failure resolving 'mirror'";
        assert!(cause(network).is_some_and(|cause| cause.contains("network")));
        assert_eq!(cause("W: some warning"), None);
    }
}
