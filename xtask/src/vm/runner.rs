//! Prepares and boots the guests of a suite, several at a time.

use std::{
    cell::RefCell,
    fs,
    path::Path,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use anyhow::Result;

use super::{
    debian::Archive,
    guest::Guest,
    guest_files, host_packages, image,
    kernel::{self, Kernel},
    machine::Machine,
    qemu::{self, GuestExit, GuestRun},
};
use crate::reports::libtest::TestTimes;

/// The number of guests that run at a time: emulation uses one core per guest.
pub(crate) const PARALLEL_GUESTS: usize = 2;

/// The number of slow tests that are listed for a guest.
const SLOWEST: usize = 10;

/// Installs the packages that guests of all architectures need.
pub(crate) fn install_packages() -> Result<()> {
    host_packages::install()
}

/// Builds the files that the guests of one architecture share, and fetches its kernels.
pub(crate) fn prepare(
    machine: &'static Machine,
    series: &[&str],
    cache: &Path,
    dir: &Path,
) -> Result<Vec<Kernel>> {
    machine.cross.install()?;
    host_packages::install_qemu(machine, cache)?;
    let archive = Archive::open(&cache.join(format!("apt-{}", machine.name)), machine.name)?;
    let fetch = |series: &&str| kernel::fetch(&archive, cache, machine, series);
    let kernels = series.iter().map(fetch).collect::<Result<_>>()?;
    let binaries = guest_files::binaries(machine, &["hog"], &["kernel", "live", "guest"])?;
    let programs = guest_files::debian_programs(machine, &archive, cache)?;
    image::pack_base(dir, machine, image::INIT, &[binaries, programs].concat())?;
    Ok(kernels)
}

/// Boots all guests in order and returns their runs in the same order.
pub(crate) fn run_all(dir: &Path, guests: &[Guest]) -> Result<Vec<GuestRun>> {
    let indices = Mutex::new(0..guests.len());
    let next_index = || indices.lock().unwrap_or_else(PoisonError::into_inner).next();
    let runs = Mutex::new(Vec::new());
    let work = || {
        while let Some(i) = next_index() {
            let run = run_guest(dir, i, &guests[i]);
            runs.lock().unwrap_or_else(PoisonError::into_inner).push((i, run));
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..PARALLEL_GUESTS {
            scope.spawn(work);
        }
    });
    let mut runs = runs.into_inner().unwrap_or_else(PoisonError::into_inner);
    runs.sort_by_key(|(i, _)| *i);
    runs.into_iter().map(|(_, run)| run).collect()
}

fn run_guest(suite_dir: &Path, i: usize, guest: &Guest) -> Result<GuestRun> {
    let name = guest.display_name();
    let dir = &suite_dir.join(i.to_string());
    fs::create_dir_all(dir)?;
    let base = image::base_path(suite_dir, guest.kernel.machine);
    let initramfs = image::write_initramfs(dir, &base, guest)?;
    let started = Instant::now();
    let times = RefCell::new(TestTimes::default());
    let on_line = |line: &str| {
        times.borrow_mut().read(started.elapsed(), &format!("{line}\n"));
        if line.starts_with("guest: ") || line.ends_with("FAILED") {
            println!("vm: {name}: {:>3} s: {line}", started.elapsed().as_secs());
        }
    };
    let mut run = qemu::boot(dir, &initramfs, guest, on_line)?;
    // Emulation with several CPUs sometimes fails while the booting kernel patches its code. Boot
    // again only if the guest's init has not started.
    for _ in 0..2 {
        if run.exit == GuestExit::NoResult && !run.output.contains("guest: ") {
            println!("vm: {name}: died while booting, trying again");
            run = qemu::boot(dir, &initramfs, guest, on_line)?;
        }
    }
    let _ = fs::remove_file(initramfs);
    println!("vm: {name}: {} in {} s", run.exit.describe(), run.duration.as_secs());
    if let Some(list) = times.borrow().slowest(SLOWEST) {
        println!("vm: {name}: slowest: {list}");
    }
    Ok(run)
}
