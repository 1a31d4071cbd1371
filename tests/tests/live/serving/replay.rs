//! A short replay of an outage: `cargo xtask replay` measures it, this test only checks that the
//! balancer gives the host less, and that no user request fails.

use sensor_tests::lab::replay::{
    Policy, SwapSpeed, Variant,
    reaction::Reaction,
    report::timeline,
    run::{ReplayConfig, replay},
    server::Server,
};

#[test]
fn users_do_not_meet_a_host_that_thrashes() {
    let config = ReplayConfig::short(Policy::Memsensor, SwapSpeed::Fast, Variant::Leak);
    let run = replay(config).expect("a run");
    let events = timeline(&run);
    let failed = run.requests.iter().filter(|r| r.outcome.is_err()).count();
    assert!(run.requests.len() > 1000 && failed == 0, "{failed} failed\n{events}");
    let stall = run.stall().unwrap_or_else(|| panic!("nothing stalled\n{events}"));
    // On swap as fast as memory a leak harms few users: some of the weight is enough.
    let reduced = Reaction::of(&run.observed[0], run.fault_at, stall).balancer_reduced;
    let reduced = reduced.unwrap_or_else(|| panic!("never reduced\n{events}"));
    assert!(stall + reduced < run.end, "{events}");
    let last = run.observed[0].servers.last().map(|(_, server)| server);
    assert!(last.is_some_and(Server::serves), "not back\n{events}");
}
