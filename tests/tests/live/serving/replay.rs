//! The night of web-01 in short: what `cargo xtask replay` measures, here only that it goes well.

use sensor_tests::lab::replay::{
    Form, Variant, Way,
    balancer::Server,
    reaction::Reaction,
    story::{Plot, replay},
    view::chronicle,
};

#[test]
fn users_do_not_meet_a_host_that_thrashes() {
    let plot = Plot::short(Way::Memsensor, Form::Fast, Variant::Night);
    let night = replay(plot).expect("a night");
    let told = chronicle(&night);
    let failed = night.requests.iter().filter(|r| r.outcome.is_err()).count();
    assert!(night.requests.len() > 1000 && failed == 0, "{failed} failed\n{told}");
    let stall = night.stall().unwrap_or_else(|| panic!("nothing stalled\n{told}"));
    let out = Reaction::of(&night.seen[0], night.disturbed, stall).balancer_none;
    let out = out.unwrap_or_else(|| panic!("never out\n{told}"));
    assert!(stall + out < night.end, "{told}");
    let last = night.seen[0].servers.last().map(|(_, server)| server);
    assert!(last.is_some_and(Server::serves), "not back\n{told}");
}
