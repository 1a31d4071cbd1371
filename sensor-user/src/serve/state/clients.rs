//! The clients that poll readiness, and which of them have received the operator's drain: for
//! `memsensor drain --wait`.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
};

use sensor_core::model::readiness::{FailOn, ReadinessState, TrafficHealth};
use serde::{Deserialize, Serialize};

/// A query of a client. One address may send several: a balancer for several scopes, a person on
/// the same host. The drain must reach each, because the senders do not share their answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadinessQuery {
    /// The client's address.
    pub addr: IpAddr,
    /// The scope's index.
    pub scope: usize,
    /// From which state on the client takes it out of service.
    pub fail_on: FailOn,
    /// How it was sent.
    pub protocol: Protocol,
}

/// How a client queries readiness.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// `/readyz`.
    Http,
    /// HAProxy's agent-check.
    Agent,
}

impl Protocol {
    /// As in the record.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Agent => "agent",
        }
    }
}

/// Most queries that are kept; the one that was answered longest ago is dropped first.
const MAX_QUERIES: usize = 256;
/// `drain --wait` does not wait for a client that was silent for longer.
const ACTIVE_NS: u64 = 60_000_000_000;

/// Recent queries, each with its last answer.
#[derive(Debug)]
pub struct ClientTracker {
    answered: Mutex<[Option<AnsweredQuery>; MAX_QUERIES]>,
    since_ns: u64,
}

#[derive(Debug, Clone, Copy)]
struct AnsweredQuery {
    query: ReadinessQuery,
    answered_ns: u64,
    health: TrafficHealth,
}

/// Clients of the last minute, by whether their last answers reported the drain.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DrainAcks {
    /// Clients that received it in the last answers to all of their queries.
    pub acknowledged: Vec<IpAddr>,
    /// Clients that have not repeated all of their queries since.
    pub pending: Vec<IpAddr>,
    /// How long the daemon has been listening. Earlier clients are unknown.
    pub listening_seconds: f64,
}

impl DrainAcks {
    /// Whether there is no client to wait for. That there is no client at all is known only after a
    /// minute of listening.
    pub fn is_complete(&self) -> bool {
        let long = self.listening_seconds >= ACTIVE_NS as f64 / 1e9;
        self.pending.is_empty() && (long || !self.acknowledged.is_empty())
    }
}

impl ClientTracker {
    /// Listening since `since_ns`, without any client yet.
    pub fn new(since_ns: u64) -> Self {
        Self { answered: Mutex::new([None; MAX_QUERIES]), since_ns }
    }

    /// Records an answer, and returns the one before. Does not allocate; the lock is never held for
    /// longer than this.
    pub fn record(
        &self,
        query: ReadinessQuery,
        now_ns: u64,
        health: TrafficHealth,
    ) -> Option<TrafficHealth> {
        let mut answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        let known = answered.iter().position(|a| a.is_some_and(|a| a.query == query));
        let oldest =
            || (0..MAX_QUERIES).min_by_key(|i| answered[*i].map_or(0, |answer| answer.answered_ns));
        let at = known.or_else(oldest)?;
        let before = answered[at].replace(AnsweredQuery { query, answered_ns: now_ns, health });
        before.filter(|answer| answer.query == query).map(|answer| answer.health)
    }

    /// Which clients have received the drain.
    pub fn drain_acks(&self, now_ns: u64) -> DrainAcks {
        let answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        let active = |a: &&AnsweredQuery| now_ns.saturating_sub(a.answered_ns) <= ACTIVE_NS;
        // By address: whether the answers to all of its queries reported it.
        let mut clients = BTreeMap::new();
        for answer in answered.iter().flatten().filter(active) {
            *clients.entry(answer.query.addr).or_insert(true) &=
                answer.health.state == ReadinessState::Drained;
        }
        let (acknowledged, pending): (Vec<_>, Vec<_>) =
            clients.into_iter().partition(|(_, drained)| *drained);
        let addrs = |list: Vec<(IpAddr, bool)>| list.into_iter().map(|(addr, _)| addr).collect();
        let listening_seconds = now_ns.saturating_sub(self.since_ns) as f64 / 1e9;
        let (acknowledged, pending) = (addrs(acknowledged), addrs(pending));
        DrainAcks { acknowledged, pending, listening_seconds }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn health(drained: bool) -> TrafficHealth {
        let state = if drained { ReadinessState::Drained } else { ReadinessState::Ready };
        TrafficHealth { state, weight: f64::from(u8::from(!drained)) }
    }

    fn addr(n: u32) -> IpAddr {
        Ipv4Addr::from(n).into()
    }

    fn agent(n: u32) -> ReadinessQuery {
        ReadinessQuery {
            addr: addr(n),
            scope: 0,
            fail_on: FailOn::Overloaded,
            protocol: Protocol::Agent,
        }
    }

    #[test]
    fn the_last_answer_counts_and_old_ones_do_not() {
        let clients = ClientTracker::new(0);
        clients.record(agent(1), SECOND, health(false));
        clients.record(agent(2), 2 * SECOND, health(false));
        clients.record(agent(1), 3 * SECOND, health(true));
        let acks = clients.drain_acks(4 * SECOND);
        assert_eq!((acks.acknowledged, acks.pending), (vec![addr(1)], vec![addr(2)]));
        let acks = clients.drain_acks(62 * SECOND + 1);
        assert_eq!((acks.acknowledged, acks.pending), (vec![addr(1)], vec![]));
    }

    #[test]
    fn the_absence_of_clients_is_known_after_a_minute() {
        let clients = ClientTracker::new(100 * SECOND);
        let complete = |second: u64| clients.drain_acks(second * SECOND).is_complete();
        assert!(!complete(100) && !complete(159), "a client may have asked before");
        assert!(complete(160));
        clients.record(agent(1), 110 * SECOND, health(false));
        assert!(!complete(111) && !complete(165), "its answer did not report the drain");
        clients.record(agent(1), 112 * SECOND, health(true));
        assert!(complete(113) && complete(165) && complete(180));
    }

    #[test]
    fn every_question_of_an_address_must_be_answered() {
        let agent = agent(1);
        for other in [
            ReadinessQuery { scope: 1, ..agent },
            ReadinessQuery { fail_on: FailOn::Drained, ..agent },
            ReadinessQuery { protocol: Protocol::Http, ..agent },
        ] {
            let clients = ClientTracker::new(0);
            clients.record(agent, SECOND, health(false));
            clients.record(other, SECOND, health(false));
            clients.record(other, 2 * SECOND, health(true));
            let acks = clients.drain_acks(3 * SECOND);
            let expected = (vec![], vec![addr(1)]);
            assert_eq!(
                (acks.acknowledged, acks.pending),
                expected,
                "the agent does not know yet: {other:?}"
            );
            clients.record(agent, 4 * SECOND, health(true));
            let acks = clients.drain_acks(5 * SECOND);
            assert_eq!((acks.acknowledged, acks.pending), (vec![addr(1)], vec![]));
        }
    }

    #[test]
    fn a_flood_of_addresses_pushes_out_the_oldest_only() {
        let clients = ClientTracker::new(0);
        for n in 0..1000 {
            clients.record(agent(n), u64::from(n) + 1, health(true));
            clients.record(agent(5000), u64::from(n) + 1, health(true));
        }
        let acks = clients.drain_acks(1000);
        assert_eq!(acks.acknowledged.len(), MAX_QUERIES);
        assert!(acks.acknowledged.contains(&addr(5000)) && acks.acknowledged.contains(&addr(999)));
    }
}
