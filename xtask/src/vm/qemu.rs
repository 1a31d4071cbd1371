//! Boots one guest in QEMU, reads its output, and determines its result. A guest that prints no
//! result has failed, whatever QEMU's exit status is.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::guest::Guest;
use crate::host::exec;

/// The result code of a guest's init if it could not set up a fixture.
const SETUP_FAILED: i32 = 70;

/// The limit until a guest's init prints a line: normally two to seven seconds, and 17 with 32
/// emulated processors.
const BOOT_LIMIT: Duration = Duration::from_mins(1);

/// A disk of a guest, in a sparse file.
struct Disk {
    file: &'static str,
    mib: u64,
    options: &'static str,
}

/// Swap, a file system, and a file system on a slow disk: vda, vdb, vdc.
const DISKS: [Disk; 3] = [
    Disk { file: "swap.img", mib: 256, options: "" },
    Disk { file: "disk.img", mib: 320, options: "" },
    Disk { file: "slow.img", mib: 256, options: ",throttling.bps-write=16777216" },
];

/// The way in which a guest ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GuestExit {
    /// All steps succeeded.
    Passed,
    /// A step failed.
    Failed,
    /// A fixture could not be set up: no swap, no tracefs.
    SetupFailed,
    /// The guest exceeded its time limit.
    Timeout,
    /// The guest ended without a result: it died.
    NoResult,
}

impl GuestExit {
    pub(crate) const fn describe(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "FAILED",
            Self::SetupFailed => "setup failed (70)",
            Self::Timeout => "timed out",
            Self::NoResult => "ended without a result",
        }
    }

    /// The result in a guest's output, or else from the exit status of `timeout`.
    fn parse(output: &str, status: Option<i32>) -> Self {
        let code = output.lines().rev().find_map(|l| l.strip_prefix("guest: rc=")?.parse().ok());
        match code {
            Some(0) => Self::Passed,
            Some(SETUP_FAILED) => Self::SetupFailed,
            Some(_) => Self::Failed,
            // The exit statuses of `timeout`.
            None if matches!(status, Some(124 | 137)) => Self::Timeout,
            None => Self::NoResult,
        }
    }
}

/// One run of a guest.
#[derive(Debug)]
pub(crate) struct GuestRun {
    pub(crate) exit: GuestExit,
    /// The complete output, including that of the steps.
    pub(crate) output: String,
    pub(crate) duration: Duration,
}

/// Boots a guest and waits for its end. Calls `on_line` with each line of output.
pub(crate) fn boot(
    dir: &Path,
    initramfs: &Path,
    guest: &Guest,
    on_line: impl Fn(&str),
) -> Result<GuestRun> {
    let started = Instant::now();
    for disk in DISKS {
        fs::File::create(dir.join(disk.file))?.set_len(disk.mib << 20)?;
    }
    let mut child = command(dir, initramfs, guest)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(fs::File::create(dir.join("qemu.log"))?)
        .spawn()
        .with_context(|| format!("start timeout and {}", guest.kernel.machine.qemu))?;
    let output = read_output(&mut child, on_line)?;
    let status = child.wait()?;
    fs::write(dir.join("output"), &output)?;
    for disk in DISKS {
        let _ = fs::remove_file(dir.join(disk.file));
    }
    let exit = GuestExit::parse(&output, status.code());
    Ok(GuestRun { exit, output, duration: started.elapsed() })
}

fn command(dir: &Path, initramfs: &Path, guest: &Guest) -> Command {
    let machine = guest.kernel.machine;
    let mut qemu = Command::new("timeout");
    let time_limit = guest.time_limit.as_secs().to_string();
    qemu.args(["--foreground", "--kill-after=5", &time_limit, machine.qemu]);
    qemu.args(machine.board);
    match machine.accelerator() {
        // The last -cpu option overrides that of the board.
        "kvm" => qemu.args(["-accel", "kvm", "-cpu", "host"]),
        _ => qemu.args(["-accel", "tcg,thread=multi"]),
    };
    qemu.args(["-smp", &guest.cpus.to_string(), "-m", &guest.memory_mib.to_string()]);
    qemu.arg("-kernel").arg(&guest.kernel.image).arg("-initrd").arg(initramfs);
    // panic=-1 reboots at once, and -no-reboot makes that an exit. swapaccount=1: off in 5.10.
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
    add_drives(&mut qemu, dir, guest);
    add_network(&mut qemu, guest.ports);
    qemu
}

fn add_drives(qemu: &mut Command, dir: &Path, guest: &Guest) {
    let throttling = guest.iops.map(|n| format!(",throttling.iops-total={n}")).unwrap_or_default();
    let mut add_drive = |file: &Path, options: &str| {
        let options = format!("if=virtio,format=raw,cache=unsafe{options}");
        qemu.arg("-drive").arg(format!("file={},{options}", file.display()));
    };
    for (i, disk) in DISKS.iter().enumerate() {
        // The first disk is swap.
        let options = if i == 0 { &throttling } else { disk.options };
        add_drive(&dir.join(disk.file), options);
    }
    if let Some(image) = &guest.image {
        let snapshot = if guest.image_is_shared { ",snapshot=on" } else { "" };
        add_drive(image, &format!("{throttling}{snapshot}"));
    }
}

