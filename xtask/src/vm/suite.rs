//! The guests of `cargo xtask vm` and the tests that each of them runs. Pure.

use std::cmp::Ordering;

use super::{
    guest::{Cgroups, Guest},
    kernel::{Kernel, natural_order},
    machine::AMD64,
};

/// Tests that cannot differ by kernel: the servers, injected faults, floods of cgroups, what the
/// output escapes, who may give commands, and the owner of the state. They are slow in emulation, and
/// run on the host.
const USER_SPACE: [&str; 10] = [
    "serving::",
    "host_faults::",
    "flood",
    "record::hostile_names",
    "record::the_exemplar",
    "rights::a_directory_with_other_content",
    "rights::another_user_cannot",
    "rights::commands_of_operators",
    "rights::the_state_is_the_users",
    "rights::without_its_user",
];

/// Real kills and reclaim in a cgroup.
fn live() -> String {
    let skip = USER_SPACE.map(|test| format!(" --skip {test}"));
    format!("live{}", skip.concat())
}

/// The verifier, and each program with given arguments; kills and reclaim in a cgroup; each probe
/// with the whole guest under pressure. Lockdown is last: it cannot be undone.
fn all() -> [String; 5] {
    [
        "kernel".to_owned(),
        live(),
        "guest probes:: host:: verdict:: hotplug:: oom_group::".to_owned(),
        "guest lockdown::integrity".to_owned(),
        "guest lockdown::confidentiality".to_owned(),
    ]
}

/// What a merge can wait for: the programs and probes on the oldest and the newest kernel, and the live
/// tests that depend most on the kernel on the oldest one. All live tests run on the machine itself.
fn short_guests(kernels: &[Kernel]) -> Vec<Guest> {
    let guest = |kernel: &Kernel, tests: &[String]| {
        let guest = Guest::new("cgroup v2", kernel).with_tests(tests);
        Guest { is_column: true, ..guest }
    };
    let [programs, _, probes, integrity, confidentiality] = all();
    let (Some(oldest), newest) = (kernels.first(), kernels.get(1..).and_then(<[_]>::last)) else {
        return Vec::new();
    };
    let with_live = [programs.clone(), SHORT_LIVE.to_owned(), probes.clone()];
    let with_lockdown = [programs, probes, integrity, confidentiality];
    let newest = newest.map(|kernel| guest(kernel, &with_lockdown));
    newest.into_iter().chain([guest(oldest, &with_live)]).collect()
}

/// Live tests of the short suite.
const SHORT_LIVE: &str = "live oom:: reclaim:: signals:: rights::every_thread rights::the_filter";

/// The guests for these kernels, which are ordered oldest first. `short` is for merges.
pub(crate) fn guests(kernels: &[Kernel], short: bool) -> Vec<Guest> {
    if short {
        return short_guests(kernels);
    }
    let mut guests = Vec::new();
    for kernel in kernels {
        let guest = Guest::new("cgroup v2", kernel).with_tests(&all());
        guests.push(Guest { is_column: true, ..guest });
        if has_memcg_v1(kernel) {
            guests.extend(v1_guests(kernel));
        }
    }
    let mut amd64 = kernels.iter().filter(|kernel| *kernel.machine == AMD64);
    let oldest = amd64.next();
    let newest = amd64.next_back();
    for kernel in oldest.into_iter().chain(newest) {
        let psi = Guest::new("psi=0", kernel)
            .with_tests(&["live oom:: reclaim::", "guest host:: verdict:: quirks::psi"]);
        guests.push(Guest { boot_args: "psi=0", ..psi });
        let cpus = Guest::new("32 CPUs", kernel)
            .with_tests(&["live oom:: reclaim::", "guest quirks::cpus"]);
        guests.push(Guest { cpus: 32, memory_mib: 1024, ..cpus });
        let one = Guest::new("1 CPU", kernel).with_tests(&[
            "live oom:: reclaim::",
            "guest host:: verdict:: hotplug::mem hotplug::a_wall",
        ]);
        guests.push(Guest { cpus: 1, ..one });
    }
    // A guest of its own: on 5.10 the kernel does not recover from the attempt, and later tests fail.
    guests.extend(
        newest.map(|kernel| Guest::new("suspend", kernel).with_tests(&["guest suspend::"])),
    );
    guests
}

/// Whether guests test memcg v1 on this kernel: Debian builds it until 6.11.
fn has_memcg_v1(kernel: &Kernel) -> bool {
    *kernel.machine == AMD64 && natural_order(&kernel.series, "6.12") == Ordering::Less
}

fn v1_guests(kernel: &Kernel) -> [Guest; 2] {
    [(Cgroups::V1, "cgroup v1"), (Cgroups::Hybrid, "cgroup hybrid")].map(|(cgroups, name)| {
        let guest = Guest::new(name, kernel);
        let guest = guest.with_tests(&[live(), "guest probes::".to_owned()]);
        Guest { cgroups, is_column: true, ..guest }
    })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::vm::machine::{self, Machine};

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
    fn memcg_v1_is_tested_on_kernels_that_have_it() {
        let kernels: Vec<_> = machine::ALL.into_iter().flat_map(kernels).collect();
        let all = guests(&kernels, false);
        let on_v1 = all.iter().filter(|guest| guest.cgroups == Cgroups::V1);
        let on_v1: Vec<_> = on_v1.map(|guest| guest.kernel.series.as_str()).collect();
        assert_eq!(on_v1, ["5.10", "6.1"]);
    }

    #[test]
    fn the_oldest_and_newest_amd64_kernel_have_special_guests() {
        let kernels: Vec<_> = machine::ALL.into_iter().flat_map(kernels).collect();
        for name in ["psi=0", "32 CPUs", "1 CPU"] {
            let all = guests(&kernels, false);
            let special = all.iter().filter(|guest| guest.name == name);
            let series: Vec<_> = special.map(|guest| guest.kernel.series.as_str()).collect();
            assert_eq!(series, ["5.10", "7.3"], "{name}");
        }
        let one = guests(&kernels[..1], false);
        assert_eq!(one.iter().filter(|guest| guest.name == "psi=0").count(), 1);
    }

    #[test]
    fn the_short_suite_has_the_oldest_and_the_newest_kernel() {
        let kernels = kernels(&machine::ARM64);
        let series = |kernels: &[Kernel]| {
            let short = guests(kernels, true);
            assert!(short.iter().all(|guest| guest.is_column));
            short.iter().map(|guest| guest.kernel.series.clone()).collect::<Vec<_>>()
        };
        let (first, last) = (&kernels[0].series, &kernels[kernels.len() - 1].series);
        assert_eq!(series(&kernels), [last.clone(), first.clone()]);
        assert_eq!(series(&kernels[..1]), std::slice::from_ref(first));
        assert_eq!(series(&[]), [""; 0]);
    }

    /// A name that matches no test would be a test that runs in every guest again.
    #[test]
    fn every_skipped_test_exists() {
        let live = crate::host::exec::workspace().join("tests/tests/live");
        let short = SHORT_LIVE.split(' ').skip(1);
        for test in USER_SPACE.into_iter().chain(short) {
            let (module, name) = test.split_once("::").unwrap_or(("cgroups", test));
            let [file, dir] = [format!("{module}.rs"), format!("{module}/mod.rs")];
            let text =
                [file, dir].iter().find_map(|path| std::fs::read_to_string(live.join(path)).ok());
            let text = text.unwrap_or_else(|| panic!("no module {module}"));
            let found = text.lines().any(|l| l.starts_with("fn ") && l.contains(name));
            assert!(name.is_empty() || found, "no test {test}");
        }
    }
}
