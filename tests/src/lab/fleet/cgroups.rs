//! The series of a host that depend on what runs there: its cgroups and its growing processes. Most
//! cgroups are calm and have few series; one that is short of memory has all of them.

use std::fmt::Write as _;

use super::{
    format::Format,
    timeline::{Moment, State, whole},
};

/// Services of a small server; further ones are numbered.
const SERVICES: [&str; 10] = [
    "nginx",
    "php-fpm",
    "postgresql",
    "redis-server",
    "ssh",
    "cron",
    "rsyslog",
    "systemd-journald",
    "systemd-logind",
    "memsensor",
];
/// Its growing processes.
const PROCESSES: [&str; 8] =
    ["nginx", "php-fpm8.2", "postgres", "redis-server", "sshd", "cron", "rsyslogd", "new-agent"];
/// As many as the daemon exports by default.
const GROWING: u32 = 5;
/// How many of its cgroups are short of memory in a shortage.
const SHORT: u32 = 3;

const MIB: f64 = 1_048_576.0;

/// A series of a cgroup; its value is `None` where the cgroup does not have it.
struct Series {
    name: &'static str,
    counter: bool,
    labels: &'static str,
    of: fn(&Group) -> Option<f64>,
}

/// A cgroup at one time.
struct Group {
    /// From 0 to 1: a constant that differs between cgroups.
    character: f64,
    uptime: f64,
    /// Seconds of shortage so far, if it ever had one.
    short: Option<f64>,
    kills: u32,
    /// It is short of memory now.
    now: bool,
    limited: bool,
}

const fn gauge(name: &'static str, of: fn(&Group) -> Option<f64>) -> Series {
    Series { name, counter: false, labels: "", of }
}

const fn counter(name: &'static str, of: fn(&Group) -> Option<f64>) -> Series {
    Series { name, counter: true, labels: "", of }
}

const SERIES: [Series; 9] = [
    gauge("memsensor_cgroup_memory_bytes", |g| {
        let wave = (g.uptime / 70.0 + g.character * 9.0).sin() * 0.01;
        let size = if g.now { 900.0 } else { 20.0 + 400.0 * g.character };
        Some(pages(size * (1.0 + wave) * MIB))
    }),
    gauge("memsensor_cgroup_memory_limit_bytes", |g| g.limited.then_some(1024.0 * MIB)),
    gauge("memsensor_cgroup_swap_bytes", |g| g.now.then_some(64.0 * MIB)),
    counter("memsensor_cgroup_refaulted_bytes", |g| {
        Some(pages(60.0 * g.character * g.uptime + 2e6 * g.short.unwrap_or(0.0)))
    }),
    counter("memsensor_cgroup_limit_hits", |g| g.short.map(|s| (s * 20.0).floor())),
    counter("memsensor_cgroup_memory_some_seconds", |g| {
        Some(micros(1e-5 * g.character * g.uptime + 0.4 * g.short.unwrap_or(0.0)))
    }),
    counter("memsensor_cgroup_memory_full_seconds", |g| g.short.map(|s| micros(s * 0.2))),
    Series {
        name: "memsensor_cgroup_stall_seconds",
        counter: true,
        labels: ",cause=\"memcg_reclaim\"",
        of: |g| g.short.map(|s| micros(s * 0.3)),
    },
    counter("memsensor_cgroup_oom_kills", |g| (g.kills > 0).then_some(f64::from(g.kills))),
];

/// Names of all series that a cgroup can have.
pub fn names() -> Vec<String> {
    let names =
        SERIES.iter().map(|s| format!("{}{}", s.name, if s.counter { "_total" } else { "" }));
    names.chain(["memsensor_cgroup_info".to_owned()]).collect()
}

/// How many cgroups a host has: a small server has ten to fifteen.
pub fn usual(host: u32) -> u32 {
    10 + host % 5
}

/// Writes the series of `count` cgroups and of the growing processes.
pub fn write(text: &mut String, format: Format, moment: &Moment, count: u32) {
    let groups: Vec<(String, Group)> = (0..count).map(|n| group(moment, n)).collect();
    format.head(text, "memsensor_cgroup", "info", "systemd unit, container and pod of a cgroup");
    for (service, _) in &groups {
        let _ = writeln!(
            text,
            "memsensor_cgroup_info{{cgroup=\"/system.slice/{service}\",unit=\"{service}\"}} 1"
        );
    }
    for Series { name, counter, labels, of } in &SERIES {
        let (kind, suffix) = if *counter { ("counter", "_total") } else { ("gauge", "") };
        format.head(text, name, kind, "See the README");
        for (service, group) in &groups {
            let Some(value) = of(group) else { continue };
            let _ = writeln!(
                text,
                "{name}{suffix}{{cgroup=\"/system.slice/{service}\"{labels}}} {value:?}"
            );
        }
    }
    let name = "memsensor_process_growth_bytes_per_second";
    format.head(text, name, "gauge", "How fast processes grow");
    // The growing processes change every three minutes.
    let turn = moment.host.wrapping_add(whole(moment.seconds / 180.0));
    for n in 0..GROWING {
        let comm = PROCESSES[(turn.wrapping_add(n) % 8) as usize];
        let service = service(turn.wrapping_add(n) % 8);
        let value =
            pages(MIB * (f64::from(n) + moment.character + (moment.seconds / 50.0).fract()));
        let _ = writeln!(
            text,
            "{name}{{comm=\"{comm}\",cgroup=\"/system.slice/{service}\"}} {value:?}"
        );
    }
}

fn service(n: u32) -> String {
    match SERVICES.get(n as usize) {
        Some(name) => format!("{name}.service"),
        None => format!("worker-{n}.service"),
    }
}

fn group(moment: &Moment, n: u32) -> (String, Group) {
    let is_short = n < SHORT && moment.shortages[0] > 0;
    let group = Group {
        character: (moment.character + f64::from(n) * 0.137).fract(),
        uptime: moment.uptime,
        short: is_short.then_some(moment.shortage_seconds),
        kills: if n == 0 { moment.kills } else { 0 },
        now: is_short && moment.state != State::Ready,
        limited: n.is_multiple_of(4),
    };
    (service(n), group)
}

fn pages(bytes: f64) -> f64 {
    (bytes / 4096.0).floor() * 4096.0
}

fn micros(seconds: f64) -> f64 {
    (seconds * 1e6).floor() / 1e6
}
