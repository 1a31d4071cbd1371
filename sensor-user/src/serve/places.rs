//! Which connections of a listener are open, and which one goes when another comes: fair per
//! address. Pure; `limits` accepts and closes.
//!
//! An address has at most a share of all places. The last places are kept for addresses that have
//! none. A connection that waits for its request is closed for a newer one: of the same address, if
//! that has its share; else of the address that has the most. One that is answered and that its
//! client has not closed goes before those.

use std::{cmp::Reverse, collections::BTreeMap};

use super::state::prefix::Prefix;

/// An address may have one of so many places, and as many are kept for addresses without one.
const PARTS: usize = 8;

/// Names a connection; later ones are greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Id(u64);

/// What to do with a new connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Serve it.
    Admit(Id),
    /// Serve it, and close another one, whose place it has.
    Evict {
        /// The new connection.
        admitted: Id,
        /// The connection to close; it is released already.
        evicted: Id,
    },
    /// Close it.
    Refuse,
}

/// What a connection does with its place. Those that lose it first come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    /// The answer is sent, and the client has not closed the connection.
    Answered,
    /// The request is not complete.
    Waiting,
    /// The answer is being sent: it keeps its place.
    Active,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    prefix: Prefix,
    phase: Phase,
}

/// The open connections of a listener.
#[derive(Debug)]
pub struct Places {
    max: usize,
    share: usize,
    kept: usize,
    next: u64,
    open: BTreeMap<Id, Place>,
    held: BTreeMap<Prefix, usize>,
}

impl Places {
    /// At most `max` connections, none yet.
    pub fn new(max: usize) -> Self {
        let (share, kept) = ((max / PARTS).max(1), max / PARTS);
        Self { max, share, kept, next: 0, open: BTreeMap::new(), held: BTreeMap::new() }
    }

    /// Number of open connections.
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether no connection is open.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Whether all places are taken, each by another address, and no answer is complete: then each
    /// has the same right to stay.
    pub fn is_shared_out(&self) -> bool {
        let is_answered = |place: &Place| place.phase == Phase::Answered;
        self.held.len() >= self.max && !self.open.values().any(is_answered)
    }

    /// Decides on a new connection, and gives it a place. With `may_replace` it may have the place
    /// of a connection of its own address that waits for its request.
    pub fn admit(&mut self, prefix: Prefix, may_replace: bool) -> Admission {
        let held = self.held(prefix);
        let free = self.max.saturating_sub(self.open.len());
        let own = || self.first_to_go(prefix, may_replace);
        let victim = if held >= self.share {
            own()
        } else if free > self.kept || (free > 0 && held == 0) {
            return Admission::Admit(self.insert(prefix));
        } else {
            self.first_of_the_largest(held).or_else(own)
        };
        let Some(evicted) = victim else { return Admission::Refuse };
        self.release(evicted);
        Admission::Evict { admitted: self.insert(prefix), evicted }
    }

    /// The request of a connection is complete.
    pub fn set_active(&mut self, id: Id) {
        self.set(id, Phase::Active);
    }

    /// The answer of a connection is complete, and the client has not closed it.
    pub fn set_answered(&mut self, id: Id) {
        self.set(id, Phase::Answered);
    }

    fn set(&mut self, id: Id, phase: Phase) {
        if let Some(place) = self.open.get_mut(&id) {
            place.phase = phase;
        }
    }

    /// A connection has ended. Returns false if it had been evicted.
    pub fn release(&mut self, id: Id) -> bool {
        let Some(place) = self.open.remove(&id) else { return false };
        if let Some(held) = self.held.get_mut(&place.prefix) {
            *held -= 1;
            if *held == 0 {
                self.held.remove(&place.prefix);
            }
        }
        true
    }

    fn held(&self, prefix: Prefix) -> usize {
        self.held.get(&prefix).copied().unwrap_or_default()
    }

    fn insert(&mut self, prefix: Prefix) -> Id {
        let id = Id(self.next);
        self.next += 1;
        self.open.insert(id, Place { prefix, phase: Phase::Waiting });
        *self.held.entry(prefix).or_default() += 1;
        id
    }

    fn first_to_go(&self, prefix: Prefix, may_replace: bool) -> Option<Id> {
        let limit = if may_replace { Phase::Active } else { Phase::Waiting };
        let own = self.open.iter().filter(|(_, place)| place.prefix == prefix);
        let own = own.filter(|(_, place)| place.phase < limit);
        own.min_by_key(|(id, place)| (place.phase, **id)).map(|(id, _)| *id)
    }

