//! What else was known at the moment of a kill: the limits above the victim, who had the memory and who
//! had taken it lately, how long the host had been stalling. And what of it contradicts itself, which is
//! shown as such and not smoothed over. Pure.

use std::{collections::VecDeque, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    events::{AllocContext, EventKind, OomType, tame},
    host::kernel_log::KmsgKill,
    verdict::reading::Reading,
    who::{CgroupUsage, MemoryUsage, ProcessUsage},
};

/// Processes that are told as the largest.
const LARGEST: usize = 10;

/// Processes, and cgroups, that are told as the growers.
const GROWERS: usize = 5;

/// A killer that marks the cgroup before it kills.
const OOMD: &str = "systemd-oomd";

/// One cgroup's limits and use, at the moment of the event or shortly after.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CgroupLimits {
    /// Its path.
    pub path: String,
    /// What it has, its children's among it.
    pub current_bytes: Option<u64>,
    /// `memory.max`; absent without a limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<u64>,
    /// `memory.high`; absent without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub high_bytes: Option<u64>,
    /// What it has in swap; on v1 memory and swap together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub swap_bytes: Option<u64>,
    /// Its limit of that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub swap_max_bytes: Option<u64>,
    /// Processes in it that the OOM killer killed, as it counts itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oom_kills: Option<u64>,
    /// How often systemd-oomd has set out to kill it, by the mark that it leaves (`user.oomd_ooms`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oomd_ooms: Option<u64>,
    /// How many processes of it systemd-oomd has killed (`user.oomd_kill`, written afterwards).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oomd_kills: Option<u64>,
}

/// How long the host stalled within a time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct StallWindow {
    /// Over so many seconds; less than a minute if we were started since.
    pub within_seconds: f64,
    /// In which some task waited for memory (PSI).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub some_seconds: Option<f64>,
    /// In which all did (PSI).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub full_seconds: Option<f64>,
    /// That tasks spent in reclaim, compaction and throttling, summed over tasks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stall_seconds: Option<f64>,
}

/// What else was known.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct OomReport {
    /// The victim's cgroup and those above it, its own first. One that was gone is not there.
    pub cgroups: Vec<CgroupLimits>,
    /// The one of them that was out of memory: by the kernel's log, else as far as limits tell, the fullest.
    /// The processes below are those in it then, else those of the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oom_cgroup: Option<String>,
    /// How long before the event processes were looked at; below zero if that was after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage_age_seconds: Option<f64>,
    /// The largest processes then.
    pub largest: Vec<ProcessUsage>,
    /// Who grew most within the ten minutes before.
    pub top_growers: Vec<ProcessUsage>,
    /// Cgroups that did.
    pub growing_cgroups: Vec<CgroupUsage>,
    /// Of the minute before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stalled: Option<StallWindow>,
    /// What does not go together.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub contradictions: Vec<String>,
}

impl OomReport {
    /// Puts together what there is about an event of `time_ns` (CLOCK_MONOTONIC).
    pub fn of(
        what: &EventKind,
        time_ns: u64,
        cgroups: Vec<CgroupLimits>,
        logged: Option<&KmsgKill>,
        who: Option<&MemoryUsage>,
        stalled: Option<StallWindow>,
    ) -> Self {
        // After a kill another process may have the victim's id.
        let before = who.filter(|who| who.taken_ns <= time_ns);
        let mut contradictions = contradictions(what, &cgroups, before);
        contradictions.extend(logged.and_then(|logged| against_log(what, logged)));
        let memcg = matches!(what, EventKind::OomKill { oom_type: OomType::Memcg, .. });
        let in_log = logged.and_then(|logged| Some(tame(logged.memcg.as_ref()?)));
        let oom_cgroup = in_log.or_else(|| memcg.then(|| fullest(&cgroups)).flatten());
        let mut all = Self { cgroups, oom_cgroup, stalled, contradictions, ..Self::default() };
        let Some(who) = who else { return all };
        let inside = |path: &Option<Arc<str>>| {
            let Some(group) = &all.oom_cgroup else { return true };
            let below = path.as_deref().and_then(|path| path.strip_prefix(group.as_str()));
            below.is_some_and(|below| below.is_empty() || below.starts_with('/'))
        };
        let processes: Vec<_> = who.processes.iter().filter(|p| inside(&p.cgroup_path)).collect();
        let cgroups: Vec<_> = who.cgroups.iter().filter(|g| inside(&g.cgroup_path)).collect();
        let seconds = |ns: u64| ns as f64 / 1e9;
        all.usage_age_seconds = Some(seconds(time_ns) - seconds(who.taken_ns));
        all.largest = processes.iter().take(LARGEST).copied().cloned().collect();
        all.top_growers = most_grown(processes, |p| p.growth.ten_minutes_bytes);
        all.growing_cgroups = most_grown(cgroups, |g| g.growth.ten_minutes_bytes);
        all.largest.iter_mut().chain(&mut all.top_growers).for_each(ProcessUsage::identify);
        all.growing_cgroups.iter_mut().for_each(CgroupUsage::identify);
        all
    }
}

