//! How much of the budget for paths each part of the cgroup tree has. Whoever may create cgroups
//! inside a service or a container could otherwise take all of it, and services that start later
//! would have no name. Fair as the places for connections are (`serve/places`). Pure.

use std::{collections::HashMap, hash::BuildHasher as _, hash::RandomState};

/// Bytes of paths, and number of cgroups.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Use {
    pub(super) bytes: usize,
    pub(super) cgroups: usize,
}

impl Use {
    const fn fits(self, more: usize, limit: Self) -> bool {
        self.bytes + more <= limit.bytes && self.cgroups < limit.cgroups
    }

    const fn part(self, n: usize, of: usize) -> Self {
        Self { bytes: self.bytes / of * n, cgroups: self.cgroups / of * n }
    }

    fn add(&mut self, bytes: usize) {
        self.bytes += bytes;
        self.cgroups += 1;
    }

    fn remove(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_sub(bytes);
        self.cgroups = self.cgroups.saturating_sub(1);
    }
}

/// Which existing cgroups fit.
#[derive(Debug)]
pub(super) struct PathBudget {
    total: Use,
    used: Use,
    /// By the hash of a subtree's path: the paths themselves would take as much again. Each has at
    /// least one cgroup, so their number is bounded.
    subtrees: HashMap<u64, Use>,
    hasher: RandomState,
}

/// The last part is kept for subtrees that have nothing yet.
const KEPT: usize = 8;

impl PathBudget {
    pub(super) fn new(total: Use) -> Self {
        let (subtrees, hasher) = (HashMap::new(), RandomState::new());
        Self { total, used: Use::default(), subtrees, hasher }
    }

    /// What existing cgroups use.
    pub(super) const fn used(&self) -> Use {
        self.used
    }

    /// Adds a cgroup, if its path fits.
    pub(super) fn add(&mut self, path: &str) -> bool {
        let (subtree, parts) = subtree(path);
        let key = self.hasher.hash_one(subtree);
        let held = self.subtrees.get(&key).copied().unwrap_or_default();
        let all = if held == Use::default() { self.total } else { self.total.part(KEPT - 1, KEPT) };
        let share = self.total.part(1, parts);
        let fits = self.used.fits(path.len(), all) && held.fits(path.len(), share);
        if fits {
            self.used.add(path.len());
            self.subtrees.entry(key).or_default().add(path.len());
        }
        fits
    }

    /// Removes a cgroup that was added.
    pub(super) fn remove(&mut self, path: &str) {
        let key = self.hasher.hash_one(subtree(path).0);
        self.used.remove(path.len());
        let Some(held) = self.subtrees.get_mut(&key) else { return };
        held.remove(path.len());
        if held.cgroups == 0 {
            self.subtrees.remove(&key);
        }
    }
}

/// The part of the tree that a path belongs to, and the part of the budget that it may have: one of
/// so many. systemd and container runtimes let others create cgroups in a service, a scope or a
/// container, not above: each of these has a sixteenth. What is in none shares half with its
/// neighbours below the root.
fn subtree(path: &str) -> (&str, usize) {
    let mut end = 0;
    for part in path.split_inclusive('/') {
        let name = part.trim_end_matches('/');
        if is_workload(name) {
            return (&path[..end + name.len()], 16);
        }
        end += part.len();
    }
    let first = path.get(1..).and_then(|rest| rest.find('/')).map_or(path.len(), |len| 1 + len);
    (&path[..first], 2)
}

/// Whether this is the name of a service, a scope or a container.
fn is_workload(name: &str) -> bool {
    const ID: usize = 64;
    let tail = name.len().checked_sub(ID).and_then(|start| name.get(start..));
    let is_unit = [".service", ".scope"].iter().any(|end| name.ends_with(end));
    is_unit
        || name.starts_with("lxc.payload.")
        || tail.is_some_and(|id| id.bytes().all(|b| b.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOTAL: Use = Use { bytes: 1 << 20, cgroups: 16_384 };
    const USER: &str = "/user.slice/user-1000.slice/user@1000.service/app.slice";

    /// Adds cgroups below a path until one does not fit; returns how many.
    fn flood(budget: &mut PathBudget, below: &str) -> usize {
        (0..1_000_000).take_while(|n| budget.add(&format!("{below}/{n:0100}"))).count()
    }

    #[test]
    fn a_subtree_is_what_others_may_create_cgroups_in() {
        let id = "0123456789abcdef".repeat(4);
        let docker = format!("/docker/{id}");
        let pod = format!("/kubepods.slice/kubepods-pod1.slice/cri-containerd-{id}.scope");
        let kind = format!("/system.slice/docker-{id}.scope/kubelet.slice/a.service");
        for (path, expected, parts) in [
            (USER, "/user.slice/user-1000.slice/user@1000.service", 16),
            ("/system.slice/nginx.service", "/system.slice/nginx.service", 16),
            (&format!("{docker}/a/b"), &docker, 16),
            (&format!("{pod}/inner"), &pod, 16),
            (&kind, &kind[.."/system.slice/docker-.scope".len() + 64], 16),
            ("/lxc.payload.web/init.scope", "/lxc.payload.web", 16),
            ("/kubepods.slice/kubepods-pod1.slice", "/kubepods.slice", 2),
            ("/lxc/web/x", "/lxc", 2),
            ("/a", "/a", 2),
            ("/", "/", 2),
            ("", "", 2),
            // Not a path of the kernel, but such bytes must not end the thread.
            ("\u{fffd}\u{fffd}\u{44c}lice/a.service", "\u{fffd}\u{fffd}\u{44c}lice/a.service", 16),
            ("\u{fffd}", "\u{fffd}", 2),
            ("/\u{e9}\u{e9}/x", "/\u{e9}\u{e9}", 2),
        ] {
            assert_eq!(subtree(path), (expected, parts), "{path}");
        }
    }

    #[test]
    fn floods_leave_names_for_services_that_start_later() {
        let mut budget = PathBudget::new(TOTAL);
        assert!(budget.add("/system.slice/first.service"));
        let taken = flood(&mut budget, USER);
        assert!((100..TOTAL.bytes / 16 / 100).contains(&taken), "{taken}");
        assert!(budget.used.bytes <= TOTAL.bytes / 16 + 100);
        assert!(!budget.add(&format!("{USER}/one-more")), "its share is used");
        // Everything else that can be flooded.
        for n in 0..100 {
            flood(&mut budget, &format!("/system.slice/{n}.service"));
        }
        for top in ["/lxc", "/docker"] {
            flood(&mut budget, top);
        }
        assert!(budget.used.bytes > TOTAL.bytes * 3 / 4, "{:?}", budget.used);
        assert!(budget.add("/system.slice/later.service"), "it has nothing yet");
        assert!(!budget.add("/system.slice/first.service/child"), "all but the rest is used");
    }

    #[test]
    fn short_paths_are_bounded_by_their_number() {
        let mut budget = PathBudget::new(TOTAL);
        let count = (0..100_000).filter(|n| budget.add(&format!("/a.scope/{n}"))).count();
        assert_eq!(count, TOTAL.cgroups / 16);
    }

    #[test]
    fn removed_cgroups_give_their_room_back() {
        let mut budget = PathBudget::new(TOTAL);
        for _ in 0..3 {
            let taken = flood(&mut budget, USER);
            assert!(taken > 100);
            for n in 0..taken {
                budget.remove(&format!("{USER}/{n:0100}"));
            }
            assert_eq!((budget.used, budget.subtrees.len()), (Use::default(), 0));
        }
    }
}
