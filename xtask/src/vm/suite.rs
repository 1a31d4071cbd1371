//! Which guests there are, and what each runs. Pure.

use std::{cmp::Ordering, path::PathBuf, time::Duration};

use super::{
    kernel::{Kernel, natural},
    machine::AMD64,
};

/// How cgroups are mounted in a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cgroups {
    V2,
    /// The memory controller on v1 and no v2 at all.
    V1,
    /// The memory controller on v1, and an empty v2 hierarchy beside it.
    Hybrid,
}

impl Cgroups {
    /// The word for it on the guest's command line.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::V2 => "v2",
            Self::V1 => "v1",
            Self::Hybrid => "hybrid",
        }
    }
}

/// A guest to boot.
#[derive(Debug, Clone)]
pub(crate) struct Guest {
    /// What is special about it.
    pub(crate) name: &'static str,
    /// Which kernel, by position.
    pub(crate) kernel: usize,
    pub(crate) cgroups: Cgroups,
    pub(crate) cpus: u32,
    pub(crate) memory_mib: u64,
    pub(crate) boot_args: &'static str,
    /// It ends then, whatever it does.
    pub(crate) limit: Duration,
    /// Whether every probe must have a cell in the table.
    pub(crate) is_column: bool,
    /// TCP ports of it that this machine reaches at 127.0.0.1, if it is to have a network.
    pub(crate) ports: &'static [u16],
    /// What is on its fourth disk, if it is to have one.
    pub(crate) image: Option<PathBuf>,
    /// Reads and writes a second that its swap and its fourth disk can do, if they are tired.
    pub(crate) iops: Option<u32>,
    /// Test binaries and their arguments.
    tests: Vec<String>,
}

impl Guest {
    pub(crate) fn new(name: &'static str, kernel: usize) -> Self {
        Self {
            name,
            kernel,
            cgroups: Cgroups::V2,
            cpus: 2,
            memory_mib: 400,
            boot_args: "",
            limit: Duration::from_mins(20),
            is_column: false,
            ports: &[],
            image: None,
            iops: None,
            tests: Vec::new(),
        }
    }

    fn runs(mut self, tests: &[&str]) -> Self {
        self.tests.extend(tests.iter().map(|t| format!("{t} --test-threads=1")));
        self
    }

    /// Has it run one program.
    pub(crate) fn runs_only(mut self, step: String) -> Self {
        self.tests = vec![step];
        self
    }

    /// The lines that its init runs.
    pub(crate) fn steps(&self) -> String {
        self.tests.join("\n") + "\n"
    }

    /// Keeps only tests whose name contains this.
    pub(crate) fn filter(&mut self, filter: &str) {
        for test in &mut self.tests {
            // Tests are named by module already; libtest takes either of several names.
            let (program, _) = test.split_once(' ').unwrap_or((test, ""));
            *test = format!("{program} {filter} --test-threads=1");
        }
        self.tests.dedup();
        self.is_column = false;
    }
}

/// The verifier and every program by hand; real kills and reclaim in a cgroup; each probe with the
/// whole guest under pressure. Lockdown comes last: it cannot be taken back.
const ALL: [&str; 5] = [
    "kernel",
    "live --skip serving::",
    "guest probes:: host:: verdict::",
    "guest lockdown::integrity",
    "guest lockdown::confidentiality",
];

/// The guests for these kernels, which come oldest first. `short` leaves out what differs little.
pub(crate) fn guests(kernels: &[Kernel], short: bool) -> Vec<Guest> {
    let mut guests = Vec::new();
    for (i, kernel) in kernels.iter().enumerate() {
        guests.push(Guest { is_column: true, ..Guest::new("cgroup v2", i).runs(&ALL) });
        // Debian builds memcg v1 until 6.11.
        let has_v1 = natural(&kernel.series, "6.12") == Ordering::Less;
        if short || *kernel.machine != AMD64 || !has_v1 {
            continue;
        }
        for (cgroups, name) in [(Cgroups::V1, "cgroup v1"), (Cgroups::Hybrid, "cgroup hybrid")] {
            let guest = Guest::new(name, i).runs(&["live --skip serving::", "guest probes::"]);
            guests.push(Guest { cgroups, is_column: true, ..guest });
        }
    }
    if short {
        return guests;
    }
    let is_amd64 = |&i: &usize| *kernels[i].machine == AMD64;
    let (oldest, newest) =
        ((0..kernels.len()).find(is_amd64), (0..kernels.len()).rev().find(is_amd64));
    for i in oldest.into_iter().chain(newest.filter(|_| newest != oldest)) {
        let psi = Guest::new("psi=0", i)
            .runs(&["live oom:: reclaim::", "guest host:: verdict:: quirks::psi"]);
        guests.push(Guest { boot_args: "psi=0", ..psi });
        let cpus = Guest::new("32 CPUs", i).runs(&["live oom:: reclaim::", "guest quirks::cpus"]);
        guests.push(Guest { cpus: 32, memory_mib: 1024, ..cpus });
    }
    guests
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::{
        super::machine::{self, Machine},
        *,
    };

    fn kernels(machine: &'static Machine) -> Vec<Kernel> {
        let kernel = |series: &&str| Kernel {
            machine,
            series: (*series).into(),
            release: String::new(),
            image: PathBuf::new(),
            modules: Vec::new(),
        };
        machine.series.iter().map(kernel).collect()
    }

    #[test]
    fn memcg_v1_is_tried_where_debian_has_it() {
        let kernels: Vec<_> = machine::ALL.into_iter().flat_map(kernels).collect();
        let all = guests(&kernels, false);
        let on_v1 = all.iter().filter(|g| g.cgroups == Cgroups::V1);
        let on_v1: Vec<_> = on_v1.map(|g| kernels[g.kernel].series.as_str()).collect();
        assert_eq!(on_v1, ["5.10", "6.1"]);
        assert_eq!(all.iter().filter(|g| g.name == "32 CPUs").count(), 2);
    }

    #[test]
    fn the_short_form_is_a_guest_per_kernel() {
        let short = guests(&kernels(&machine::ARM64), true);
        assert_eq!(short.len(), 2);
        assert!(short.iter().all(|g| g.is_column && g.steps().lines().count() == ALL.len()));
    }

    #[test]
    fn a_filter_replaces_what_a_guest_runs() {
        let mut guest = Guest::new("cgroup v2", 0).runs(&ALL);
        guest.filter("kswapd");
        let steps = "kernel kswapd --test-threads=1\nlive kswapd --test-threads=1\n\
                     guest kswapd --test-threads=1\n";
        assert_eq!(guest.steps(), steps);
    }
}