fn most_grown<T: Clone>(mut grew: Vec<&T>, grown: impl Fn(&T) -> i64) -> Vec<T> {
    grew.retain(|one| grown(one) > 0);
    grew.sort_by_key(|one| std::cmp::Reverse(grown(one)));
    grew.into_iter().take(GROWERS).cloned().collect()
}

/// Where the kernel's log says something else.
fn against_log(what: &EventKind, logged: &KmsgKill) -> Option<String> {
    let EventKind::OomKill { oom_type, context, .. } = what else { return None };
    let memcg = *oom_type == OomType::Memcg;
    // The path may be left in doubt.
    let in_log = logged.memcg.is_some() || logged.constraint == "memcg";
    if in_log != memcg {
        return Some(format!(
            "the kernel's log names {:?} as what was constrained and {:?} as the cgroup, but it was \
             seen as a kill of type {oom_type}",
            logged.constraint, logged.memcg,
        ));
    }
    let AllocContext { order, gfp_flags, constraint, .. } = context.as_ref()?;
    let (logged_order, logged_flags) = logged.asked.as_ref()?;
    let same =
        order == logged_order && gfp_flags == logged_flags && *constraint == logged.constraint;
    (!same).then(|| {
        format!(
            "measured were order {order}, gfp {gfp_flags}, constraint {constraint}; the kernel's log has \
             {logged_order}, {logged_flags}, {}",
            logged.constraint,
        )
    })
}

/// The group that has most of what it may.
fn fullest(cgroups: &[CgroupLimits]) -> Option<String> {
    let share = |used: Option<u64>, limit: Option<u64>| Some(used? as f64 / limit?.max(1) as f64);
    let full = |level: &CgroupLimits| {
        let memory = share(level.current_bytes, level.max_bytes);
        let swap = share(level.swap_bytes, level.swap_max_bytes);
        memory.into_iter().chain(swap).reduce(f64::max)
    };
    let limited = cgroups.iter().filter_map(|level| Some((level, full(level)?)));
    let fullest = limited.reduce(|a, b| if b.1 > a.1 { b } else { a });
    fullest.map(|(level, _)| level.path.clone())
}

fn contradictions(
    what: &EventKind,
    cgroups: &[CgroupLimits],
    who: Option<&MemoryUsage>,
) -> Vec<String> {
    let mut all = Vec::new();
    let victim = match what {
        EventKind::OomKill { oom_type, victim, context, .. } => {
            let memcg = *oom_type == OomType::Memcg;
            if let Some(context) = context
                && (context.constraint == "memcg") != memcg
            {
                all.push(format!(
                    "the kernel names {:?} as what was constrained, and {} cgroup as out of memory",
                    context.constraint,
                    if memcg { "a" } else { "no" },
                ));
            }
            let limited =
                |level: &CgroupLimits| level.max_bytes.is_some() || level.swap_max_bytes.is_some();
            if memcg && !cgroups.is_empty() && !cgroups.iter().any(limited) {
                all.push(
                    "a cgroup was out of memory, but none of the victim's has a limit now".into(),
                );
            }
            victim
        }
        EventKind::KillSignal { sender, target } => {
            let marked = cgroups.iter().any(|level| level.oomd_ooms.is_some());
            if sender.comm == OOMD && !cgroups.is_empty() && !marked {
                all.push(format!(
                    "the sender calls itself {OOMD}, but the victim's cgroups have no mark of it"
                ));
            }
            target
        }
        EventKind::VictimExit { .. } => return all,
    };
    let known = who.and_then(|who| who.processes.iter().find(|p| p.pid == victim.pid));
    if let Some(known) = known.filter(|known| known.comm != victim.comm) {
        all.push(format!(
            "process {} was {:?} when processes were looked at, and {:?} when it was killed: it \
             has executed another program, or its id was used again",
            victim.pid, known.comm, victim.comm,
        ));
    }
    all
}

/// What a minute ago was, for [`StallWindow`].
#[derive(Debug, Default)]
pub struct Minute(VecDeque<Reading>);

/// A minute, in nanoseconds.
const MINUTE_NS: u64 = 60_000_000_000;

/// Readings are kept at least so far apart.
const APART_NS: u64 = 1_000_000_000;

impl Minute {
    /// Notes the host's reading.
    pub fn note(&mut self, reading: &Reading) {
        let soon = |last: &Reading| reading.at_ns < last.at_ns.saturating_add(APART_NS);
        if self.0.back().is_some_and(soon) {
            return;
        }
        // One at or before the minute's begin stays.
        let old = |r: &Reading| r.at_ns.saturating_add(MINUTE_NS) <= reading.at_ns;
        while self.0.get(1).is_some_and(old) {
            self.0.pop_front();
        }
        self.0.push_back(*reading);
    }

