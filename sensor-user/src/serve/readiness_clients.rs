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
pub struct ReadinessQuery {
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
pub struct ClientTracker {
    asked: Mutex<[Option<Client>; MAX_ASKERS]>,
    since_ns: u64,
}

#[derive(Debug, Clone, Copy)]
struct Client {
    asking: ReadinessQuery,
    asked_ns: u64,
    told: bool,
}

/// Who asked lately, by whether the last answer said that an operator drained the host.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DrainAcks {
    /// It did, to all that they ask.
    pub told: Vec<IpAddr>,
    /// They have not asked all of it since.
    pub not_yet: Vec<IpAddr>,
    /// For how long anybody could ask: a daemon that was just started has forgotten who asked before.
    pub listening_seconds: f64,
}

impl DrainAcks {
    /// Whether nobody is to be waited for. That nobody asks is only known after as long as who asks is
    /// remembered.
    pub fn is_all(&self) -> bool {
        let long = self.listening_seconds >= LATELY_NS as f64 / 1e9;
        self.not_yet.is_empty() && (long || !self.told.is_empty())
    }
}

impl ClientTracker {
    /// Nobody has asked, who could since then.
    pub fn new(since_ns: u64) -> Self {
        Self { asked: Mutex::new([None; MAX_ASKERS]), since_ns }
    }

    /// Somebody was answered. Does not allocate; the lock is never held for longer than this.
    pub fn note(&self, asking: ReadinessQuery, now_ns: u64, told: bool) {
        let mut askers = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let known = askers.iter().position(|a| a.is_some_and(|a| a.asking == asking));
        let silent = || (0..MAX_ASKERS).min_by_key(|i| askers[*i].map_or(0, |a| a.asked_ns));
        if let Some(at) = known.or_else(silent) {
            askers[at] = Some(Client { asking, asked_ns: now_ns, told });
        }
    }

    /// Who has heard.
    pub fn heard(&self, now_ns: u64) -> DrainAcks {
        let askers = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let lately = askers.iter().flatten();
        let lately = lately.filter(|a| now_ns.saturating_sub(a.asked_ns) <= LATELY_NS);
        // By address: whether all that it asks was answered so.
        let mut all = BTreeMap::new();
        for asker in lately {
            *all.entry(asker.asking.addr).or_insert(true) &= asker.told;
        }
        let (told, not_yet): (Vec<_>, Vec<_>) = all.into_iter().partition(|(_, told)| *told);
        let addrs = |list: Vec<(IpAddr, bool)>| list.into_iter().map(|(addr, _)| addr).collect();
        let listening_seconds = now_ns.saturating_sub(self.since_ns) as f64 / 1e9;
        DrainAcks { told: addrs(told), not_yet: addrs(not_yet), listening_seconds }
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

    fn agent(n: u32) -> ReadinessQuery {
        ReadinessQuery { addr: addr(n), scope: 0, fail_on: FailOn::Overloaded, by: Protocol::Agent }
    }

    #[test]
    fn the_last_answer_counts_and_old_ones_do_not() {
        let askers = ClientTracker::new(0);
        askers.note(agent(1), SECOND, false);
        askers.note(agent(2), 2 * SECOND, false);
        askers.note(agent(1), 3 * SECOND, true);
        let heard = askers.heard(4 * SECOND);
        assert_eq!((heard.told, heard.not_yet), (vec![addr(1)], vec![addr(2)]));
        let heard = askers.heard(62 * SECOND + 1);
        assert_eq!((heard.told, heard.not_yet), (vec![addr(1)], vec![]));
    }

    #[test]
    fn that_nobody_asks_is_known_after_a_minute() {
        let askers = ClientTracker::new(100 * SECOND);
        let is_all = |second: u64| askers.heard(second * SECOND).is_all();
        assert!(!is_all(100) && !is_all(159), "somebody may have asked before");
        assert!(is_all(160));
        askers.note(agent(1), 110 * SECOND, false);
        assert!(!is_all(111) && !is_all(165), "it was not told");
        askers.note(agent(1), 112 * SECOND, true);
        assert!(is_all(113) && is_all(165) && is_all(180));
    }

    #[test]
    fn each_question_of_an_address_needs_its_answer() {
        let agent = agent(1);
        for other in [
            ReadinessQuery { scope: 1, ..agent },
            ReadinessQuery { fail_on: FailOn::Drained, ..agent },
            ReadinessQuery { by: Protocol::Http, ..agent },
        ] {
            let askers = ClientTracker::new(0);
            askers.note(agent, SECOND, false);
            askers.note(other, SECOND, false);
            askers.note(other, 2 * SECOND, true);
            let heard = askers.heard(3 * SECOND);
            let expected = (vec![], vec![addr(1)]);
            assert_eq!((heard.told, heard.not_yet), expected, "the agent has not heard: {other:?}");
            askers.note(agent, 4 * SECOND, true);
            let heard = askers.heard(5 * SECOND);
            assert_eq!((heard.told, heard.not_yet), (vec![addr(1)], vec![]));
        }
    }

    #[test]
    fn a_flood_of_addresses_pushes_out_the_oldest_only() {
        let askers = ClientTracker::new(0);
        for n in 0..1000 {
            askers.note(agent(n), u64::from(n) + 1, true);
            askers.note(agent(5000), u64::from(n) + 1, true);
        }
        let heard = askers.heard(1000);
        assert_eq!(heard.told.len(), MAX_ASKERS);
        assert!(heard.told.contains(&addr(5000)) && heard.told.contains(&addr(999)));
    }
}
