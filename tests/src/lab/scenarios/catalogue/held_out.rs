//! The scenarios of the services on which nothing is tuned. Each is another pair of service and cause.

use super::{
    causes,
    scenario::{
        Expected::Harm,
        Half::HeldOut,
        Layout, SLOW_DISK, Scenario,
        Swap::{Fast, Slow},
        of,
    },
};
use crate::lab::scenarios::services::Service::{HaProxy, MariaDb, Node, RabbitMq};

const MARIADB: Scenario = of(MariaDb, HeldOut, 150, 400);
const NODE: Scenario = of(Node, HeldOut, 96, 256);
const RABBITMQ: Scenario = of(RabbitMq, HeldOut, 40, 384);
const HAPROXY: Scenario = of(HaProxy, HeldOut, 16, 64);

/// All of them.
pub(super) const ALL: &[Scenario] = &[
    Scenario {
        name: "mariadb-leak",
        about: "a process leaks 25 MiB/s and uses all of it, slow swap",
        expected: Harm,
        swap: Slow(512),
        load: &[&["leak", "25", "500", "walked"]],
        seconds: 25,
        ..MARIADB
    },
    Scenario {
        name: "mariadb-analytic",
        about: "a query sorts the table in memory, slow swap",
        expected: Harm,
        swap: Slow(768),
        load: &[&[
            "sh",
            "while :; do mariadb --no-defaults -S \"$SERVICE/s\" -e 'SET sort_buffer_size = 1 << 30, \
             max_length_for_sort_data = 8000000; SELECT body FROM web.items ORDER BY MD5(id) LIMIT 1, 9999999' \
             | tail -1; done",
        ]],
        seconds: 20,
        ..MARIADB
    },
    Scenario {
        name: "mariadb-dump",
        about: "mariadb-dump, again and again",
        load: &[&["sh", causes::MARIADB_DUMP]],
        ..MARIADB
    },
    Scenario {
        name: "mariadb-tar",
        about: "a backup reads a file of four times the limit, again and again",
        files: &[("archive", 1500)],
        load: &[&["sh", causes::TAR]],
        ..MARIADB
    },
    Scenario {
        name: "mariadb-steady",
        about: "the table is three times the memory, all the time",
        data: 900,
        limit: 300,
        ..MARIADB
    },
    Scenario {
        name: "mariadb-tmpfs",
        about: "a tmpfs fills up, slow disk, no swap",
        expected: Harm,
        disk: SLOW_DISK,
        load: &[&["fill", "%", "25"]],
        seconds: 22,
        ..MARIADB
    },
    Scenario {
        name: "node-leak",
        about: "a process leaks 20 MiB/s and uses all of it, fast swap",
        expected: Harm,
        swap: Fast(512),
        load: &[&["leak", "20", "400", "walked"]],
        seconds: 25,
        ..NODE
    },
    Scenario {
        name: "node-fork-storm",
        about: "30 processes per second, each with 8 MiB for 3 s, no swap",
        expected: Harm,
        load: &[&["storm", "30", "8", "3000"]],
        ..NODE
    },
    Scenario {
        name: "node-burst",
        about: "250 MiB are allocated at once, slow swap",
        expected: Harm,
        swap: Slow(512),
        load: &[&["anon", "250"]],
        ..NODE
    },
    Scenario {
        name: "node-scan",
        about: "a scanner reads all programs and libraries of the system",
        load: &[&["sh", causes::SCAN]],
        ..NODE
    },
    Scenario {
        name: "node-log-storm",
        about: "40 MB/s are written to a log",
        load: &[&["sh", causes::LOG]],
        ..NODE
    },
    Scenario {
        name: "node-neighbour-thrashes",
        about: "a neighbour reads a file larger than its own limit; the host is judged",
        layout: Layout::NeighbourLimited(64),
        files: &[("mapped", 160)],
        load: &[&["map", "@mapped"]],
        ..NODE
    },
    Scenario {
        name: "rabbitmq-leak",
        about: "a process leaks 20 MiB/s and uses all of it, slow swap",
        expected: Harm,
        swap: Slow(512),
        load: &[&["leak", "20", "500", "walked"]],
        seconds: 25,
        ..RABBITMQ
    },
    Scenario {
        name: "rabbitmq-compile",
        about: "a C++ compiler of 300 MiB, which fits",
        limit: 768,
        load: &[&["sh", causes::COMPILE]],
        ..RABBITMQ
    },
    Scenario {
        name: "rabbitmq-apt",
        about: "apt plans an upgrade, again and again",
        load: &[&["sh", causes::APT]],
        ..RABBITMQ
    },
    Scenario {
        name: "rabbitmq-tmpfs",
        about: "a tmpfs fills up, slow disk, no swap",
        expected: Harm,
        disk: SLOW_DISK,
        load: &[&["fill", "%", "25"]],
        seconds: 22,
        ..RABBITMQ
    },
    Scenario {
        name: "rabbitmq-neighbour-restarts",
        about: "a neighbour too large for its limit is restarted every 3 s, fast swap; host judged",
        layout: Layout::NeighbourLimited(60),
        swap: Fast(512),
        load: &[&["sh", causes::RESTARTED]],
        ..RABBITMQ
    },
    Scenario {
        name: "haproxy-leak",
        about: "a process leaks 5 MiB/s and uses all of it, slow swap",
        expected: Harm,
        swap: Slow(256),
        load: &[&["leak", "5", "120", "walked"]],
        seconds: 25,
        ..HAPROXY
    },
    Scenario {
        name: "haproxy-rsync",
        about: "rsync copies 600 MiB",
        files: &[("archive", 600)],
        load: &[&["sh", causes::RSYNC]],
        ..HAPROXY
    },
    Scenario {
        name: "haproxy-cron",
        about: "twelve Python processes at once, every 4 s, which fit",
        limit: 384,
        load: &[&["sh", causes::CRON]],
        ..HAPROXY
    },
    Scenario {
        name: "haproxy-burst",
        about: "60 MiB are allocated at once, slow disk, no swap",
        expected: Harm,
        disk: SLOW_DISK,
        load: &[&["anon", "60"]],
        ..HAPROXY
    },
];
