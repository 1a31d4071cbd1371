//! Memory that is not what it seems: a pool of huge pages, and swap on zram.

use std::{fs, path::PathBuf, process::Command, process::Stdio};

use sensor_tests::support::{
    daemon::Daemon,
    scope::{MIB, Scope},
    undo::Undo,
};

use crate::{Running, hog, wait_until};

const SWAP_FREE: &str = "memsensor_swap_free_bytes{scope=\"host\"}";

/// A line of /proc/meminfo, in bytes.
fn meminfo(name: &str) -> f64 {
    let text = fs::read_to_string("/proc/meminfo").expect("meminfo");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kib.map_or(0.0, |kib| kib * 1024.0)
}

#[test]
fn the_pool_of_huge_pages_is_no_part_of_the_memory() {
    const POOL: &str = "/proc/sys/vm/nr_hugepages";
    let daemon = Daemon::start("").expect("daemon");
    let total =
        || daemon.metrics().expect("metrics")["memsensor_memory_total_bytes{scope=\"host\"}"];
    let (before, huge_before) = (total(), meminfo("Hugetlb"));
    assert_eq!(before, meminfo("MemTotal") - huge_before);
    let old: u64 = fs::read_to_string(POOL).expect("hugetlb").trim().parse().expect("a number");
    let mut undo = Undo::new().expect("a shell");
    undo.later(&format!("echo {old} >{POOL}"), &[]).expect("added");
    fs::write(POOL, (old + 8).to_string()).expect("more huge pages");
    let reserved = meminfo("Hugetlb") - huge_before;
    assert!(reserved > 0.0, "the kernel found no huge page");
    wait_until("the pool is subtracted", || total() == before - reserved);
    drop(undo);
    wait_until("it is given back", || total() == before);
}

/// A swap on a new zram device. `None` where the kernel has no zram.
fn zram_swap(undo: &mut Undo) -> Option<PathBuf> {
    let number = fs::read_to_string("/sys/class/zram-control/hot_add").ok()?;
    let number = number.trim();
    undo.later(&format!("echo {number} >/sys/class/zram-control/hot_remove"), &[]).expect("added");
    let device = PathBuf::from(format!("/dev/zram{number}"));
    let node = fs::read_to_string(format!("/sys/block/zram{number}/dev")).expect("a number");
    if !device.exists() {
        undo.later(r#"rm -f "$1""#, &[&device]).expect("added");
        let (major, minor) = node.trim().split_once(':').expect("major:minor");
        run(Command::new("mknod").arg(&device).args(["b", major, minor]));
    }
    let sys = PathBuf::from(format!("/sys/block/zram{number}"));
    fs::write(sys.join("disksize"), (512 * MIB).to_string()).expect("disksize");
    undo.later(r#"! grep -q "^$1 " /proc/swaps || swapoff "$1""#, &[&device]).expect("added");
    run(Command::new("mkswap").arg(&device));
    run(Command::new("swapon").args(["-p", "32767"]).arg(&device));
    Some(sys)
}

fn run(command: &mut Command) {
    let status = command.stdout(Stdio::null()).status().expect("starts");
    assert!(status.success(), "{command:?}: {status}");
}

#[test]
fn free_swap_on_zram_counts_as_what_compression_gains() {
    let mut undo = Undo::new().expect("a shell");
    let other_swap = meminfo("SwapFree");
    let Some(sys) = zram_swap(&mut undo) else {
        println!("not on this kernel: zram (/sys/class/zram-control)");
        assert!(!PathBuf::from("/sys/class/zram-control").exists());
        return;
    };
    // The page of its header is not free.
    let on_zram = meminfo("SwapFree") - other_swap;
    assert!(on_zram > 500.0 * MIB as f64, "{on_zram}");
    let daemon = Daemon::start("").expect("daemon");
    let free = || daemon.metrics().expect("metrics")[SWAP_FREE];
    let share = |free: f64| (free - other_swap) / (meminfo("SwapFree") - other_swap);
    let empty = share(free());
    assert!((0.45..0.55).contains(&empty), "2:1 is assumed before there are data: {empty}");

    let scope = Scope::with_swap("zram", 16 * MIB).expect("scope");
    let mut running =
        Running(hog(&scope, &["anon", "160", "hold"]).stdout(Stdio::piped()).spawn().expect("hog"));
    let mm_stat = || {
        let text = fs::read_to_string(sys.join("mm_stat")).expect("mm_stat");
        let words = text.split_whitespace().map(|word| word.parse::<f64>().expect("a number"));
        words.collect::<Vec<_>>()
    };
    wait_until("pages are in zram", || mm_stat()[0] > 128.0 * MIB as f64);
    let stored = mm_stat();
    // Data of a test compress far better than 2:1.
    let ratio = stored[0] / stored[2];
    assert!(ratio > 4.0, "{stored:?}");
    wait_until("the ratio is measured", || share(free()) > 0.7);
    assert!(share(free()) < 1.0);
    let _ = running.0.kill();
}
