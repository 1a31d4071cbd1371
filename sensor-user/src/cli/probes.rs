//! Output of `memsensor probes`: a table, or JSON.

use std::fmt::Write as _;

use comfy_table::{ContentArrangement, Table, presets::UTF8_FULL_CONDENSED};
use sensor_ebpf::probes;
use serde_json::{Value, json};

use crate::{daemon::hardening::Hardening, host::footprint::Footprint};
use sensor_core::model::coverage::{Coverage, ProbeState};

/// A table of the probes, with their cost, and the hardening that is in effect.
pub fn table(coverage: &Coverage, required: &[String], hardening: &Hardening) -> String {
    let mut table = Table::new();
    table
        .load_preset(UTF8_FULL_CONDENSED)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(["probe", "", "state", "kernel events", "verified", "why"]);
    for (state, spec) in coverage.probes.iter().zip(probes::ALL) {
        let events: Vec<_> = spec.programs.iter().map(|p| p.event).collect();
        let verified: Vec<_> = state
            .programs
            .iter()
            .map(|p| p.verified_instructions.map_or("-".to_owned(), |n| n.to_string()))
            .collect();
        table.add_row([
            state.name,
            if is_required(state, required) { "required" } else { "" },
            state.state.label(),
            &events.join("\n"),
            &verified.join("\n"),
            if state.reason.is_empty() { spec.about } else { &state.reason },
        ]);
    }
    let attached = coverage.probes.iter().filter(|p| p.measures()).count();
    let bytes: u64 = coverage.map_bytes.values().sum();
    let mut text = format!(
        "{table}\n{attached} of {} probes attached; maps use {:.1} KiB of kernel memory\n",
        coverage.probes.len(),
        bytes as f64 / 1024.0
    );
    if let Some(Footprint { resident, locked }) = Footprint::now() {
        let mib = |bytes: u64| bytes as f64 / 1024.0 / 1024.0;
        let (resident, locked) = (mib(resident), mib(locked));
        let _ = writeln!(text, "this process uses {resident:.1} MiB; {locked:.1} MiB are locked");
    }
    let _ = writeln!(text, "in effect against memory pressure: {hardening}");
    for reason in hardening.unavailable() {
        let _ = writeln!(
            text,
            "responses may be slow under memory pressure; could not set up {reason}"
        );
    }
    text
}

/// The same as JSON.
pub fn json(coverage: &Coverage, required: &[String], hardening: &Hardening) -> Value {
    let probes: Vec<_> = coverage
        .probes
        .iter()
        .zip(probes::ALL)
        .map(|(state, spec)| {
            let programs: Vec<_> = state
                .programs
                .iter()
                .map(|p| {
                    json!({
                        "program": p.name,
                        "event": p.event,
                        "attached": p.missing.is_none(),
                        "reason": p.missing,
                        "verified_instructions": p.verified_instructions,
                    })
                })
                .collect();
            json!({
                "probe": state.name,
                "about": spec.about,
                "required": is_required(state, required),
                "state": state.state.label(),
                "reason": state.reason,
                "programs": programs,
            })
        })
        .collect();
    let footprint = Footprint::now();
    json!({
        "probes": probes,
        "map_bytes": coverage.map_bytes,
        "resident_bytes": footprint.map(|f| f.resident),
        "locked_bytes": footprint.map(|f| f.locked),
        "hardening_unavailable": hardening.unavailable().collect::<Vec<_>>(),
    })
}

fn is_required(state: &ProbeState, required: &[String]) -> bool {
    required.iter().any(|r| r == state.name)
}
