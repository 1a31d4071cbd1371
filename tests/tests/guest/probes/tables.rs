//! The scan of processes, and the events of cgroups.

use std::{
    fs,
    process::Stdio,
    time::{Duration, Instant},
};

use sensor_core::model::event::EventKind;
use sensor_tests::support::{
    counts::Record,
    daemon::{Daemon, PATIENCE},
    scope::{MIB, Scope, program},
};
use sensor_user::serve::admin_protocol::Top;

use super::{field, is_missing};
use crate::{cell, watch::Watch};

#[test]
fn processes() {
    if is_missing("processes") {
        return;
    }
    let scope = Scope::new("holder", 64 * MIB).expect("scope");
    let mut hog = scope.command(program("hog").expect("hog"));
    let mut hog = hog.args(["anon", "32", "hold"]).stdout(Stdio::piped()).spawn().expect("hog");
    let daemon = Daemon::start("").expect("daemon");
    let end = Instant::now() + PATIENCE;
    let (found, count) = loop {
        let (output, _) = daemon.ask(&["top", "--json", "--most", "100"]).expect("top");
        let top: Top = serde_json::from_str(&output).expect("JSON");
        assert!(!top.usage.usage_from_proc, "{output}");
        let found = top.usage.processes.into_iter().find(|p| p.pid == hog.id());
        match found.filter(|p| p.own_bytes >= 28 * MIB) {
            Some(found) => break (found, top.usage.seen),
            None => assert!(Instant::now() < end, "never complete: {output}"),
        }
        std::thread::sleep(Duration::from_millis(500));
    };
    let status = procfs::process::Process::new(hog.id().cast_signed()).and_then(|p| p.status());
    let status = status.expect("its status");
    let resident = status.rssanon.unwrap_or_default() + status.rssshmem.unwrap_or_default();
    hog.kill().expect("kill");
    hog.wait().expect("wait");
    // Each counter lags: before 6.2 by up to 64 pages, since then by a batch per CPU.
    assert!(found.own_bytes.abs_diff(resident * 1024) <= MIB, "{found:?}, {resident} KiB by /proc");
    assert_eq!(found.cgroup, scope.id().expect("id"));
    let mib = found.own_bytes as f64 / MIB as f64;
    cell("processes", "verified", &format!("{count} processes, one of them with {mib:.1} MiB"));
}

#[test]
fn cgroups() {
    if is_missing("cgroups") {
        return;
    }
    let watch = Watch::start(&["cgroup:cgroup_mkdir", "cgroup:cgroup_rmdir"]);
    for i in 0..20 {
        let scope = Scope::new(&format!("named{i}"), 16 * MIB).expect("scope");
        if i == 19 {
            let mut limited = scope.command(program("hog").expect("hog"));
            limited.args(["--adj", "500", "anon", "32"]).status().expect("hog");
        }
    }
    let kills = watch.daemon.wait_for_events(1, |w| matches!(w, EventKind::OomKill { .. }));
    let (_, observed) = watch.stop();
    let table = fs::read_to_string("/proc/cgroups").expect("/proc/cgroups");
    // 7.3 lists only controllers on a v1 hierarchy.
    let line = table.lines().find(|l| l.starts_with("memory\t")).unwrap_or("memory\t0");
    let hierarchy: f64 = line.split('\t').nth(1).and_then(|id| id.parse().ok()).expect("its id");
    let ours = |r: &Record| f64::from(u8::from(field("root")(r) == hierarchy));
    let made =
        observed.assert_between("memsensor_cgroups_created_total", &[], "cgroup_mkdir", ours);
    let removed =
        observed.assert_between("memsensor_cgroups_removed_total", &[], "cgroup_rmdir", ours);
    assert!(made >= 20.0 && removed >= 20.0, "{made} made, {removed} removed");
    let EventKind::OomKill { victim, .. } = &kills.expect("the kill")[0].kind else { panic!() };
    let path = victim.cgroup.as_deref().unwrap_or_default();
    assert!(path.ends_with("-named19"), "{path:?}");
    cell("cgroups", "verified", &format!("{made} made, {removed} removed, and the path of a kill"));
}
