//! The differences between the architectures of guests: names, QEMU options, files.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::host::cross::{self, Cross};

/// A file to copy into a guest.
#[derive(Debug, Clone)]
pub(crate) struct GuestFile {
    pub(crate) host_path: PathBuf,
    pub(crate) guest_path: String,
}

/// An architecture of guests.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Machine {
    /// Debian's name of the architecture, also the value of `--arch`.
    pub(crate) name: &'static str,
    /// The build target of its binaries.
    pub(crate) cross: &'static Cross,
    /// The QEMU program and its packages.
    pub(crate) qemu: &'static str,
    pub(crate) packages: &'static [&'static str],
    /// QEMU's options for the board and the emulated processor.
    pub(crate) board: &'static [&'static str],
    /// The serial ports of the kernel and of the guest's init.
    pub(crate) serial: [&'static str; 2],
    /// C library and dynamic loader: paths in the unpacked Debian package and in the guest.
    loader: [(&'static str, &'static str); 2],
    /// The tested kernel series, oldest first.
    pub(crate) series: &'static [&'static str],
}

/// Debian's long-supported series and the newest two.
pub(crate) static AMD64: Machine = Machine {
    name: "amd64",
    cross: &cross::AMD64,
    qemu: "qemu-system-x86_64",
    packages: &["qemu-system-x86", "qemu-system-common", "qemu-system-data", "seabios"],
    board: &["-cpu", "Haswell"],
    serial: ["ttyS0", "ttyS1"],
    loader: [
        ("lib/x86_64-linux-gnu/libc.so.6", "lib/x86_64-linux-gnu/libc.so.6"),
        ("lib/x86_64-linux-gnu/ld-linux-x86-64.so.2", "lib64/ld-linux-x86-64.so.2"),
    ],
    series: &["5.10", "6.1", "6.12", "6.18", "7.2", "7.3"],
};

/// Two series are enough to test the second architecture; its guests are the slowest.
pub(crate) static ARM64: Machine = Machine {
    name: "arm64",
    cross: &cross::ARM64,
    qemu: "qemu-system-aarch64",
    packages: &["qemu-system-arm", "qemu-system-common", "qemu-system-data"],
    board: &["-machine", "virt", "-cpu", "cortex-a57"],
    serial: ["ttyAMA0", "ttyAMA1"],
    loader: [
        ("lib/aarch64-linux-gnu/libc.so.6", "lib/aarch64-linux-gnu/libc.so.6"),
        ("lib/aarch64-linux-gnu/ld-linux-aarch64.so.1", "lib/ld-linux-aarch64.so.1"),
    ],
    series: &["6.12", "7.3"],
};

/// All architectures, in the order of the table.
pub(crate) static ALL: [&Machine; 2] = [&AMD64, &ARM64];

impl Machine {
    /// The architecture of a name; the error lists the names.
    pub(crate) fn named(name: &str) -> Result<&'static Self, String> {
        let machine = ALL.into_iter().find(|machine| machine.name == name);
        machine.ok_or_else(|| "expected amd64 or arm64".to_owned())
    }

    /// KVM if this machine can run guests of this architecture, otherwise emulation. /dev/kvm is
    /// not enough: it exists on machines whose kernels die in KVM.
    pub(crate) fn accelerator(&self) -> &'static str {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let has_flag = |flag: &str| {
            let mut lines = cpuinfo.lines().filter(|line| line.starts_with("flags"));
            lines.any(|line| line.split_whitespace().any(|word| word == flag))
        };
        let can_open = fs::File::options().read(true).write(true).open("/dev/kvm").is_ok();
        let has_kvm = self.cross.is_native() && can_open && (has_flag("vmx") || has_flag("svm"));
        if has_kvm { "kvm" } else { "tcg" }
    }

    /// Debian's programs in a guest and their libraries, from unpacked packages.
    pub(crate) fn programs(&self, unpacked: &Path) -> Vec<GuestFile> {
        let programs = [("bin/busybox", "bin/busybox"), ("usr/bin/earlyoom", "t/earlyoom")];
        let guest_file = |(path, guest_path): (&str, &str)| GuestFile {
            host_path: unpacked.join(path),
            guest_path: guest_path.to_owned(),
        };
        programs.into_iter().chain(self.loader).map(guest_file).collect()
    }
}
