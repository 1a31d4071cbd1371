//! Who asks for readiness, and whether they have been told of an operator's drain: for
//! `memsensor drain --wait`.

use std::{
    net::IpAddr,
    sync::{Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};

/// Addresses that are remembered; the one that was silent for longest goes first.
const MAX_ASKERS: usize = 64;
/// Who was silent for longer is no balancer of ours any more.
const LATELY_NS: u64 = 60_000_000_000;

/// Who asked lately.
#[derive(Debug)]
pub struct Askers(Mutex<[Option<Asker>; MAX_ASKERS]>);

#[derive(Debug, Clone, Copy)]
struct Asker {
    addr: IpAddr,
    asked_ns: u64,
    told: bool,
}

/// Who asked lately, by whether the last answer said that an operator drained the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heard {
    /// It did.
    pub told: Vec<IpAddr>,
    /// They have not asked since.
    pub not_yet: Vec<IpAddr>,
}

impl Default for Askers {
    fn default() -> Self {
        Self(Mutex::new([None; MAX_ASKERS]))
    }
}

impl Askers {
    /// Somebody was answered. Does not allocate; the lock is never held for longer than this.
    pub fn note(&self, addr: IpAddr, now_ns: u64, told: bool) {
        let mut askers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = askers.iter().position(|a| a.is_some_and(|a| a.addr == addr));
        let silent = || (0..MAX_ASKERS).min_by_key(|i| askers[*i].map_or(0, |a| a.asked_ns));
        if let Some(at) = known.or_else(silent) {
            askers[at] = Some(Asker { addr, asked_ns: now_ns, told });
        }
    }

    /// Who has heard.
    pub fn heard(&self, now_ns: u64) -> Heard {
        let askers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut heard = Heard::default();
        for asker in askers.iter().flatten() {
            if now_ns.saturating_sub(asker.asked_ns) <= LATELY_NS {
                let list = if asker.told { &mut heard.told } else { &mut heard.not_yet };
                list.push(asker.addr);
            }
        }
        heard
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

    #[test]
    fn the_last_answer_counts_and_old_ones_do_not() {
        let askers = Askers::default();
        askers.note(addr(1), SECOND, false);
        askers.note(addr(2), 2 * SECOND, false);
        askers.note(addr(1), 3 * SECOND, true);
        let heard = askers.heard(4 * SECOND);
        assert_eq!(heard, Heard { told: vec![addr(1)], not_yet: vec![addr(2)] });
        assert_eq!(askers.heard(62 * SECOND + 1), Heard { told: vec![addr(1)], not_yet: vec![] });
    }

    #[test]
    fn a_flood_of_addresses_pushes_out_the_oldest_only() {
        let askers = Askers::default();
        for n in 0..1000 {
            askers.note(addr(n), u64::from(n) + 1, true);
            askers.note(addr(5000), u64::from(n) + 1, true);
        }
        let heard = askers.heard(1000);
        assert_eq!(heard.told.len(), MAX_ASKERS);
        assert!(heard.told.contains(&addr(5000)) && heard.told.contains(&addr(999)));
    }
}
