//! Debian's kernels by series: the newest package of a series, fetched once, unpacked into what a
//! guest boots from (the bare `vmlinux` and the modules that it needs).

use std::{
    cmp::Ordering,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use super::{
    debian::Archive,
    machine::{AMD64, Machine},
};

/// What a guest needs beyond what Debian builds in.
const MODULES: [&str; 3] = ["virtio_pci", "virtio_blk", "virtio_net"];

/// A kernel that is ready to boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kernel {
    pub(crate) machine: &'static Machine,
    /// As asked for, e.g. `6.1`.
    pub(crate) series: String,
    /// As `uname -r` says.
    pub(crate) release: String,
    /// What QEMU loads.
    pub(crate) image: PathBuf,
    /// Module files in the order of loading.
    pub(crate) modules: Vec<PathBuf>,
}

/// The newest kernel of a series, downloaded into the cache unless it is there.
pub(crate) fn fetch(
    archive: &Archive,
    cache: &Path,
    machine: &'static Machine,
    series: &str,
) -> Result<Kernel> {
    let release = newest(archive, machine.name, series)?;
    let dir = cache.join("kernels").join(&release);
    // What an earlier version of us fetched may lack a module.
    let done = fs::read_to_string(dir.join("done")).unwrap_or_default();
    if done != MODULES.join(" ") {
        let _ = fs::remove_dir_all(&dir);
        println!("vm: {series}: fetching {release}");
        let scratch = cache.join(format!("unpack-{release}-{}", std::process::id()));
        let made = make(archive, &release, machine, &scratch, &dir);
        let _ = fs::remove_dir_all(&scratch);
        made.with_context(|| format!("prepare the kernel {release}"))?;
        fs::write(dir.join("done"), MODULES.join(" "))?;
    }
    let mut modules: Vec<_> = fs::read_dir(dir.join("modules"))
        .with_context(|| format!("list {}", dir.display()))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    modules.sort();
    let image = dir.join("vmlinux");
    Ok(Kernel { machine, series: series.to_owned(), release, image, modules })
}

/// The release of the newest kernel of a series whose packages can all be had: superseded ones stay
/// in the lists without their modules.
fn newest(archive: &Archive, arch: &str, series: &str) -> Result<String> {
    let names = archive.names(&format!("linux-image-{series}."))?;
    let suffix = format!("-cloud-{arch}");
    let mut releases: Vec<_> = names
        .iter()
        .filter(|name| name.ends_with(&suffix))
        .filter_map(|name| name.strip_prefix("linux-image-"))
        .collect();
    releases.sort_by(|a, b| natural(b, a));
    for release in &releases {
        if packages(archive, release)?.is_some() {
            return Ok((*release).to_owned());
        }
    }
    bail!(
        "Debian has no kernel of the series {series} for {arch}{}",
        if releases.is_empty() {
            ""
        } else {
            " (its packages are in the lists, but not its modules)"
        }
    )
}

/// The packages with a kernel's files; None if one of them cannot be had.
fn packages(archive: &Archive, release: &str) -> Result<Option<Vec<String>>> {
    let image = format!("linux-image-{release}");
    if archive.version(&image)?.is_none() {
        return Ok(None);
    }
    let mut packages = Vec::new();
    for package in archive.depends(&image)? {
        // What else it depends on serves its installation. linux-base is part of it in some
        // releases (7.2 keeps the list of what is built in there) and only scripts in others.
        let is_part = |parts: &[&str]| parts.iter().any(|part| package.starts_with(part));
        match archive.version(&package)? {
            Some(_) if is_part(&["linux-binary-", "linux-modules-", "linux-base-"]) => {
                packages.push(package);
            }
            None if is_part(&["linux-binary-", "linux-modules-"]) => return Ok(None),
            _ => {}
        }
    }
    packages.push(image);
    Ok(Some(packages))
}

fn make(
    archive: &Archive,
    release: &str,
    machine: &Machine,
    scratch: &Path,
    dir: &Path,
) -> Result<()> {
    let packages = packages(archive, release)?.context("its packages are gone")?;
    archive.unpack(&packages, scratch)?;
    // Since the merge of /usr, newer packages have everything there.
    let usr = scratch.join("usr");
    let base = if usr.join("lib/modules").exists() { &usr } else { scratch };
    let of = base.join("lib/modules").join(release);
    let image = [scratch.join("boot").join(format!("vmlinuz-{release}")), of.join("vmlinuz")];
    let image = image.iter().find(|path| path.exists()).context("the package has no vmlinuz")?;
    let _ = fs::remove_dir_all(dir);
    fs::create_dir_all(dir.join("modules"))?;
    let packed = fs::read(image)?;
    let unpacked = if *machine == AMD64 { vmlinux(&packed)? } else { packed };
    fs::write(dir.join("vmlinux"), unpacked)?;
    for (i, module) in modules(base, release)?.iter().enumerate() {
        let data = fs::read(module).with_context(|| format!("read {}", module.display()))?;
        let data = decompress(&data)?.unwrap_or(data);
        fs::write(dir.join(format!("modules/{i:02}.ko")), data)?;
    }
    Ok(())
}

