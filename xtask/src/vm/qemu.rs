//! One guest: boots it, follows what it says, tells how it ended. A guest that says nothing has
//! failed, whatever QEMU's exit status is.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::{kernel::Kernel, suite::Guest};
use crate::exec;

/// What a guest's init ends with, if a fixture could not be set up.
const SETUP_FAILED: i32 = 70;

/// Until a guest's init speaks: two to seven seconds, and 17 with 32 emulated processors.
const BOOT_LIMIT: Duration = Duration::from_mins(1);

/// A disk of a guest: a sparse file.
struct Disk {
    file: &'static str,
    mib: u64,
    options: &'static str,
}

/// Swap, a file system, and one on a tired disk: vda, vdb, vdc.
const DISKS: [Disk; 3] = [
    Disk { file: "swap.img", mib: 256, options: "" },
    Disk { file: "disk.img", mib: 320, options: "" },
    Disk { file: "slow.img", mib: 256, options: ",throttling.bps-write=16777216" },
];

/// How a guest ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// All its steps went well.
    Passed,
    /// Some did not.
    Failed,
    /// It could not be set up: no swap, no tracefs.
    NoSetup,
    /// Too slow.
    Timeout,
    /// It ended without a result: it died.
    Silent,
}

impl End {
    pub(crate) const fn describe(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "FAILED",
            Self::NoSetup => "could not be set up (70)",
            Self::Timeout => "took too long",
            Self::Silent => "ended without a result",
        }
    }
}

/// What came out of a guest.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) end: End,
    /// All that it wrote, its steps' output included.
    pub(crate) output: String,
    pub(crate) took: Duration,
}

/// Boots a guest and waits for its end; `follow` sees each line of it.
pub(crate) fn boot(
    dir: &Path,
    kernel: &Kernel,
    initramfs: &Path,
    guest: &Guest,
    follow: impl Fn(&str),
) -> Result<Ran> {
    let started = Instant::now();
    for disk in DISKS {
        fs::File::create(dir.join(disk.file))?.set_len(disk.mib << 20)?;
    }
    let limit = guest.limit.as_secs();
    let mut qemu = Command::new("timeout");
    qemu.args(["--foreground", "--kill-after=5", &limit.to_string(), kernel.machine.qemu]);
    let machine = kernel.machine;
    qemu.args(machine.board);
    match machine.accelerator() {
        // The last of two processors holds.
        "kvm" => qemu.args(["-accel", "kvm", "-cpu", "host"]),
        _ => qemu.args(["-accel", "tcg,thread=multi"]),
    };
    qemu.args(["-smp", &guest.cpus.to_string(), "-m", &guest.memory_mib.to_string()]);
    qemu.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(initramfs);
    // panic=-1: reboot at once, which -no-reboot makes an end. swapaccount=1: off in 5.10.
    qemu.arg("-append").arg(format!(
        "console={} panic=-1 oops=panic mitigations=off swapaccount=1 memsensor.port={} \
         memsensor.guest={} {}",
        machine.serial[0],
        machine.serial[1],
        guest.cgroups.name(),
        guest.boot_args
    ));
    qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    qemu.arg("-serial").arg(format!("file:{}", dir.join("console").display()));
    qemu.args(["-serial", "stdio"]);
    let tired = guest.iops.map(|n| format!(",throttling.iops-total={n}")).unwrap_or_default();
    for (n, Disk { file, options, .. }) in DISKS.into_iter().enumerate() {
        let file = dir.join(file);
        // The first is swap.
        let options = if n == 0 { &tired } else { options };
        let options = format!("if=virtio,format=raw,cache=unsafe{options}");
        qemu.arg("-drive").arg(format!("file={},{options}", file.display()));
    }
    if let Some(image) = &guest.image {
        qemu.arg("-drive")
            .arg(format!("file={},if=virtio,format=raw,cache=unsafe{tired}", image.display()));
    }
    if !guest.ports.is_empty() {
        let forward = |port| format!(",hostfwd=tcp:127.0.0.1:{port}-:{port}");
        let forwards: String = guest.ports.iter().map(forward).collect();
        qemu.arg("-netdev").arg(format!("user,id=net,restrict=on{forwards}"));
        qemu.args(["-device", "virtio-net-pci,netdev=net,romfile="]);
    }
    let mut child = qemu
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(fs::File::create(dir.join("qemu.log"))?)
        .spawn()
        .with_context(|| format!("start timeout and {}", machine.qemu))?;
    let output = listen(&mut child, follow)?;
    let status = child.wait()?;
    fs::write(dir.join("output"), &output)?;
    for disk in DISKS {
        let _ = fs::remove_file(dir.join(disk.file));
    }
    let end = end(&output, status.code());
    Ok(Ran { end, output, took: started.elapsed() })
}

/// What a guest says until it ends. Emulated kernels now and then hang while they boot: one that has
/// said nothing within the time for that is ended.
fn listen(child: &mut Child, follow: impl Fn(&str)) -> Result<String> {
    let mut lines = BufReader::new(child.stdout.take().context("no stdout")?);
    let (send, said) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
            let text = String::from_utf8_lossy(&line).replace('\r', "");
            if send.send(text).is_err() {
                return;
            }
            line.clear();
        }
    });
    let mut output = String::new();
    let mut patience = BOOT_LIMIT;
    loop {
        match said.recv_timeout(patience) {
            Ok(text) => {
                follow(text.trim_end());
                output.push_str(&text);
                // From here on `timeout` has its eye on it.
                patience = Duration::MAX;
            }
            Err(RecvTimeoutError::Timeout) => {
                // `timeout` passes it on; killed itself, it would leave QEMU running.
                exec::run(Command::new("kill").arg(child.id().to_string()))?;
                patience = Duration::MAX;
            }
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    let _ = reader.join();
    Ok(output)
}

fn end(output: &str, qemu: Option<i32>) -> End {
    let code = output.lines().rev().find_map(|l| l.strip_prefix("guest: rc=")?.parse().ok());
    match code {
        Some(0) => End::Passed,
        Some(SETUP_FAILED) => End::NoSetup,
        Some(_) => End::Failed,
        // What `timeout` ends with.
        None if matches!(qemu, Some(124 | 137)) => End::Timeout,
        None => End::Silent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_guest_that_says_so_has_passed() {
        for (output, qemu, expected) in [
            ("guest: up\nguest: rc=0\n", 0, End::Passed),
            ("guest: up\nguest: rc=1\n", 0, End::Failed),
            ("guest: no swap\nguest: rc=70\n", 0, End::NoSetup),
            ("guest: up\n", 0, End::Silent),
            ("", 0, End::Silent),
            ("guest: up\n", 124, End::Timeout),
        ] {
            assert_eq!(end(output, Some(qemu)), expected, "{output:?} {qemu}");
        }
    }
}
