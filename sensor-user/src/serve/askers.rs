//! Who asks for readiness, and whether they have been told of an operator's drain: for
//! `memsensor drain --wait`.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};

use super::state::FailOn;

/// What is asked, and by whom. A balancer may ask for several scopes, and a person from where it runs:
/// what one of them is told, the others do not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asking {
    /// From where.
    pub addr: IpAddr,
    /// For which scope, by its position.
    pub scope: usize,
    /// What takes it out of service for them.
    pub fail_on: FailOn,
    /// How.
    pub by: Protocol,
}

/// How one asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// `/readyz`.
    Http,
    /// HAProxy's agent-check.
    Agent,
}

/// Questions that are remembered; the one that was not asked for longest goes first.
const MAX_ASKERS: usize = 256;
/// Who was silent for longer is no balancer of ours any more.
const LATELY_NS: u64 = 60_000_000_000;

/// Who asked lately.
#[derive(Debug)]
pub struct Askers(Mutex<[Option<Asker>; MAX_ASKERS]>);

#[derive(Debug, Clone, Copy)]
struct Asker {
    asking: Asking,
    asked_ns: u64,
    told: bool,
}

/// Who asked lately, by whether the last answer said that an operator drained the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heard {
    /// It did, to all that they ask.
    pub told: Vec<IpAddr>,
    /// They have not asked all of it since.
    pub not_yet: Vec<IpAddr>,
}

impl Default for Askers {
    fn default() -> Self {
        Self(Mutex::new([None; MAX_ASKERS]))
    }
}

impl Askers {
    /// Somebody was answered. Does not allocate; the lock is never held for longer than this.
    pub fn note(&self, asking: Asking, now_ns: u64, told: bool) {
        let mut askers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = askers.iter().position(|a| a.is_some_and(|a| a.asking == asking));
        let silent = || (0..MAX_ASKERS).min_by_key(|i| askers[*i].map_or(0, |a| a.asked_ns));
        if let Some(at) = known.or_else(silent) {
            askers[at] = Some(Asker { asking, asked_ns: now_ns, told });
        }
    }

    /// Who has heard.
    pub fn heard(&self, now_ns: u64) -> Heard {
        let askers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let lately = askers.iter().flatten();
        let lately = lately.filter(|a| now_ns.saturating_sub(a.asked_ns) <= LATELY_NS);
        // By address: whether all that it asks was answered so.
        let mut all = BTreeMap::new();
        for asker in lately {
            *all.entry(asker.asking.addr).or_insert(true) &= asker.told;
        }
        let (told, not_yet): (Vec<_>, Vec<_>) = all.into_iter().partition(|(_, told)| *told);
        let addrs = |list: Vec<(IpAddr, bool)>| list.into_iter().map(|(addr, _)| addr).collect();
        Heard { told: addrs(told), not_yet: addrs(not_yet) }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn addr(n: u32) -> IpAddr {
        Ipv4Addr::from(n).into()
    }

    fn agent(n: u32) -> Asking {
        Asking { addr: addr(n), scope: 0, fail_on: FailOn::Draining, by: Protocol::Agent }
    }

    #[test]
    fn the_last_answer_counts_and_old_ones_do_not() {
        let askers = Askers::default();
        askers.note(agent(1), SECOND, false);
        askers.note(agent(2), 2 * SECOND, false);
        askers.note(agent(1), 3 * SECOND, true);
        let heard = askers.heard(4 * SECOND);
        assert_eq!(heard, Heard { told: vec![addr(1)], not_yet: vec![addr(2)] });
        assert_eq!(askers.heard(62 * SECOND + 1), Heard { told: vec![addr(1)], not_yet: vec![] });
    }

    #[test]
    fn each_question_of_an_address_needs_its_answer() {
        let agent = agent(1);
        for other in [
            Asking { scope: 1, ..agent },
            Asking { fail_on: FailOn::Maintenance, ..agent },
            Asking { by: Protocol::Http, ..agent },
        ] {
            let askers = Askers::default();
            askers.note(agent, SECOND, false);
            askers.note(other, SECOND, false);
            askers.note(other, 2 * SECOND, true);
            let heard = askers.heard(3 * SECOND);
            let expected = Heard { told: vec![], not_yet: vec![addr(1)] };
            assert_eq!(heard, expected, "the agent has not heard: {other:?}");
            askers.note(agent, 4 * SECOND, true);
            let expected = Heard { told: vec![addr(1)], not_yet: vec![] };
            assert_eq!(askers.heard(5 * SECOND), expected);
        }
    }

    #[test]
    fn a_flood_of_addresses_pushes_out_the_oldest_only() {
        let askers = Askers::default();
        for n in 0..1000 {
            askers.note(agent(n), u64::from(n) + 1, true);
            askers.note(agent(5000), u64::from(n) + 1, true);
        }
        let heard = askers.heard(1000);
        assert_eq!(heard.told.len(), MAX_ASKERS);
        assert!(heard.told.contains(&addr(5000)) && heard.told.contains(&addr(999)));
    }
}
