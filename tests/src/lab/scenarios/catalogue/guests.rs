//! The scenarios in which a whole machine runs short of memory, with its kswapd and its watermarks: a
//! guest with cgroup v2 whose memory is the limit. The host is judged.

use super::{
    causes,
    scenario::{
        Expected::Harm,
        Half::{self, HeldOut, Tune},
        Layout, Scenario,
        Swap::{Fast, Slow},
        of,
    },
};
use crate::lab::scenarios::services::Service::{self, MariaDb, Nginx, Postgres, Redis};

const fn guest(service: Service, half: Half, data: u64, limit: u64) -> Scenario {
    Scenario {
        guest: true,
        layout: Layout::Unlimited,
        seconds: 25,
        ..of(service, half, data, limit)
    }
}

/// All of them.
pub(super) const ALL: &[Scenario] = &[
    Scenario {
        name: "guest-nginx-leak",
        about: "512 MiB: a process leaks 15 MiB/s and uses all of it, slow swap",
        expected: Harm,
        swap: Slow(512),
        load: &[&["leak", "15", "700", "walked"]],
        seconds: 40,
        ..guest(Nginx, Tune, 64, 512)
    },
    Scenario {
        name: "guest-nginx-tar",
        about: "512 MiB: a backup reads a file larger than memory, again and again",
        files: &[("archive", 700)],
        load: &[&["sh", causes::TAR]],
        ..guest(Nginx, Tune, 64, 512)
    },
    Scenario {
        name: "guest-redis-leak",
        about: "1 GiB: a process leaks 40 MiB/s and uses all of it, fast swap",
        expected: Harm,
        swap: Fast(1024),
        load: &[&["leak", "40", "1500", "walked"]],
        seconds: 40,
        ..guest(Redis, Tune, 300, 1024)
    },
    Scenario {
        name: "guest-redis-leak-no-swap",
        about: "1 GiB: a process leaks 40 MiB/s, no swap: page cache goes, then the OOM killer comes",
        expected: Harm,
        load: &[&["leak", "40", "1500", "walked"]],
        seconds: 35,
        ..guest(Redis, Tune, 300, 1024)
    },
    Scenario {
        name: "guest-redis-save",
        about: "1 GiB: BGSAVE under writes, which fits",
        load: &[&["sh", causes::REDIS_WRITES], &["sh", causes::REDIS_SAVES]],
        ..guest(Redis, Tune, 200, 1024)
    },
    Scenario {
        name: "guest-redis-neighbour",
        about: "1 GiB: a neighbour thrashes at its own limit, fast swap",
        layout: Layout::NeighbourLimited(64),
        swap: Fast(512),
        load: &[&["anon", "100"]],
        ..guest(Redis, Tune, 200, 1024)
    },
    Scenario {
        name: "guest-postgres-steady",
        about: "1 GiB: the tables are twice the memory, all the time",
        ..guest(Postgres, Tune, 2000, 1024)
    },
    Scenario {
        name: "guest-postgres-leak",
        about: "2 GiB: a process leaks 100 MiB/s and uses all of it, slow swap",
        expected: Harm,
        swap: Slow(1024),
        load: &[&["leak", "100", "2500", "walked"]],
        seconds: 40,
        ..guest(Postgres, Tune, 400, 2048)
    },
    Scenario {
        name: "guest-mariadb-leak",
        about: "1 GiB: a process leaks 40 MiB/s and uses all of it, slow swap",
        expected: Harm,
        swap: Slow(1024),
        load: &[&["leak", "40", "1500", "walked"]],
        seconds: 40,
        ..guest(MariaDb, HeldOut, 150, 1024)
    },
    Scenario {
        name: "guest-mariadb-dump",
        about: "1 GiB: mariadb-dump, again and again",
        load: &[&["sh", causes::MARIADB_DUMP]],
        ..guest(MariaDb, HeldOut, 150, 1024)
    },
    Scenario {
        name: "guest-mariadb-scan",
        about: "4 GiB: hashes of all programs, again and again",
        load: &[&["sh", causes::SCAN]],
        ..guest(MariaDb, HeldOut, 150, 4096)
    },
];
