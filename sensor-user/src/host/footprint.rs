//! Memory of this process: resident and locked bytes.

/// Bytes of this process in memory, and bytes that cannot be reclaimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footprint {
    /// Resident memory.
    pub resident: u64,
    /// Locked address space, including guard pages and reserved heap.
    pub locked: u64,
}

impl Footprint {
    /// Reads /proc/self/status.
    pub fn now() -> Option<Self> {
        let status = procfs::process::Process::myself().ok()?.status().ok()?;
        Some(Self { resident: status.vmrss? * 1024, locked: status.vmlck? * 1024 })
    }
}
