//! What is attached, for people: the table of `memsensor probes`, and its JSON.

use std::fmt::Write as _;

use comfy_table::{ContentArrangement, Table, presets::UTF8_FULL_CONDENSED};
use sensor_ebpf::probes;
use serde_json::{Value, json};

use crate::{
    host::survive::{Footprint, Hardening},
    kernel::load::{Coverage, ProbeState},
    verdict::{Severity, policy::RULES, signals::Worse},
};

/// The table, and lines on what it costs and on what it has to survive with.
pub fn table(coverage: &Coverage, required: &[String], survival: &Hardening) -> String {
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
        "{table}\n{attached} of {} probes attached; maps take {:.1} KiB of kernel memory\n",
        coverage.probes.len(),
        bytes as f64 / 1024.0
    );
    if let Some(Footprint { resident, locked }) = Footprint::now() {
        let mib = |bytes: u64| bytes as f64 / 1024.0 / 1024.0;
        let (resident, locked) = (mib(resident), mib(locked));
        let _ = writeln!(text, "this process takes {resident:.1} MiB; {locked:.1} MiB are locked");
    }
    let _ = writeln!(text, "to survive a host that thrashes: {survival}");
    for missed in survival.missed() {
        let _ = writeln!(text, "answers may be late there, without {missed}");
    }
    text
}

/// The verdict's rules as configuration, with what each says.
pub fn rules() -> String {
    let mut text = String::from(
        "# Rules of the verdict with their thresholds. A rule fires if all of its conditions hold.\n\
         # Take over what you change; `enabled = false` switches a rule off.\n",
    );
    for rule in RULES {
        let does = if rule.level == Severity::Overloaded { "drains" } else { "takes weight" };
        let psi = if rule.without_psi { ", only without PSI" } else { "" };
        let _ = write!(text, "\n# {} ({does}{psi}).\n[rules.{}]\n", rule.because, rule.name);
        for condition in rule.when {
            let than = if condition.signal.worse() == Worse::Up { "at least" } else { "at most" };
            let about = condition.signal.about();
            let _ = writeln!(
                text,
                "{} = {:?} # {than}; {about}",
                condition.signal.name(),
                condition.threshold
            );
        }
    }
    text
}

/// The same for programs.
pub fn json(coverage: &Coverage, required: &[String], survival: &Hardening) -> Value {
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
        "survival_missing": survival.missed().collect::<Vec<_>>(),
    })
}

fn is_required(state: &ProbeState, required: &[String]) -> bool {
    required.iter().any(|r| r == state.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn the_printed_rules_are_a_valid_configuration_that_changes_nothing() {
        let config = Config::parse(&rules()).expect("valid");
        assert_eq!(config.rules.len(), RULES.len());
        let changed = crate::verdict::policy::Policy::new(&config.rules).expect("valid");
        assert_eq!(changed, crate::verdict::policy::Policy::default());
    }
}
