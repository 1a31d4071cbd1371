//! Which looks of the sensing loop are recorded: one in ten seconds while the host is calm, one a
//! second under pressure, and around a change of state each look from 15 s before it to 15 s after.
//!
//! What a calm host did not look at is a gap: nothing is made up between two looks.

use std::{collections::VecDeque, mem};

use crate::verdict::state::VerdictState;

const SECOND: u64 = 1_000_000_000;
/// Time between two recorded looks while there is no pressure.
const CALM_NS: u64 = 10 * SECOND;
/// The same under pressure.
const PRESSED_NS: u64 = SECOND;
/// Each look is recorded for so long before and after a change of state.
const AROUND_NS: u64 = 15 * SECOND;
/// A look that is so much early counts as due: the loop's interval is not exact.
const EARLY_NS: u64 = SECOND / 20;
/// Bytes of looks that wait for a change of state: 15 s of ten looks a second for five scopes. They
/// are locked memory; with more scopes they reach back less far.
const MAX_WAITING: usize = 128 << 10;

/// A look, encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedLook {
    /// When it was taken: nanoseconds of any clock that does not fall.
    pub at_ns: u64,
    /// The states of all scopes.
    pub states: Vec<Option<VerdictState>>,
    /// Whether there is pressure.
    pub is_pressed: bool,
    /// The record.
    pub bytes: Vec<u8>,
}

/// Decides which looks are recorded. Each is recorded at most once, in any order: readers sort.
#[derive(Debug, Default)]
pub struct Pace {
    waiting: VecDeque<(u64, Vec<u8>)>,
    waiting_bytes: usize,
    states: Option<Vec<Option<VerdictState>>>,
    recorded_ns: Option<u64>,
    each_until_ns: u64,
}

impl Pace {
    /// Takes the next look, and returns the records to write now.
    pub fn push(&mut self, look: EncodedLook) -> Vec<Vec<u8>> {
        let EncodedLook { at_ns, states, is_pressed, bytes } = look;
        let has_changed =
            self.states.replace(states).is_some_and(|last| Some(&last) != self.states.as_ref());
        let mut due = Vec::new();
        if has_changed {
            self.each_until_ns = at_ns.saturating_add(AROUND_NS);
            self.drop_older(at_ns);
            due.extend(mem::take(&mut self.waiting).into_iter().map(|(_, bytes)| bytes));
            self.waiting_bytes = 0;
        }
        let interval = match is_pressed {
            _ if at_ns <= self.each_until_ns => 0,
            true => PRESSED_NS - EARLY_NS,
            false => CALM_NS - EARLY_NS,
        };
        if self.recorded_ns.is_none_or(|last| at_ns >= last.saturating_add(interval)) {
            self.recorded_ns = Some(at_ns);
            due.push(bytes);
        } else {
            self.waiting_bytes += bytes.len();
            self.waiting.push_back((at_ns, bytes));
            self.drop_older(at_ns);
        }
        due
    }

    fn drop_older(&mut self, now_ns: u64) {
        let is_old = |at_ns: u64| at_ns.saturating_add(AROUND_NS) < now_ns;
        while self.waiting_bytes > MAX_WAITING || self.waiting.front().is_some_and(|w| is_old(w.0))
        {
            let Some((_, bytes)) = self.waiting.pop_front() else { return };
            self.waiting_bytes -= bytes.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// A look at a tenth of a second, with that as its bytes.
    fn look(tenth: u64, state: VerdictState, is_pressed: bool) -> EncodedLook {
        EncodedLook {
            at_ns: tenth * SECOND / 10,
            states: vec![Some(state)],
            is_pressed,
            bytes: tenth.to_le_bytes().to_vec(),
        }
    }

    fn tenths(records: Vec<Vec<u8>>) -> Vec<u64> {
        let tenth = |bytes: Vec<u8>| u64::from_le_bytes(*bytes.first_chunk().expect("eight"));
        records.into_iter().map(tenth).collect()
    }

    #[test]
    fn calm_and_pressure_have_their_paces() {
        let mut pace = Pace::default();
        let mut calm = Vec::new();
        for second in 0..60 {
            calm.extend(tenths(pace.push(look(second * 10, VerdictState::Ready, false))));
        }
        assert_eq!(calm, [0, 100, 200, 300, 400, 500]);
        let mut pressed = Vec::new();
        for tenth in 600..650 {
            pressed.extend(tenths(pace.push(look(tenth, VerdictState::Ready, true))));
        }
        assert_eq!(pressed, [600, 610, 620, 630, 640]);
    }

    #[test]
    fn around_a_change_each_look_is_recorded_once() {
        let mut pace = Pace::default();
        let mut recorded = Vec::new();
        for second in 0..100 {
            recorded.extend(tenths(pace.push(look(second * 10, VerdictState::Ready, false))));
        }
        for tenth in 1000..1300 {
            let state = if tenth < 1050 { VerdictState::Ready } else { VerdictState::Overloaded };
            recorded.extend(tenths(pace.push(look(tenth, state, true))));
        }
        let unique: BTreeSet<_> = recorded.iter().copied().collect();
        assert_eq!(unique.len(), recorded.len(), "once");
        // The change is at 1050: seconds from 900 on, each look from 1000 to 1200, then seconds.
        let around: Vec<_> = unique.range(900..=1200).copied().collect();
        let expected: Vec<_> = (900..1000).step_by(10).chain(1000..=1200).collect();
        assert_eq!(around, expected);
        let after: Vec<_> = unique.range(1201..).copied().collect();
        assert_eq!(after, (1210..1300).step_by(10).collect::<Vec<_>>());
    }

    fn state() -> impl Strategy<Value = VerdictState> {
        (0..40u8).prop_map(|n| match n {
            0 => VerdictState::Overloaded,
            1 => VerdictState::Degraded,
            _ => VerdictState::Ready,
        })
    }

    proptest! {
        #[test]
        fn no_look_is_recorded_twice_and_memory_is_bounded(
            looks in prop::collection::vec((0..20u64, state(), any::<bool>(), 0..3000usize), 0..300),
        ) {
            let (mut pace, mut tenth) = (Pace::default(), 0);
            let mut seen = BTreeSet::new();
            for (step, state, is_pressed, size) in looks {
                tenth += step + 1;
                let mut look = look(tenth, state, is_pressed);
                look.bytes.resize(8 + size, 0);
                for recorded in tenths(pace.push(look)) {
                    prop_assert!(seen.insert(recorded), "{} twice", recorded);
                    prop_assert!(recorded <= tenth && recorded + 150 >= tenth);
                }
                let waiting: usize = pace.waiting.iter().map(|(_, bytes)| bytes.len()).sum();
                prop_assert_eq!(waiting, pace.waiting_bytes);
                prop_assert!(waiting <= MAX_WAITING);
            }
        }
    }
}
