//! Metrics of the daemon itself: probes, samples, losses, cost, lag.

use std::{fmt::Error, sync::atomic::Ordering};

use prometheus_client::{
    encoding::DescriptorEncoder, metrics::MetricType, registry::Unit as OmUnit,
};
use sensor_ebpf::{
    loss::{self, Loss},
    probes,
    spec::Row,
};

use sensor_core::model::{coverage::Coverage, snapshot::Snapshot};

use super::{
    connections,
    encode::{Labels, counter, flag, gauge},
    record,
};
use crate::{
    publish::{log_losses, loop_lag::LoopLags},
    serve::state::app::AppState,
};

/// Writes all of these metrics. `last_seconds` is the duration of the last rendering.
pub(super) fn encode(
    encoder: &mut DescriptorEncoder,
    state: &AppState,
    snapshot: Option<&Snapshot>,
    last_seconds: f64,
) -> Result<(), Error> {
    let seconds = OmUnit::Seconds;
    if let Some(snapshot) = snapshot {
        sampling_metrics(encoder, snapshot, &state.published.coverage)?;
    }
    let help = "Duration of the previous rendering of this page";
    let mut scrape =
        encoder.encode_descriptor("memsensor_scrape", help, Some(&seconds), MetricType::Gauge)?;
    gauge(&mut scrape, &Labels::new(), last_seconds)?;
    let help = "Requests for scopes that do not exist";
    let mut unknown = encoder.encode_descriptor(
        "memsensor_unknown_scope_requests",
        help,
        None,
        MetricType::Counter,
    )?;
    let n = state.unknown_scopes.load(Ordering::Relaxed);
    counter(&mut unknown, &Labels::new(), n as f64)?;
    let help = "Whether an operator has drained this host";
    let mut drained =
        encoder.encode_descriptor("memsensor_drained", help, None, MetricType::Gauge)?;
    flag(&mut drained, &Labels::new(), state.drain.is_drained())?;
    connections::encode(encoder, &state.connections)?;
    let help = "Lines of the log that were dropped because nothing read the log";
    let name = "memsensor_log_lines_lost";
    let mut lost = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    counter(&mut lost, &Labels::new(), log_losses::lost_lines() as f64)?;
    lag_metrics(encoder, &state.published.lags)?;
    if let Some(figures) = state.published.record.now() {
        record::encode(encoder, figures)?;
    }
    probe_metrics(encoder, &state.published.coverage)?;
    let help = "Version and revision of the running daemon";
    let mut build = encoder.encode_descriptor("memsensor_build", help, None, MetricType::Info)?;
    build.encode_info(&vec![
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("revision", env!("MEMSENSOR_GIT_REVISION").to_owned()),
    ])
}

fn probe_metrics(encoder: &mut DescriptorEncoder, coverage: &Coverage) -> Result<(), Error> {
    let help = "Whether a program of a probe is attached to its kernel event";
    let name = "memsensor_probe_attached";
    let mut attached = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for probe in &coverage.probes {
        for program in &probe.programs {
            let labels =
                vec![("probe", probe.name.to_owned()), ("program", program.name.to_owned())];
            flag(&mut attached, &labels, program.missing.is_none())?;
        }
    }
    let help = "How much of a probe is attached on this host, and why the rest is not";
    let mut info = encoder.encode_descriptor("memsensor_probe", help, None, MetricType::Info)?;
    for probe in &coverage.probes {
        info.encode_info(&vec![
            ("probe", probe.name.to_owned()),
            ("state", probe.state.label().to_owned()),
            ("reason", probe.reason.clone()),
        ])?;
    }
    let help = "Kernel memory of the BPF maps";
    let (name, unit) = ("memsensor_bpf_map", OmUnit::Bytes);
    let mut bytes = encoder.encode_descriptor(name, help, Some(&unit), MetricType::Gauge)?;
    let sum: u64 = coverage.map_bytes.values().sum();
    gauge(&mut bytes, &Labels::new(), sum as f64)
}

fn lag_metrics(encoder: &mut DescriptorEncoder, lags: &LoopLags) -> Result<(), Error> {
    let help = "How often a loop was late: sensing by one sample, serving by 50 ms";
    let mut misses =
        encoder.encode_descriptor("memsensor_deadline_misses", help, None, MetricType::Counter)?;
    for (name, timer) in lags.all() {
        counter(&mut misses, &vec![("loop", name.to_owned())], timer.misses() as f64)?;
    }
    let help = "Longest lag of a loop since the daemon started";
    let mut longest = encoder.encode_descriptor(
        "memsensor_deadline_overrun_max",
        help,
        Some(&OmUnit::Seconds),
        MetricType::Gauge,
    )?;
    for (name, timer) in lags.all() {
        gauge(&mut longest, &vec![("loop", name.to_owned())], timer.longest().as_secs_f64())?;
    }
    Ok(())
}

