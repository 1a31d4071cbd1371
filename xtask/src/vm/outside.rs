//! One guest that is asked from this machine while it is brought down: memsensor and who is asked today,
//! on a disk of their own, as on a server. What it does is in `tests/guest/thrash`; who asks, in
//! `tests/src/thrash`.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use super::{
    PACKAGES,
    debian::Archive,
    image::{self, Placed},
    kernel,
    machine::AMD64,
    programs,
    qemu::{self, End},
    qemu_itself,
    suite::Guest,
};
use crate::{
    apt,
    exec::{self, workspace},
    toolchain,
};

/// Where they listen, in the guest and here (`tests/src/thrash/ask.rs`).
const PORTS: &[u16] = &[19_817, 19_818, 19_100, 19_080, 19_022];
/// Less than what is started there wants.
const MEMORY_MIB: u64 = 512;
const DISK_MIB: u64 = 512;
/// Of its swap and of the disk that its programs are on: a tired one.
const IOPS: u32 = 400;
/// What is read again and again.
const FILE_MIB: usize = 160;
/// Booting, starting everybody, out of memory three times, and what emulation takes.
const BESIDE: Duration = Duration::from_mins(10);

/// Programs of this machine that go there, with the libraries that they are linked to.
const FROM_HERE: [&str; 5] = ["prometheus-node-exporter", "nginx", "sshd", "earlyoom", "chrt"];
/// Files of `tests/guest/thrash` and where they go.
const FILES: [(&str, &str); 5] = [
    ("run", "run-thrash"),
    ("memsensor.toml", "etc/memsensor.toml"),
    ("late.toml", "etc/late.toml"),
    ("nginx.conf", "etc/nginx.conf"),
    ("sshd_config", "etc/sshd_config"),
];

/// Boots it; `built` is where memsensor and hog are, `follow` gets each line that the guest says.
pub(crate) fn thrash(
    series: &str,
    built: &Path,
    [calm, load]: [Duration; 2],
    follow: impl Fn(&str),
) -> Result<()> {
    apt::install(&PACKAGES)?;
    apt::install(&["e2fsprogs"])?;
    let cache = toolchain::cache_dir().join("vm");
    let dir = exec::target_dir()?.join("vm-thrash");
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).with_context(|| format!("mkdir {}", dir.display()))?;
    qemu_itself(&AMD64, &cache)?;
    let archive = Archive::open(&cache.join(format!("apt-{}", AMD64.name)), AMD64.name)?;
    let kernel = kernel::fetch(&archive, &cache, &AMD64, series)?;
    let mut files = programs(&AMD64, &archive, &cache)?;
    let busybox = files.iter().find(|f| f.to == "bin/busybox").context("no busybox")?.from.clone();
    let step = workspace().join("tests/guest/thrash/step");
    files.push(Placed { from: step, to: "t/step".to_owned() });
    let base = image::base(&dir, &AMD64, &files)?;
    let step = format!("step {} {}", calm.as_secs(), load.as_secs());
    let mut guest = Guest::new("thrash", 0).runs_only(step);
    guest.memory_mib = MEMORY_MIB;
    guest.iops = Some(IOPS);
    guest.ports = PORTS;
    guest.image = Some(disk(&dir, &busybox, built)?);
    guest.limit = calm + load + BESIDE;
    let initramfs = image::initramfs(&dir, &base, &kernel, &guest)?;
    println!("vm: {}, {MEMORY_MIB} MiB", kernel.release);
    let ran = qemu::boot(&dir, &kernel, &initramfs, &guest, follow)?;
    ensure!(
        ran.end == End::Passed,
        "the guest {}; what it wrote is in {}",
        ran.end.describe(),
        dir.display()
    );
    fs::remove_dir_all(&dir).with_context(|| format!("remove {}", dir.display()))
}

/// The guest's root file system.
fn disk(dir: &Path, busybox: &Path, built: &Path) -> Result<PathBuf> {
    let tree = dir.join("server");
    for empty in ["proc", "sys", "dev", "run", "tmp", "root", "srv", "etc", "bin"] {
        fs::create_dir_all(tree.join(empty))?;
    }
    put(&tree, busybox, Path::new("/bin/busybox"))?;
    let mut libraries = BTreeSet::new();
    for name in FROM_HERE {
        let from = toolchain::in_path(name).with_context(|| {
            format!("{name} is not installed (cargo xtask setup --tests installs it)")
        })?;
        libraries.extend(linked(&from)?);
        put(&tree, &from, &from)?;
    }
    for name in ["memsensor", "hog"] {
        let from = built.join(name);
        libraries.extend(linked(&from)?);
        put(&tree, &from, &Path::new("/usr/bin").join(name))?;
    }
    for library in libraries {
        put(&tree, &library, &library)?;
    }
    for (from, to) in FILES {
        put(&tree, &workspace().join("tests/guest/thrash").join(from), &Path::new("/").join(to))?;
    }
    fs::write(
        tree.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\nsshd:x:100:65534::/run/sshd:/bin/false\n",
    )?;
    fs::write(tree.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n")?;
    fs::write(tree.join("srv/page"), "m".repeat(4096))?;
    fs::write(tree.join("file"), vec![7; FILE_MIB << 20])?;
    let mut key = Command::new("ssh-keygen");
    exec::run(key.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(tree.join("etc/host_key")))?;
    let image = dir.join("server.img");
    let mut make = Command::new("mke2fs");
    make.args(["-q", "-t", "ext4", "-d"]).arg(&tree).arg(&image).arg(format!("{DISK_MIB}M"));
    exec::run(&mut make)?;
    fs::remove_dir_all(&tree)?;
    Ok(image)
}

/// Copies a file to an absolute path below the tree.
fn put(tree: &Path, from: &Path, to: &Path) -> Result<()> {
    let to = tree.join(to.strip_prefix("/").unwrap_or(to));
    fs::create_dir_all(to.parent().context("a file without a directory")?)?;
    let copied = fs::copy(from, &to);
    copied.with_context(|| format!("copy {} to {}", from.display(), to.display()))?;
    Ok(())
}

/// What a program is linked to, by ldd.
fn linked(program: &Path) -> Result<Vec<PathBuf>> {
    let out = Command::new("ldd").arg(program).output().context("start ldd")?;
    let said = String::from_utf8_lossy(&out.stdout);
    Ok(libraries(&said))
}

/// Of lines like `libc.so.6 => /lib/libc.so.6 (0x7f…)` and `/lib64/ld-linux.so.2 (0x7f…)`.
fn libraries(said: &str) -> Vec<PathBuf> {
    said.lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .map(PathBuf::from)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_those_with_a_path() {
        let said = "\tlinux-vdso.so.1 (0x7ffc)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x7f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x7f)\n";
        let paths = ["/lib/x/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from);
        assert_eq!(libraries(said), paths);
        assert!(libraries("\tnot a dynamic executable\n").is_empty());
    }
}
