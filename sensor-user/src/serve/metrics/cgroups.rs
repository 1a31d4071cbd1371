//! Metrics per cgroup, and of processes that grow. A counter of a cgroup appears with its first
//! count: most cgroups never stall, and a host has hundreds of them.

use std::{collections::BTreeMap, fmt::Error};

use prometheus_client::{encoding::DescriptorEncoder, metrics::MetricType, registry::Unit};
use sensor_core::{
    common::{clock::monotonic_ns, text::is_line_end},
    model::{
        cgroup_report::{CgroupCounters, CgroupReport, CgroupStats, ShownCgroup},
        counters::RECLAIM_KINDS,
        memory_usage::{MemoryUsage, ProcessUsage},
    },
};
use sensor_ebpf::probes::Cause;

use super::{
    encode::{Field, Labels, counter, gauge},
    growth_labels::{GrowthLabels, Rates},
    histogram,
};
use crate::serve::state::settings::Buckets;

/// The `cgroup` label of all cgroups that are not shown.
const OTHER: &str = "other";

/// A name that a user chose, as a label. The format escapes quotes and line breaks only; other
/// control characters would reach terminals.
fn safe_label(name: &str) -> String {
    name.replace(|c: char| c.is_control() || is_line_end(c), "\u{fffd}")
}

fn cgroup_label(name: &str) -> Labels {
    vec![("cgroup", name.to_owned())]
}

/// Name, help and value of a metric that is read from a cgroup's files.
type StatField = (&'static str, &'static str, fn(&CgroupStats) -> Option<f64>);

const SIZES: [StatField; 3] = [
    ("memsensor_cgroup_memory", "Memory of the cgroup and of those below it", |s| {
        s.memory_bytes.map(|n| n as f64)
    }),
    ("memsensor_cgroup_memory_limit", "Memory limit of the cgroup; absent without one", |s| {
        s.limit_bytes.map(|n| n as f64)
    }),
    ("memsensor_cgroup_swap", "Memory of the cgroup in swap; absent if none", |s| {
        positive(s.swap_bytes)
    }),
];

const REFAULTED: StatField =
    ("memsensor_cgroup_refaulted", "Memory that was evicted and read again; absent if none", |s| {
        positive(s.refaulted_bytes)
    });

const LIMIT_HITS: StatField = (
    "memsensor_cgroup_limit_hits",
    "How often the cgroup reached its memory limit; absent if never",
    |s| positive(s.limit_hits),
);

const STALLS: [StatField; 2] = [
    (
        "memsensor_cgroup_memory_some",
        "Time in which some task of the cgroup waited for memory (PSI); absent if none",
        |s| s.pressure_ns.map(|[some, _]| some as f64 / 1e9).filter(|s| *s > 0.0),
    ),
    (
        "memsensor_cgroup_memory_full",
        "Time in which all non-idle tasks of the cgroup waited for memory (PSI); absent if none",
        |s| s.pressure_ns.map(|[_, full]| full as f64 / 1e9).filter(|s| *s > 0.0),
    ),
];

fn positive(n: Option<u64>) -> Option<f64> {
    n.filter(|n| *n > 0).map(|n| n as f64)
}

fn fields() -> impl Iterator<Item = Field<CgroupStats>> {
    let field = |kind: MetricType, unit: Option<Unit>, (name, help, value): StatField| Field {
        name,
        help,
        unit,
        kind,
        value,
    };
    let sizes = SIZES.map(|f| field(MetricType::Gauge, Some(Unit::Bytes), f));
    let events = [
        field(MetricType::Counter, Some(Unit::Bytes), REFAULTED),
        field(MetricType::Counter, None, LIMIT_HITS),
    ];
    let stalls = STALLS.map(|f| field(MetricType::Counter, Some(Unit::Seconds), f));
    sizes.into_iter().chain(events).chain(stalls)
}

