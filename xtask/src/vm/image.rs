//! The initramfs of a guest: busybox, test binaries, kernel modules, and the steps to run. The
//! kernel unpacks concatenated archives, so the files that all guests share are packed once.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use super::{
    guest::Guest,
    machine::{GuestFile, Machine},
};
use crate::host::exec::workspace;

/// The init program of guests whose user space is busybox.
pub(crate) const INIT: &str = "tests/guest/init";

/// Packs the files that all guests share, and the init program, a file of the repository.
pub(crate) fn pack_base(
    dir: &Path,
    machine: &Machine,
    init: &str,
    files: &[GuestFile],
) -> Result<PathBuf> {
    let root = dir.join(format!("base-{}", machine.name));
    let _ = fs::remove_dir_all(&root);
    copy_into(&root, &workspace().join(init), "init")?;
    for file in files {
        copy_into(&root, &file.host_path, file.guest_path.trim_start_matches('/'))?;
    }
    pack(&root, &base_path(dir, machine))
}

/// The path of the archive that [`pack_base`] writes.
pub(crate) fn base_path(dir: &Path, machine: &Machine) -> PathBuf {
    dir.join(format!("base-{}.cpio", machine.name))
}

/// Writes the complete initramfs of one guest.
pub(crate) fn write_initramfs(dir: &Path, base: &Path, guest: &Guest) -> Result<PathBuf> {
    let root = dir.join("own");
    fs::create_dir_all(root.join("modules"))?;
    for module in &guest.kernel.modules {
        let name = module.file_name().context("a module without a file name")?.to_string_lossy();
        copy_into(&root, module, &format!("modules/{name}"))?;
    }
    fs::write(root.join("steps"), guest.init_script())?;
    let own = pack(&root, &dir.join("own.cpio"))?;
    let initramfs = dir.join("initramfs");
    let mut file = fs::File::create(&initramfs)?;
    for archive in [base, &own] {
        let bytes = fs::read(archive).with_context(|| format!("read {}", archive.display()))?;
        file.write_all(&bytes)?;
    }
    Ok(initramfs)
}

fn copy_into(root: &Path, from: &Path, path: &str) -> Result<()> {
    let to = root.join(path);
    fs::create_dir_all(to.parent().context("a path without a directory")?)?;
    fs::copy(from, &to).with_context(|| format!("copy {} to {}", from.display(), to.display()))?;
    Ok(fs::set_permissions(&to, fs::Permissions::from_mode(0o755))?)
}

fn pack(root: &Path, archive: &Path) -> Result<PathBuf> {
    let mut names = String::new();
    list_paths(root, Path::new(""), &mut names)?;
    let mut cpio = Command::new("cpio")
        .args(["--create", "--format=newc", "--quiet", "--owner=0:0"])
        .current_dir(root)
        .stdin(Stdio::piped())
        .stdout(fs::File::create(archive)?)
        .spawn()
        .context("start cpio (apt-get install cpio)")?;
    // The end of this statement closes the pipe, which ends the list.
    cpio.stdin.take().context("no stdin")?.write_all(names.as_bytes())?;
    let status = cpio.wait()?;
    if !status.success() {
        bail!("cpio failed: {status}");
    }
    Ok(archive.to_path_buf())
}

/// Appends all paths below a directory, each directory before its content.
fn list_paths(root: &Path, dir: &Path, names: &mut String) -> Result<()> {
    let mut entries: Vec<_> = fs::read_dir(root.join(dir))?.collect::<Result<_, _>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = dir.join(entry.file_name());
        names.push_str(path.to_str().context("a path that is not UTF-8")?);
        names.push('\n');
        if entry.file_type()?.is_dir() {
            list_paths(root, &path, names)?;
        }
    }
    Ok(())
}
