//! What the running daemon may open: Landlock rules for files, TCP and signals, also when no
//! supervisor has set up a sandbox.
//!
//! Not here: system calls (`syscalls`).

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, LandlockStatus, RestrictionStatus, Ruleset,
    RulesetAttr as _, RulesetCreatedAttr as _, RulesetError, Scope, path_beneath_rules,
};

use crate::host::{cgroup::mounts, pods};

/// The newest version whose restrictions are asked for; an older kernel restricts what it can.
const KNOWN: ABI = ABI::V6;

/// Restricts the calling thread, and those that it starts, to reading what the daemon reads, and to
/// writing in these directories. Those of `files` are readable, because editors replace a file.
/// Returns the version of Landlock.
pub fn restrict(write: &[PathBuf], files: &[PathBuf]) -> Result<String, String> {
    let mut read: Vec<PathBuf> = ["/proc", "/sys", pods::LOGS].map(PathBuf::from).to_vec();
    // They may be mounted elsewhere.
    read.extend(mounts::memory_root().into_iter().chain(mounts::unified_root()));
    // A file may be a link to another directory.
    let targets: Vec<_> = files.iter().filter_map(|file| file.canonicalize().ok()).collect();
    read.extend(files.iter().chain(&targets).filter_map(|file| directory(file)));
    outcome(rules(&read, write))
}

fn directory(file: &Path) -> Option<PathBuf> {
    let parent = file.parent()?;
    Some(if parent.as_os_str().is_empty() { PathBuf::from(".") } else { parent.to_owned() })
}

/// Restricts the calling thread to files that are open.
pub fn restrict_to_open_files() -> Result<String, String> {
    outcome(rules(&[], &[]))
}

fn rules(read: &[PathBuf], write: &[PathBuf]) -> Result<RestrictionStatus, RulesetError> {
    let reading = AccessFs::ReadFile | AccessFs::ReadDir;
    let writing: BitFlags<AccessFs> =
        AccessFs::WriteFile | AccessFs::MakeReg | AccessFs::RemoveFile | AccessFs::Truncate;
    Ruleset::default()
        .handle_access(AccessFs::from_all(KNOWN))?
        // No rule allows a port: all listeners are bound before.
        .handle_access(AccessNet::from_all(KNOWN))?
        // Not abstract sockets: the supervisor's may be one.
        .scope(Scope::Signal)?
        .create()?
        .add_rules(path_beneath_rules(read, reading))?
        .add_rules(path_beneath_rules(write, reading | writing))?
        .restrict_self()
}

fn outcome(restricted: Result<RestrictionStatus, RulesetError>) -> Result<String, String> {
    let status = restricted.map_err(|e| e.to_string())?;
    match status.landlock {
        LandlockStatus::Available { effective_abi, kernel_abi } => {
            Ok(format!("ABI {}", kernel_abi.unwrap_or(effective_abi as i32)))
        }
        LandlockStatus::NotEnabled => Err("the kernel was started without it (lsm=)".to_owned()),
        LandlockStatus::NotImplemented => {
            Err("the kernel does not have it (5.13 and newer may)".to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, net::TcpListener};

    use super::*;

    /// Landlock restricts a thread, so that a test can lose one.
    fn in_a_thread(test: impl FnOnce() + Send + 'static) {
        std::thread::spawn(test).join().expect("no panic");
    }

    #[test]
    fn a_restricted_thread_reads_proc_and_writes_only_in_its_directories() {
        let dir = tempfile::tempdir().expect("a directory");
        let other = tempfile::tempdir().expect("a directory");
        let (own, other) = (dir.path().join("own"), other.path().join("other"));
        let write = [dir.path().to_owned()];
        fs::write(&own, "before").expect("not restricted yet");
        fs::write(&other, "before").expect("not restricted yet");
        in_a_thread(move || {
            let Ok(version) = restrict(&write, &[]) else {
                println!("this kernel has no Landlock");
                return;
            };
            assert!(version.starts_with("ABI "), "{version}");
            for readable in ["/proc/self/status", "/proc/meminfo"] {
                fs::read(readable).expect(readable);
            }
            let new = own.with_extension("new");
            fs::write(&new, "after").expect("its own directory");
            fs::rename(&new, &own).expect("its own directory");
            fs::remove_file(&own).expect("its own directory");
            for unreadable in ["/etc/passwd", "/usr/bin/env", "/dev/null"] {
                fs::File::open(unreadable).expect_err(unreadable);
            }
            fs::read(&other).expect_err("another directory");
            fs::write(&other, "after").expect_err("another directory");
            fs::remove_file(&other).expect_err("another directory");
            std::os::unix::fs::symlink("/etc", own.with_extension("link")).expect_err("a link");
            fs::write("/proc/self/comm", "x").expect_err("a file of the kernel");
        });
    }

    #[test]
    fn a_thread_can_be_restricted_to_open_files() {
        in_a_thread(|| {
            if restrict_to_open_files().is_ok() {
                fs::File::open("/proc/meminfo").expect_err("no file");
                let port = TcpListener::bind("127.0.0.1:0");
                // From ABI 4 on.
                println!("a new listener: {port:?}");
            }
        });
    }
}
