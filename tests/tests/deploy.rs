//! The scripts in `deploy/`, with a memsensor that says what the test wants, and the unit as systemd's own
//! tools see it. What they do to the programs that they are for is in `live/serving/balancers`.

use std::{
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

const SCRIPT: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../sensor-user/deploy/nginx-upstream.sh");

/// Says the weight that the URL names, and with `--fail-on maintenance` whether it names a drain.
const MEMSENSOR: &str = r#"#!/bin/sh
case "$*" in
*gone*) exit 3 ;;
*"--fail-on maintenance"*) case "$*" in *drained*) exit 2 ;; *) exit 0 ;; esac ;;
*weight-50*) echo "MEMSENSOR WARNING | weight=50%;;;0;100"; exit 1 ;;
*weight-100*) echo "MEMSENSOR OK | weight=100%;;;0;100" ;;
*) echo "MEMSENSOR CRITICAL | weight=0%;;;0;100"; exit 2 ;;
esac
"#;

/// What the script writes of servers whose memsensors are at these URLs.
fn upstream(dir: &Path, urls: &[&str]) -> String {
    let file: PathBuf = dir.join("upstream.conf");
    let _ = std::fs::remove_file(&file);
    let servers = urls.iter().enumerate().map(|(n, url)| format!("s{n}:80@http://{url}"));
    let path = format!("{}:{}", dir.display(), std::env::var("PATH").unwrap_or_default());
    let mut script = Command::new(SCRIPT)
        .arg(&file)
        .args(servers)
        .env("PATH", path)
        .env("RELOAD", "true")
        .stdin(Stdio::null())
        .spawn()
        .expect("start the script");
    let end = Instant::now() + Duration::from_secs(20);
    while !file.exists() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(10));
    }
    let _ = script.kill();
    let _ = script.wait();
    let text = std::fs::read_to_string(&file).expect("the upstream");
    let short = |line: &str| {
        let rest = line.strip_prefix("server ").expect("a server");
        let rest = rest.replace(" max_fails=2 fail_timeout=5s", "");
        rest.trim_end_matches(';').to_owned()
    };
    text.lines().map(short).collect::<Vec<_>>().join(", ")
}

#[test]
fn nginx_s_last_resort_leaves_out_what_an_operator_drained() {
    let dir = std::env::temp_dir().join(format!("memsensor-deploy-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("mkdir");
    let memsensor = dir.join("memsensor");
    std::fs::write(&memsensor, MEMSENSOR).expect("write");
    std::fs::set_permissions(&memsensor, std::fs::Permissions::from_mode(0o755)).expect("chmod");
    for (urls, expected) in [
        (["weight-100", "weight-50", "draining"], "s0:80 weight=4, s1:80 weight=2, s2:80 down"),
        (["gone", "drained", "draining"], "s0:80 weight=4, s1:80 down, s2:80 down"),
        (["draining", "drained", "draining"], "s0:80, s1:80 down, s2:80"),
        (["drained", "drained", "drained"], "s0:80, s1:80, s2:80"),
    ] {
        assert_eq!(upstream(&dir, &urls), expected, "{urls:?}");
    }
    let _ = std::fs::remove_dir_all(&dir);
}

/// Where the unit expects the program, the others find it.
#[test]
fn all_files_agree_where_the_program_is() {
    let mut named = Vec::new();
    for entry in std::fs::read_dir(Path::new(SCRIPT).parent().expect("deploy")).expect("deploy") {
        let path = entry.expect("a file").path();
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
        let words = text.split(|c: char| c.is_whitespace() || "\"'=;".contains(c));
        let places = words.filter(|word| word.ends_with("bin/memsensor")).map(str::to_owned);
        named.extend(places.map(|place| (place, path.clone())));
    }
    let elsewhere: Vec<_> = named.iter().filter(|n| n.0 != "/usr/local/bin/memsensor").collect();
    assert!(named.len() >= 2 && elsewhere.is_empty(), "{named:#?}");
}

/// What the unit may do to survive, a pod may as well. Not SYS_ADMIN, which is for one probe on some kernels.
#[test]
fn a_pod_has_the_capabilities_of_the_unit() {
    let deploy = Path::new(SCRIPT).parent().expect("deploy");
    let line = |file: &str, key: &str| {
        let text = std::fs::read_to_string(deploy.join(file)).expect(file);
        let line = text.lines().find_map(|l| l.trim().strip_prefix(key).map(str::to_owned));
        line.unwrap_or_else(|| panic!("no {key} in {file}"))
    };
    let pod = line("kubernetes.yaml", "add: [");
    let pod: Vec<_> = pod.trim_end_matches(']').split(", ").collect();
    for capability in line("memsensor.service", "CapabilityBoundingSet=").split(' ') {
        let name = capability.strip_prefix("CAP_").expect("a capability");
        assert_eq!(pod.contains(&name), name != "SYS_ADMIN", "{name}");
    }
}

/// systemd knows every setting, and finds that the service has few rights.
#[test]
fn the_unit_is_what_systemd_takes_it_for() {
    let unit = concat!(env!("CARGO_MANIFEST_DIR"), "/../sensor-user/deploy/memsensor.service");
    let dir = std::env::temp_dir().join(format!("memsensor-unit-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("mkdir");
    let file = dir.join("memsensor.service");
    // It wants the program and the manual page to be there.
    let text = std::fs::read_to_string(unit).expect("the unit");
    assert!(text.contains("ExecStart=/usr/local/bin/memsensor run "));
    let text = text.replace("/usr/local/bin/memsensor", "/bin/true");
    let text = text.replace("Documentation=man:memsensor(1)\n", "");
    std::fs::write(&file, text).expect("write");
    // 3.0 of 10 on its scale of exposure: the network and CAP_SYS_ADMIN at the start are most of it.
    for args in [&["verify"][..], &["security", "--offline=true", "--threshold=30", "--no-pager"]] {
        let out = Command::new("systemd-analyze").args(args).arg(&file).output();
        let out = out.expect("start systemd-analyze (cargo xtask setup --tests installs systemd)");
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{args:?}: {said}{}", String::from_utf8_lossy(&out.stdout));
        assert_eq!(said, "", "{args:?}");
    }
    let _ = std::fs::remove_dir_all(&dir);
}
