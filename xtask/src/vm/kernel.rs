//! Debian's kernels: fetches the newest package of a series once, and unpacks the files that a
//! guest boots from (the uncompressed `vmlinux` and the modules that the guest needs).

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

/// The drivers that a guest needs and that Debian builds as modules.
const MODULES: [&str; 4] = ["virtio_pci", "virtio_blk", "virtio_net", "loop"];

/// An unpacked kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kernel {
    pub(crate) machine: &'static Machine,
    /// The requested series, e.g. `6.1`.
    pub(crate) series: String,
    /// The release, as in `uname -r`.
    pub(crate) release: String,
    /// The file that QEMU loads.
    pub(crate) image: PathBuf,
    /// The module files in loading order.
    pub(crate) modules: Vec<PathBuf>,
}

/// The newest kernel of a series. Downloads it unless it is in the cache.
pub(crate) fn fetch(
    archive: &Archive,
    cache: &Path,
    machine: &'static Machine,
    series: &str,
) -> Result<Kernel> {
    let release = newest_release(archive, machine.name, series)?;
    let dir = cache.join("kernels").join(&release);
    // An earlier version of xtask may have unpacked fewer modules.
    let unpacked_modules = fs::read_to_string(dir.join("done")).unwrap_or_default();
    if unpacked_modules != MODULES.join(" ") {
        let _ = fs::remove_dir_all(&dir);
        println!("vm: {series}: fetching {release}");
        let scratch = cache.join(format!("unpack-{release}-{}", std::process::id()));
        let result = unpack(archive, &release, machine, &scratch, &dir);
        let _ = fs::remove_dir_all(&scratch);
        result.with_context(|| format!("unpack the kernel {release}"))?;
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

/// The newest release of a series whose packages can all be downloaded. The lists still contain old
/// releases, but not their module packages.
fn newest_release(archive: &Archive, arch: &str, series: &str) -> Result<String> {
    let names = archive.names(&format!("linux-image-{series}."))?;
    let suffix = format!("-cloud-{arch}");
    let mut releases: Vec<_> = names
        .iter()
        .filter(|name| name.ends_with(&suffix))
        .filter_map(|name| name.strip_prefix("linux-image-"))
        .collect();
    releases.sort_by(|a, b| natural_order(b, a));
    for release in &releases {
        if packages(archive, release)?.is_some() {
            return Ok((*release).to_owned());
        }
    }
    let listed = if releases.is_empty() { "" } else { " (only packages without their modules)" };
    bail!("Debian has no kernel of the series {series} for {arch}{listed}")
}

/// The packages with a kernel's files. None if one of them cannot be downloaded.
fn packages(archive: &Archive, release: &str) -> Result<Option<Vec<String>>> {
    let image = format!("linux-image-{release}");
    if archive.version(&image)?.is_none() {
        return Ok(None);
    }
    let mut packages = Vec::new();
    for package in archive.depends(&image)? {
        // The other dependencies only serve the installation. linux-base has kernel files in some
        // releases (7.2 keeps the list of built-in modules there) and only scripts in others.
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

/// Downloads a kernel's packages into `scratch` and unpacks its image and modules into `dir`.
fn unpack(
    archive: &Archive,
    release: &str,
    machine: &Machine,
    scratch: &Path,
    dir: &Path,
) -> Result<()> {
    let packages = packages(archive, release)?.context("a package cannot be downloaded")?;
    archive.unpack(&packages, scratch)?;
    // Since the merge of /usr, newer packages have all files there.
    let usr = scratch.join("usr");
    let base = if usr.join("lib/modules").exists() { &usr } else { scratch };
    let in_boot = scratch.join("boot").join(format!("vmlinuz-{release}"));
    let in_modules = base.join("lib/modules").join(release).join("vmlinuz");
    let image = [in_boot, in_modules].into_iter().find(|path| path.exists());
    let image = fs::read(image.context("the package has no vmlinuz")?)?;
    let _ = fs::remove_dir_all(dir);
    fs::create_dir_all(dir.join("modules"))?;
    let image = if *machine == AMD64 { vmlinux(&image)? } else { image };
    fs::write(dir.join("vmlinux"), image)?;
    for (i, module) in module_files(base, release)?.iter().enumerate() {
        let data = fs::read(module).with_context(|| format!("read {}", module.display()))?;
        let data = decompress(&data)?.unwrap_or(data);
        fs::write(dir.join(format!("modules/{i:02}.ko")), data)?;
    }
    Ok(())
}

/// The files of the modules and of their dependencies, in loading order.
fn module_files(base: &Path, release: &str) -> Result<Vec<PathBuf>> {
    let run = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).output();
        output.with_context(|| format!("start {program} (apt-get install kmod)"))
    };
    let dir = base.to_str().context("the cache's path is not UTF-8")?;
    run("/sbin/depmod", &["-b", dir, release])?;
    let mut files = Vec::new();
    for module in MODULES {
        let output = run("/sbin/modprobe", &["-d", dir, "-S", release, "--show-depends", module])?;
        if !output.status.success() {
            bail!("no module {module}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        let lines = String::from_utf8_lossy(&output.stdout);
        for file in lines.lines().filter_map(|line| line.strip_prefix("insmod ")) {
            let file = PathBuf::from(file.trim());
            if !files.contains(&file) {
                files.push(file);
            }
        }
    }
    Ok(files)
}

/// Unpacks the ELF kernel in a bzImage. This is fast here, but takes half of the boot in an
/// emulated guest. Documentation/arch/x86/boot.rst defines the offsets.
fn vmlinux(image: &[u8]) -> Result<Vec<u8>> {
    const SETUP_SECTORS: usize = 0x1f1;
    const PAYLOAD_OFFSET: usize = 0x248;
    const PAYLOAD_LENGTH: usize = 0x24c;
    let field = |offset: usize| {
        let bytes = image.get(offset..offset + 4).and_then(|b| b.try_into().ok());
        bytes.map(|b| u32::from_le_bytes(b) as usize)
    };
    let payload = || {
        let sectors = usize::from(*image.get(SETUP_SECTORS)?);
        let start = (sectors.max(1) + 1) * 512 + field(PAYLOAD_OFFSET)?;
        image.get(start..start + field(PAYLOAD_LENGTH)?)
    };
    let payload = payload().context("not a bzImage")?;
    let elf = decompress(payload)?.context("the kernel is compressed in an unknown format")?;
    if !elf.starts_with(b"\x7fELF") {
        bail!("the kernel image does not contain an ELF file");
    }
    Ok(elf)
}

/// Decompresses data in the format of its magic number. None if the format is unknown.
fn decompress(data: &[u8]) -> Result<Option<Vec<u8>>> {
    // The length of the kernel follows the compressed data. Each program reports these trailing
    // bytes as an error, but only after it has written everything.
    const FORMATS: [(&[u8], &str, &[&str]); 4] = [
        (b"\xfd7zXZ\0", "xz", &["-dc", "--single-stream"]),
        (b"\x28\xb5\x2f\xfd", "zstd", &["-dcq"]),
        (b"\x1f\x8b", "gzip", &["-dc"]),
        (b"\x02\x21\x4c\x18", "lz4", &["-dc"]),
    ];
    let Some((_, program, args)) = FORMATS.iter().find(|(magic, ..)| data.starts_with(magic))
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
    // Write from a separate thread: otherwise both processes could block on full pipes.
    let writer = std::thread::spawn(move || stdin.write_all(&data));
    let output = child.wait_with_output().with_context(|| format!("wait for {program}"))?;
    // The write can fail, because the program may exit before it reads the trailing bytes.
    let _ = writer.join();
    if output.stdout.is_empty() {
        bail!("{program} wrote no output");
    }
    Ok(Some(output.stdout))
}

/// Compares the numbers in names by value: 5.10.0-46 is after 5.10.0-9.
pub(crate) fn natural_order(a: &str, b: &str) -> Ordering {
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
    fn releases_are_ordered_by_number() {
        let mut releases = [
            "5.10.0-9-x",
            "6.12.117+deb12-x",
            "5.10.0-46-x",
            "6.12.117+deb13-x",
            "6.12.43+deb12-x",
        ];
        releases.sort_by(|a, b| natural_order(b, a));
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
    fn data_that_is_not_a_kernel_image_is_an_error() {
        assert!(vmlinux(b"short").is_err());
        assert!(vmlinux(&[0; 4096]).is_err());
    }

    #[test]
    fn an_unknown_format_is_not_decompressed() {
        assert_eq!(decompress(b"\x7fELF").expect("no program is started"), None);
    }
}
