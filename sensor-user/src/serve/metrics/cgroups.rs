//! The part of `/metrics` that is per cgroup, and who grows. A counter of a group appears when it has
//! first counted: most groups never stall, and a host has hundreds of them.

use std::{collections::BTreeMap, fmt::Error};

use prometheus_client::{encoding::DescriptorEncoder, metrics::MetricType, registry::Unit};
use sensor_ebpf::probes::Cause;

use super::{
    histogram::Buckets,
    metrics::{Labels, counter, gauge},
};
use crate::{
    cgroups::{CgroupCounters, CgroupReport, CgroupStats},
    events::ends_a_line,
    kernel::read::RECLAIM_KINDS,
    who::{MemoryUsage, ProcessUsage},
};

/// The `cgroup` label of all that are not shown.
const OTHER: &str = "other";

/// A name that somebody chose, as a label: the format escapes quotes and line breaks, and lets all other
/// control characters through, to whatever terminal shows them.
fn harmless(name: &str) -> String {
    name.replace(|c: char| c.is_control() || ends_a_line(c), "\u{fffd}")
}

fn label(name: &str) -> Labels {
    vec![("cgroup", name.to_owned())]
}

/// A number of a group's files.
struct Value {
    name: &'static str,
    help: &'static str,
    unit: Option<Unit>,
    kind: MetricType,
    of: fn(&CgroupStats) -> Option<f64>,
}

fn values() -> [Value; 7] {
    let bytes =
        |name, help, of| Value { name, help, unit: Some(Unit::Bytes), kind: MetricType::Gauge, of };
    let counter = |name, help, unit, of| Value { name, help, unit, kind: MetricType::Counter, of };
    [
        bytes("memsensor_cgroup_memory", "What the cgroup has, those below it included", |f| {
            f.memory_bytes.map(|n| n as f64)
        }),
        bytes("memsensor_cgroup_memory_limit", "Its limit; absent without one", |f| {
            f.limit_bytes.map(|n| n as f64)
        }),
        bytes("memsensor_cgroup_swap", "What it has in swap; absent if nothing", |f| {
            f.swap_bytes.filter(|n| *n > 0).map(|n| n as f64)
        }),
        counter(
            "memsensor_cgroup_refaulted",
            "What was evicted and had to be read again; absent if nothing",
            Some(Unit::Bytes),
            |f| f.refaulted_bytes.filter(|n| *n > 0).map(|n| n as f64),
        ),
        counter(
            "memsensor_cgroup_limit_hits",
            "How often it was at its limit; absent if never",
            None,
            |f| f.limit_hits.filter(|n| *n > 0).map(|n| n as f64),
        ),
        counter(
            "memsensor_cgroup_memory_some",
            "Time in which some task waited for memory (PSI); absent if none",
            Some(Unit::Seconds),
            |f| f.pressure_ns.map(|[some, _]| some as f64 / 1e9).filter(|s| *s > 0.0),
        ),
        counter(
            "memsensor_cgroup_memory_full",
            "Time in which all non-idle tasks waited for memory (PSI); absent if none",
            Some(Unit::Seconds),
            |f| f.pressure_ns.map(|[_, full]| full as f64 / 1e9).filter(|s| *s > 0.0),
        ),
    ]
}

/// Writes what is told of cgroups.
pub(super) fn encode(
    encoder: &mut DescriptorEncoder,
    report: &CgroupReport,
    buckets: Buckets,
) -> Result<(), Error> {
    let help = "Cgroups that have processes and are not shown by themselves, see [cgroups]";
    let mut omitted =
        encoder.encode_descriptor("memsensor_cgroups_omitted", help, None, MetricType::Gauge)?;
    gauge(&mut omitted, &Labels::new(), report.omitted as f64)?;
    let help = "What people call a cgroup";
    let mut info = encoder.encode_descriptor("memsensor_cgroup", help, None, MetricType::Info)?;
    // Two names may be the same without what was harmful in them; two series may not.
    let shown: BTreeMap<_, _> = report.shown.iter().map(|one| (harmless(&one.path), one)).collect();
    for (name, shown) in &shown {
        let mut labels = label(name);
        let known = &shown.workload;
        for (key, value) in [
            ("unit", &known.unit),
            ("container", &known.container),
            ("runtime", &known.runtime),
            ("pod", &known.pod),
        ] {
            labels.extend(value.as_deref().map(|value| (key, harmless(value))));
        }
        if labels.len() > 1 {
            info.encode_info(&labels)?;
        }
    }
    for Value { name, help, unit, kind, of } in values() {
        if shown.values().all(|shown| of(&shown.found).is_none()) {
            continue;
        }
        let is_gauge = matches!(kind, MetricType::Gauge);
        let mut family = encoder.encode_descriptor(name, help, unit.as_ref(), kind)?;
        for (name, shown) in &shown {
            let Some(value) = of(&shown.found) else { continue };
            let write = if is_gauge { gauge } else { counter };
            write(&mut family, &label(name), value)?;
        }
    }
    let totals = shown.iter().map(|(name, shown)| (name.as_str(), &shown.totals));
    self::totals(encoder, totals, report, buckets)
}

