//! The Datadog Agent's own library with our check, against a running daemon: `dashboards/datadog` has the
//! tests, which are Python's. Here they are given a daemon, and a cgroup in which they can have a process
//! killed.

use std::{
    env,
    path::Path,
    process::{Command, Stdio},
};

use sensor_tests::scope::{MIB, Scope, program};

use super::{balancers::tool, verdict::judging};

#[test]
fn the_datadog_agent_is_told() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../dashboards/datadog/memsensor");
    let scope = Scope::new("datadog.service", 16 * MIB).expect("scope");
    let daemon = judging(&scope);
    let groups = env::join_paths(scope.groups()).expect("no colon in a path");
    let mut pytest = Command::new(tool("datadog-pytest"));
    pytest
        .args(["-rs", "-v", "--color=no", "tests"])
        .current_dir(Path::new(dir).canonicalize().expect("the integration"))
        .env("MEMSENSOR_URL", format!("http://{}", daemon.listening[0]))
        .env("MEMSENSOR_SOCKET", daemon.socket())
        .env("MEMSENSOR_PID", daemon.pid().to_string())
        .env("MEMSENSOR_PROGRAM", program("memsensor").expect("memsensor"))
        .env("MEMSENSOR_HOG", program("hog").expect("hog"))
        .env("MEMSENSOR_CGROUPS", groups)
        .env("MEMSENSOR_CGROUP", scope.path())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::null());
    let out = pytest.output().expect("start datadog-pytest (cargo xtask setup --tests)");
    let said = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
    assert!(out.status.success(), "{said}\n{}", daemon.log());
    let counts = said.lines().last().unwrap_or_default();
    println!("{counts}");
    assert!(counts.contains(" passed") && !counts.contains("skipped"), "{said}");
}