/// Files of the modules and of those they need, first things first.
fn modules(base: &Path, release: &str) -> Result<Vec<PathBuf>> {
    let run = |program: &str, args: &[&str]| {
        let out = Command::new(program).args(args).output();
        out.with_context(|| format!("start {program} (apt-get install kmod)"))
    };
    let dir = base.to_str().context("the cache's path is not UTF-8")?;
    run("/sbin/depmod", &["-b", dir, release])?;
    let mut files = Vec::new();
    for module in MODULES {
        let out = run("/sbin/modprobe", &["-d", dir, "-S", release, "--show-depends", module])?;
        let said = String::from_utf8_lossy(&out.stdout);
        if !out.status.success() {
            bail!("no module {module}: {}", String::from_utf8_lossy(&out.stderr).trim());
        }
        for file in said.lines().filter_map(|l| l.strip_prefix("insmod ")) {
            let file = PathBuf::from(file.trim());
            if !files.contains(&file) {
                files.push(file);
            }
        }
    }
    Ok(files)
}

/// The ELF kernel inside a bzImage: unpacking it here is fast, in an emulated guest it takes half
/// of the boot. Offsets: Documentation/arch/x86/boot.rst.
fn vmlinux(image: &[u8]) -> Result<Vec<u8>> {
    const SETUP_SECTORS: usize = 0x1f1;
    const PAYLOAD_OFFSET: usize = 0x248;
    const PAYLOAD_LENGTH: usize = 0x24c;
    let field = |at: usize| {
        let bytes = image.get(at..at + 4).and_then(|b| b.try_into().ok());
        bytes.map(|b| u32::from_le_bytes(b) as usize)
    };
    let part = || {
        let sectors = usize::from(*image.get(SETUP_SECTORS)?);
        let start = (sectors.max(1) + 1) * 512 + field(PAYLOAD_OFFSET)?;
        image.get(start..start + field(PAYLOAD_LENGTH)?)
    };
    let payload = part().context("not a bzImage")?;
    let elf = decompress(payload)?.context("the kernel is packed in an unknown way")?;
    if !elf.starts_with(b"\x7fELF") {
        bail!("what is packed in the kernel image is no ELF file");
    }
    Ok(elf)
}

/// Unpacks by the magic number; None for data that no known program packed.
fn decompress(data: &[u8]) -> Result<Option<Vec<u8>>> {
    // Trailing bytes follow the packed kernel (its length), which each of these refuses only after
    // it has written everything.
    const PACKERS: [(&[u8], &str, &[&str]); 4] = [
        (b"\xfd7zXZ\0", "xz", &["-dc", "--single-stream"]),
        (b"\x28\xb5\x2f\xfd", "zstd", &["-dcq"]),
        (b"\x1f\x8b", "gzip", &["-dc"]),
        (b"\x02\x21\x4c\x18", "lz4", &["-dc"]),
    ];
    let Some((_, program, args)) = PACKERS.iter().find(|(magic, ..)| data.starts_with(magic))
    else {
        return Ok(None);
    };
    let mut child = Command::new(program)
        .args(*args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("start {program}"))?;
    let mut stdin = child.stdin.take().context("no stdin")?;
    let data = data.to_vec();
    // From a thread of its own, or both would wait for the other with full pipes.
    let feeder = std::thread::spawn(move || stdin.write_all(&data));
    let out = child.wait_with_output().with_context(|| format!("wait for {program}"))?;
    // It may hang up before the trailing bytes.
    let _ = feeder.join();
    if out.stdout.is_empty() {
        bail!("{program} unpacked nothing");
    }
    Ok(Some(out.stdout))
}

/// Orders names with numbers in them by the numbers: 5.10.0-46 is after 5.10.0-9.
pub(crate) fn natural(a: &str, b: &str) -> Ordering {
    let split = |s: &str| {
        let mut parts: Vec<(u64, String)> = Vec::new();
        for c in s.chars() {
            match (c.to_digit(10), parts.last_mut()) {
                (Some(d), Some((n, text))) if text.is_empty() => {
                    *n = n.saturating_mul(10).saturating_add(u64::from(d));
                }
                (Some(d), _) => parts.push((u64::from(d), String::new())),
                (None, Some((_, text))) => text.push(c),
                (None, None) => parts.push((0, c.to_string())),
            }
        }
        parts
    };
    split(a).cmp(&split(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_is_so_by_number() {
        let mut releases = [
            "5.10.0-9-x",
            "6.12.117+deb12-x",
            "5.10.0-46-x",
            "6.12.117+deb13-x",
            "6.12.43+deb12-x",
        ];
        releases.sort_by(|a, b| natural(b, a));
        let newest_first = [
            "6.12.117+deb13-x",
            "6.12.117+deb12-x",
            "6.12.43+deb12-x",
            "5.10.0-46-x",
            "5.10.0-9-x",
        ];
        assert_eq!(releases, newest_first);
    }

    #[test]
    fn what_is_no_kernel_image_is_an_error() {
        assert!(vmlinux(b"short").is_err());
        assert!(vmlinux(&[0; 4096]).is_err());
    }

    #[test]
    fn data_in_no_known_format_is_left_alone() {
        assert_eq!(decompress(b"\x7fELF").expect("no program is started"), None);
    }
}
