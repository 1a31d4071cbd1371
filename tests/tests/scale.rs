//! The configurations in `dashboards/scale`, checked by their programs; and the series of the
//! simulated fleet, compared with those of real hosts. `cargo xtask fleet` measures the load.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use sensor_tests::{
    lab::fleet::cgroups,
    support::repository::{repository, yaml_files},
};

fn shipped(name: &str) -> PathBuf {
    repository().join("dashboards/scale").join(name)
}

/// Runs a program that must succeed. Returns its output.
fn run(program: &str, args: &[&str]) -> String {
    let out = Command::new(program).args(args).output();
    let out = out.expect("the program is installed (cargo xtask setup --tests)");
    let output = String::from_utf8_lossy(&out.stdout).into_owned();
    let errors = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{program} {args:?}: {output}{errors}");
    output
}

#[test]
fn promtool_accepts_the_configurations() {
    for (name, agent) in
        [("prometheus.yaml", false), ("prometheus-small.yaml", false), ("remote-write.yaml", true)]
    {
        let path = shipped(name);
        let path = path.to_str().expect("UTF-8");
        let mut args = vec!["check", "config"];
        args.extend(agent.then_some("--agent"));
        args.push(path);
        run("promtool", &args);
    }
}

#[test]
fn victoria_metrics_and_vmagent_accept_theirs() {
    let config = format!("-promscrape.config={}", shipped("victoriametrics.yaml").display());
    run("victoria-metrics", &[&config, "-dryRun"]);
    run("vmagent", &[&config, "-remoteWrite.url=http://127.0.0.1:8428/api/v1/write", "-dryRun"]);
}

/// The addresses in `dir` that a shard keeps.
fn kept_by_shard(dir: &Path, shard: u32) -> BTreeSet<String> {
    let text = fs::read_to_string(shipped("remote-write.yaml")).expect("remote-write.yaml");
    assert!(text.contains("regex: \"0\""), "the line with the number of the shard");
    let config = dir.join("shard.yaml");
    fs::write(&config, text.replace("regex: \"0\"", &format!("regex: \"{shard}\"")))
        .expect("write");
    let output = run(
        "promtool",
        &[
            "check",
            "service-discovery",
            "--timeout=3s",
            config.to_str().expect("UTF-8"),
            "memsensor",
        ],
    );
    let all: serde_json::Value = serde_json::from_str(&output).expect("JSON");
    let labels = all.as_array().expect("targets").iter().map(|target| &target["labels"]);
    labels.filter_map(|l| l["__address__"].as_str()).map(str::to_owned).collect()
}

#[test]
fn every_host_belongs_to_exactly_one_shard() {
    let dir = std::env::temp_dir().join(format!("memsensor-shards-{}", std::process::id()));
    fs::create_dir_all(dir.join("targets")).expect("mkdir");
    let hosts: BTreeSet<String> = (0..400).map(|n| format!("web-{n}:9817")).collect();
    let targets: Vec<&str> = hosts.iter().map(String::as_str).collect();
    let list = format!("- targets: {}\n", serde_json::to_string(&targets).expect("JSON"));
    fs::write(dir.join("targets/fleet.yaml"), list).expect("write");
    let shards: Vec<_> = (0..4).map(|shard| kept_by_shard(&dir, shard)).collect();
    fs::remove_dir_all(&dir).expect("remove");
    let sizes: Vec<_> = shards.iter().map(BTreeSet::len).collect();
    assert_eq!(sizes.iter().sum::<usize>(), hosts.len(), "{sizes:?}");
    let all: BTreeSet<_> = shards.into_iter().flatten().collect();
    assert_eq!(all, hosts);
    assert!(sizes.iter().all(|size| (70..=130).contains(size)), "unequal: {sizes:?}");
}

/// The metrics that prometheus-small.yaml keeps.
fn small_set() -> BTreeSet<String> {
    let text = fs::read_to_string(shipped("prometheus-small.yaml")).expect("prometheus-small.yaml");
    let (others, rest) = text.split_once("memsensor_(").expect("the list");
    let (list, _) = rest.split_once(")\"").expect("its end");
    let names = |list: &str| {
        let names = list.split('|').map(|name| name.replace(['\\', '\n', ' '], ""));
        names.filter(|name| !name.is_empty()).collect::<Vec<_>>()
    };
    // Before it, in the same quotes: the metrics without the prefix.
    let others = others.rsplit('"').next().map(names).unwrap_or_default();
    let ours = names(list).into_iter().map(|name| format!("memsensor_{name}"));
    ours.chain(others).collect()
}

/// The metrics in the expressions of rules.
fn used_in(rules: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut in_expression = false;
    for line in rules.lines().map(str::trim_start).filter(|line| !line.starts_with('#')) {
        let key = line.trim_start_matches("- ").split_once(':').map(|(key, _)| key);
        if let Some("expr" | "for" | "labels" | "annotations" | "alert" | "record") = key {
            in_expression = key == Some("expr");
        }
        if in_expression {
            let words = line.split(|c: char| !c.is_ascii_alphanumeric() && !"_:".contains(c));
            let is_ours =
                |word: &&str| ["memsensor_", "process_"].iter().any(|p| word.starts_with(p));
            names.extend(words.filter(is_ours).map(str::to_owned));
        }
    }
    names
}

#[test]
fn the_small_set_has_every_metric_of_the_rules() {
    let small = small_set();
    let mut used = BTreeSet::new();
    for file in yaml_files(&repository().join("dashboards/rules")).expect("rules") {
        used.extend(used_in(&fs::read_to_string(&file).expect("rules")));
    }
    assert!(used.len() > 4, "only {used:?} found in the rules");
    let missing: Vec<_> = used.difference(&small).collect();
    assert!(missing.is_empty(), "the rules use {missing:?}, which the small set drops");
}

/// Names of metrics in the table of docs/metrics.md.
fn documented_metrics() -> BTreeSet<String> {
    let page = fs::read_to_string(repository().join("docs/metrics.md")).expect("docs/metrics.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `memsensor_"));
    rows.filter_map(|row| row.split_once('`'))
        .map(|(name, _)| format!("memsensor_{name}"))
        .collect()
}

#[test]
fn the_small_set_names_only_metrics_that_exist() {
    let documented = documented_metrics();
    let ours = small_set().into_iter().filter(|name| name.starts_with("memsensor_"));
    let unknown: Vec<_> = ours.filter(|name| !documented.contains(name)).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

/// Otherwise the measurements of the fleet would miss the series of a new metric. Histograms are
/// off by default.
#[test]
fn simulated_cgroups_have_every_metric_of_real_ones() {
    let of_cgroups = |name: &String| name.starts_with("memsensor_cgroup_");
    let real: BTreeSet<_> = documented_metrics().into_iter().filter(of_cgroups).collect();
    let real: BTreeSet<_> =
        real.into_iter().filter(|name| name != "memsensor_cgroup_reclaim_seconds").collect();
    assert_eq!(cgroups::names().into_iter().collect::<BTreeSet<_>>(), real);
}
