//! Output of `memsensor config rules`: the rules with their thresholds, as configuration.

use std::fmt::Write as _;

use sensor_core::verdict::{policy::RULES, signals::Worse, state::Severity};

/// All rules, each with its reason.
pub fn toml() -> String {
    let mut text = String::from(
        "# Rules of the verdict with their thresholds. A rule fires if all of its conditions \
         hold.\n\
         # Copy only what you change; `enabled = false` disables a rule.\n",
    );
    for rule in RULES {
        let does = if rule.level == Severity::Overloaded { "no traffic" } else { "less weight" };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::config::Config;

    #[test]
    fn the_printed_rules_are_valid_and_change_nothing() {
        let config = Config::parse(&toml()).expect("valid");
        assert_eq!(config.rules.len(), RULES.len());
        let changed = sensor_core::verdict::policy::Policy::new(&config.rules).expect("valid");
        assert_eq!(changed, sensor_core::verdict::policy::Policy::default());
    }
}
