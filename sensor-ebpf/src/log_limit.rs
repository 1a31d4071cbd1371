//! The rate limit of the kernel half's debug log: so many messages per second and CPU.
//!
//! Pure arithmetic on one window; `bpf::lost` keeps a window per CPU. A message that is over the
//! limit is dropped without a trace: the counters of [`crate::loss`] are complete, the log is not.

/// Messages that one CPU may write in a window.
pub const MESSAGES: u64 = 10;

/// Length of a window, which begins with its first message.
pub const WINDOW_NS: u64 = 1_000_000_000;

/// What one CPU has written lately.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogWindow {
    /// CLOCK_MONOTONIC nanoseconds; 0 before the first message.
    pub start_ns: u64,
    /// Messages since then.
    pub messages: u64,
}

impl LogWindow {
    /// Whether a message may be written at `now_ns`; it is counted as written if so.
    #[inline(always)]
    pub fn admit(&mut self, now_ns: u64) -> bool {
        if now_ns.wrapping_sub(self.start_ns) >= WINDOW_NS {
            *self = Self { start_ns: now_ns, messages: 0 };
        }
        if self.messages >= MESSAGES {
            return false;
        }
        self.messages += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BOOT_NS: u64 = 5 * WINDOW_NS;

    #[test]
    fn a_window_admits_its_messages_and_no_more() {
        let mut window = LogWindow::default();
        let admitted = (0..100).filter(|i| window.admit(BOOT_NS + i)).count();
        assert_eq!(admitted as u64, MESSAGES);
        assert!(!window.admit(BOOT_NS + WINDOW_NS - 1));
        assert!(window.admit(BOOT_NS + WINDOW_NS), "the next window");
    }

    proptest! {
        #[test]
        fn no_second_has_more_than_two_windows(
            gaps in prop::collection::vec(0..WINDOW_NS / 4, 1..300),
        ) {
            let mut window = LogWindow::default();
            let mut now = BOOT_NS;
            let mut admitted = Vec::new();
            for gap in gaps {
                now += gap;
                if window.admit(now) {
                    admitted.push(now);
                }
            }
            for first in &admitted {
                let second = first..&(first + WINDOW_NS);
                let n = admitted.iter().filter(|at| second.contains(at)).count() as u64;
                prop_assert!(n <= 2 * MESSAGES, "{n} messages in a second");
            }
        }
    }
}
