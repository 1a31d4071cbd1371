//! The guests of `cargo xtask scenarios --guest`: the whole guest runs short of memory, with real
//! services of Debian as judges and cgroup v2. The guest's side is in `tests/guest/scenarios`, the
//! scenarios are in `tests/src/lab/scenarios`.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use super::{
    debian::Archive,
    guest::Guest,
    guest_files, host_packages, image, kernel,
    machine::{AMD64, GuestFile},
    qemu::{self, GuestExit},
    root_image::{self, Content},
};
use crate::host::exec::{self, workspace};

/// The sizes of guests that have scenarios, in MiB (`tests/src/lab/scenarios/catalogue/guests.rs`).
pub(crate) const SIZES: [u64; 4] = [512, 1024, 2048, 4096];
const RELEASE: &str = "bookworm";
const SERVICES: Content = Content {
    suffix: "-services",
    packages: "util-linux,procps,tar,redis-server,nginx,postgresql,mariadb-server",
    size: "6G",
};
/// For a dozen scenarios, with emulation.
const TIME_LIMIT: Duration = Duration::from_mins(50);
/// How the guest marks a line of a recording.
const MARK: &str = "recording ";

/// Boots a guest of so many MiB and runs its scenarios, or those of these names. Writes the
/// recordings into a directory, if there is one.
pub(crate) fn run(mib: u64, series: &str, only: &[String], record: Option<&Path>) -> Result<()> {
    let cache = crate::host::toolchain::cache_dir().join("vm");
    let dir = exec::target_dir()?.join("vm-scenarios");
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    let (base, kernel) = prepare(&cache, &dir, series)?;
    let mut step = format!("step --guest {mib}");
    for name in only {
        step = step + " --only " + name;
    }
    let mut guest = Guest::new("scenarios", &kernel).with_step(step);
    guest.memory_mib = mib;
    guest.image = Some(root_image::build(&cache, RELEASE, &SERVICES)?);
    guest.image_is_shared = true;
    guest.time_limit = TIME_LIMIT;
    let initramfs = image::write_initramfs(&dir, &base, &guest)?;
    println!("vm: {}, {mib} MiB", kernel.release);
    let print = |line: &str| {
        if !line.starts_with(MARK) {
            eprintln!("{line}");
        }
    };
    let run = qemu::boot(&dir, &initramfs, &guest, print)?;
    if let Some(to) = record {
        fs::create_dir_all(to).with_context(|| format!("create {}", to.display()))?;
        for (name, text) in recordings(&run.output) {
            let path = to.join(format!("{name}.txt"));
            fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        }
    }
    let exit = run.exit.describe();
    ensure!(run.exit == GuestExit::Passed, "guest {exit}; its output is in {}", dir.display());
    fs::remove_dir_all(&dir).with_context(|| format!("remove {}", dir.display()))
}

fn prepare(cache: &Path, dir: &Path, series: &str) -> Result<(PathBuf, kernel::Kernel)> {
    AMD64.cross.install()?;
    host_packages::install()?;
    host_packages::install_qemu(&AMD64, cache)?;
    let archive = Archive::open(&cache.join(format!("apt-{}", AMD64.name)), AMD64.name)?;
    let kernel = kernel::fetch(&archive, cache, &AMD64, series)?;
    let mut files = guest_files::binaries(&AMD64, &["scenarios"], &[])?;
    files.extend(guest_files::debian_programs(&AMD64, &archive, cache)?);
    let step = workspace().join("tests/guest/scenarios/step");
    files.push(GuestFile { host_path: step, guest_path: "t/step".to_owned() });
    Ok((image::pack_base(dir, &AMD64, image::INIT, &files)?, kernel))
}

/// The texts of the recordings in a guest's output, by scenario.
fn recordings(output: &str) -> BTreeMap<&str, String> {
    let mut texts = BTreeMap::<_, String>::new();
    for line in output.lines().filter_map(|line| line.strip_prefix(MARK)) {
        let Some((name, line)) = line.split_once(": ") else { continue };
        // The name becomes a file name.
        if name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            let text = texts.entry(name).or_default();
            text.push_str(line);
            text.push('\n');
        }
    }
    texts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recordings_are_read_from_the_output() {
        let output = "guest: up\nrecording one: a: b\nnoise\nrecording one: c\n\
                      recording two: d\nrecording ../x: e\n";
        let expected = BTreeMap::from([("one", "a: b\nc\n".into()), ("two", "d\n".into())]);
        assert_eq!(recordings(output), expected);
    }
}
