//! keepalived, whose priority follows `memsensor check`.

use std::{
    cell::Cell,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use sensor_tests::support::{scope::program, undo::Undo};

use super::{
    Balancer, HOSTS, Host,
    faults::{Front, RecordedChecks, Traffic},
    substitute,
};
use crate::wait_until;

/// A keepalived on each of two hosts: network namespaces with a link between them.
pub(super) struct Pair {
    keepaliveds: [Balancer; HOSTS],
    checks: RecordedChecks,
    /// Lengths of their logs when the polls were last forgotten.
    seen: [Cell<usize>; HOSTS],
    dir: PathBuf,
    _undo: Undo,
}

fn namespace(host: usize) -> String {
    format!("memsensor-{}-{host}", std::process::id())
}

fn ip(words: &str) {
    let status = Command::new("ip").args(words.split(' ')).status().expect("start ip");
    assert!(status.success(), "ip {words}: {status}");
}

impl Pair {
    pub(super) fn start() -> Self {
        let mut undo = Undo::new().expect("a shell");
        for host in 0..HOSTS {
            let name = namespace(host);
            let remove = format!("[ ! -e /run/netns/{name} ] || ip netns del {name}");
            undo.later(&remove, &[]).expect("added");
            ip(&format!("netns add {name}"));
        }
        let [first, second] = [0, 1].map(namespace);
        ip(&format!("-n {first} link add eth0 type veth peer name eth0 netns {second}"));
        for host in 0..HOSTS {
            let name = namespace(host);
            ip(&format!("-n {name} addr add 192.0.2.{}/24 dev eth0", 11 + host));
            ip(&format!("-n {name} link set eth0 up"));
        }
        let dir = std::env::temp_dir().join(format!("memsensor-keepalived-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("mkdir");
        let checks = RecordedChecks::new(&dir);
        let keepaliveds = [0, 1].map(|host| keepalived(host, &checks));
        let seen = [const { Cell::new(0) }; HOSTS];
        let pair = Self { keepaliveds, checks, seen, dir, _undo: undo };
        wait_until("an address", || Self::holders() == [true, false]);
        pair
    }

    /// Which hosts have the virtual address.
    fn holders() -> [bool; HOSTS] {
        [0, 1].map(|host| {
            let name = namespace(host);
            let mut command = Command::new("ip");
            command.args(["-n", &name, "-o", "addr", "show", "to", "192.0.2.10"]);
            !command.output().expect("start ip").stdout.is_empty()
        })
    }
}

/// keepalived on a host. Its checks ask the daemon in the namespace of this process.
fn keepalived(host: usize, checks: &RecordedChecks) -> Balancer {
    let change = |text: &mut String, _: &Path, _| {
        let check = format!(
            "nsenter --net=/proc/{}/ns/net {} check --scope web --url http://127.2.0.{}:9817",
            std::process::id(),
            checks.program().display(),
            11 + host
        );
        substitute(text, "/usr/local/bin/memsensor check", &check);
        if host == 1 {
            substitute(text, "priority 120", "priority 100");
        }
    };
    Balancer::start_in(
        &format!("keepalived.conf-{host}"),
        "keepalived.conf",
        change,
        |dir, file, _| {
            let mut command = Command::new("ip");
            command.args(["netns", "exec", &namespace(host), "keepalived"]);
            command.args(["--dont-fork", "--log-console", "--vrrp", "-f"]).arg(file);
            command.arg("-p").arg(dir.join("pid")).arg("-r").arg(dir.join("vrrp.pid"));
            command
        },
    )
}

impl Front for Pair {
    fn name(&self) -> &'static str {
        "keepalived"
    }

    /// Both hosts for a moment while the address moves.
    fn traffic(&self) -> Traffic {
        // Again if it moved between the two looks.
        let holders = (0..2).map(|_| Self::holders()).find(|holders| *holders != [false, false]);
        match holders {
            Some([true, false]) => Traffic::First,
            Some([false, true]) => Traffic::Second,
            Some(_) => Traffic::Both,
            None => panic!("no host has the address: {}", self.keepaliveds[0].log()),
        }
    }

    fn forget_polls(&self) {
        self.checks.forget();
        for (keepalived, seen) in self.keepaliveds.iter().zip(&self.seen) {
            seen.set(keepalived.log().len());
        }
    }

    fn has_polled(&self, host: usize, answered: bool) -> bool {
        let has_polled = self.checks.has_polled(host, answered);
        if has_polled && !answered {
            // Two failed checks lower the priority, long before the address moves.
            let log = self.keepaliveds[host].log();
            let lowered = log[self.seen[host].get()..].contains("VRRP_Script(memsensor) failed");
            assert!(!lowered, "no answer is no failure: {log}");
        }
        has_polled
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

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
