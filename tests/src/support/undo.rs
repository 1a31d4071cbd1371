//! What must be undone even if we are interrupted or killed: swap, loop devices, cgroups, namespaces.
//!
//! A shell that only waits for our end does it: the end of a pipe that only we hold open.

use std::{
    io::Write as _,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

/// Reads commands until we are gone, then tries each until it succeeds, for ten seconds, the last one
/// first.
const UNDO: &str = r#"trap '' INT TERM HUP
all=
while IFS= read -r line; do
    all="$line
$all"
done
printf '%s' "$all" | while IFS= read -r line; do
    for try in $(seq 100); do
        if sh -c "$line" </dev/null; then break; fi
        sleep 0.1
    done
done"#;

/// Commands for the time after us.
#[derive(Debug)]
pub struct Undo(Child);

impl Undo {
    /// Nothing to undo yet.
    pub fn new() -> Result<Self> {
        let mut shell = Command::new("sh");
        shell.args(["-c", UNDO]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        // A Ctrl-C is for us, not for who cleans up after us.
        Ok(Self(shell.process_group(0).spawn().context("start the shell that cleans up")?))
    }

    /// A line of shell that succeeds once there is nothing left for it to do. It comes before those
    /// that were asked for earlier. `args` are its `$1` and so on.
    pub fn later(&mut self, line: &str, args: &[&Path]) -> Result<()> {
        let mut whole = String::from("set --");
        for arg in args {
            let arg = arg.to_str().context("a path that is not UTF-8")?;
            ensure!(!arg.contains(['\'', '\n']), "{arg:?} cannot be quoted");
            whole = format!("{whole} '{arg}'");
        }
        let pipe = self.0.stdin.as_mut().context("the shell that cleans up is gone")?;
        writeln!(pipe, "{whole}; {line}").context("tell the shell that cleans up")
    }

    /// Kills who is in a cgroup, and removes it.
    pub fn remove_group(&mut self, group: &Path) -> Result<()> {
        self.later(
            r#"[ ! -d "$1" ] || { xargs -r kill -9 <"$1/cgroup.procs"; rmdir "$1"; }"#,
            &[group],
        )
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_is_undone_first_and_until_it_succeeds() {
        let dir = std::env::temp_dir().join(format!("memsensor-undo-{}", std::process::id()));
        std::fs::create_dir(&dir).expect("mkdir");
        let log = dir.join("log it's".replace('\'', ""));
        let mut undo = Undo::new().expect("a shell");
        undo.later(r#"echo first >>"$1""#, &[&log]).expect("told");
        let again = r#"echo again >>"$1"; [ "$(wc -l <"$1")" = 3 ]"#;
        undo.later(again, &[&log]).expect("told");
        assert!(!log.exists(), "not before our end");
        drop(undo);
        let text = std::fs::read_to_string(&log).expect("it was done");
        std::fs::remove_dir_all(&dir).expect("remove");
        assert_eq!(text, "again\nagain\nagain\nfirst\n");
    }
}
