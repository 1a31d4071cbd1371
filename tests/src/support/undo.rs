//! Cleanup that must run even if this process is interrupted or killed: swap, loop devices,
//! cgroups.
//!
//! A child shell runs it when a pipe that only this process holds open is closed.

use std::{
    io::Write as _,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

/// Reads commands until the pipe closes, then retries each for ten seconds, the last one first.
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

/// Cleanup commands.
#[derive(Debug)]
pub struct Undo(Child);

impl Undo {
    /// Starts the shell, without commands.
    pub fn new() -> Result<Self> {
        let mut shell = Command::new("sh");
        shell.args(["-c", UNDO]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        // In its own process group, so that Ctrl-C does not reach it.
        Ok(Self(shell.process_group(0).spawn().context("start the cleanup shell")?))
    }

    /// Adds a shell command, which must succeed once there is nothing left to do. It runs before
    /// the commands added earlier. `args` are its `$1` and so on.
    pub fn later(&mut self, line: &str, args: &[&Path]) -> Result<()> {
        let mut command = String::from("set --");
        for arg in args {
            let arg = arg.to_str().context("a path that is not UTF-8")?;
            ensure!(!arg.contains(['\'', '\n']), "{arg:?} cannot be quoted");
            command = format!("{command} '{arg}'");
        }
        let pipe = self.0.stdin.as_mut().context("the cleanup shell has ended")?;
        writeln!(pipe, "{command}; {line}").context("write to the cleanup shell")
    }

    /// Kills the processes of a cgroup and removes it.
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
    fn commands_run_last_first_and_until_they_succeed() {
        let dir = std::env::temp_dir().join(format!("memsensor-undo-{}", std::process::id()));
        std::fs::create_dir(&dir).expect("mkdir");
        let log = dir.join("log it's".replace('\'', ""));
        let mut undo = Undo::new().expect("a shell");
        undo.later(r#"echo first >>"$1""#, &[&log]).expect("added");
        let retried = r#"echo again >>"$1"; [ "$(wc -l <"$1")" = 3 ]"#;
        undo.later(retried, &[&log]).expect("added");
        assert!(!log.exists(), "not before the drop");
        drop(undo);
        let text = std::fs::read_to_string(&log).expect("it was done");
        std::fs::remove_dir_all(&dir).expect("remove");
        assert_eq!(text, "again\nagain\nagain\nfirst\n");
    }
}
