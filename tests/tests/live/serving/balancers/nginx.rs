//! nginx, whose upstream is written by the script that we ship.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use sensor_tests::support::scope::program;

use super::{Balancer, Host, put};
use crate::{Running, wait_until};

/// The script, which runs until it is killed.
fn script(file: &Path, reload: &str) -> Running {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../sensor-user/deploy/nginx-upstream.sh");
    let memsensor = program("memsensor").expect("memsensor");
    let own = memsensor.parent().expect("a directory").display();
    let all = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(path);
    command.arg(file).args(["127.2.0.11:8080", "127.2.0.12:8080@http://127.2.0.12:9817"]);
    command.env("PATH", format!("{own}:{all}")).env("RELOAD", reload);
    command.env("MEMSENSOR_SCOPE", "web").env("EVERY", "0.2").stdin(Stdio::null());
    Running(command.spawn().expect("start nginx-upstream.sh"))
}

#[test]
fn nginx_follows_the_weights_and_serves_when_every_host_drains() {
    let hosts = Host::both();
    let start = |text: &mut String, dir: &Path, addr| {
        put(text, "listen 80;", &format!("listen {addr};"));
        let upstream = dir.join("upstream.conf");
        put(text, "/etc/nginx/memsensor-web.conf", &upstream.display().to_string());
        let pid = format!("pid {0}/pid; error_log {0}/errors;", dir.display());
        *text = format!("{pid}\n{}", text.replace("http {", "http { access_log off;"));
    };
    // The script makes the file that nginx includes, so it is first.
    let dir = std::env::temp_dir().join(format!("memsensor-nginx.conf-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("mkdir");
    let upstream = dir.join("upstream.conf");
    let reload = format!("[ ! -s {0}/pid ] || kill -HUP $(cat {0}/pid)", dir.display());
    let _script = script(&upstream, &reload);
    wait_until("written", || upstream.exists());
    let nginx = Balancer::start("nginx.conf", start, |_, file, _| {
        let mut command = Command::new("nginx");
        command.args(["-g", "daemon off;", "-c"]).arg(file);
        command
    });
    nginx.wait_until_it_serves();
    nginx.expect_share(40..=60);

    hosts[0].kill();
    let says = |what: &str| {
        let found = std::fs::read_to_string(&upstream).expect("the upstream");
        found.lines().next().is_some_and(|line| line.contains(what))
    };
    wait_until("half", || says("server 127.2.0.11:8080 weight=2 "));
    wait_until("less", || nginx.ask(60).0 <= 25);
    nginx.expect_share(20..=45);

    hosts[0].kill();
    wait_until("none", || says("server 127.2.0.11:8080 down;"));
    nginx.wait_for_share(false);
    nginx.expect_share(0..=0);

    hosts[1].kill_twice();
    wait_until("both drained", || says("server 127.2.0.11:8080 max_fails"));
    wait_until("both serve", || (1..20).contains(&nginx.ask(20).0));
    nginx.expect_share(35..=65);

    // But not who is to be left alone.
    hosts[0].daemon.ask(&["drain", "--reason", "update"]).expect("drain");
    wait_until("left alone", || says("server 127.2.0.11:8080 down;"));
    nginx.wait_for_share(false);
    nginx.expect_share(0..=0);
}