/// Cgroups by label. Two paths may have the same label, and series must be unique.
type ByLabel<'a> = BTreeMap<String, &'a ShownCgroup>;

/// Writes the metrics of all cgroups.
pub(super) fn encode(
    encoder: &mut DescriptorEncoder,
    report: &CgroupReport,
    resolution: Buckets,
) -> Result<(), Error> {
    let help = "Cgroups that have processes and no metrics of their own, see [cgroups]";
    let name = "memsensor_cgroups_omitted";
    let mut omitted = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    gauge(&mut omitted, &Labels::new(), report.omitted as f64)?;
    let help = "How often the path of a cgroup was not kept: it was longer than 1 KiB, or its \
                service, its container or all cgroups had used their room; a walk over the cgroup tree counts such a cgroup again";
    let name = "memsensor_dropped_cgroup_paths";
    let mut dropped = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    counter(&mut dropped, &Labels::new(), report.paths_dropped as f64)?;
    let shown: ByLabel<'_> =
        report.shown.iter().map(|cgroup| (safe_label(&cgroup.path), cgroup)).collect();
    info(encoder, &shown)?;
    for field in fields() {
        let stats = shown.iter().map(|(name, cgroup)| (cgroup_label(name), &cgroup.stats));
        field.encode(encoder, stats)?;
    }
    let counters = shown.iter().map(|(name, cgroup)| (name.as_str(), &cgroup.counters));
    let counters: Vec<_> = counters.chain([(OTHER, &report.other)]).collect();
    stalls(encoder, &counters)?;
    reclaim(encoder, &counters, resolution)?;
    kills(encoder, &counters)
}

fn info(encoder: &mut DescriptorEncoder, shown: &ByLabel<'_>) -> Result<(), Error> {
    let help = "systemd unit, container and pod of a cgroup";
    let mut info = encoder.encode_descriptor("memsensor_cgroup", help, None, MetricType::Info)?;
    for (name, cgroup) in shown {
        let mut labels = cgroup_label(name);
        let workload = &cgroup.workload;
        for (key, value) in [
            ("unit", &workload.unit),
            ("container", &workload.container),
            ("runtime", &workload.runtime),
            ("pod", &workload.pod),
        ] {
            labels.extend(value.as_deref().map(|value| (key, safe_label(value))));
        }
        if labels.len() > 1 {
            info.encode_info(&labels)?;
        }
    }
    Ok(())
}

/// Counters of each cgroup by its label, `other` last.
type Counters<'a> = [(&'a str, &'a CgroupCounters)];

fn stalls(encoder: &mut DescriptorEncoder, cgroups: &Counters<'_>) -> Result<(), Error> {
    let help = "Time that tasks of the cgroup stalled, by cause; absent if none";
    let (name, unit) = ("memsensor_cgroup_stall", Unit::Seconds);
    let mut family = encoder.encode_descriptor(name, help, Some(&unit), MetricType::Counter)?;
    for (cgroup, counters) in cgroups {
        for (cause, ns) in Cause::ALL.iter().zip(counters.stall_ns).filter(|(_, ns)| *ns > 0) {
            let mut labels = cgroup_label(cgroup);
            labels.push(("cause", cause.label().to_owned()));
            counter(&mut family, &labels, ns as f64 / 1e9)?;
        }
    }
    Ok(())
}

fn reclaim(
    encoder: &mut DescriptorEncoder,
    cgroups: &Counters<'_>,
    resolution: Buckets,
) -> Result<(), Error> {
    if cgroups.iter().all(|(_, counters)| counters.reclaim.is_none()) {
        return Ok(());
    }
    let help = "Duration of each reclaim by tasks of the cgroup; only for cgroups in [cgroups] \
                histograms";
    let (name, unit) = ("memsensor_cgroup_reclaim", Unit::Seconds);
    let mut family = encoder.encode_descriptor(name, help, Some(&unit), MetricType::Histogram)?;
    for (cgroup, counters) in cgroups {
        let histograms = counters.reclaim.iter().flat_map(|histograms| **histograms);
        for ((_, kind), words) in RECLAIM_KINDS.iter().zip(histograms) {
            if words.iter().any(|word| *word > 0) {
                let mut labels = cgroup_label(cgroup);
                labels.push(("kind", (*kind).to_owned()));
                histogram::encode(&mut family.encode_family(&labels)?, resolution, &words)?;
            }
        }
    }
    Ok(())
}

