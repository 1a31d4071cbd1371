//! Figures of the daemon's own process, from /proc/self. Each reading opens files, so no thread
//! that answers clients may do it.

use procfs::process::{LimitValue, Process};

use super::footprint::Footprint;
use crate::publish::own_process::ProcessFigures;

/// Reads the figures.
pub fn figures() -> ProcessFigures {
    let Ok(process) = Process::myself() else { return ProcessFigures::default() };
    let ticks = procfs::ticks_per_second() as f64;
    let stat = process.stat().ok();
    let stat = stat.as_ref();
    let boot = procfs::boot_time_secs().ok();
    let soft_limit = |limit| match limit {
        LimitValue::Value(max) => Some(max as f64),
        LimitValue::Unlimited => None,
    };
    ProcessFigures {
        cpu_seconds: stat.map(|stat| (stat.utime + stat.stime) as f64 / ticks),
        resident_bytes: stat.map(|stat| (stat.rss * procfs::page_size()) as f64),
        locked_bytes: Footprint::now().map(|footprint| footprint.locked as f64),
        virtual_bytes: stat.map(|stat| stat.vsize as f64),
        threads: stat.map(|stat| stat.num_threads as f64),
        start_seconds: stat.zip(boot).map(|(s, boot)| boot as f64 + s.starttime as f64 / ticks),
        open_fds: process.fd_count().ok().map(|count| count as f64),
        max_fds: process.limits().ok().and_then(|l| soft_limit(l.max_open_files.soft_limit)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_process_has_all_figures() {
        let now = figures();
        let ProcessFigures { resident_bytes, threads, open_fds, start_seconds, .. } = now;
        assert!(resident_bytes > Some(100_000.0), "{now:?}");
        assert!(threads >= Some(1.0) && open_fds >= Some(3.0), "{now:?}");
        assert!(start_seconds > Some(1e9) && now.cpu_seconds.is_some(), "{now:?}");
    }
}
