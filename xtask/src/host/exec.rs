//! Starts programs. Prints each command before it starts, and names it in the error if it fails.
//! Knows the repository root, the target directory and the way to become root, but not what the
//! programs do.

use std::{
    env,
    io::{self, IsTerminal, Read, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
};

use anyhow::{Context, Result, bail};

use super::toolchain::{Version, in_path};

/// The variables that sudo passes to a program.
const PRESERVE_ENV: &str =
    "--preserve-env=RUST_LOG,RUST_BACKTRACE,NO_COLOR,MEMSENSOR_TOOLS,MEMSENSOR_LONG_FAULTS";

/// The root of the repository.
pub(crate) fn workspace() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask).to_path_buf()
}

/// Cargo's target directory: this program is in `debug/` of it.
pub(crate) fn target_dir() -> Result<PathBuf> {
    let xtask = env::current_exe().context("find the path of xtask")?;
    let dir = xtask.parent().and_then(Path::parent);
    Ok(dir.with_context(|| format!("{} is not in a target directory", xtask.display()))?.into())
}

/// The cargo that started this program, in the root of the repository.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace());
    command
}

/// The command in shell syntax. The variables that it sets come first.
pub(crate) fn command_line(command: &Command) -> String {
    let vars = command.get_envs().filter_map(|(name, value)| {
        let value = value?.to_string_lossy().into_owned();
        Some(format!("{}={}", name.to_string_lossy(), shell_quoted(&value)))
    });
    let program = Path::new(command.get_program());
    // Omit cargo's directory: it is long and adds no information.
    let name = match program.file_name() {
        Some(name) if name == "cargo" => name.to_string_lossy(),
        _ => program.to_string_lossy(),
    };
    let args = command.get_args().map(|arg| shell_quoted(&arg.to_string_lossy()));
    vars.chain([name.into_owned()]).chain(args).collect::<Vec<_>>().join(" ")
}

fn shell_quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_=+./:,@%^".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Runs a command to its end. Every exit status but success is an error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let name = print_command(command);
    let status = command.status().with_context(|| format!("start `{name}`"))?;
    check_status(&name, status)
}

/// An output stream of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

/// Runs a command, prints its output as it arrives, and returns a copy of one stream.
pub(crate) fn tee(command: &mut Command, stream: Stream) -> Result<(ExitStatus, String)> {
    tee_to(command, stream, |_| ())
}

/// The same, and calls `on_chunk` with each part of that stream as it arrives.
pub(crate) fn tee_to(
    command: &mut Command,
    stream: Stream,
    on_chunk: impl FnMut(&[u8]),
) -> Result<(ExitStatus, String)> {
    let name = print_command(command);
    match stream {
        Stream::Stdout => command.stdout(Stdio::piped()),
        Stream::Stderr => command.stderr(Stdio::piped()),
    };
    let mut child = command.spawn().with_context(|| format!("start `{name}`"))?;
    let copy = match (child.stdout.take(), child.stderr.take()) {
        (Some(stdout), _) => copy_stream(stdout, io::stdout(), on_chunk),
        (_, Some(stderr)) => copy_stream(stderr, io::stderr(), on_chunk),
        _ => Ok(Vec::new()),
    }
    .with_context(|| format!("read the output of `{name}`"))?;
    let status = child.wait().with_context(|| format!("wait for `{name}`"))?;
    Ok((status, String::from_utf8_lossy(&copy).into_owned()))
}

/// Runs a command and returns its stdout without printing it. Its stderr is printed.
pub(crate) fn capture_stdout(command: &mut Command) -> Result<(ExitStatus, String)> {
    let name = print_command(command);
    let output = command.stderr(Stdio::inherit()).output();
    let output = output.with_context(|| format!("start `{name}`"))?;
    Ok((output.status, String::from_utf8_lossy(&output.stdout).into_owned()))
}

/// Copies chunks, not lines: a test that hangs has printed its name but no line end.
fn copy_stream(
    mut from: impl Read,
    mut to: impl Write,
    mut on_chunk: impl FnMut(&[u8]),
) -> io::Result<Vec<u8>> {
    let (mut copy, mut chunk) = (Vec::new(), [0; 4096]);
    loop {
        let len = from.read(&mut chunk)?;
        if len == 0 {
            return Ok(copy);
        }
        to.write_all(&chunk[..len])?;
        to.flush()?;
        on_chunk(&chunk[..len]);
        copy.extend_from_slice(&chunk[..len]);
    }
}

fn print_command(command: &Command) -> String {
    let name = command_line(command);
    println!("$ {name}");
    name
}

/// Returns an error that names the command if it failed.
pub(crate) fn check_status(name: &str, status: ExitStatus) -> Result<()> {
    if !status.success() {
        bail!("`{name}` failed: {status}");
    }
    Ok(())
}

/// The way to run a program as root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Root {
    /// This process is root.
    Already,
    /// With sudo, which may ask for a password on the terminal.
    Sudo,
}

impl Root {
    /// The way to become root. The error gives the reason if there is none.
    pub(crate) fn find() -> Result<Self> {
        // /proc/self belongs to the effective user of this process.
        if std::fs::metadata("/proc/self").is_ok_and(|m| m.uid() == 0) {
            return Ok(Self::Already);
        }
        if in_path("sudo").is_none() {
            bail!("needs root (run as root or install sudo)");
        }
        if io::stdin().is_terminal() || sudo_needs_no_password() {
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
                command.args([PRESERVE_ENV, program]);
                command
            }
        }
    }

    /// Makes `cargo run` and `cargo test` build as the current user and start the program as root.
    pub(crate) fn set_runner(self, cargo: &mut Command) -> Result<()> {
        if self == Self::Sudo {
            let rustc = env::var_os("RUSTC").map_or_else(|| "rustc".into(), PathBuf::from);
            let host = Version::of(&rustc).map_err(anyhow::Error::msg)?.host;
            let name = host.to_uppercase().replace(['-', '.'], "_");
            cargo.env(format!("CARGO_TARGET_{name}_RUNNER"), format!("sudo {PRESERVE_ENV}"));
        }
        Ok(())
    }
}

fn sudo_needs_no_password() -> bool {
    let mut sudo = Command::new("sudo");
    sudo.args(["-n", "true"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    sudo.status().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_printed_in_shell_syntax() {
        let mut command = Command::new("/opt/rust/bin/cargo");
        command.env("LLVM_PREFIX", "/usr/lib/llvm-22").args(["test", "it's", ""]);
        assert_eq!(command_line(&command), r"LLVM_PREFIX=/usr/lib/llvm-22 cargo test 'it'\''s' ''");
    }

    #[test]
    fn a_stream_is_copied_completely() {
        let mut printed = Vec::new();
        let mut seen = Vec::new();
        let see = |chunk: &[u8]| seen.extend_from_slice(chunk);
        let copy = copy_stream(&b"test a ... ok\nno end"[..], &mut printed, see);
        let copy = copy.expect("in memory");
        assert_eq!(copy, b"test a ... ok\nno end");
        assert_eq!((&copy, &copy), (&printed, &seen));
    }

    #[test]
    fn a_failure_names_the_command() {
        let status = Command::new("false").status().expect("start false");
        let error = check_status("false", status).expect_err("it failed");
        assert!(error.to_string().starts_with("`false` failed"), "{error}");
    }
}
