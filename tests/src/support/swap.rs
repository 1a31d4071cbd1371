//! A swap device: a loop device over a file, at full speed or throttled, or zram. It is removed again,
//! also if this process is killed.

use std::{
    fs::{self, File, Permissions},
    io::Write as _,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use crate::support::{
    scope::{MIB, Scope},
    undo::Undo,
};

/// A swap device. Cgroups that swap to it must be dropped first: with their limits swapoff could
/// not read the pages back.
#[derive(Debug)]
pub struct Swap {
    dir: PathBuf,
    device: PathBuf,
    /// The blkio group of the throttled processes, on v1.
    throttled: Option<PathBuf>,
    undo: Undo,
}

impl Swap {
    /// Makes it and activates it with the highest priority. Needs root, the space on disk, and
    /// util-linux.
    pub fn new(mib: u64) -> Result<Self> {
        let (dir, mut undo) = directory()?;
        let file = dir.join("swap");
        fill(&file, mib)?;
        fs::set_permissions(&file, Permissions::from_mode(0o600))?;

        undo.later(r#"losetup -j "$1" | cut -d: -f1 | xargs -r losetup -d"#, &[&file])?;
        let looped = succeed(
            Command::new("losetup").args(["--find", "--show"]).arg(&file),
            "is there a free loop device?",
        )?;
        let device = PathBuf::from(looped.trim());
        activate(&device, &mut undo)?;
        Ok(Self { dir, device, throttled: None, undo })
    }

    /// The same on zram: compressed, in memory, and not charged to the cgroup. Needs CONFIG_ZRAM.
    pub fn zram(mib: u64) -> Result<Self> {
        let (dir, mut undo) = directory()?;
        let hot_add = Path::new("/sys/class/zram-control/hot_add");
        let number = fs::read_to_string(hot_add)
            .with_context(|| format!("read {} (modprobe zram)", hot_add.display()))?;
        let name = format!("zram{}", number.trim());
        undo.later(
            r#"echo "${1#/zram}" >/sys/class/zram-control/hot_remove"#,
            &[&Path::new("/").join(&name)],
        )?;
        let size = Path::new("/sys/block").join(&name).join("disksize");
        fs::write(&size, format!("{mib}M")).with_context(|| format!("write {}", size.display()))?;
        let device = Path::new("/dev").join(name);
        activate(&device, &mut undo)?;
        Ok(Self { dir, device, throttled: None, undo })
    }

    /// A directory on the same disk, removed with the swap.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Limits reads of the cgroup from the swap device, like a slow disk. Call it before a process
    /// enters the cgroup.
    pub fn slow(&mut self, scope: &mut Scope, reads_per_second: u32) -> Result<()> {
        let name = self.device.file_name().context("a device has a name")?;
        let number = Path::new("/sys/block").join(name).join("dev");
        let number =
            fs::read_to_string(&number).with_context(|| format!("read {}", number.display()))?;
        self.throttle(scope, number.trim(), reads_per_second)
    }

    /// The same for the disk of [`dir`](Self::dir), which must not be a partition.
    pub fn slow_disk(&mut self, scope: &mut Scope, reads_per_second: u32) -> Result<()> {
        let device = fs::metadata(&self.dir)?.dev();
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        self.throttle(scope, &format!("{major}:{minor}"), reads_per_second)
            .with_context(|| format!("{} must be on a disk without partitions", self.dir.display()))
    }

    fn throttle(&mut self, scope: &mut Scope, number: &str, reads_per_second: u32) -> Result<()> {
        if !scope.is_v1() {
            scope.enable("io")?;
            return scope.write("io.max", &format!("{number} riops={reads_per_second}"));
        }
        let group = if let Some(group) = &self.throttled {
            group.clone()
        } else {
            let group = scope.add_v1_group("blkio")?;
            self.undo.remove_group(&group)?;
            self.throttled.insert(group).clone()
        };
        let file = group.join("blkio.throttle.read_iops_device");
        fs::write(&file, format!("{number} {reads_per_second}"))
            .with_context(|| format!("write {}", file.display()))
    }
}

/// A directory on disk, which is removed.
fn directory() -> Result<(PathBuf, Undo)> {
    // Not /tmp: it may be a tmpfs, which is memory itself.
    let dir = PathBuf::from(format!("/var/tmp/memsensor-swap-{}", std::process::id()));
    let mut undo = Undo::new()?;
    undo.later(r#"rm -rf "$1""#, &[&dir])?;
    fs::create_dir(&dir).with_context(|| format!("mkdir {}", dir.display()))?;
    Ok((dir, undo))
}

/// Formats the device and swaps to it before any other.
fn activate(device: &Path, undo: &mut Undo) -> Result<()> {
    undo.later(r#"! grep -q "^$1 " /proc/swaps || swapoff "$1""#, &[device])?;
    succeed(Command::new("mkswap").arg(device), "see the kernel log")?;
    let mut swapon = Command::new("swapon");
    succeed(swapon.args(["-p", "32767"]).arg(device), "see the kernel log")?;
    Ok(())
}

/// Makes a file without holes, as swap requires, and with clean pages, which can be reclaimed at
/// once.
pub fn fill(path: &Path, mib: u64) -> Result<()> {
    let mut file = File::create(path).with_context(|| format!("create {}", path.display()))?;
    let chunk = vec![7u8; usize::try_from(MIB)?];
    for _ in 0..mib {
        file.write_all(&chunk).with_context(|| format!("fill {}", path.display()))?;
    }
    file.sync_all().with_context(|| format!("write {} to disk", path.display()))
}

/// Makes a file outside the page cache: the cgroup that reads it first is charged for it.
pub fn cold(path: &Path, mib: u64) -> Result<()> {
    fill(path, mib)?;
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)
        .with_context(|| format!("drop {} from memory", path.display()))
}

fn succeed(command: &mut Command, remedy: &str) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let out = command.output().with_context(|| format!("start {name} (install util-linux)"))?;
    let stderr = String::from_utf8_lossy(&out.stderr);
    ensure!(out.status.success(), "{name}: {}; {remedy}", stderr.trim());
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}
