//! What `dashboards/scrape` ships for Telegraf, the OpenTelemetry Collector and Vector, against what a running
//! daemon exposes. Its tests are Python's, as those of the Datadog check.

use sensor_tests::support::daemon::Daemon;

use super::datadog::pytest;

#[test]
fn the_snippets_of_other_agents_keep_a_bounded_set() {
    pytest("scrape", &Daemon::start("").expect("daemon"), &[]);
}
