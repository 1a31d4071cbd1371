//! The initramfs of a guest: busybox, the tests, a kernel's modules, what to do. The kernel unpacks
//! archives that follow each other, so what all guests share is packed once.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use super::{kernel::Kernel, machine::Machine, suite::Guest};
use crate::exec::workspace;

/// A file, and where it goes in the guest.
#[derive(Debug, Clone)]
pub(crate) struct Placed {
    pub(crate) from: PathBuf,
    pub(crate) to: String,
}

/// Packs what every guest has: our init, busybox and the other files.
pub(crate) fn base(dir: &Path, machine: &Machine, files: &[Placed]) -> Result<PathBuf> {
    let root = dir.join(format!("base-{}", machine.name));
    let _ = fs::remove_dir_all(&root);
    place(&root, &workspace().join("tests/guest/init"), "init")?;
    for file in files {
        place(&root, &file.from, file.to.trim_start_matches('/'))?;
    }
    pack(&root, &base_path(dir, machine))
}

/// Where that archive is.
pub(crate) fn base_path(dir: &Path, machine: &Machine) -> PathBuf {
    dir.join(format!("base-{}.cpio", machine.name))
}

/// The whole initramfs of one guest.
pub(crate) fn initramfs(
    dir: &Path,
    base: &Path,
    kernel: &Kernel,
    guest: &Guest,
) -> Result<PathBuf> {
    let root = dir.join("own");
    fs::create_dir_all(root.join("modules"))?;
    for module in &kernel.modules {
        let name = module.file_name().context("a module without a name")?.to_string_lossy();
        place(&root, module, &format!("modules/{name}"))?;
    }
    fs::write(root.join("steps"), guest.steps())?;
    let own = pack(&root, &dir.join("own.cpio"))?;
    let whole = dir.join("initramfs");
    let mut out = fs::File::create(&whole)?;
    for part in [base, &own] {
        out.write_all(&fs::read(part).with_context(|| format!("read {}", part.display()))?)?;
    }
    Ok(whole)
}

fn place(root: &Path, from: &Path, to: &str) -> Result<()> {
    let to = root.join(to);
    fs::create_dir_all(to.parent().context("a file without a directory")?)?;
    fs::copy(from, &to).with_context(|| format!("copy {} to {}", from.display(), to.display()))?;
    Ok(fs::set_permissions(&to, fs::Permissions::from_mode(0o755))?)
}

fn pack(root: &Path, archive: &Path) -> Result<PathBuf> {
    let mut names = String::new();
    list(root, Path::new(""), &mut names)?;
    let mut cpio = Command::new("cpio")
        .args(["--create", "--format=newc", "--quiet", "--owner=0:0"])
        .current_dir(root)
        .stdin(Stdio::piped())
        .stdout(fs::File::create(archive)?)
        .spawn()
        .context("start cpio (apt-get install cpio)")?;
    // Closed by the end of the statement, which is the end of the list.
    cpio.stdin.take().context("no stdin")?.write_all(names.as_bytes())?;
    let status = cpio.wait()?;
    if !status.success() {
        bail!("cpio failed: {status}");
    }
    Ok(archive.to_path_buf())
}

/// Every path below a directory, a directory before what is in it.
fn list(root: &Path, below: &Path, names: &mut String) -> Result<()> {
    let mut entries: Vec<_> = fs::read_dir(root.join(below))?.collect::<Result<_, _>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = below.join(entry.file_name());
        names.push_str(path.to_str().context("a path that is not UTF-8")?);
        names.push('\n');
        if entry.file_type()?.is_dir() {
            list(root, &path, names)?;
        }
    }
    Ok(())
}
