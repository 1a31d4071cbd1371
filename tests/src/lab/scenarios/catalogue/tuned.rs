//! The scenarios of the services on which thresholds may be tuned. Each is another pair of service
//! and cause; `redis-large-leak` is `redis-leak` in another size.

use super::{
    causes,
    scenario::{
        Expected::Harm,
        Half::Tune,
        Layout, SLOW_DISK, Scenario,
        Swap::{Fast, Slow, Zram},
        of,
    },
};
use crate::lab::scenarios::services::Service::{Jvm, Memcached, Nginx, Postgres, Redis};

const POSTGRES: Scenario = of(Postgres, Tune, 180, 400);
const REDIS: Scenario = of(Redis, Tune, 200, 400);
const NGINX: Scenario = of(Nginx, Tune, 128, 256);
const JVM: Scenario = of(Jvm, Tune, 96, 320);
const MEMCACHED: Scenario = of(Memcached, Tune, 128, 256);

/// All of them.
pub(super) const ALL: &[Scenario] = &[
    Scenario {
        name: "postgres-leak",
        about: "a process leaks 25 MiB/s and uses all of it, slow swap",
        expected: Harm,
        swap: Slow(512),
        load: &[&["leak", "25", "500", "walked"]],
        seconds: 20,
        ..POSTGRES
    },
    Scenario {
        name: "postgres-analytic",
        about: "a query sorts the largest table in memory, slow swap",
        expected: Harm,
        swap: Slow(768),
        load: &[&[
            "sh",
            "while :; do psql -qc \"SET work_mem = '1GB'; SELECT count(m) FROM (SELECT md5(aid::text) \
             AS m, filler FROM pgbench_accounts ORDER BY m) AS s\"; done",
        ]],
        seconds: 20,
        ..POSTGRES
    },
    Scenario {
        name: "postgres-dump",
        about: "pg_dump, again and again",
        load: &[&["sh", "while :; do pg_dump | cat; done"]],
        ..POSTGRES
    },
    Scenario {
        name: "postgres-tar",
        about: "a backup reads a file of three times the limit once",
        files: &[("archive", 1200)],
        load: &[&["sh", causes::TAR_ONCE]],
        ..POSTGRES
    },
    Scenario {
        name: "postgres-steady",
        about: "the tables are four times the memory, all the time",
        data: 1200,
        limit: 300,
        ..POSTGRES
    },
    Scenario {
        name: "postgres-tmpfs",
        about: "a tmpfs fills up, slow disk, no swap",
        expected: Harm,
        disk: SLOW_DISK,
        load: &[&["fill", "%", "25"]],
        seconds: 22,
        ..POSTGRES
    },
    Scenario {
        name: "postgres-vacuum",
        about: "VACUUM FREEZE of all tables, again and again",
        load: &[&["sh", "while :; do psql -qc 'VACUUM (FREEZE, DISABLE_PAGE_SKIPPING)'; done"]],
        ..POSTGRES
    },
    Scenario {
        name: "redis-leak",
        about: "a process leaks 40 MiB/s and uses all of it, fast swap",
        expected: Harm,
        swap: Fast(1024),
        load: &[&["leak", "40", "800", "walked"]],
        seconds: 20,
        ..REDIS
    },
    Scenario {
        name: "redis-large-leak",
        about: "the same at 2.5 GiB: 1.5 GiB of data, 150 MiB/s",
        expected: Harm,
        data: 1500,
        limit: 2560,
        swap: Fast(2048),
        load: &[&["leak", "150", "2200", "walked"]],
        seconds: 20,
        ..REDIS
    },
    Scenario {
        name: "redis-huge-leak",
        about: "the same at 8 GiB: 5 GiB of data, 600 MiB/s",
        expected: Harm,
        data: 5000,
        limit: 8192,
        swap: Fast(4096),
        load: &[&["leak", "600", "6000", "walked"]],
        seconds: 20,
        ..REDIS
    },
    Scenario {
        name: "redis-leak-zram",
        about: "the same as redis-leak, with swap on zram",
        expected: Harm,
        swap: Zram(1024),
        load: &[&["leak", "40", "800", "walked"]],
        seconds: 20,
        ..REDIS
    },
    Scenario {
        name: "redis-save",
        about: "BGSAVE under writes, which fits",
        limit: 640,
        load: &[&["sh", causes::REDIS_WRITES], &["sh", causes::REDIS_SAVES]],
        ..REDIS
    },
    Scenario {
        name: "redis-save-tight",
        about: "BGSAVE under writes, with a tenth of memory to spare, slow swap",
        expected: Harm,
        limit: 270,
        swap: Slow(512),
        load: &[&["sh", causes::REDIS_WRITES], &["sh", causes::REDIS_SAVES]],
        seconds: 20,
        ..REDIS
    },
    Scenario {
        name: "redis-neighbour-thrashes",
        about: "a neighbour thrashes at its own limit, fast swap; the host is judged",
        layout: Layout::NeighbourLimited(64),
        swap: Fast(512),
        load: &[&["anon", "100"]],
        ..REDIS
    },
    Scenario {
        name: "redis-neighbour-restarts",
        about: "a neighbour too large for its limit is restarted every 3 s, fast swap; host judged",
        layout: Layout::NeighbourLimited(60),
        swap: Fast(512),
        load: &[&["sh", causes::RESTARTED]],
        ..REDIS
    },
    Scenario {
        name: "redis-neighbour-killed",
        about: "a neighbour is OOM-killed at its limit again and again; the host is judged",
        layout: Layout::NeighbourLimited(60),
        load: &[&["sh", causes::RESTARTED]],
        ..REDIS
    },
    Scenario {
        name: "redis-log-storm",
        about: "40 MB/s are written to a log",
        load: &[&["sh", causes::LOG]],
        ..REDIS
    },
    Scenario {
        name: "nginx-tar",
        about: "a backup reads a file of six times the limit, again and again",
        files: &[("archive", 1500)],
        load: &[&["sh", causes::TAR]],
        ..NGINX
    },
    Scenario {
        name: "nginx-mapped",
        about: "a mapped file is read again and again, slow disk",
        expected: Harm,
        disk: SLOW_DISK,
        files: &[("mapped", 240)],
        load: &[&["map", "@mapped"]],
        ..NGINX
    },
    Scenario {
        name: "nginx-leak",
        about: "a process leaks 15 MiB/s up to 200 MiB, slow disk, no swap",
        expected: Harm,
        disk: SLOW_DISK,
        load: &[&["leak", "15", "200", "cold"]],
        seconds: 20,
        ..NGINX
    },
    Scenario {
        name: "nginx-rsync",
        about: "rsync copies 600 MiB",
        files: &[("archive", 600)],
        load: &[&["sh", causes::RSYNC]],
        ..NGINX
    },
    Scenario {
        name: "nginx-find",
        about: "find reads the metadata of all files of the system, again and again",
        load: &[&["sh", causes::FIND]],
        ..NGINX
    },
    Scenario {
        name: "nginx-cron",
        about: "twelve Python processes at once, every 4 s, which fit",
        limit: 512,
        load: &[&["sh", causes::CRON]],
        ..NGINX
    },
    Scenario {
        name: "jvm-leak",
        about: "a process leaks 15 MiB/s and uses all of it, slow swap",
        expected: Harm,
        swap: Slow(512),
        load: &[&["leak", "15", "400", "walked"]],
        seconds: 25,
        ..JVM
    },
    Scenario {
        name: "jvm-at-heap-limit",
        about: "another JVM collects garbage at its heap's limit of 64 MiB",
        limit: 512,
        load: &[&["sh", "exec java -XX:+UseSerialGC -Xmx64m -cp \"$SERVICE\" Web"]],
        ..JVM
    },
    Scenario {
        name: "jvm-compile",
        about: "a C++ compiler of 300 MiB, which fits",
        limit: 768,
        load: &[&["sh", causes::COMPILE]],
        ..JVM
    },
    Scenario {
        name: "jvm-fork-storm",
        about: "30 processes per second, each with 10 MiB for 3 s, no swap",
        expected: Harm,
        load: &[&["storm", "30", "10", "3000"]],
        ..JVM
    },
    Scenario {
        name: "jvm-limit-lowered",
        about: "an operator lowers the limit to 150 MiB, slow swap",
        expected: Harm,
        swap: Slow(512),
        load: &[&["sh", "echo 157286400 >\"$LIMIT\""]],
        ..JVM
    },
    Scenario {
        name: "memcached-burst",
        about: "240 MiB are allocated at once, slow swap",
        expected: Harm,
        swap: Slow(512),
        load: &[&["anon", "240"]],
        ..MEMCACHED
    },
    Scenario {
        name: "memcached-scan",
        about: "a scanner reads all programs and libraries of the system",
        load: &[&["sh", causes::SCAN]],
        ..MEMCACHED
    },
    Scenario {
        name: "memcached-tmpfs",
        about: "a tmpfs grows by 20 MiB/s, slow swap",
        expected: Harm,
        swap: Slow(512),
        load: &[&["fill", "%", "20"]],
        seconds: 22,
        ..MEMCACHED
    },
    Scenario {
        name: "memcached-compile",
        about: "two C++ compilers of 300 MiB each, slow swap",
        expected: Harm,
        swap: Slow(1024),
        load: &[&["sh", causes::COMPILE], &["sh", causes::COMPILE]],
        seconds: 20,
        ..MEMCACHED
    },
];
