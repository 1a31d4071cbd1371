//! What is attached, for people: the table of `memsensor probes`, and its JSON.

use comfy_table::{ContentArrangement, Table, presets::UTF8_FULL_CONDENSED};
use sensor_ebpf::probes;
use serde_json::{Value, json};

use crate::kernel::load::{Coverage, ProbeState};

/// The table, and a line on what it costs.
pub fn table(coverage: &Coverage, required: &[String]) -> String {
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
    format!(
        "{table}\n{attached} of {} probes attached; maps take {:.1} KiB of kernel memory\n",
        coverage.probes.len(),
        bytes as f64 / 1024.0
    )
}

/// The same for programs.
pub fn json(coverage: &Coverage, required: &[String]) -> Value {
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
    json!({ "probes": probes, "map_bytes": coverage.map_bytes })
}

fn is_required(state: &ProbeState, required: &[String]) -> bool {
    required.iter().any(|r| r == state.name)
}
