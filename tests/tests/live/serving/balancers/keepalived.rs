//! keepalived, whose priority follows `memsensor check`.

use std::{process::Command, time::Duration};

use sensor_tests::support::{scope::program, undo::Undo};

use super::{Balancer, Host, substitute};
use crate::wait_until;

#[test]
fn keepalived_lowers_the_priority_of_an_overloaded_host() {
    let [host, _] = Host::both();
    let interface = format!("ms{}", std::process::id());
    let mut undo = Undo::new().expect("a shell");
    undo.later(&format!("! ip link show {interface} || ip link del {interface}"), &[])
        .expect("added");
    for words in [
        format!("link add {interface} type veth peer name {interface}p"),
        format!("link set {interface}p up"),
        format!("addr add 192.0.2.1/24 dev {interface}"),
        format!("link set {interface} up"),
    ] {
        let status = Command::new("ip").args(words.split(' ')).status().expect("start ip");
        assert!(status.success(), "ip {words}: {status}");
    }
    let keepalived = Balancer::start(
        "keepalived.conf",
        |text, _, _| {
            substitute(text, "interface eth0", &format!("interface {interface}"));
            let memsensor = program("memsensor").expect("memsensor");
            let ask =
                format!("{} check --scope web --url http://127.2.0.11:9817", memsensor.display());
            substitute(text, "/usr/local/bin/memsensor check", &ask);
        },
        |dir, file, _| {
            let mut command = Command::new("keepalived");
            command.args(["--dont-fork", "--log-console", "--vrrp", "-f"]).arg(file);
            command.arg("-p").arg(dir.join("pid")).arg("-r").arg(dir.join("vrrp.pid"));
            command
        },
    );
    wait_until("master", || keepalived.log().contains("(www) Entering MASTER STATE"));
    // A degraded host keeps its priority: the other one may be no better. Time for three checks.
    host.kill();
    wait_until("degraded", || host.state() == "up 50%");
    std::thread::sleep(Duration::from_secs(3));
    assert!(!keepalived.log().contains("memsensor) failed"), "{}", keepalived.log());
    host.kill();
    wait_until("lower priority", || keepalived.log().contains("effective priority from 120 to 70"));
}
