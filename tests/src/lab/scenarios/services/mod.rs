//! The services that judge: real programs with data of their own, and a client for each. A service
//! runs in a cgroup at nice -10, so that its waits are for memory, not for a CPU; its clients run
//! outside.
//!
//! * [`clients`]: connections that ask one question at a time.
//! * [`caches`]: Redis and memcached; [`databases`]: PostgreSQL and MariaDB; [`web`]: nginx, HAProxy,
//!   the JVM and Node.js; [`queue`]: RabbitMQ.
//! * [`process`]: a running service; [`place`]: where it runs.

pub mod caches;
pub mod clients;
pub mod databases;
mod place;
pub mod process;
pub mod queue;
pub mod web;

use anyhow::{Result, bail};

pub use self::place::{PORT, Place};
use self::{clients::Client, process::Running};

/// A service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// The program of this repository, which has a process of its own for both sides.
    Probe,
    /// PostgreSQL with pgbench's tables: four reads of a row, then an update.
    Postgres,
    /// MariaDB: reads of a row.
    MariaDb,
    /// Redis: GET.
    Redis,
    /// memcached: get.
    Memcached,
    /// nginx: static files of 32 KiB.
    Nginx,
    /// HAProxy, which forwards to an nginx outside of the cgroup.
    HaProxy,
    /// An HTTP server in Java with a cache in its heap and garbage per request.
    Jvm,
    /// RabbitMQ: a message is sent and received, by STOMP; others wait in a queue.
    RabbitMq,
    /// An HTTP server in JavaScript with a cache in its heap.
    Node,
}

impl Service {
    /// Its name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Probe => "probe",
            Self::Postgres => "PostgreSQL",
            Self::MariaDb => "MariaDB",
            Self::Redis => "Redis",
            Self::Memcached => "memcached",
            Self::Nginx => "nginx",
            Self::HaProxy => "HAProxy",
            Self::Jvm => "JVM",
            Self::RabbitMq => "RabbitMQ",
            Self::Node => "Node.js",
        }
    }

    /// Starts it and fills in its data.
    pub fn start(self, place: &Place) -> Result<Running> {
        match self {
            Self::Probe => bail!("the probe is started as a load"),
            Self::Postgres => databases::postgres(place),
            Self::MariaDb => databases::mariadb(place),
            Self::Redis => caches::redis(place),
            Self::Memcached => caches::memcached(place),
            Self::Nginx => web::nginx(place),
            Self::HaProxy => web::haproxy(place),
            Self::Jvm => web::jvm(place),
            Self::RabbitMq => queue::rabbitmq(place),
            Self::Node => web::node(place),
        }
    }

    /// Connects a client.
    pub fn connect(self, place: &Place) -> Result<Box<dyn Client>> {
        match self {
            Self::Probe => bail!("the probe asks itself"),
            Self::Postgres => databases::postgres_client(place),
            Self::MariaDb => databases::mariadb_client(place),
            Self::Redis => caches::redis_client(place),
            Self::Memcached => caches::memcached_client(place),
            Self::Nginx | Self::HaProxy => web::client(web::files(place.data)),
            Self::Jvm | Self::Node => web::client(web::items(place.data)),
            Self::RabbitMq => queue::client(),
        }
    }
}