    /// How long the host stalled within the minute up to this reading.
    pub fn stalled(&self, now: &Reading) -> Option<StallWindow> {
        let then = self.0.iter().rfind(|r| r.at_ns.saturating_add(MINUTE_NS) <= now.at_ns);
        let then = then.or(self.0.front()).filter(|then| then.at_ns < now.at_ns)?;
        let rose =
            |of: fn(&Reading) -> Option<u64>| Some(of(now)?.saturating_sub(of(then)?) as f64 / 1e9);
        Some(StallWindow {
            within_seconds: (now.at_ns - then.at_ns) as f64 / 1e9,
            some_seconds: rose(|r| r.some_ns),
            full_seconds: rose(|r| r.full_ns),
            stall_seconds: rose(|r| r.stall_ns),
        })
    }
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable as _;
    use sensor_ebpf::event::{self, Tag};

    use super::*;
    use crate::{events::decode, who::Growth};

    fn kill(memcg: bool, constraint: Option<&str>) -> EventKind {
        let mut kill = event::OomKill { tag: Tag::OomKill as u32, ..event::OomKill::zeroed() };
        kill.memcg = u32::from(memcg);
        kill.has_context = u32::from(constraint.is_some());
        kill.victim.tgid = 7;
        kill.victim.comm[..3].copy_from_slice(b"php");
        let (_, mut what) = decode(bytemuck::bytes_of(&kill), 4096, "b").expect("decodes");
        if let Some(constraint) = constraint {
            what.name_constraint(&[Some(constraint.to_owned())]);
        }
        what
    }

    fn holder(pid: u32, comm: &str, grown: i64) -> ProcessUsage {
        ProcessUsage {
            pid,
            comm: comm.to_owned(),
            growth: Growth { ten_minutes_bytes: grown, ..Growth::default() },
            ..ProcessUsage::default()
        }
    }

    fn who(processes: Vec<ProcessUsage>) -> MemoryUsage {
        MemoryUsage { taken_ns: 3_000_000_000, processes, ..MemoryUsage::default() }
    }

    #[test]
    fn what_contradicts_itself_is_told() {
        let limited = CgroupLimits { max_bytes: Some(1), ..CgroupLimits::default() };
        let free = CgroupLimits::default();
        let as_known = who(vec![holder(7, "php", 0)]);
        let other = who(vec![holder(7, "init", 0)]);
        for (what, cgroups, who, wanted) in [
            (kill(true, None), vec![free.clone(), limited.clone()], Some(&as_known), vec![]),
            (kill(false, Some("none")), vec![free.clone()], None, vec![]),
            (kill(true, Some("memcg")), vec![], None, vec![]),
            (kill(true, None), vec![free.clone()], None, vec!["none of the victim's has a limit"]),
            (kill(true, Some("none")), vec![limited.clone()], None, vec!["\"none\""]),
            (kill(false, Some("memcg")), vec![], None, vec!["no cgroup as out of memory"]),
            (kill(false, Some("cpuset")), vec![], Some(&other), vec!["its id was used again"]),
        ] {
            let found = OomReport::of(&what, 4_000_000_000, cgroups, None, who, None);
            let found = found.contradictions;
            assert_eq!(found.len(), wanted.len(), "{found:?}");
            for (found, wanted) in found.iter().zip(wanted) {
                assert!(found.contains(wanted), "{found}");
            }
        }
        // Looked at afterwards: the id may have been used again since.
        let later = OomReport::of(&kill(false, None), 0, vec![], None, Some(&other), None);
        assert_eq!(later.contradictions, [""; 0]);
    }

    #[test]
    fn who_only_calls_itself_systemd_oomd_is_told_apart() {
        let signal = |comm: &[u8]| {
            let mut signal =
                event::KillSignal { tag: Tag::KillSignal as u32, ..event::KillSignal::zeroed() };
            signal.sender.comm[..comm.len()].copy_from_slice(comm);
            decode(bytemuck::bytes_of(&signal), 4096, "b").expect("decodes").1
        };
        let marked = CgroupLimits { oomd_ooms: Some(1), ..CgroupLimits::default() };
        for (comm, cgroups, contradictions) in [
            (&b"systemd-oomd"[..], vec![CgroupLimits::default()], 1),
            (b"systemd-oomd", vec![CgroupLimits::default(), marked.clone()], 0),
            (b"systemd-oomd", vec![], 0),
            (b"earlyoom", vec![CgroupLimits::default()], 0),
        ] {
            let told = OomReport::of(&signal(comm), 0, cgroups, None, None, None);
            assert_eq!(told.contradictions.len(), contradictions, "{:?}", told.contradictions);
        }
    }

