//! What differs between the architectures of guests: names, and how QEMU boots them.

use std::{fs, path::Path};

use super::image::Placed;
use crate::cross::{self, Cross};

/// An architecture that guests can have.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Machine {
    /// Debian's name of it, and that of the option `--arch`.
    pub(crate) name: &'static str,
    /// How binaries for it are built.
    pub(crate) cross: &'static Cross,
    /// QEMU, and the packages that it comes in.
    pub(crate) qemu: &'static str,
    pub(crate) packages: &'static [&'static str],
    /// The board and the processor that is emulated.
    pub(crate) board: &'static [&'static str],
    /// Serial ports: the kernel's, and ours.
    pub(crate) serial: [&'static str; 2],
    /// The dynamic loader and the C library of a Debian package: where they are, and where they go.
    loader: [(&'static str, &'static str); 2],
    /// Series that are tested.
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

/// Two series show that the other architecture works; its guests are the slowest.
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

/// All, in the table's order.
pub(crate) static ALL: [&Machine; 2] = [&AMD64, &ARM64];

impl Machine {
    /// By its name.
    pub(crate) fn named(name: &str) -> Result<&'static Self, String> {
        ALL.into_iter().find(|m| m.name == name).ok_or_else(|| "amd64 or arm64".to_owned())
    }

    /// KVM where this processor can run guests itself, or emulation. /dev/kvm alone proves nothing:
    /// it is there on machines whose kernels die in it.
    pub(crate) fn accelerator(&self) -> &'static str {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let has = |flag: &str| {
            let mut lines = cpuinfo.lines().filter(|l| l.starts_with("flags"));
            lines.any(|l| l.split_whitespace().any(|word| word == flag))
        };
        let open = fs::File::options().read(true).write(true).open("/dev/kvm").is_ok();
        if self.cross.is_ours() && open && (has("vmx") || has("svm")) { "kvm" } else { "tcg" }
    }

    /// Debian's programs in a guest, with what they are linked to, out of unpacked packages.
    pub(crate) fn programs(&self, unpacked: &Path) -> Vec<Placed> {
        let programs = [("bin/busybox", "bin/busybox"), ("usr/bin/earlyoom", "t/earlyoom")];
        let placed = |(from, to): (&str, &str)| Placed { from: unpacked.join(from), to: to.into() };
        programs.into_iter().chain(self.loader).map(placed).collect()
    }
}
