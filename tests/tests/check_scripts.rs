//! Scripts around `memsensor check` in `sensor-user/deploy/`: the custom plugin of
//! node-problem-detector and the track script of keepalived. Each runs as its file has it, with the
//! real `check`, against a server that gives each answer. Not here: the programs themselves
//! (`live/serving/balancers`), and a cluster.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    process::Command,
    time::Duration,
};

use sensor_core::model::readiness::ReadinessState;
use sensor_tests::support::{repository::repository, scope::program};
use serde_json::Value;

const PROGRAM: &str = "/usr/local/bin/memsensor";

fn shipped(name: &str) -> String {
    let path = repository().join("sensor-user/deploy").join(name);
    std::fs::read_to_string(path).expect(name)
}

/// What is on the port.
#[derive(Debug, Clone, Copy)]
enum Sensor {
    Answers(ReadinessState),
    /// Accepts connections and sends nothing.
    Frozen,
    /// Nothing listens.
    Absent,
    /// The program is not installed.
    NotInstalled,
}

/// A server that behaves like this until the test process ends.
fn serve(ip: &str, sensor: Sensor) -> SocketAddr {
    let listener = TcpListener::bind((ip, 0)).expect("bind");
    let addr = listener.local_addr().expect("address");
    if matches!(sensor, Sensor::Absent | Sensor::NotInstalled) {
        return addr;
    }
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        for mut stream in listener.incoming().map_while(Result::ok) {
            let Sensor::Answers(state) = sensor else {
                kept.push(stream);
                continue;
            };
            let _ = stream.read(&mut [0; 1024]);
            let body = serde_json::json!({"scope": "host", "state": state.label(), "weight": 0.0});
            let (body, status) = (body.to_string(), "503 Service Unavailable");
            let length = body.len();
            let _ = write!(stream, "HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}");
        }
    });
    addr
}

/// A shipped command line with the built program and the address of this sensor.
fn at(script: &str, sensor: Sensor) -> String {
    assert!(script.contains(&format!("{PROGRAM} check")), "{script}");
    let addr = serve("127.0.0.1", sensor);
    let program = match sensor {
        Sensor::NotInstalled => "/nonexistent/memsensor".to_owned(),
        _ => program("memsensor").expect("memsensor").display().to_string(),
    };
    script.replace(&format!("{PROGRAM} check"), &format!("{program} check --url http://{addr}"))
}

/// Runs a script; returns its exit code and output.
fn run(script: &str) -> (Option<i32>, String) {
    let output = Command::new("/bin/sh").args(["-c", script]).output().expect("start sh");
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

fn answers() -> impl Iterator<Item = Sensor> {
    ReadinessState::ALL.into_iter().map(Sensor::Answers)
}

#[test]
fn keepalived_lowers_a_priority_only_after_an_answer() {
    let config = shipped("keepalived.conf");
    let script = config.lines().find_map(|line| line.trim().strip_prefix("script \"/bin/sh -c '"));
    let script = script.and_then(|script| script.strip_suffix("'\"")).expect("the script");
    for sensor in answers().chain([Sensor::Frozen, Sensor::Absent, Sensor::NotInstalled]) {
        use ReadinessState::{Drained, Overloaded, Stale, Starting};
        let fails = matches!(sensor, Sensor::Answers(Overloaded | Drained | Stale | Starting));
        let (code, output) = run(&at(script, sensor));
        assert_eq!(code, Some(i32::from(fails)), "{sensor:?}: {output}");
    }
}

/// Keys by section, from node-problem-detector's `docs/custom_plugin_monitor.md` and
/// `pkg/custompluginmonitor/types`.
const NPD_KEYS: [(&str, &[&str]); 4] = [
    ("", &["plugin", "pluginConfig", "source", "metricsReporting", "conditions", "rules"]),
    (
        "pluginConfig",
        &[
            "invoke_interval",
            "timeout",
            "max_output_length",
            "concurrency",
            "enable_message_change_based_condition_update",
            "skip_initial_status",
        ],
    ),
    ("conditions", &["type", "reason", "message"]),
    ("rules", &["type", "condition", "reason", "path", "args", "timeout", "invoke_interval"]),
];

fn npd_config() -> Value {
    serde_json::from_str(&shipped("node-problem-detector.json")).expect("JSON")
}

fn seconds(value: &Value) -> Duration {
    let text = value.as_str().expect("a duration");
    let seconds = text.strip_suffix('s').and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(seconds.expect(text))
}

/// Go ignores keys that it does not know: a misspelt key would have no effect.
#[test]
fn node_problem_detector_knows_every_key() {
    let config = npd_config();
    for (section, known) in NPD_KEYS {
        let value = if section.is_empty() { &config } else { &config[section] };
        let objects = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
        assert!(!objects.is_empty(), "{section} is empty");
        for object in objects {
            for key in object.as_object().expect("an object").keys() {
                assert!(known.contains(&key.as_str()), "{section}: {key} is not known");
            }
        }
    }
}

/// What node-problem-detector checks when it starts, and ends for.
#[test]
fn node_problem_detector_accepts_the_monitor() {
    let config = npd_config();
    assert_eq!(config["plugin"], "custom");
    let condition = &config["conditions"][0];
    for rule in config["rules"].as_array().expect("rules") {
        assert!(seconds(&rule["timeout"]) <= seconds(&config["pluginConfig"]["timeout"]));
        assert_eq!(rule["type"], "permanent");
        assert_eq!(rule["condition"], condition["type"]);
        assert!(std::path::Path::new(rule["path"].as_str().expect("a path")).exists());
        // Reasons are CamelCase, by the convention of Kubernetes' API.
        for reason in [&rule["reason"], &condition["reason"], &condition["type"]] {
            let reason = reason.as_str().expect("a reason");
            assert!(reason.chars().all(|c| c.is_ascii_alphanumeric()), "{reason}");
        }
    }
}

/// Exit codes: 0 no problem, 1 problem, all others unknown.
#[test]
fn only_an_overloaded_node_has_the_condition() {
    let config = npd_config();
    let rule = &config["rules"][0];
    assert_eq!((&rule["path"], &rule["args"][0]), (&"/bin/sh".into(), &"-c".into()));
    let script = rule["args"][1].as_str().expect("a script");
    for sensor in answers().chain([Sensor::Frozen, Sensor::Absent, Sensor::NotInstalled]) {
        use ReadinessState::{Degraded, Overloaded, Ready};
        let expected = match sensor {
            Sensor::Answers(Ready | Degraded) => 0,
            Sensor::Answers(Overloaded) => 1,
            _ => 2,
        };
        let (code, output) = run(&at(script, sensor));
        assert_eq!(code, Some(expected), "{sensor:?}: {output}");
        assert!(!output.contains('|') && output.lines().count() == 1, "{sensor:?}: {output}");
    }
}

/// A URL has brackets around an IPv6 address.
#[test]
fn check_asks_both_address_families() {
    for ip in ["127.0.0.1", "::1"] {
        let addr = serve(ip, Sensor::Answers(ReadinessState::Overloaded));
        let mut check = Command::new(program("memsensor").expect("memsensor"));
        check.args(["check", "--url", &format!("http://{addr}")]);
        let output = check.output().expect("start memsensor");
        let line = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(2), "{addr}: {line}");
        assert!(line.starts_with("MEMSENSOR CRITICAL - host is overloaded"), "{addr}: {line}");
    }
}
