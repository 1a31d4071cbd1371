//! One guest: kernel, hardware and the steps that its init runs. Pure.

use std::{path::PathBuf, time::Duration};

use super::{kernel::Kernel, machine::AMD64};

/// The cgroup hierarchies of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cgroups {
    V2,
    /// The memory controller on v1, without a v2 hierarchy.
    V1,
    /// The memory controller on v1, and an empty v2 hierarchy.
    Hybrid,
}

impl Cgroups {
    /// The name on the guest's kernel command line.
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
    /// The property in which it differs from other guests of the same kernel.
    pub(crate) name: &'static str,
    pub(crate) kernel: Kernel,
    pub(crate) cgroups: Cgroups,
    pub(crate) cpus: u32,
    pub(crate) memory_mib: u64,
    pub(crate) boot_args: &'static str,
    /// The guest is killed after this time.
    pub(crate) time_limit: Duration,
    /// Whether the guest is a column of the probe table and must test every probe.
    pub(crate) is_column: bool,
    /// TCP ports of the guest that this machine reaches at 127.0.0.1; no network if empty.
    pub(crate) ports: &'static [u16],
    /// The image of a fourth disk.
    pub(crate) image: Option<PathBuf>,
    /// Whether the image stays as it is: writes to it are dropped when the guest ends.
    pub(crate) image_is_shared: bool,
    /// A limit on reads and writes per second of the swap and of the fourth disk.
    pub(crate) iops: Option<u32>,
    /// Test binaries and their arguments.
    pub(crate) steps: Vec<String>,
}

impl Guest {
    pub(crate) fn new(name: &'static str, kernel: &Kernel) -> Self {
        Self {
            name,
            kernel: kernel.clone(),
            cgroups: Cgroups::V2,
            cpus: 2,
            memory_mib: 400,
            boot_args: "",
            time_limit: Duration::from_mins(30),
            is_column: false,
            ports: &[],
            image: None,
            image_is_shared: false,
            iops: None,
            steps: Vec::new(),
        }
    }

    /// Adds test binaries with their filters.
    pub(crate) fn with_tests(mut self, tests: &[impl std::fmt::Display]) -> Self {
        self.steps.extend(tests.iter().map(|test| format!("{test} --test-threads=1")));
        self
    }

    /// Runs only one program.
    pub(crate) fn with_step(mut self, step: String) -> Self {
        self.steps = vec![step];
        self
    }

    /// The lines of the file that the guest's init runs.
    pub(crate) fn init_script(&self) -> String {
        self.steps.join("\n") + "\n"
    }

    /// Runs only the tests whose name contains `filter`.
    pub(crate) fn set_filter(&mut self, filter: &str) {
        for step in &mut self.steps {
            // Drop the step's own filters: libtest runs tests that match any of several.
            let (program, _) = step.split_once(' ').unwrap_or((step, ""));
            *step = format!("{program} {filter} --test-threads=1");
        }
        self.steps.dedup();
        self.is_column = false;
    }

    /// The name in the output.
    pub(crate) fn display_name(&self) -> String {
        format!("{} {}", self.kernel.release, self.name)
    }

    /// The heading of its column in the probe table.
    pub(crate) fn heading(&self) -> String {
        let Kernel { machine, release, .. } = &self.kernel;
        let mut heading = release.split("-cloud").next().unwrap_or_default().to_owned();
        if **machine != AMD64 {
            heading = format!("{heading} {}", machine.name);
        }
        if self.cgroups != Cgroups::V2 {
            heading = format!("{heading} {}", self.cgroups.name());
        }
        heading
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::machine::{ARM64, Machine};

    fn kernel(machine: &'static Machine, release: &str) -> Kernel {
        Kernel {
            machine,
            series: String::new(),
            release: release.to_owned(),
            image: PathBuf::new(),
            modules: Vec::new(),
        }
    }

    #[test]
    fn a_filter_replaces_the_filters_of_each_step() {
        let tests = ["kernel", "live --skip serving::", "guest probes::", "guest lockdown::"];
        let kernel = kernel(&AMD64, "");
        let mut guest = Guest { is_column: true, ..Guest::new("cgroup v2", &kernel) };
        guest = guest.with_tests(&tests);
        guest.set_filter("kswapd");
        let steps = "kernel kswapd --test-threads=1\nlive kswapd --test-threads=1\n\
                     guest kswapd --test-threads=1\n";
        assert_eq!(guest.init_script(), steps);
        assert!(!guest.is_column);
    }

    #[test]
    fn a_heading_names_what_differs_from_amd64_and_v2() {
        let amd64 = Guest::new("cgroup v2", &kernel(&AMD64, "6.1.0-9-cloud-amd64"));
        assert_eq!(amd64.heading(), "6.1.0-9");
        let arm64 = Guest::new("cgroup v1", &kernel(&ARM64, "6.12.9-cloud-arm64"));
        let arm64 = Guest { cgroups: Cgroups::V1, ..arm64 };
        assert_eq!(arm64.heading(), "6.12.9 arm64 v1");
    }
}
