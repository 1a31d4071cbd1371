//! The files in `sensor-user/deploy/`: the nginx script with a fake `memsensor`, the systemd unit
//! with `systemd-analyze`. Tests with real load balancers are in `live/serving/balancers`.

use std::{
    collections::BTreeSet,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

const SCRIPT: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../sensor-user/deploy/nginx-upstream.sh");

/// Reports the weight that the URL names; with `--fail-on drained` it fails if the URL
/// contains `by-operator`.
const MEMSENSOR: &str = r#"#!/bin/sh
case "$*" in
*gone*) exit 3 ;;
*"--fail-on drained"*) case "$*" in *by-operator*) exit 2 ;; *) exit 0 ;; esac ;;
*weight-50*) echo "MEMSENSOR WARNING | weight=50%;;;0;100"; exit 1 ;;
*weight-100*) echo "MEMSENSOR OK | weight=100%;;;0;100" ;;
*) echo "MEMSENSOR CRITICAL | weight=0%;;;0;100"; exit 2 ;;
esac
"#;

/// The upstream servers that the script writes for memsensors at these URLs.
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
    let deadline = Instant::now() + Duration::from_secs(20);
    while !file.exists() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
    let _ = script.kill();
    let _ = script.wait();
    let text = std::fs::read_to_string(&file).expect("the upstream");
    let shorten = |line: &str| {
        let server = line.strip_prefix("server ").expect("a server");
        let server = server.replace(" max_fails=2 fail_timeout=5s", "");
        server.trim_end_matches(';').to_owned()
    };
    text.lines().map(shorten).collect::<Vec<_>>().join(", ")
}

#[test]
fn nginx_last_resort_excludes_drained_hosts() {
    let dir = std::env::temp_dir().join(format!("memsensor-deploy-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("mkdir");
    let memsensor = dir.join("memsensor");
    std::fs::write(&memsensor, MEMSENSOR).expect("write");
    std::fs::set_permissions(&memsensor, std::fs::Permissions::from_mode(0o755)).expect("chmod");
    for (urls, expected) in [
        (["weight-100", "weight-50", "overloaded"], "s0:80 weight=4, s1:80 weight=2, s2:80 down"),
        (["gone", "by-operator", "overloaded"], "s0:80 weight=4, s1:80 down, s2:80 down"),
        (["overloaded", "by-operator", "overloaded"], "s0:80, s1:80 down, s2:80"),
        (["by-operator", "by-operator", "by-operator"], "s0:80, s1:80, s2:80"),
    ] {
        assert_eq!(upstream(&dir, &urls), expected, "{urls:?}");
    }
    let _ = std::fs::remove_dir_all(&dir);
}

/// The other files use the path where the unit expects the program.
#[test]
fn all_files_use_the_same_program_path() {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(Path::new(SCRIPT).parent().expect("deploy")).expect("deploy") {
        let file = entry.expect("a file").path();
        let text = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{file:?}: {e}"));
        let words = text.split(|c: char| c.is_whitespace() || "\"'=;`,".contains(c));
        let programs = words.filter(|word| word.ends_with("bin/memsensor")).map(str::to_owned);
        paths.extend(programs.map(|program| (program, file.clone())));
    }
    let different: Vec<_> = paths.iter().filter(|p| p.0 != "/usr/local/bin/memsensor").collect();
    assert!(paths.len() >= 2 && different.is_empty(), "{paths:#?}");
}

/// The pod lacks SYS_ADMIN, which one probe needs on some kernels, and adds DAC_READ_SEARCH: with
/// `drop: [ALL]` its root user is bound by file permissions.
#[test]
fn the_pod_has_the_capabilities_of_the_unit() {
    let deploy = Path::new(SCRIPT).parent().expect("deploy");
    let value = |file: &str, key: &str| {
        let text = std::fs::read_to_string(deploy.join(file)).expect(file);
        let value = text.lines().find_map(|l| l.trim().strip_prefix(key).map(str::to_owned));
        value.unwrap_or_else(|| panic!("no {key} in {file}"))
    };
    let pod = value("kubernetes.yaml", "add: [");
    let pod: BTreeSet<_> = pod.trim_end_matches(']').split(", ").collect();
    let unit = value("memsensor.service", "CapabilityBoundingSet=");
    let mut expected: BTreeSet<_> =
        unit.split(' ').map(|name| name.strip_prefix("CAP_").expect("a capability")).collect();
    assert!(expected.remove("SYS_ADMIN"), "the unit has no CAP_SYS_ADMIN");
    expected.insert("DAC_READ_SEARCH");
    assert_eq!(pod, expected);
}

/// systemd accepts every setting and rates the exposure of the service as low.
#[test]
fn systemd_analyze_accepts_the_unit() {
    let unit = concat!(env!("CARGO_MANIFEST_DIR"), "/../sensor-user/deploy/memsensor.service");
    let dir = std::env::temp_dir().join(format!("memsensor-unit-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("mkdir");
    let file = dir.join("memsensor.service");
    // `verify` requires the program and the manual page to exist.
    let text = std::fs::read_to_string(unit).expect("the unit");
    assert!(text.contains("ExecStart=/usr/local/bin/memsensor run "));
    let text = text.replace("/usr/local/bin/memsensor", "/bin/true");
    let text = text.replace("Documentation=man:memsensor(1)\n", "");
    std::fs::write(&file, text).expect("write");
    // 3.0 of 10 on systemd's exposure scale, mostly the network and CAP_SYS_ADMIN at the start.
    for args in [&["verify"][..], &["security", "--offline=true", "--threshold=30", "--no-pager"]] {
        let output = Command::new("systemd-analyze").args(args).arg(&file).output();
        let output =
            output.expect("start systemd-analyze (cargo xtask setup --tests installs systemd)");
        let stderr = String::from_utf8_lossy(&output.stderr);
        let stdout = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{args:?}: {stderr}{stdout}");
        assert_eq!(stderr, "", "{args:?}");
    }
    let _ = std::fs::remove_dir_all(&dir);
}
