//! Processes from /proc, for kernels that cannot load the iterator
//! ([`sensor_ebpf::probes::processes`]).
//!
//! Each process costs several system calls and about forty microseconds. Therefore a walk is done
//! in steps, and on a host with more than [`MAX_PROCESSES`] processes only those with the lowest
//! ids are read. They are the oldest only until ids are reused.
//!
//! Names of processes and cgroups are bytes that any user may choose, so the files are read as
//! bytes: a name that is not UTF-8 must not hide its process.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    io::Read as _,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use procfs::process::Process as Entry;
use sensor_ebpf::event::{COMM, Process, Sizes, Task};

use super::proc_file::numbers;

/// Most processes in one walk.
const MAX_PROCESSES: usize = 4096;

/// A walk in progress.
#[derive(Debug)]
pub struct ProcWalk {
    /// Ids that are still to be read, the last first.
    pending: Vec<i32>,
    /// Mount point of the memory controller's hierarchy.
    root: PathBuf,
    /// Ids of cgroups by path: most processes share a cgroup with others.
    cgroup_ids: BTreeMap<Vec<u8>, u64>,
}

impl ProcWalk {
    /// Lists the processes. `root` is the mount point of the memory controller's hierarchy.
    pub fn begin(root: &Path) -> Result<Self> {
        let processes = procfs::process::all_processes().context("list /proc")?;
        let mut pending: Vec<_> =
            processes.flatten().take(MAX_PROCESSES).map(|entry| entry.pid()).collect();
        pending.reverse();
        Ok(Self { pending, root: root.to_owned(), cgroup_ids: BTreeMap::new() })
    }

    /// Reads up to `count` more processes, and passes each that has memory to `each`. Returns
    /// whether the walk is complete.
    pub fn step(&mut self, count: usize, mut each: impl FnMut(&Process)) -> bool {
        let rest = self.pending.len().saturating_sub(count);
        for pid in self.pending.split_off(rest).into_iter().rev() {
            // Skips a process that has ended in the meantime.
            if let Ok(Some(process)) = self.read(pid) {
                each(&process);
            }
        }
        self.pending.is_empty()
    }

    fn read(&mut self, pid: i32) -> Result<Option<Process>> {
        let entry = Entry::new(pid)?;
        let (stat, status) = (bytes(&entry, "stat")?, bytes(&entry, "status")?);
        let (stat, status) = (Stat::parse(&stat).context("parse stat")?, Status::parse(&status));
        if status.resident_kib.is_none() {
            return Ok(None);
        }
        let page = procfs::page_size();
        let pages = |kib: Option<u64>| kib.unwrap_or_default().saturating_mul(1024) / page;
        let [anon, file, shmem, swap] = status.sizes_kib;
        let pid = pid.cast_unsigned();
        let adj = entry.oom_score_adj().unwrap_or_default();
        let cgroup = self.cgroup(&entry).unwrap_or_default();
        let (uid, comm) = (status.uid, stat.comm);
        let task = Task { tgid: pid, tid: pid, uid, oom_score_adj: adj.into(), cgroup, comm };
        Ok(Some(Process {
            task,
            start_ns: stat.start_ticks.saturating_mul(1_000_000_000 / procfs::ticks_per_second()),
            sizes: Sizes {
                anon_pages: pages(anon),
                file_pages: pages(file),
                shmem_pages: pages(shmem),
                swap_pages: pages(swap),
                pgtables_bytes: status.page_tables_kib.unwrap_or_default().saturating_mul(1024),
            },
        }))
    }

    /// The id of the cgroup that the process's memory is charged to.
    fn cgroup(&mut self, entry: &Entry) -> Option<u64> {
        let cgroups = bytes(entry, "cgroup").ok()?;
        let path = memory_cgroup(&cgroups)?;
        if let Some(id) = self.cgroup_ids.get(path) {
            return Some(*id);
        }
        let dir = self.root.join(OsStr::from_bytes(path.strip_prefix(b"/")?));
        let id = std::fs::metadata(dir).ok()?.ino();
        self.cgroup_ids.insert(path.to_owned(), id);
        Some(id)
    }
}

/// The content of a file of a process.
fn bytes(entry: &Entry, name: &str) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    entry.open_relative(name)?.read_to_end(&mut content)?;
    Ok(content)
}

/// What is needed of /proc/PID/stat.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    comm: [u8; COMM],
    start_ticks: u64,
}

impl Stat {
    /// Parses `PID (COMM) STATE ...`. A name may contain parentheses.
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        let begin = text.iter().position(|byte| *byte == b'(')? + 1;
        let end = text.iter().rposition(|byte| *byte == b')')?;
        let mut comm = [0; COMM];
        for (to, from) in comm[..COMM - 1].iter_mut().zip(text.get(begin..end)?) {
            *to = *from;
        }
        // Field 22 of the line; STATE is field 3.
        let mut fields = text.get(end + 1..)?.trim_ascii().split(|byte| *byte == b' ');
        let start_ticks = std::str::from_utf8(fields.nth(19)?).ok()?.parse().ok()?;
        Some(Self { comm, start_ticks })
    }
}