fn totals<'a>(
    encoder: &mut DescriptorEncoder,
    shown: impl Iterator<Item = (&'a str, &'a CgroupCounters)>,
    report: &'a CgroupReport,
    buckets: Buckets,
) -> Result<(), Error> {
    let all: Vec<(&str, &CgroupCounters)> = shown.chain([(OTHER, &report.other)]).collect();
    let help = "Time that the cgroup's tasks spent stalled, by cause; absent if none";
    let mut stalls = encoder.encode_descriptor(
        "memsensor_cgroup_stall",
        help,
        Some(&Unit::Seconds),
        MetricType::Counter,
    )?;
    for (path, totals) in &all {
        for (cause, ns) in Cause::ALL.iter().zip(totals.stall_ns).filter(|(_, ns)| *ns > 0) {
            let mut labels = label(path);
            labels.push(("cause", cause.label().to_owned()));
            counter(&mut stalls, &labels, ns as f64 / 1e9)?;
        }
    }
    if all.iter().any(|(_, totals)| totals.reclaim.is_some()) {
        let help = "Time that tasks of the cgroup spent in reclaim, per entry; of those that [cgroups] \
                    histograms names";
        let mut family = encoder.encode_descriptor(
            "memsensor_cgroup_reclaim",
            help,
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?;
        for (path, totals) in &all {
            for ((_, kind), words) in
                RECLAIM_KINDS.iter().zip(totals.reclaim.iter().flat_map(|h| **h))
            {
                if words.iter().any(|word| *word > 0) {
                    let mut labels = label(path);
                    labels.push(("kind", (*kind).to_owned()));
                    buckets.write(&mut family.encode_family(&labels)?, &words)?;
                }
            }
        }
    }
    let help = "Processes of the cgroup that the OOM killer killed; absent if none";
    let mut kills =
        encoder.encode_descriptor("memsensor_cgroup_oom_kills", help, None, MetricType::Counter)?;
    for (path, totals) in all.iter().filter(|(_, totals)| totals.oom_kills > 0) {
        counter(&mut kills, &label(path), totals.oom_kills as f64)?;
    }
    Ok(())
}

/// Writes the so many processes that grew most within a minute.
pub(super) fn growth(
    encoder: &mut DescriptorEncoder,
    who: &MemoryUsage,
    most: usize,
) -> Result<(), Error> {
    let help = "How fast the processes that grew most within a minute took memory of their own; the \
                few fastest";
    let mut family = encoder.encode_descriptor(
        "memsensor_process_growth_bytes_per_second",
        help,
        None,
        MetricType::Gauge,
    )?;
    // Who was seen once has no rate.
    let grows = |p: &&ProcessUsage| p.growth.minute_bytes > 0 && p.minute_seconds > 0;
    let mut fastest: Vec<_> = who.processes.iter().filter(grows).collect();
    fastest.sort_by_key(|p| std::cmp::Reverse(p.growth.minute_bytes));
    // Workers of one service have the same labels.
    let mut series = BTreeMap::<(String, String), f64>::new();
    for held in fastest {
        let cgroup = held.cgroup_path.as_deref().unwrap_or_default();
        let key = (harmless(&held.comm), harmless(cgroup));
        if series.len() >= most && !series.contains_key(&key) {
            continue;
        }
        *series.entry(key).or_default() +=
            held.growth.minute_bytes as f64 / f64::from(held.minute_seconds);
    }
    for ((comm, cgroup), speed) in series {
        let labels = vec![("comm", comm), ("cgroup", cgroup)];
        gauge(&mut family, &labels, speed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use prometheus_client::{collector::Collector, encoding::text, registry::Registry};

    use super::*;
    use crate::{cgroups::ShownCgroup, who::Growth};

    #[derive(Debug)]
    struct Told(CgroupReport, MemoryUsage);

    impl Collector for Told {
        fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), Error> {
            super::encode(&mut encoder, &self.0, Buckets::Coarse)?;
            growth(&mut encoder, &self.1, 2)
        }
    }

    fn told(report: CgroupReport, processes: Vec<ProcessUsage>) -> Vec<String> {
        let mut registry = Registry::default();
        let who = MemoryUsage { processes, ..MemoryUsage::default() };
        registry.register_collector(Box::new(Told(report, who)));
        let mut text = String::new();
        text::encode(&mut text, &registry).expect("writes");
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        samples.map(str::to_owned).collect()
    }

    fn shown(path: &str, totals: CgroupCounters) -> ShownCgroup {
        let found = CgroupStats { memory_bytes: Some(5), ..CgroupStats::default() };
        let workload = crate::identity::WorkloadId::of(path);
        ShownCgroup { path: path.into(), workload, totals, found }
    }

    #[test]
    fn a_group_is_told_by_what_there_is_of_it() {
        let stalled = CgroupCounters {
            stall_ns: [0, 1_500_000_000, 0, 0],
            oom_kills: 2,
            ..CgroupCounters::default()
        };
        let shown = vec![shown("/a.service", CgroupCounters::default()), shown("/b", stalled)];
        let other = CgroupCounters { oom_kills: 1, ..CgroupCounters::default() };
        assert_eq!(
            told(CgroupReport { shown, other, omitted: 3 }, Vec::new()),
            [
                "memsensor_cgroups_omitted 3.0",
                "memsensor_cgroup_info{cgroup=\"/a.service\",unit=\"a.service\"} 1",
                "memsensor_cgroup_memory_bytes{cgroup=\"/a.service\"} 5.0",
                "memsensor_cgroup_memory_bytes{cgroup=\"/b\"} 5.0",
                "memsensor_cgroup_stall_seconds_total{cgroup=\"/b\",cause=\"memcg_reclaim\"} 1.5",
                "memsensor_cgroup_oom_kills_total{cgroup=\"/b\"} 2.0",
                "memsensor_cgroup_oom_kills_total{cgroup=\"other\"} 1.0",
            ]
        );
    }

    #[test]
    fn a_histogram_is_told_of_what_was_reclaimed() {
        let mut histograms = Box::<crate::cgroups::Histograms>::default();
        // Two between half a second and one.
        [histograms[1][0], histograms[1][21]] = [1_600_000_000, 2];
        let totals = CgroupCounters { reclaim: Some(histograms), ..CgroupCounters::default() };
        let report = CgroupReport { shown: vec![shown("/a", totals)], ..CgroupReport::default() };
        let name = "memsensor_cgroup_reclaim_seconds";
        let samples = told(report, Vec::new());
        let told: Vec<_> = samples.iter().filter(|s| s.starts_with(name)).collect();
        assert_eq!(told.len(), 15, "{told:?}");
        for sample in [
            r#"_sum{cgroup="/a",kind="memcg"} 1.6"#,
            r#"_count{cgroup="/a",kind="memcg"} 2"#,
            r#"_bucket{le="0.25",cgroup="/a",kind="memcg"} 0"#,
            r#"_bucket{le="1.0",cgroup="/a",kind="memcg"} 2"#,
            r#"_bucket{le="+Inf",cgroup="/a",kind="memcg"} 2"#,
        ] {
            assert!(told.contains(&&format!("{name}{sample}")), "{sample}: {told:#?}");
        }
    }

    #[test]
    fn names_that_differ_in_what_is_harmful_are_one_series() {
        let shown = ["/\u{1}", "/\u{2}"].map(|path| shown(path, CgroupCounters::default())).into();
        let samples = told(CgroupReport { shown, ..CgroupReport::default() }, Vec::new());
        let memory: Vec<_> = samples.iter().filter(|s| s.contains("memory_bytes")).collect();
        assert_eq!(memory, ["memsensor_cgroup_memory_bytes{cgroup=\"/\u{fffd}\"} 5.0"]);
    }

    #[test]
    fn the_few_that_grow_fastest_are_told() {
        let held = |comm: &str, minute_seconds, minute_bytes| ProcessUsage {
            comm: comm.to_owned(),
            age_seconds: 600,
            growth: Growth { minute_bytes, ..Growth::default() },
            minute_seconds,
            ..ProcessUsage::default()
        };
        let processes = vec![
            held("slow", 60, 60),
            held("worker", 60, 6000),
            held("not long known", 10, 5000),
            held("shrinks", 60, -9000),
            held("seen once", 0, 9000),
            held("worker", 60, 600),
        ];
        let name = "memsensor_process_growth_bytes_per_second";
        assert_eq!(
            told(CgroupReport::default(), processes)[1..],
            [
                format!("{name}{{comm=\"not long known\",cgroup=\"\"}} 500.0"),
                format!("{name}{{comm=\"worker\",cgroup=\"\"}} 110.0"),
            ]
        );
    }
}
