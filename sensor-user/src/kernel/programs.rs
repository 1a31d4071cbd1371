//! The loaded programs, which stay attached while this exists, and passes over the processes by the
//! one that is an iterator. A pass makes descriptors, so the sensing thread makes none.
//!
//! Not here: maps that a sample is made of (`read`).

use std::{borrow::BorrowMut, io::Read as _};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    maps::{HashMap, MapData},
    programs::Iter,
};
use sensor_ebpf::{event::Process, probes};
use tracing::info;

/// The iterator over processes.
const ITERATOR: &str = probes::processes::PROBE.programs[0].name;

/// Most bytes that the kernel returns per read of an iterator (8 pages, kernel/bpf/bpf_iter.c).
const PAGE_BYTES: usize = 32 << 10;

/// How long an OOM victim may take to exit.
const VICTIM_AGE_NS: u64 = 3_600_000_000_000;

/// Most victims that are read at a time; more than the map has.
const MAX_VICTIMS: usize = 65_536;

/// The loaded object: dropping it detaches everything.
#[allow(missing_debug_implementations, reason = "aya's maps have none")]
pub struct Programs {
    ebpf: Ebpf,
    /// Killing time and process id of each OOM victim whose memory is not free yet.
    victims: HashMap<MapData, u64, [u64; 2]>,
    /// Buffer for a pass over the processes.
    page: Box<[u8]>,
}

/// Whether the iterator is loaded.
pub(super) fn has_iterator(ebpf: &Ebpf) -> bool {
    ebpf.program(ITERATOR).is_some_and(|program| program.fd().is_ok())
}

impl Programs {
    pub(super) fn new(mut ebpf: Ebpf) -> Result<Self> {
        let victims = ebpf.take_map("VICTIMS").context("the object has no map VICTIMS")?;
        Ok(Self { victims: victims.try_into()?, ebpf, page: vec![0; PAGE_BYTES].into() })
    }

    /// Calls `each` for every process that has memory (see [`probes::processes`]). Each pass needs
    /// a new descriptor, because an iterator's cannot be rewound.
    pub fn processes(&mut self, mut each: impl FnMut(&Process)) -> Result<()> {
        let program =
            self.ebpf.program_mut(ITERATOR).context("the object has no process iterator")?;
        let program: &mut Iter = program.try_into()?;
        let link = program.attach().context("begin a pass over the processes")?;
        let mut file = program.take_link(link)?.into_file().context("open the processes")?;
        let mut filled = 0;
        loop {
            let free = self.page.get_mut(filled..).context("a record larger than the buffer")?;
            let len = file.read(free).context("read the processes")?;
            if len == 0 {
                break;
            }
            filled += len;
            let records =
                self.page.get(..filled).unwrap_or_default().chunks_exact(size_of::<Process>());
            let rest = records.remainder().len();
            for record in records {
                each(&bytemuck::pod_read_unaligned(record));
            }
            self.page.copy_within(filled - rest..filled, 0);
            filled = rest;
        }
        anyhow::ensure!(filled == 0, "the kernel returned an incomplete process");
        Ok(())
    }

    /// Makes room for later OOM victims, see [`drop_old_victims`]; `now` is CLOCK_MONOTONIC.
    pub fn drop_old_victims(&mut self, now: u64) {
        let dropped = drop_old_victims(&mut self.victims, now);
        if dropped > 0 {
            info!("the exits of {dropped} OOM victims are not timed: they took more than an hour");
        }
    }
}

/// Drops victims that were killed over an hour ago, and returns their number. The kernel may have
/// skipped the program that sees them exit (see [`sensor_ebpf::loss::Loss::Recursion`]): such
/// victims would fill the table in the end, and the exit of a later process in the same address
/// space would be taken for theirs.
pub fn drop_old_victims<T: BorrowMut<MapData>>(
    victims: &mut HashMap<T, u64, [u64; 2]>,
    now: u64,
) -> usize {
    let is_old = |killed_ns: u64| now.saturating_sub(killed_ns) > VICTIM_AGE_NS;
    let all = victims.iter().take(MAX_VICTIMS).filter_map(Result::ok);
    let old: Vec<_> = all.filter(|(_, [killed_ns, _])| is_old(*killed_ns)).collect();
    old.iter().filter(|(key, _)| victims.remove(key).is_ok()).count()
}
