//! The scenarios, as data: a service that judges, and a load beside it.
//!
//! In the words of a load, `@NAME` is a file of [`Scenario::files`] and `%` a tmpfs. A load whose
//! first word is `sh` is a shell script; the directory of these files and the service's address are in
//! its environment. All other loads are programs of [`load`](super::load).

mod causes;
mod guests;
mod held_out;
mod scenario;
mod synthetic;
mod tuned;

pub use self::scenario::{Expected, Half, Judged, Layout, Scenario, Swap};

/// All scenarios.
pub fn all() -> impl Iterator<Item = &'static Scenario> + Clone {
    synthetic::ALL.iter().chain(tuned::ALL).chain(held_out::ALL).chain(guests::ALL)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::lab::scenarios::services::Service;

    #[test]
    fn names_are_unique_and_halves_are_balanced() {
        let names: BTreeSet<_> = all().map(|s| s.name).collect();
        assert_eq!(names.len(), all().count());
        for expected in [Expected::Harm, Expected::Fine] {
            let of = |half| {
                synthetic::ALL.iter().filter(|s| s.expected == expected && s.half == half).count()
            };
            assert!(of(Half::Tune).abs_diff(of(Half::HeldOut)) <= 1, "{expected:?}");
        }
    }

    #[test]
    fn real_services_are_either_tuned_or_held_out() {
        let services = |half| {
            let of = all().filter(move |s| s.half == half && s.service != Service::Probe);
            of.map(|s| s.service.name()).collect::<BTreeSet<_>>()
        };
        let (tuned, held_out) = (services(Half::Tune), services(Half::HeldOut));
        assert!(tuned.is_disjoint(&held_out), "{tuned:?} {held_out:?}");
        assert!(held_out.len() >= 3);
        let real = all().filter(|s| s.service != Service::Probe).count();
        assert!(real >= 40 && all().count() >= 60, "{real} of {}", all().count());
    }

    #[test]
    fn every_file_of_a_load_is_declared() {
        for s in all() {
            let words = s.before.iter().chain(s.load).flat_map(|words| words.iter());
            for name in words.filter_map(|word| word.strip_prefix('@')) {
                assert!(s.files.iter().any(|f| f.0 == name), "{}: {name}", s.name);
            }
        }
    }
}