    /// The connection that goes first of the address that has the most, if that is more than
    /// `held`.
    fn first_of_the_largest(&self, held: usize) -> Option<Id> {
        let idle = self.open.iter().filter(|(_, place)| place.phase < Phase::Active);
        let sizes = idle.map(|(id, place)| (Reverse(self.held(place.prefix)), place.phase, *id));
        let larger = sizes.filter(|(size, ..)| size.0 > held);
        larger.min().map(|(.., id)| id)
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::*;

    fn prefix(n: u8) -> Prefix {
        Prefix::of(IpAddr::from([127, 0, 0, n]))
    }

    /// The id of an admitted connection, and of an evicted one.
    fn ids(admission: Admission) -> Option<(Id, Option<Id>)> {
        match admission {
            Admission::Admit(id) => Some((id, None)),
            Admission::Evict { admitted, evicted } => Some((admitted, Some(evicted))),
            Admission::Refuse => None,
        }
    }

    fn admitted(admission: Admission) -> Id {
        ids(admission).expect("admitted").0
    }

    #[test]
    fn an_address_with_its_share_replaces_only_its_own() {
        let mut places = Places::new(64);
        let other = admitted(places.admit(prefix(2), true));
        let first: Vec<_> = (0..8).map(|_| admitted(places.admit(prefix(1), true))).collect();
        assert_eq!(places.len(), 9);
        let (_, evicted) = ids(places.admit(prefix(1), true)).expect("it replaces the oldest");
        assert_eq!(evicted, Some(first[0]));
        assert_eq!(places.admit(prefix(1), false), Admission::Refuse, "it may not replace");
        for id in &first[1..] {
            places.set_active(*id);
        }
        let (last, _) = ids(places.admit(prefix(1), true)).expect("the idle one goes");
        places.set_active(last);
        assert_eq!(places.admit(prefix(1), true), Admission::Refuse, "none is idle");
        assert!(places.release(other), "it was never evicted");
        places.set_answered(first[3]);
        let (_, evicted) = ids(places.admit(prefix(1), false)).expect("one is answered");
        assert_eq!(evicted, Some(first[3]));
        assert!(!places.release(first[3]), "it is released");
    }

    #[test]
    fn the_last_places_are_for_addresses_without_one() {
        let mut places = Places::new(64);
        for n in 0..7 {
            for _ in 0..8 {
                let id = admitted(places.admit(prefix(n), true));
                places.set_active(id);
            }
        }
        let first = admitted(places.admit(prefix(10), true));
        places.set_active(first);
        assert_eq!(places.admit(prefix(10), true), Admission::Refuse);
        for n in 11..18 {
            let id = admitted(places.admit(prefix(n), true));
            places.set_active(id);
        }
        assert_eq!(places.len(), 64);
        assert_eq!(places.admit(prefix(20), true), Admission::Refuse, "all answer");
    }

    #[test]
    fn a_new_address_gets_the_place_of_the_largest() {
        let mut places = Places::new(16);
        // Two for each of eight addresses.
        let mut all = Vec::new();
        for n in 0..16 {
            all.extend(ids(places.admit(prefix(n % 8), true)).map(|(id, _)| id));
        }
        assert!(places.len() >= 14, "{}", places.len());
        for n in 100..110 {
            let (_, evicted) = ids(places.admit(prefix(n), true)).expect("a place");
            assert!(evicted.is_none_or(|id| all.contains(&id)), "an older one goes");
        }
        assert!(places.len() <= 16);
    }

    #[test]
    fn one_place_goes_to_the_newest() {
        let mut places = Places::new(1);
        let first = admitted(places.admit(prefix(1), true));
        let second = ids(places.admit(prefix(1), true)).expect("a place");
        assert_eq!(second.1, Some(first));
        let third = ids(places.admit(prefix(2), true)).expect("a place");
        assert_eq!(third.1, Some(second.0));
        places.set_active(third.0);
        assert_eq!(places.admit(prefix(1), true), Admission::Refuse);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Connect(u8, bool),
        Activate(usize),
        Answer(usize),
        Release(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..12u8, any::<bool>()).prop_map(|(n, replace)| Step::Connect(n, replace)),
            2 => any::<usize>().prop_map(Step::Activate),
            1 => any::<usize>().prop_map(Step::Answer),
            1 => any::<usize>().prop_map(Step::Release),
        ]
    }

    fn pick(open: &BTreeMap<Id, u8>, at: usize) -> Option<Id> {
        let count = open.len();
        (count > 0).then(|| open.keys().nth(at % count).copied()).flatten()
    }

    proptest! {
        #[test]
        fn shares_and_the_bound_hold(
            max in 1..130usize,
            steps in prop::collection::vec(step(), 0..400),
        ) {
            let mut places = Places::new(max);
            let mut open = BTreeMap::<Id, u8>::new();
            for step in steps {
                match step {
                    Step::Connect(n, replace) => {
                        if let Some((id, evicted)) = ids(places.admit(prefix(n), replace)) {
                            if let Some(evicted) = evicted {
                                prop_assert!(open.remove(&evicted).is_some());
                            }
                            prop_assert!(open.insert(id, n).is_none());
                        }
                    }
                    Step::Activate(at) => {
                        if let Some(id) = pick(&open, at) {
                            places.set_active(id);
                        }
                    }
                    Step::Answer(at) => {
                        if let Some(id) = pick(&open, at) {
                            places.set_answered(id);
                        }
                    }
                    Step::Release(at) => {
                        if let Some(id) = pick(&open, at) {
                            open.remove(&id);
                            prop_assert!(places.release(id));
                        }
                    }
                }
                prop_assert_eq!(places.len(), open.len());
                prop_assert!(open.len() <= max);
                for n in 0..12 {
                    let held = open.values().filter(|of| **of == n).count();
                    prop_assert_eq!(held, places.held(prefix(n)));
                    prop_assert!(held <= (max / PARTS).max(1), "{} holds {}", n, held);
                }
                prop_assert!(places.held.len() <= places.len(), "bounded memory");
            }
        }

        /// Whatever one address does, also if it never reads its answers.
        #[test]
        fn a_new_address_gets_in_while_one_floods(
            max in 2..130usize,
            flood in prop::collection::vec(any::<bool>(), 0..400),
        ) {
            let mut places = Places::new(max);
            for active in flood {
                if let Some((id, _)) = ids(places.admit(prefix(1), true)) && active {
                    places.set_active(id);
                }
            }
            let (_, evicted) = ids(places.admit(prefix(2), true)).expect("a place");
            prop_assert!(evicted.is_none());
        }

        /// However many addresses hold silent connections.
        #[test]
        fn a_new_address_gets_in_while_all_others_are_silent(
            max in 1..130usize,
            flood in prop::collection::vec(0..100u8, 0..400),
        ) {
            let mut places = Places::new(max);
            for n in flood {
                places.admit(prefix(n), true);
            }
            prop_assert!(ids(places.admit(prefix(200), true)).is_some());
        }
    }
}