/// What is needed of /proc/PID/status, in KiB.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Status {
    /// The real uid.
    uid: u32,
    /// Absent for a kernel thread.
    resident_kib: Option<u64>,
    /// Anonymous memory, files, shared memory, swap.
    sizes_kib: [Option<u64>; 4],
    page_tables_kib: Option<u64>,
}

impl Status {
    pub(crate) fn parse(text: &[u8]) -> Self {
        // The name is the first line, and a line feed in it is escaped: it forges no other line.
        let text = String::from_utf8_lossy(text);
        let names = ["Uid", "VmRSS", "RssAnon", "RssFile", "RssShmem", "VmSwap", "VmPTE"];
        let [uid, resident_kib, anon, file, shmem, swap, page_tables_kib] = numbers(&text, names);
        let uid = uid.and_then(|uid| u32::try_from(uid).ok()).unwrap_or_default();
        Self { uid, resident_kib, sizes_kib: [anon, file, shmem, swap], page_tables_kib }
    }
}

/// The path of the memory controller's cgroup, otherwise that of v2. Lines are
/// `HIERARCHY:CONTROLLERS:PATH`; a path may contain colons, but no line feed.
pub(crate) fn memory_cgroup(cgroups: &[u8]) -> Option<&[u8]> {
    let lines = cgroups.split(|byte| *byte == b'\n').filter_map(|line| {
        let mut fields = line.splitn(3, |byte| *byte == b':');
        Some((fields.next()?, fields.next()?, fields.next()?))
    });
    let has_memory = |names: &[u8]| names.split(|byte| *byte == b',').any(|n| n == b"memory");
    let v1 = lines.clone().find(|(_, controllers, _)| has_memory(controllers));
    let (.., path) = v1.or_else(|| lines.clone().find(|(hierarchy, ..)| hierarchy == b"0"))?;
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_found_with_its_memory() {
        let root = PathBuf::new();
        let mut walk = ProcWalk::begin(&root).expect("/proc");
        let mut own = None;
        while !walk.step(3, |process| {
            if process.task.tgid == std::process::id() {
                own = Some(*process);
            }
        }) {}
        let process = own.expect("this process");
        let status = Entry::myself().and_then(|p| p.status()).expect("status");
        let kib = status.rssanon.expect("some");
        let bytes = process.sizes.anon_pages * procfs::page_size();
        assert!(bytes.abs_diff(kib * 1024) < 4 << 20, "{bytes} {kib}");
        assert!(process.sizes.file_pages > 0 && process.start_ns > 0);
        assert_eq!(process.task.uid, status.ruid);
    }
    #[test]
    fn hostile_names_hide_no_process() {
        let name = b"caf\xe9 ) R 1 (";
        let fields = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 777 20";
        let stat = [b"42 (", &name[..], b") ", fields.as_bytes(), b"\n"].concat();
        let stat = Stat::parse(&stat).expect("parses");
        assert_eq!((&stat.comm[..name.len()], stat.start_ticks), (&name[..], 777));
        let status = b"Name:\tcaf\xe9\\nVmRSS:\t9 kB\nUmask:\t0022\nUid:\t1000\t0\t0\t0\n\
            VmRSS:\t    300 kB\nRssAnon:\t    100 kB\nRssFile:\t    150 kB\n\
            RssShmem:\t     50 kB\nVmPTE:\t    40 kB\nVmSwap:\t    7 kB\n";
        let expected = Status {
            uid: 1000,
            resident_kib: Some(300),
            sizes_kib: [Some(100), Some(150), Some(50), Some(7)],
            page_tables_kib: Some(40),
        };
        assert_eq!(Status::parse(status), expected);
        for junk in [&b""[..], b"(", b")(", b"1 (a) S", b"1 (a) S x\xff"] {
            assert_eq!(Stat::parse(junk), None);
        }
    }

    #[test]
    fn the_memory_cgroup_is_found_among_hostile_names() {
        for (cgroups, expected) in [
            (&b"5:memory:/caf\xe9\n0::/unified\n"[..], Some(&b"/caf\xe9"[..])),
            (b"1:name=x:/\xff\n3:cpu,memory:/a:memory:b\n", Some(b"/a:memory:b")),
            (b"1:cpu:/0::/x\n0::/caf\xe9\n", Some(b"/caf\xe9")),
            (b"\n:\n", None),
        ] {
            assert_eq!(memory_cgroup(cgroups), expected);
        }
    }

    #[test]
    fn a_process_with_a_name_that_is_not_utf8_is_found() {
        let mut command = std::process::Command::new("/bin/sh");
        command.arg("-c").arg("printf 'caf\\351' >/proc/self/comm; echo; read line");
        let pipe = std::process::Stdio::piped;
        let mut child = command.stdin(pipe()).stdout(pipe()).spawn().expect("a shell");
        let mut ready = [0];
        child.stdout.take().expect("piped").read_exact(&mut ready).expect("a line");
        let mut walk = ProcWalk::begin(Path::new("/")).expect("/proc");
        let read = walk.read(child.id().cast_signed());
        drop(child.stdin.take());
        child.wait().expect("ends");
        let process = read.expect("reads").expect("has memory");
        assert_eq!(&process.task.comm[..5], b"caf\xe9\0");
    }
}