fn kills(encoder: &mut DescriptorEncoder, cgroups: &Counters<'_>) -> Result<(), Error> {
    let help = "Processes of the cgroup that the OOM killer killed; absent if none";
    let name = "memsensor_cgroup_oom_kills";
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (cgroup, counters) in cgroups.iter().filter(|(_, counters)| counters.oom_kills > 0) {
        counter(&mut family, &cgroup_label(cgroup), counters.oom_kills as f64)?;
    }
    Ok(())
}

/// Writes the processes that grew most within a minute: `count` pairs of name and cgroup.
pub(super) fn growth(
    encoder: &mut DescriptorEncoder,
    usage: &MemoryUsage,
    count: usize,
    labels: &GrowthLabels,
) -> Result<(), Error> {
    let help = "Growth of the own memory of the processes that grew most in the last minute";
    let name = "memsensor_process_growth_bytes_per_second";
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    // A process that was seen once has no rate.
    let grows = |p: &&ProcessUsage| p.growth.minute_bytes > 0 && p.minute_seconds > 0;
    // Workers of one service have the same labels.
    let mut rates = Rates::new();
    for process in usage.processes.iter().filter(grows) {
        let cgroup = process.cgroup_path.as_deref().unwrap_or_default();
        *rates.entry((safe_label(&process.comm), safe_label(cgroup))).or_default() +=
            process.growth.minute_bytes as f64 / f64::from(process.minute_seconds);
    }
    let selected = labels.select(rates, monotonic_ns(), count);
    for ((comm, cgroup), rate) in selected {
        gauge(&mut family, &vec![("comm", comm), ("cgroup", cgroup)], rate)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, sync::Arc};

    use prometheus_client::{collector::Collector, encoding::text, registry::Registry};

    use super::*;
    use sensor_core::model::{
        cgroup_report::ReclaimHistograms, memory_usage::Growth, workload::WorkloadId,
    };

    #[derive(Debug)]
    struct Exposition(CgroupReport, MemoryUsage, Arc<GrowthLabels>);

    impl Collector for Exposition {
        fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), Error> {
            super::encode(&mut encoder, &self.0, Buckets::Coarse)?;
            growth(&mut encoder, &self.1, 2, &self.2)
        }
    }

    fn samples(report: CgroupReport, processes: Vec<ProcessUsage>) -> Vec<String> {
        samples_after(&Arc::default(), report, processes)
    }

    fn samples_after(
        earlier: &Arc<GrowthLabels>,
        report: CgroupReport,
        processes: Vec<ProcessUsage>,
    ) -> Vec<String> {
        let mut registry = Registry::default();
        let usage = MemoryUsage { processes, ..MemoryUsage::default() };
        registry.register_collector(Box::new(Exposition(report, usage, Arc::clone(earlier))));
        let mut text = String::new();
        text::encode(&mut text, &registry).expect("writes");
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        samples.map(str::to_owned).collect()
    }

    fn shown(path: &str, counters: CgroupCounters) -> ShownCgroup {
        let stats = CgroupStats { memory_bytes: Some(5), ..CgroupStats::default() };
        let workload = WorkloadId::of(path);
        ShownCgroup { path: path.into(), workload, counters, stats }
    }

    #[test]
    fn only_known_values_of_a_cgroup_have_series() {
        let stalled = CgroupCounters {
            stall_ns: [0, 1_500_000_000, 0, 0, 0],
            oom_kills: 2,
            ..CgroupCounters::default()
        };
        let shown = vec![shown("/a.service", CgroupCounters::default()), shown("/b", stalled)];
        let other = CgroupCounters { oom_kills: 1, ..CgroupCounters::default() };
        assert_eq!(
            samples(
                CgroupReport { shown, other, omitted: 3, paths_dropped: 4, uncounted: None },
                Vec::new()
            ),
            [
                "memsensor_cgroups_omitted 3.0",
                "memsensor_dropped_cgroup_paths_total 4.0",
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
    fn a_cgroup_that_reclaimed_has_a_histogram() {
        let mut histograms = Box::<ReclaimHistograms>::default();
        // Two between half a second and one.
        [histograms[1][0], histograms[1][21]] = [1_600_000_000, 2];
        let counters = CgroupCounters { reclaim: Some(histograms), ..CgroupCounters::default() };
        let report = CgroupReport { shown: vec![shown("/a", counters)], ..CgroupReport::default() };
        let name = "memsensor_cgroup_reclaim_seconds";
        let all = samples(report, Vec::new());
        let series: Vec<_> = all.iter().filter(|s| s.starts_with(name)).collect();
        assert_eq!(series.len(), 15, "{series:?}");
        for sample in [
            r#"_sum{cgroup="/a",kind="memcg"} 1.6"#,
            r#"_count{cgroup="/a",kind="memcg"} 2"#,
            r#"_bucket{le="0.25",cgroup="/a",kind="memcg"} 0"#,
            r#"_bucket{le="1.0",cgroup="/a",kind="memcg"} 2"#,
            r#"_bucket{le="+Inf",cgroup="/a",kind="memcg"} 2"#,
        ] {
            assert!(series.contains(&&format!("{name}{sample}")), "{sample}: {series:#?}");
        }
    }

    #[test]
    fn paths_with_the_same_label_are_one_series() {
        let shown = ["/\u{1}", "/\u{2}"].map(|path| shown(path, CgroupCounters::default())).into();
        let all = samples(CgroupReport { shown, ..CgroupReport::default() }, Vec::new());
        let memory: Vec<_> = all.iter().filter(|s| s.contains("memory_bytes")).collect();
        assert_eq!(memory, ["memsensor_cgroup_memory_bytes{cgroup=\"/\u{fffd}\"} 5.0"]);
    }

    fn process(comm: &str, minute_seconds: u32, minute_bytes: i64) -> ProcessUsage {
        ProcessUsage {
            comm: comm.to_owned(),
            age_seconds: 600,
            growth: Growth { minute_bytes, ..Growth::default() },
            minute_seconds,
            ..ProcessUsage::default()
        }
    }

    #[test]
    fn a_process_with_many_names_has_few_series() {
        let (labels, mut series) = (Arc::default(), BTreeSet::new());
        for scrape in 0..100 {
            let processes = vec![process(&format!("name {scrape}"), 60, 60)];
            let samples = samples_after(&labels, CgroupReport::default(), processes);
            series.insert(samples.last().expect("a series").clone());
        }
        assert_eq!(series.len(), 8 + 1, "{series:#?}");
        let other = r#"memsensor_process_growth_bytes_per_second{comm="other",cgroup=""} 1.0"#;
        assert!(series.contains(other), "{series:#?}");
    }

    #[test]
    fn only_the_fastest_growing_processes_have_series() {
        let processes = vec![
            process("slow", 60, 60),
            process("worker", 60, 6000),
            process("recently seen", 10, 5000),
            process("shrinks", 60, -9000),
            process("seen once", 0, 9000),
            process("worker", 60, 600),
        ];
        let name = "memsensor_process_growth_bytes_per_second";
        assert_eq!(
            samples(CgroupReport::default(), processes)[2..],
            [
                format!("{name}{{comm=\"recently seen\",cgroup=\"\"}} 500.0"),
                format!("{name}{{comm=\"worker\",cgroup=\"\"}} 110.0"),
            ]
        );
    }
}
