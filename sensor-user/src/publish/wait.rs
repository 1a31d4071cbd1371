//! Waits for file descriptors, in every loop of the daemon. A wait that fails still takes its time.
//!
//! Not here: what a loop waits for.

use std::{thread::sleep, time::Duration};

use rustix::{
    event::{PollFd, Timespec, poll},
    io::Errno,
};

/// Longest sleep instead of a wait that failed: the thread must notice a shutdown.
const MAX_SLEEP: Duration = Duration::from_secs(1);

/// Waits until a descriptor is ready; returns false after the timeout or if interrupted.
pub fn wait_for(fds: &mut [PollFd<'_>], timeout: Duration) -> bool {
    let waited = Timespec::try_from(timeout).map_err(|_| Errno::INVAL);
    is_ready(waited.and_then(|timeout| poll(fds, Some(&timeout))), timeout)
}

/// The kernel may have no memory for the wait (ENOMEM, `do_sys_poll` in fs/select.c). The thread
/// sleeps then, which needs none: a loop of real-time priority that does not wait would keep the
/// processor from the rest of the host.
fn is_ready(waited: rustix::io::Result<usize>, timeout: Duration) -> bool {
    match waited {
        Ok(ready) => ready > 0,
        Err(Errno::INTR) => false,
        Err(_) => {
            sleep(timeout.min(MAX_SLEEP));
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_wait_that_fails_takes_its_time() {
        let timeout = Duration::from_millis(30);
        for (waited, ready, sleeps) in [
            (Ok(1), true, false),
            (Ok(0), false, false),
            (Err(Errno::INTR), false, false),
            (Err(Errno::NOMEM), false, true),
        ] {
            let begun = Instant::now();
            assert_eq!(is_ready(waited, timeout), ready, "{waited:?}");
            assert!(!sleeps || begun.elapsed() >= timeout, "{waited:?}");
        }
        let begun = Instant::now();
        assert!(!wait_for(&mut [], timeout) && begun.elapsed() >= timeout);
    }
}
