//! What memsensor tells of itself on `/metrics`: its samples, what it lost, what it costs, whether it
//! was late.

use std::{fmt::Error, sync::atomic::Ordering};

use prometheus_client::{
    encoding::DescriptorEncoder, metrics::MetricType, registry::Unit as OmUnit,
};
use sensor_ebpf::{
    loss::{self, Loss},
    probes,
    spec::Row,
};

use super::{
    metrics::{Labels, counter, gauge},
    state::AppState,
};
use crate::{
    deadlines::LoopLags,
    kernel::load::{Coverage, ProbeState},
    snapshot::Snapshot,
};

/// Writes them. `last_seconds` is what rendering took the last time.
pub(super) fn encode(
    encoder: &mut DescriptorEncoder,
    state: &AppState,
    snapshot: Option<&Snapshot>,
    last_seconds: f64,
) -> Result<(), Error> {
    let seconds = OmUnit::Seconds;
    if let Some(snapshot) = snapshot {
        about_sampling(encoder, snapshot, &state.coverage)?;
    }
    let help = "How long rendering the previous answer took";
    let mut scrape =
        encoder.encode_descriptor("memsensor_scrape", help, Some(&seconds), MetricType::Gauge)?;
    gauge(&mut scrape, &Labels::new(), last_seconds)?;
    let help = "Questions about scopes that there are not, of balancers and people";
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
    let by_hand = state.maintenance.drain().is_some();
    gauge(&mut drained, &Labels::new(), f64::from(u8::from(by_hand)))?;
    about_deadlines(encoder, &state.deadlines)?;
    let help = "What is running";
    let mut build = encoder.encode_descriptor("memsensor_build", help, None, MetricType::Info)?;
    build.encode_info(&vec![
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("revision", env!("MEMSENSOR_GIT_REVISION").to_owned()),
    ])
}

fn about_deadlines(encoder: &mut DescriptorEncoder, deadlines: &LoopLags) -> Result<(), Error> {
    let help = "How often a loop of ours was too late: by a sample, or by 50 ms for an answer";
    let mut misses =
        encoder.encode_descriptor("memsensor_deadline_misses", help, None, MetricType::Counter)?;
    for (name, one) in deadlines.all() {
        counter(&mut misses, &vec![("loop", name.to_owned())], one.misses() as f64)?;
    }
    let help = "The longest that a loop of ours was late by, since the start";
    let mut longest = encoder.encode_descriptor(
        "memsensor_deadline_overrun_max",
        help,
        Some(&OmUnit::Seconds),
        MetricType::Gauge,
    )?;
    for (name, one) in deadlines.all() {
        gauge(&mut longest, &vec![("loop", name.to_owned())], one.longest().as_secs_f64())?;
    }
    Ok(())
}

/// What could have been lost on this host, by reason: what nobody would have noticed is not 0, but absent.
fn losses<'a>(
    row: &'a Row,
    coverage: &'a Coverage,
    tells_skipped: bool,
) -> impl Iterator<Item = (&'static str, u64)> + 'a {
    let measures =
        |id: probes::Id| coverage.probes.get(id as usize).is_some_and(ProbeState::measures);
    let all = Loss::ALL.iter().zip(loss::REASONS).zip(row);
    all.filter(move |((loss, _), _)| match loss {
        Loss::Recursion => tells_skipped,
        loss => probes::that_lose(**loss).any(measures),
    })
    .map(|((_, reason), n)| (reason, *n))
}

fn about_sampling(
    encoder: &mut DescriptorEncoder,
    snapshot: &Snapshot,
    coverage: &Coverage,
) -> Result<(), Error> {
    let seconds = OmUnit::Seconds;
    let help = "When the kernel's counters were last read";
    let mut when = encoder.encode_descriptor(
        "memsensor_last_sample_timestamp",
        help,
        Some(&seconds),
        MetricType::Gauge,
    )?;
    gauge(&mut when, &Labels::new(), snapshot.taken_unix)?;
    if let Some(row) = snapshot.rows.get(loss::ROW as usize) {
        let help = "What the kernel half could not keep, by reason";
        let mut lost =
            encoder.encode_descriptor("memsensor_events_lost", help, None, MetricType::Counter)?;
        for (reason, n) in losses(row, coverage, snapshot.tells_skipped) {
            counter(&mut lost, &vec![("reason", reason.to_owned())], n as f64)?;
        }
    }
    if snapshot.costs.is_empty() {
        return Ok(());
    }
    let help = "Time in our kernel programs (only while BPF statistics are on)";
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
    let help = "Runs of our kernel programs (only while BPF statistics are on)";
    let mut runs =
        encoder.encode_descriptor("memsensor_bpf_runs", help, None, MetricType::Counter)?;
    for cost in &snapshot.costs {
        counter(&mut runs, &vec![("program", cost.program.to_owned())], cost.runs as f64)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use sensor_ebpf::spec::ROW_WORDS;

    use super::*;
    use crate::kernel::load::AttachState::{Attached, Disabled, Missing, Partial};

    #[test]
    fn what_nobody_would_notice_is_absent() {
        let row = std::array::from_fn::<_, ROW_WORDS, _>(|i| i as u64);
        let found = |coverage: &Coverage, tells_skipped| {
            losses(&row, coverage, tells_skipped).map(|(reason, _)| reason).collect::<Vec<_>>()
        };
        let mut all = Coverage::blind("not yet");
        assert_eq!(found(&all, false), [""; 0]);
        all.probes.iter_mut().for_each(|probe| probe.state = Attached);
        let told: Vec<_> = losses(&row, &all, true).collect();
        let expected: Vec<_> = loss::REASONS.into_iter().zip(0..).collect();
        assert_eq!(told, expected, "each with its own word");

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
                let told = found(&coverage, true);
                let gone: Vec<_> =
                    loss::REASONS.into_iter().filter(|reason| !told.contains(reason)).collect();
                let expected = if state == Partial { &[] } else { absent };
                assert_eq!(gone, expected, "{without:?} {state:?}");
            }
        }
        assert!(!found(&all, false).contains(&"recursion"), "a kernel before 5.12");
    }
}
