//! nginx, with an upstream written by the shipped script.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::{
    Balancer, Host,
    faults::{Front, RecordedChecks, Traffic, traffic_through},
    substitute,
};
use crate::{Running, wait_until};

/// nginx, and the script that writes its upstream.
pub(super) struct Nginx {
    balancer: Balancer,
    upstream: PathBuf,
    checks: RecordedChecks,
    _script: Running,
}

impl Nginx {
    pub(super) fn start() -> Self {
        let dir = std::env::temp_dir().join(format!("memsensor-nginx.conf-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("mkdir");
        let (upstream, checks) = (dir.join("upstream.conf"), RecordedChecks::new(&dir));
        // The script runs first: it makes the file that nginx includes.
        let script = script(&dir, &upstream);
        wait_until("written", || upstream.exists());
        let change = |text: &mut String, dir: &Path, addr| {
            substitute(text, "listen 80;", &format!("listen {addr};"));
            substitute(text, "/etc/nginx/memsensor/web.conf", &upstream.display().to_string());
            let pid = format!("pid {0}/pid; error_log {0}/errors;", dir.display());
            *text = format!("{pid}\n{}", text.replace("http {", "http { access_log off;"));
        };
        let nginx = Balancer::start("nginx.conf", change, |_, file, _| {
            let mut command = Command::new("nginx");
            command.args(["-g", "daemon off;", "-c"]).arg(file);
            command
        });
        nginx.wait_until_it_serves();
        Self { balancer: nginx, upstream, checks, _script: script }
    }
}

/// The running script; `dir` is searched first for `memsensor`.
fn script(dir: &Path, upstream: &Path) -> Running {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../sensor-user/deploy/nginx-upstream.sh");
    let path_env = std::env::var("PATH").unwrap_or_default();
    let reload = format!("[ ! -s {0}/pid ] || kill -HUP $(cat {0}/pid)", dir.display());
    let mut command = Command::new(path);
    command.arg(upstream).args(["127.2.0.11:8080", "127.2.0.12:8080@http://127.2.0.12:9817"]);
    command.env("PATH", format!("{}:{path_env}", dir.display())).env("RELOAD", reload);
    command.env("MEMSENSOR_SCOPE", "web").env("EVERY", "0.2").stdin(Stdio::null());
    Running(command.spawn().expect("start nginx-upstream.sh"))
}

impl Front for Nginx {
    fn name(&self) -> &'static str {
        "nginx"
    }

    fn traffic(&self) -> Traffic {
        traffic_through(&self.balancer)
    }

    fn forget_polls(&self) {
        self.checks.forget();
    }

    fn has_polled(&self, host: usize, answered: bool) -> bool {
        self.checks.has_polled(host, answered)
    }
}

#[test]
fn nginx_follows_the_weights_and_always_serves() {
    let hosts = Host::both();
    let Nginx { balancer: nginx, upstream, checks: _checks, _script } = Nginx::start();
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
