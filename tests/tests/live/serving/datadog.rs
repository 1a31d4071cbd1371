//! The Datadog check in the Agent's library, with a running daemon. The tests are Python, in
//! `dashboards/datadog`. This file starts them with a daemon, and a cgroup in which they can have a
//! process killed.

use std::{env, path::Path, process::Stdio};

use sensor_tests::support::{
    daemon::Daemon,
    scope::{MIB, Scope, program},
};

use super::{balancers::tool, verdict::judging};

#[test]
fn the_datadog_check_passes_its_tests() {
    let scope = Scope::new("datadog.service", 16 * MIB).expect("scope");
    let daemon = judging(&scope);
    let groups = env::join_paths(scope.groups()).expect("no colon in a path");
    let groups = groups.to_str().expect("a name of ours");
    let cgroup = scope.path();
    let more = [("CGROUPS", groups), ("CGROUP", &*cgroup)];
    let run = |tests: &[&str]| pytest("datadog/memsensor", tests, &daemon, &more);
    // ddev starts for each of its tests: they take as long as all others, and need no sensor.
    std::thread::scope(|threads| {
        threads.spawn(|| run(&["tests/test_assets.py"]));
        run(&["tests", "--ignore=tests/test_assets.py"]);
    });
}

/// Runs these tests in a directory of `dashboards` with this daemon. No test may be skipped.
pub(super) fn pytest(dir: &str, tests: &[&str], daemon: &Daemon, more: &[(&str, &str)]) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dashboards").join(dir);
    let mut pytest = std::process::Command::new(tool("datadog-python"));
    pytest
        .args(["-m", "pytest", "-rs", "-v", "--color=no", "-p", "no:cacheprovider"])
        .args(tests)
        .current_dir(dir.canonicalize().expect("the directory of the tests"))
        .env("MEMSENSOR_URL", format!("http://{}", daemon.listening[0]))
        .env("MEMSENSOR_SOCKET", daemon.socket())
        .env("MEMSENSOR_PID", daemon.pid().to_string())
        .env("MEMSENSOR_PROGRAM", program("memsensor").expect("memsensor"))
        .env("MEMSENSOR_HOG", program("hog").expect("hog"))
        .envs(more.iter().map(|(name, value)| (format!("MEMSENSOR_{name}"), value)))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::null());
    let out = pytest.output().expect("start pytest (cargo xtask setup --tests)");
    let [output, errors] =
        [out.stdout, out.stderr].map(|b| String::from_utf8_lossy(&b).into_owned());
    assert!(out.status.success(), "{output}\n{errors}\n{}", daemon.log());
    let counts = output.lines().last().unwrap_or_default();
    println!("{counts}");
    assert!(counts.contains(" passed") && !counts.contains("skipped"), "{output}");
}
