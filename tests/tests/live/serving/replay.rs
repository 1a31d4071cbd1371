//! The run of web-01 in short: what `cargo xtask replay` measures, here only that it goes well.

use sensor_tests::lab::replay::{
    SwapSpeed, Variant, CheckMode,
    balancer::Server,
    reaction::Reaction,
    run::{ReplayConfig, replay},
    report::timeline,
};

#[test]
fn users_do_not_meet_a_host_that_thrashes() {
    let config = ReplayConfig::short(CheckMode::Memsensor, SwapSpeed::Fast, Variant::Leak);
    let run = replay(config).expect("a run");
    let told = timeline(&run);
    let failed = run.requests.iter().filter(|r| r.outcome.is_err()).count();
    assert!(run.requests.len() > 1000 && failed == 0, "{failed} failed\n{told}");
    let stall = run.stall().unwrap_or_else(|| panic!("nothing stalled\n{told}"));
    let out = Reaction::of(&run.seen[0], run.fault_at, stall).balancer_none;
    let out = out.unwrap_or_else(|| panic!("never out\n{told}"));
    assert!(stall + out < run.end, "{told}");
    let last = run.seen[0].servers.last().map(|(_, server)| server);
    assert!(last.is_some_and(Server::serves), "not back\n{told}");
}