fn add_network(qemu: &mut Command, ports: &[u16]) {
    if ports.is_empty() {
        return;
    }
    let forward = |port| format!(",hostfwd=tcp:127.0.0.1:{port}-:{port}");
    let forwards: String = ports.iter().map(forward).collect();
    qemu.arg("-netdev").arg(format!("user,id=net,restrict=on{forwards}"));
    qemu.args(["-device", "virtio-net-pci,netdev=net,romfile="]);
}

/// Reads a guest's output to its end. Emulated kernels sometimes hang while they boot, so a guest
/// that prints nothing within the boot limit is killed.
fn read_output(child: &mut Child, on_line: impl Fn(&str)) -> Result<String> {
    let mut stdout = BufReader::new(child.stdout.take().context("no stdout")?);
    let (sender, receiver) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut line = Vec::new();
        while stdout.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
            let text = String::from_utf8_lossy(&line).replace('\r', "");
            if sender.send(text).is_err() {
                return;
            }
            line.clear();
        }
    });
    let mut output = String::new();
    let mut limit = BOOT_LIMIT;
    loop {
        match receiver.recv_timeout(limit) {
            Ok(line) => {
                on_line(line.trim_end());
                output.push_str(&line);
                // From now on `timeout` enforces the guest's time limit.
                limit = Duration::MAX;
            }
            Err(RecvTimeoutError::Timeout) => {
                // SIGTERM, which `timeout` forwards. SIGKILL would leave QEMU running.
                exec::run(Command::new("kill").arg(child.id().to_string()))?;
                limit = Duration::MAX;
            }
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    let _ = reader.join();
    Ok(output)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::{kernel::Kernel, machine::AMD64};

    fn guest() -> Guest {
        let kernel = Kernel {
            machine: &AMD64,
            series: "6.12".to_owned(),
            release: "6.12.9-cloud-amd64".to_owned(),
            image: "/kernel/vmlinux".into(),
            modules: Vec::new(),
        };
        Guest::new("cgroup v2", &kernel)
    }

    /// The values of an option in QEMU's command line.
    fn values(guest: &Guest, option: &str) -> Vec<String> {
        let command = command(Path::new("/dir"), Path::new("/dir/initramfs"), guest);
        let args: Vec<_> = command.get_args().map(|arg| arg.to_string_lossy()).collect();
        let pairs = args.windows(2).filter(|pair| pair[0] == option);
        pairs.map(|pair| pair[1].clone().into_owned()).collect()
    }

    #[test]
    fn a_guest_has_three_disks_and_no_network() {
        let disk = "if=virtio,format=raw,cache=unsafe";
        let drives = [
            format!("file=/dir/swap.img,{disk}"),
            format!("file=/dir/disk.img,{disk}"),
            format!("file=/dir/slow.img,{disk},throttling.bps-write=16777216"),
        ];
        assert_eq!(values(&guest(), "-drive"), drives);
        assert!(values(&guest(), "-netdev").is_empty());
        assert_eq!(values(&guest(), "-kernel"), ["/kernel/vmlinux"]);
        assert!(values(&guest(), "-append")[0].contains("memsensor.guest=v2"));
    }

    #[test]
    fn swap_and_the_fourth_disk_can_be_throttled() {
        let image = Some("/dir/server.img".into());
        let guest = Guest { image, iops: Some(400), ports: &[19_817, 19_022], ..guest() };
        let drives = values(&guest, "-drive");
        let throttled = |drive: &String| drive.ends_with(",throttling.iops-total=400");
        assert_eq!(drives.iter().map(throttled).collect::<Vec<_>>(), [true, false, false, true]);
        assert!(drives[3].starts_with("file=/dir/server.img,"), "{drives:?}");
        let forwards = "hostfwd=tcp:127.0.0.1:19817-:19817,hostfwd=tcp:127.0.0.1:19022-:19022";
        assert_eq!(values(&guest, "-netdev"), [format!("user,id=net,restrict=on,{forwards}")]);
    }

    #[test]
    fn a_shared_image_is_not_changed() {
        let image = Some("/cache/root.img".into());
        let guest = Guest { image, image_is_shared: true, ..guest() };
        let drive = &values(&guest, "-drive")[3];
        assert!(drive.starts_with("file=/cache/root.img,") && drive.ends_with(",snapshot=on"));
    }

    #[test]
    fn only_a_guest_that_prints_result_0_has_passed() {
        for (output, status, expected) in [
            ("guest: up\nguest: rc=0\n", 0, GuestExit::Passed),
            ("guest: up\nguest: rc=1\n", 0, GuestExit::Failed),
            ("guest: no swap\nguest: rc=70\n", 0, GuestExit::SetupFailed),
            ("guest: up\n", 0, GuestExit::NoResult),
            ("", 0, GuestExit::NoResult),
            ("guest: up\n", 124, GuestExit::Timeout),
        ] {
            assert_eq!(GuestExit::parse(output, Some(status)), expected, "{output:?} {status}");
        }
    }
}
