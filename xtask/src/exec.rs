//! Starting programs: each is announced, and its failure names it. Knows the repository's two
//! directories and how to become root; knows nothing of what the programs do.

use std::{
    env,
    io::{self, IsTerminal, Read, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::toolchain::{Version, in_path};

/// What a program that runs as root still sees of the user's environment.
const KEPT_AS_ROOT: &str = "--preserve-env=RUST_LOG,RUST_BACKTRACE,NO_COLOR,MEMSENSOR_TOOLS";

/// The root of the repository.
pub(crate) fn workspace() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask).to_path_buf()
}

/// Cargo's target directory: this program lies in `debug/` of it.
pub(crate) fn target_dir() -> Result<PathBuf> {
    let own = env::current_exe().context("find the path of xtask itself")?;
    let dir = own.parent().and_then(Path::parent);
    Ok(dir.with_context(|| format!("{} is not in a target directory", own.display()))?.into())
}

/// The cargo that started us, in the root of the repository.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace());
    command
}

/// The command as one would type it; variables that it sets come first.
pub(crate) fn typed(command: &Command) -> String {
    let vars = command.get_envs().filter_map(|(k, v)| {
        let value = v?.to_string_lossy().into_owned();
        Some(format!("{}={}", k.to_string_lossy(), quoted(&value)))
    });
    let program = Path::new(command.get_program());
    // The path of our cargo is long and says nothing.
    let name = match program.file_name() {
        Some(name) if name == "cargo" => name.to_string_lossy(),
        _ => program.to_string_lossy(),
    };
    let args = command.get_args().map(|a| quoted(&a.to_string_lossy()));
    vars.chain([name.into_owned()]).chain(args).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=+./:,@%^".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Runs a command to its end; anything but success is an error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let name = announce(command);
    let status = command.status().with_context(|| format!("start `{name}`"))?;
    succeeded(&name, status)
}

/// Which stream [`tee`] keeps a copy of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Copy {
    Stdout,
    Stderr,
}

/// Runs a command, shows its output as it comes, and returns a copy of one stream.
pub(crate) fn tee(command: &mut Command, copy: Copy) -> Result<(ExitStatus, String)> {
    let name = announce(command);
    match copy {
        Copy::Stdout => command.stdout(Stdio::piped()),
        Copy::Stderr => command.stderr(Stdio::piped()),
    };
    let mut child = command.spawn().with_context(|| format!("start `{name}`"))?;
    let kept = match (child.stdout.take(), child.stderr.take()) {
        (Some(from), _) => copy_through(from, io::stdout()),
        (_, Some(from)) => copy_through(from, io::stderr()),
        _ => Ok(Vec::new()),
    }
    .with_context(|| format!("read what `{name}` prints"))?;
    let status = child.wait().with_context(|| format!("wait for `{name}`"))?;
    Ok((status, String::from_utf8_lossy(&kept).into_owned()))
}

/// Runs a command and returns what it prints, without showing it; its errors are shown.
pub(crate) fn capture(command: &mut Command) -> Result<(ExitStatus, String)> {
    let name = announce(command);
    let out = command.stderr(Stdio::inherit()).output();
    let out = out.with_context(|| format!("start `{name}`"))?;
    Ok((out.status, String::from_utf8_lossy(&out.stdout).into_owned()))
}

/// Chunks, not lines: a test that hangs has printed its name but not the end of the line.
fn copy_through(mut from: impl Read, mut to: impl Write) -> io::Result<Vec<u8>> {
    let (mut kept, mut chunk) = (Vec::new(), [0; 4096]);
    loop {
        let len = from.read(&mut chunk)?;
        if len == 0 {
            return Ok(kept);
        }
        to.write_all(&chunk[..len])?;
        to.flush()?;
        kept.extend_from_slice(&chunk[..len]);
    }
}

fn announce(command: &Command) -> String {
    let name = typed(command);
    println!("$ {name}");
    name
}

/// Whether that command went well.
pub(crate) fn succeeded(name: &str, status: ExitStatus) -> Result<()> {
    if !status.success() {
        bail!("`{name}` failed: {status}");
    }
    Ok(())
}

/// How a program can be run as root here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Root {
    /// We are root.
    Already,
    /// By sudo, which may ask the terminal for a password.
    Sudo,
}

impl Root {
    /// The way to become root, or why there is none.
    pub(crate) fn find() -> Result<Self> {
        // /proc/self belongs to our effective user.
        if std::fs::metadata("/proc/self").is_ok_and(|m| m.uid() == 0) {
            return Ok(Self::Already);
        }
        if in_path("sudo").is_none() {
            bail!("needs root (run as root or install sudo)");
        }
        if io::stdin().is_terminal() || may_without_password() {
            return Ok(Self::Sudo);
        }
        bail!("needs root (sudo asks for a password and there is no terminal: run as root)")
    }

    /// A command that runs as root.
    pub(crate) fn command(self, program: &str) -> Command {
        match self {
            Self::Already => Command::new(program),
            Self::Sudo => {
                let mut command = Command::new("sudo");
                command.args([KEPT_AS_ROOT, program]);
                command
            }
        }
    }

    /// Makes cargo build as the user it is and start the result, by `run` or `test`, as root.
    pub(crate) fn runner(self, cargo: &mut Command) -> Result<()> {
        if self == Self::Sudo {
            let rustc = env::var_os("RUSTC").map_or_else(|| "rustc".into(), PathBuf::from);
            let host = Version::of(&rustc).map_err(anyhow::Error::msg)?.host;
            let name = host.to_uppercase().replace(['-', '.'], "_");
            cargo.env(format!("CARGO_TARGET_{name}_RUNNER"), format!("sudo {KEPT_AS_ROOT}"));
        }
        Ok(())
    }
}

fn may_without_password() -> bool {
    let mut sudo = Command::new("sudo");
    sudo.args(["-n", "true"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    sudo.status().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_as_one_types_it() {
        let mut command = Command::new("/opt/rust/bin/cargo");
        command.env("LLVM_PREFIX", "/usr/lib/llvm-22").args(["test", "it's", ""]);
        assert_eq!(typed(&command), r"LLVM_PREFIX=/usr/lib/llvm-22 cargo test 'it'\''s' ''");
    }

    #[test]
    fn output_is_kept_whole() {
        let mut shown = Vec::new();
        let kept = copy_through(&b"test a ... ok\nno end"[..], &mut shown).expect("in memory");
        assert_eq!(kept, b"test a ... ok\nno end");
        assert_eq!(kept, shown);
    }

    #[test]
    fn failure_names_the_command() {
        let status = Command::new("false").status().expect("start false");
        let error = succeeded("false", status).expect_err("it failed");
        assert!(error.to_string().starts_with("`false` failed"), "{error}");
    }
}
