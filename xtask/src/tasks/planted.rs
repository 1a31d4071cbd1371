//! Bugs that `fuzz --check` plants, one in a reader of each fuzz target, to show that the target
//! reaches the reader and reports its panic. They are planted in a copy of the sources.
//!
//! Not a subcommand.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};

use crate::host::exec;

/// A bug: in the file, `right` becomes `wrong`. The seeds alone do not show it.
pub(crate) struct Bug {
    pub(crate) target: &'static str,
    pub(crate) file: &'static str,
    right: &'static str,
    pub(crate) wrong: &'static str,
}

/// In the order of the targets' names.
pub(crate) const BUGS: [Bug; 11] = [
    // A name may be outside of the strings.
    Bug {
        target: "btf",
        file: "sensor-user/core/src/btf/reader.rs",
        right: "if at >= self.strings_len {",
        wrong: "if at == self.strings_len {",
    },
    // Other directories than those of pods may be among the logs.
    Bug {
        target: "cgroup_files",
        file: "sensor-user/src/host/pods.rs",
        right: "dir.split_once('_')?",
        wrong: "dir.split_once('_').expect(\"a namespace\")",
    },
    // A key in YAML may be a number, or nothing.
    Bug {
        target: "configuration",
        file: "sensor-user/src/serve/secure/web_config.rs",
        right: "key.as_str().unwrap_or(\"a key that is not a string\")",
        wrong: "key.as_str().expect(\"a string\")",
    },
    // A header may have other bytes than ASCII.
    Bug {
        target: "http",
        file: "sensor-user/src/serve/http.rs",
        right: ".filter_map(|v| v.to_str().ok())",
        wrong: ".map(|v| v.to_str().expect(\"ASCII\"))",
    },
    // A victim's exit may have been reported before the kill.
    Bug {
        target: "kernel_records",
        file: "sensor-user/src/oom/decode.rs",
        right: "e.time_ns.saturating_sub(e.killed_ns)",
        wrong: "(e.time_ns - e.killed_ns)",
    },
    // Parentheses may be in the wrong order.
    Bug {
        target: "proc_files",
        file: "sensor-user/src/host/proc_walk.rs",
        right: "text.get(begin..end)?",
        wrong: "&text[begin..end]",
    },
    // A question may have any bytes.
    Bug {
        target: "protocols",
        file: "sensor-user/src/serve/agent_check.rs",
        right: "std::str::from_utf8(question).ok()?.trim()",
        wrong: "std::str::from_utf8(question).expect(\"UTF-8\").trim()",
    },
    // A number may stand for a name that the segment does not have.
    Bug {
        target: "record",
        file: "sensor-user/core/src/record/names.rs",
        right: "self.0.get(usize::from(number)).map(String::as_str)",
        wrong: "Some(self.0[usize::from(number)].as_str())",
    },
    // A scan may be later than the kill.
    Bug {
        target: "reports",
        file: "sensor-user/src/oom/report_builder.rs",
        right: "seconds(time_ns) - seconds(usage.taken_ns)",
        wrong: "seconds(time_ns - usage.taken_ns)",
    },
    // A client may send anything instead of a handshake.
    Bug {
        target: "tls",
        file: "sensor-user/src/serve/http.rs",
        right: "Ok(Err(e)) => debug!(\"TLS handshake: {e}\"),",
        wrong: "Ok(Err(e)) => assert!(e.kind() != std::io::ErrorKind::InvalidData, \"{e}\"),",
    },
    // A counter may fall.
    Bug {
        target: "verdict",
        file: "sensor-user/core/src/verdict/signals.rs",
        right: "to.checked_sub(from).unwrap_or(to)",
        wrong: "to - from",
    },
];

impl Bug {
    /// The text of the file with the bug.
    fn plant(&self, text: &str) -> Result<String> {
        let Self { file, right, wrong, .. } = self;
        let count = text.matches(right).count();
        ensure!(count == 1, "{file} has {right:?} {count} times, not once: change the planted bug");
        Ok(text.replace(right, wrong))
    }
}

/// Makes a copy of the sources with all bugs.
pub(crate) fn sources(to: &Path) -> Result<()> {
    copy_sources(to)?;
    for bug in &BUGS {
        let path = to.join(bug.file);
        let text = read(&path)?;
        fs::write(&path, bug.plant(&text)?).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

/// Copies the files that git lists, with their present content.
fn copy_sources(to: &Path) -> Result<()> {
    if to.exists() {
        fs::remove_dir_all(to).with_context(|| format!("remove {}", to.display()))?;
    }
    let root = exec::workspace();
    let mut git = Command::new("git");
    git.current_dir(&root).args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let (status, files) = exec::capture_stdout(&mut git)?;
    if !status.success() {
        bail!("git cannot list the sources");
    }
    for file in files.split('\0').filter(|file| !file.is_empty()) {
        let (from, to) = (root.join(file), to.join(file));
        // Listed, but removed from the tree.
        if !from.exists() {
            continue;
        }
        let dir = to.parent().map(PathBuf::from).unwrap_or_default();
        fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        fs::copy(&from, &to).with_context(|| format!("copy {}", from.display()))?;
    }
    Ok(())
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bug_can_be_planted() {
        for bug in BUGS {
            let text = read(&exec::workspace().join(bug.file)).expect(bug.file);
            assert_ne!(bug.plant(&text).expect(bug.target), text);
        }
    }
}
