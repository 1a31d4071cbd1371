//! The guest of `cargo xtask thrash --guest`: memsensor and other monitored services on a separate
//! disk, as on a server. This machine polls them while the guest runs out of memory. The guest's
//! side is in `tests/guest/thrash`, the poller in `tests/src/lab/thrash`.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use super::{
    debian::Archive,
    guest::Guest,
    guest_files, host_packages, image, kernel,
    machine::{AMD64, GuestFile},
    qemu::{self, GuestExit},
};
use crate::host::{
    apt,
    exec::{self, workspace},
    toolchain,
};

/// The ports of the services, in the guest and on this machine (`tests/src/lab/thrash/targets.rs`).
const PORTS: &[u16] = &[19_817, 19_818, 19_100, 19_080, 19_022];
/// Less memory than the services need.
const MEMORY_MIB: u64 = 512;
const DISK_MIB: u64 = 512;
/// The limit of reads and writes per second of the swap and of the disk: those of a slow disk.
const IOPS: u32 = 400;
/// The size of the file that the guest's load reads repeatedly.
const FILE_MIB: usize = 160;
/// The time for booting, starting the services, and three OOM kills, with emulation.
const TIME_BESIDE_PHASES: Duration = Duration::from_mins(10);

/// Programs of this machine that are copied into the guest with their libraries.
const HOST_PROGRAMS: [&str; 5] = ["prometheus-node-exporter", "nginx", "sshd", "earlyoom", "chrt"];
/// Files of `tests/guest/thrash` and their paths in the guest.
const FILES: [(&str, &str); 5] = [
    ("run", "run-thrash"),
    ("memsensor.toml", "etc/memsensor.toml"),
    ("late.toml", "etc/late.toml"),
    ("nginx.conf", "etc/nginx.conf"),
    ("sshd_config", "etc/sshd_config"),
];

/// Boots the guest and waits for its end. `release` is the directory with memsensor and hog; `calm`
/// and `thrashing` are the lengths of the phases. Calls `on_line` with each line of output.
pub(crate) fn run(
    series: &str,
    release: &Path,
    calm: Duration,
    thrashing: Duration,
    on_line: impl Fn(&str),
) -> Result<()> {
    host_packages::install()?;
    apt::install(&["e2fsprogs"])?;
    let cache = toolchain::cache_dir().join("vm");
    let dir = exec::target_dir()?.join("vm-thrash");
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    host_packages::install_qemu(&AMD64, &cache)?;
    let archive = Archive::open(&cache.join(format!("apt-{}", AMD64.name)), AMD64.name)?;
    let kernel = kernel::fetch(&archive, &cache, &AMD64, series)?;
    let mut files = guest_files::debian_programs(&AMD64, &archive, &cache)?;
    let busybox = files.iter().find(|file| file.guest_path == "bin/busybox");
    let busybox = busybox.context("no busybox")?.host_path.clone();
    let step = workspace().join("tests/guest/thrash/step");
    files.push(GuestFile { host_path: step, guest_path: "t/step".to_owned() });
    let base = image::pack_base(&dir, &AMD64, image::INIT, &files)?;

    let step = format!("step {} {}", calm.as_secs(), thrashing.as_secs());
    let mut guest = Guest::new("thrash", &kernel).with_step(step);
    guest.memory_mib = MEMORY_MIB;
    guest.iops = Some(IOPS);
    guest.ports = PORTS;
    guest.image = Some(write_disk(&dir, &busybox, release)?);
    guest.time_limit = calm + thrashing + TIME_BESIDE_PHASES;
    let initramfs = image::write_initramfs(&dir, &base, &guest)?;
    println!("vm: {}, {MEMORY_MIB} MiB", kernel.release);
    let run = qemu::boot(&dir, &initramfs, &guest, on_line)?;
    let exit = run.exit.describe();
    ensure!(run.exit == GuestExit::Passed, "guest {exit}; its output is in {}", dir.display());
    fs::remove_dir_all(&dir).with_context(|| format!("remove {}", dir.display()))
}

/// Writes the image of the guest's root file system.
fn write_disk(dir: &Path, busybox: &Path, release: &Path) -> Result<PathBuf> {
    let tree = dir.join("server");
    for name in ["proc", "sys", "dev", "run", "tmp", "root", "srv", "etc", "bin"] {
        fs::create_dir_all(tree.join(name))?;
    }
    copy_into(&tree, busybox, Path::new("/bin/busybox"))?;
    copy_programs(&tree, release)?;
    for (name, path) in FILES {
        let file = workspace().join("tests/guest/thrash").join(name);
        copy_into(&tree, &file, &Path::new("/").join(path))?;
    }
    fs::write(
        tree.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\nsshd:x:100:65534::/run/sshd:/bin/false\n",
    )?;
    fs::write(tree.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n")?;
    fs::write(tree.join("srv/page"), "m".repeat(4096))?;
    fs::write(tree.join("file"), vec![7; FILE_MIB << 20])?;
    let mut keygen = Command::new("ssh-keygen");
    keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(tree.join("etc/host_key"));
    exec::run(&mut keygen)?;
    let image = dir.join("server.img");
    let mut mke2fs = Command::new("mke2fs");
    mke2fs.args(["-q", "-t", "ext4", "-d"]).arg(&tree).arg(&image).arg(format!("{DISK_MIB}M"));
    exec::run(&mut mke2fs)?;
    fs::remove_dir_all(&tree)?;
    Ok(image)
}

/// Copies this machine's programs, memsensor and hog, with all their libraries.
fn copy_programs(tree: &Path, release: &Path) -> Result<()> {
    let mut all_libraries = BTreeSet::new();
    for name in HOST_PROGRAMS {
        let program = toolchain::in_path(name).with_context(|| {
            format!("{name} is not installed (cargo xtask setup --tests installs it)")
        })?;
        all_libraries.extend(libraries(&program)?);
        copy_into(tree, &program, &program)?;
    }
    for name in ["memsensor", "hog"] {
        let program = release.join(name);
        all_libraries.extend(libraries(&program)?);
        copy_into(tree, &program, &Path::new("/usr/bin").join(name))?;
    }
    all_libraries.iter().try_for_each(|library| copy_into(tree, library, library))
}

/// Copies a file to an absolute path below the tree.
fn copy_into(tree: &Path, from: &Path, path: &Path) -> Result<()> {
    let to = tree.join(path.strip_prefix("/").unwrap_or(path));
    fs::create_dir_all(to.parent().context("a path without a directory")?)?;
    fs::copy(from, &to).with_context(|| format!("copy {} to {}", from.display(), to.display()))?;
    Ok(())
}

/// The shared libraries of a program.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("start ldd")?;
    Ok(parse_ldd(&String::from_utf8_lossy(&output.stdout)))
}

/// The paths in lines like `libc.so.6 => /lib/libc.so.6 (0x7f…)` and `/lib64/ld-linux.so.2
/// (0x7f…)`.
fn parse_ldd(output: &str) -> Vec<PathBuf> {
    output
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .map(PathBuf::from)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_with_a_path_are_libraries() {
        let output = "\tlinux-vdso.so.1 (0x7ffc)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x7f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x7f)\n";
        let paths = ["/lib/x/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from);
        assert_eq!(parse_ldd(output), paths);
        assert!(parse_ldd("\tnot a dynamic executable\n").is_empty());
    }
}
