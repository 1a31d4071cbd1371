//! nginx, with an upstream written by the shipped script.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use sensor_tests::support::scope::program;

use super::{Balancer, Host, substitute};
use crate::{Running, wait_until};

/// The running script.
fn script(file: &Path, reload: &str) -> Running {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../sensor-user/deploy/nginx-upstream.sh");
    let memsensor = program("memsensor").expect("memsensor");
    let dir = memsensor.parent().expect("a directory").display();
    let path_env = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(path);
    command.arg(file).args(["127.2.0.11:8080", "127.2.0.12:8080@http://127.2.0.12:9817"]);
    command.env("PATH", format!("{dir}:{path_env}")).env("RELOAD", reload);
    command.env("MEMSENSOR_SCOPE", "web").env("EVERY", "0.2").stdin(Stdio::null());
    Running(command.spawn().expect("start nginx-upstream.sh"))
}

#[test]
fn nginx_follows_the_weights_and_always_serves() {
    let hosts = Host::both();
    let start = |text: &mut String, dir: &Path, addr| {
        substitute(text, "listen 80;", &format!("listen {addr};"));
        let upstream = dir.join("upstream.conf");
        substitute(text, "/etc/nginx/memsensor/web.conf", &upstream.display().to_string());
        let pid = format!("pid {0}/pid; error_log {0}/errors;", dir.display());
        *text = format!("{pid}\n{}", text.replace("http {", "http { access_log off;"));
    };
    // The script runs first: it makes the file that nginx includes.
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
    let first_line_has = |text: &str| {
        let found = std::fs::read_to_string(&upstream).expect("the upstream");
        found.lines().next().is_some_and(|line| line.contains(text))
    };
    wait_until("half", || first_line_has("server 127.2.0.11:8080 weight=2 "));
    wait_until("fewer requests", || nginx.send(60).0 <= 25);
    nginx.expect_share(20..=45);

    hosts[0].kill();
    wait_until("none", || first_line_has("server 127.2.0.11:8080 down;"));
    nginx.wait_for_share(false);
    nginx.expect_share(0..=0);

    hosts[1].kill_twice();
    wait_until("both overloaded", || first_line_has("server 127.2.0.11:8080 max_fails"));
    wait_until("both serve", || (1..20).contains(&nginx.send(20).0));
    nginx.expect_share(35..=65);

    // But not with a drained host.
    hosts[0].daemon.ask(&["drain", "--reason", "update"]).expect("drain");
    wait_until("drained", || first_line_has("server 127.2.0.11:8080 down;"));
    nginx.wait_for_share(false);
    nginx.expect_share(0..=0);
}
