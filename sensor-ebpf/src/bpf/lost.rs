//! Losses: always counted, and written to the debug log when an operator has switched it on.
//!
//! The counters (`memsensor_events_lost_total`) are complete and name only a reason. The log names
//! the probe, the event or task concerned and the process that was running, at most
//! [`crate::log_limit::MESSAGES`] times per second and CPU. Its level is frozen read-only data:
//! while it is off the verifier removes the code. It cannot report what the kernel half does not
//! see: [`Loss::Recursion`], and evictions from LRU maps.

use aya_ebpf::{macros::map, maps::PerCpuArray};
use aya_log_ebpf::{
    macro_support::{Level, level_enabled},
    warn,
};

use super::{clock, count, task};
use crate::{log_limit::LogWindow, loss::Loss};

#[map]
static LOG_WINDOW: PerCpuArray<LogWindow> = PerCpuArray::with_max_entries(1, 0);

/// Counts a loss of a probe, named by its state. A loss that the probe does not declare does not
/// compile. Noun and number, for the message, say what was lost; the number is computed only if the
/// message is written.
macro_rules! lost {
    ($state:ty, $why:expr, $noun:literal, $value:expr) => {{
        $crate::bpf::lost::declared!($state, $why);
        let name = <$state as $crate::bpf::count::Counters>::PROBE.name;
        $crate::bpf::lost::record(name, $why, $noun, || u64::from($value));
    }};
}
pub(crate) use lost;

/// Checks when compiled that the probe, named by its state, declares a loss.
macro_rules! declared {
    ($state:ty, $why:expr) => {
        const {
            let probe = <$state as $crate::bpf::count::Counters>::PROBE;
            assert!(probe.loses($why), "the probe's `losses` lack this one");
        }
    };
}
pub(crate) use declared;

/// A message of the debug log.
struct Message {
    /// What lost it: a probe, or the stall clock.
    by: &'static str,
    why: &'static str,
    noun: &'static str,
    value: u64,
}

/// Counts a loss and writes it to the log; `by` names what lost it.
#[inline(always)]
pub(crate) fn record(by: &'static str, why: Loss, noun: &'static str, value: impl FnOnce() -> u64) {
    count::add(why as usize);
    if level_enabled(Level::Warn) {
        write(&Message { by, why: why.message(), noun, value: value() });
    }
}

/// Writes a message, unless this CPU has written too many.
///
/// A function of its own, or every loss would have a copy of the code that composes a message.
#[inline(never)]
fn write(message: &Message) {
    let Some(window) = LOG_WINDOW.get_ptr_mut(0) else { return };
    // SAFETY: a map value of this type, this CPU's own, any bits of which are valid. A program that
    // interrupts this one may write one message more.
    if !unsafe { &mut *window }.admit(clock::now()) {
        return;
    }
    let Message { by, why, noun, value } = *message;
    warn!((), "{}: {}; {} {} (current process {})", by, why, noun, value, task::tgid());
}