/// Losses by reason. A reason that no attached probe can detect is absent.
fn losses<'a>(
    row: &'a Row,
    coverage: &'a Coverage,
    reports_skipped: bool,
) -> impl Iterator<Item = (&'static str, u64)> + 'a {
    let measures = |id: probes::Id| coverage.measures(id);
    let all = Loss::ALL.iter().zip(loss::REASONS).zip(row);
    all.filter(move |((loss, _), _)| match loss {
        Loss::Recursion => reports_skipped,
        loss => probes::that_lose(**loss).any(measures),
    })
    .map(|((_, reason), n)| (reason, *n))
}

fn sampling_metrics(
    encoder: &mut DescriptorEncoder,
    snapshot: &Snapshot,
    coverage: &Coverage,
) -> Result<(), Error> {
    let seconds = OmUnit::Seconds;
    let help = "Time of the last sample, in seconds since 1970";
    let mut when = encoder.encode_descriptor(
        "memsensor_last_sample_timestamp",
        help,
        Some(&seconds),
        MetricType::Gauge,
    )?;
    gauge(&mut when, &Labels::new(), snapshot.taken_unix)?;
    readable_maps(encoder, snapshot)?;
    if let Some(row) = snapshot.rows.get(loss::ROW as usize) {
        let help = "Events that the kernel half could not record, by reason";
        let mut lost =
            encoder.encode_descriptor("memsensor_events_lost", help, None, MetricType::Counter)?;
        for (reason, n) in losses(row, coverage, snapshot.reports_skipped) {
            counter(&mut lost, &vec![("reason", reason.to_owned())], n as f64)?;
        }
    }
    if snapshot.costs.is_empty() {
        return Ok(());
    }
    let help = "Time in memsensor's kernel programs; only while BPF statistics are on";
    let mut run = encoder.encode_descriptor(
        "memsensor_bpf_run",
        help,
        Some(&seconds),
        MetricType::Counter,
    )?;
    for cost in &snapshot.costs {
        let labels = vec![("program", cost.program.to_owned())];
        counter(&mut run, &labels, cost.run_ns as f64 / 1e9)?;
    }
    let help = "Runs of memsensor's kernel programs; only while BPF statistics are on";
    let mut runs =
        encoder.encode_descriptor("memsensor_bpf_runs", help, None, MetricType::Counter)?;
    for cost in &snapshot.costs {
        counter(&mut runs, &vec![("program", cost.program.to_owned())], cost.runs as f64)?;
    }
    Ok(())
}

/// Absent where no program could be loaded, because there are no maps.
fn readable_maps(encoder: &mut DescriptorEncoder, snapshot: &Snapshot) -> Result<(), Error> {
    if snapshot.rows.is_empty() && !snapshot.unread.counters {
        return Ok(());
    }
    let help = "Whether the last attempt to read these BPF maps succeeded; if 0, counters keep their \
                last values, gauges are absent, and the verdict uses PSI alone";
    let name = "memsensor_bpf_maps_readable";
    let mut readable = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (maps, is_readable) in snapshot.unread.readable() {
        flag(&mut readable, &vec![("maps", maps.to_owned())], is_readable)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use sensor_ebpf::spec::ROW_WORDS;

    use super::*;
    use sensor_core::model::coverage::AttachState::{Attached, Disabled, Missing, Partial};

    #[test]
    fn undetectable_losses_are_absent() {
        let row = std::array::from_fn::<_, ROW_WORDS, _>(|i| i as u64);
        let reasons = |coverage: &Coverage, reports_skipped| {
            losses(&row, coverage, reports_skipped).map(|(reason, _)| reason).collect::<Vec<_>>()
        };
        let mut all = Coverage::none("not yet");
        assert_eq!(reasons(&all, false), [""; 0]);
        all.probes.iter_mut().for_each(|probe| probe.state = Attached);
        let reported: Vec<_> = losses(&row, &all, true).collect();
        let expected: Vec<_> = loss::REASONS.into_iter().zip(0..).collect();
        assert_eq!(reported, expected, "each reason has its own word");

        for (without, absent) in [
            (&[][..], &[][..]),
            (&["kill_signal"], &["rate_limited"]),
            (&["victim_exit"], &["abandoned", "victims_full"]),
            (&["kswapd"], &["node_out_of_range"]),
            (&["cgroups"], &["cgroup_names_full"]),
            (&["direct_reclaim", "memcg_reclaim"], &[]),
            (
                &["direct_reclaim", "memcg_reclaim", "pfmemalloc_throttle", "compaction"],
                &["unmatched_end", "cgroups_full", "cgroup_evicted"],
            ),
            (
                &["oom_kill", "victim_exit", "kill_signal"],
                &["ring_full", "abandoned", "victims_full", "rate_limited"],
            ),
        ] {
            for state in [Disabled, Missing, Partial] {
                let mut coverage = all.clone();
                for probe in coverage.probes.iter_mut().filter(|p| without.contains(&p.name)) {
                    probe.state = state;
                }
                let reported = reasons(&coverage, true);
                let missing: Vec<_> =
                    loss::REASONS.into_iter().filter(|reason| !reported.contains(reason)).collect();
                let expected = if state == Partial { &[] } else { absent };
                assert_eq!(missing, expected, "{without:?} {state:?}");
            }
        }
        assert!(!reasons(&all, false).contains(&"recursion"), "a kernel before 5.12");
    }
}
