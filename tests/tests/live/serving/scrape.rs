//! The snippets in `dashboards/scrape` for Telegraf, the OpenTelemetry Collector and Vector,
//! checked against a running daemon. The tests are in Python, like those of the Datadog check.

use sensor_tests::support::daemon::Daemon;

use super::datadog::pytest;

#[test]
fn snippets_for_other_agents_keep_a_bounded_set_of_series() {
    pytest("scrape", &["tests"], &Daemon::start("").expect("daemon"), &[]);
}