    #[test]
    fn the_kernel_s_log_is_a_second_witness() {
        let logged = |constraint: &str, memcg: Option<&str>, order| KmsgKill {
            constraint: constraint.to_owned(),
            memcg: memcg.map(str::to_owned),
            asked: Some((order, "0x0".to_owned())),
            ..KmsgKill::default()
        };
        let against = |what: &EventKind, logged: &KmsgKill| {
            let told = OomReport::of(what, 0, vec![], Some(logged), None, None);
            (told.contradictions.len(), told.oom_cgroup)
        };
        let memcg = logged("memcg", Some("/a"), 0);
        assert_eq!(against(&kill(true, Some("memcg")), &memcg), (0, Some("/a".to_owned())));
        assert_eq!(against(&kill(true, None), &memcg).0, 0);
        assert_eq!(against(&kill(false, None), &memcg).0, 1, "another scope");
        assert_eq!(against(&kill(true, None), &logged("none", None, 0)).0, 1, "another scope");
        assert_eq!(against(&kill(false, Some("none")), &logged("none", None, 0)), (0, None));
        assert_eq!(
            against(&kill(false, Some("none")), &logged("none", None, 3)).0,
            1,
            "another order"
        );
        assert_eq!(against(&kill(false, Some("none")), &logged("cpuset", None, 0)).0, 1);
        // A path that leaves doubt.
        assert_eq!(against(&kill(true, None), &logged("memcg", None, 0)).0, 0);
    }

    #[test]
    fn the_largest_and_who_grew_are_told_apart() {
        let all = (1..=20).map(|i| holder(i, "x", i64::from(i) - 10)).collect();
        let told =
            OomReport::of(&kill(true, None), 5_500_000_000, vec![], None, Some(&who(all)), None);
        assert_eq!(told.usage_age_seconds, Some(2.5));
        let pids = |all: &[ProcessUsage]| all.iter().map(|p| p.pid).collect::<Vec<_>>();
        assert_eq!(pids(&told.largest), (1..=10).collect::<Vec<_>>(), "as they are sorted");
        assert_eq!(pids(&told.top_growers), [20, 19, 18, 17, 16]);
        let none = who(vec![holder(1, "x", 0), holder(2, "x", -5)]);
        let told = OomReport::of(&kill(true, None), 0, vec![], None, Some(&none), None);
        assert_eq!(told.top_growers, []);
    }

    #[test]
    fn of_a_cgroup_that_ran_out_only_who_is_in_it_is_told() {
        let level = |path: &str, current: u64, max: Option<u64>| CgroupLimits {
            path: path.into(),
            current_bytes: Some(current),
            max_bytes: max,
            ..CgroupLimits::default()
        };
        let cgroups = vec![
            level("/a/b/c", 50, None),
            level("/a/b", 60, Some(100)),
            level("/a", 198, Some(200)),
        ];
        let placed = |pid, path: &str| ProcessUsage {
            cgroup_path: Some(path.into()),
            ..holder(pid, "x", 1000)
        };
        let processes =
            vec![placed(1, "/a/b/c"), placed(2, "/a"), placed(3, "/ab"), holder(4, "x", 9)];
        let who = who(processes);
        let told = |memcg| {
            let told =
                OomReport::of(&kill(memcg, None), 0, cgroups.clone(), None, Some(&who), None);
            let pids: Vec<_> = told.largest.iter().map(|p| p.pid).collect();
            assert_eq!(told.top_growers.iter().map(|p| p.pid).collect::<Vec<_>>(), pids);
            (told.oom_cgroup, pids)
        };
        assert_eq!(told(true), (Some("/a".to_owned()), vec![1, 2]));
        assert_eq!(told(false), (None, vec![1, 2, 3, 4]));
    }

    #[test]
    fn a_minute_is_looked_back() {
        let mut minute = Minute::default();
        let at = |seconds: u64| Reading {
            at_ns: seconds * 1_000_000_000,
            some_ns: Some(seconds * 500_000_000),
            ..Reading::default()
        };
        assert_eq!(minute.stalled(&at(1)), None);
        for seconds in 1..=200 {
            minute.note(&at(seconds));
            // Ten samples a second under pressure.
            minute.note(&Reading { at_ns: at(seconds).at_ns + 1, ..Reading::default() });
        }
        assert!(minute.0.len() <= 62, "{}", minute.0.len());
        let stalled = minute.stalled(&at(200)).expect("told");
        assert_eq!((stalled.within_seconds, stalled.some_seconds), (60.0, Some(30.0)));
        assert_eq!((stalled.full_seconds, stalled.stall_seconds), (None, None));
        let mut young = Minute::default();
        young.note(&at(5));
        assert_eq!(young.stalled(&at(15)).map(|s| s.within_seconds), Some(10.0));
    }
}
