//! PostgreSQL and MariaDB. Their clients are psql and mariadb, which print one line per question.

use std::{fs, os::unix::fs::chown, process::Command};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;

use super::{
    clients::{Client, Console},
    place::{PORT, Place},
    process::{Running, succeed},
};
use crate::support::random::Random;

/// MiB of a unit of pgbench's tables, and its rows.
const SCALE: u64 = 15;
const ROWS: u64 = 100_000;

/// The newest PostgreSQL of Debian.
fn postgres_program(name: &str) -> Result<String> {
    let root = "/usr/lib/postgresql";
    let versions =
        fs::read_dir(root).with_context(|| format!("list {root}: install postgresql"))?;
    let newest = versions.flatten().filter_map(|v| v.file_name().to_str()?.parse::<u32>().ok());
    let newest = newest.max().with_context(|| format!("no version in {root}"))?;
    Ok(format!("{root}/{newest}/bin/{name}"))
}

fn as_postgres(mut command: Command, program: &str) -> Command {
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", program]);
    command
}

/// PostgreSQL with pgbench's tables; a quarter of the limit is its own cache, as its manual says.
pub fn postgres(place: &Place) -> Result<Running> {
    let id = succeed(Command::new("id").args(["-u", "postgres"]))?.trim().parse()?;
    chown(&place.dir, Some(id), None)?;
    let data = place.dir.join("data");
    let mut init = as_postgres(Command::new("setpriv"), &postgres_program("initdb")?);
    succeed(init.current_dir(&place.dir).args(["-A", "trust", "-N", "-D"]).arg(&data))?;
    let mut running = Running::default();
    let program = postgres_program("postgres")?;
    let mut command = as_postgres(place.command("setpriv"), &program);
    command.current_dir(&place.dir).arg("-D").arg(&data);
    let buffers = format!("shared_buffers={}MB", place.limit / 4);
    for setting in [
        &format!("port={PORT}"),
        &format!("unix_socket_directories={}", place.dir.display()),
        &buffers,
        "listen_addresses=",
        "dynamic_shared_memory_type=mmap",
        "synchronous_commit=off",
        "max_wal_size=256MB",
        "autovacuum=off",
        // A query ends with its client.
        "client_connection_check_interval=500ms",
    ] {
        command.arg("-c").arg(setting);
    }
    running.add(command, "postgres", Signal::QUIT)?;
    running.wait("PostgreSQL", || Console::start(psql(place))?.ask("SELECT 1;\n"))?;
    let mut fill = Command::new("pgbench");
    fill.args(["--initialize", "--quiet", "--scale", &place.data.div_ceil(SCALE).to_string()]);
    fill.arg("--host").arg(&place.dir).args(postgres_arguments()).arg("postgres");
    succeed(&mut fill)?;
    Ok(running)
}

fn postgres_arguments() -> [String; 4] {
    ["--port", &PORT.to_string(), "--username", "postgres"].map(str::to_owned)
}

fn psql(place: &Place) -> Command {
    let mut command = Command::new("psql");
    command.args(["-X", "-q", "-A", "-t", "--host"]).arg(&place.dir).args(postgres_arguments());
    command.env("PGDATABASE", "postgres");
    command
}

struct Postgres {
    console: Console,
    rows: u64,
    asked: u64,
}

/// A client of PostgreSQL.
pub fn postgres_client(place: &Place) -> Result<Box<dyn Client>> {
    let console = Console::start(psql(place))?;
    Ok(Box::new(Postgres { console, rows: place.data.div_ceil(SCALE) * ROWS, asked: 0 }))
}

impl Client for Postgres {
    fn ask(&mut self, random: &mut Random) -> Result<()> {
        let row = 1 + random.below(self.rows);
        self.asked += 1;
        let question = if self.asked.is_multiple_of(5) {
            format!(
                "UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = {row} \
                 RETURNING abalance;\n"
            )
        } else {
            format!("SELECT abalance FROM pgbench_accounts WHERE aid = {row};\n")
        };
        let answer = self.console.ask(&question)?;
        ensure!(answer.parse::<i64>().is_ok(), "PostgreSQL: {answer}");
        Ok(())
    }
}

/// Bytes of a row of MariaDB's table, with its overhead.
const ROW: u64 = 1024;

/// MariaDB with a table; half of the limit is its own cache.
pub fn mariadb(place: &Place) -> Result<Running> {
    let data = place.dir.join("data");
    let mut init = Command::new("mariadb-install-db");
    init.args(["--no-defaults", "--user=root", "--auth-root-authentication-method=normal"]);
    succeed(init.arg("--skip-test-db").arg(format!("--datadir={}", data.display())))?;
    let mut running = Running::default();
    let mut command = place.command("mariadbd");
    command.args(["--no-defaults", "--user=root", "--skip-networking", "--skip-log-bin"]);
    command.arg(format!("--datadir={}", data.display()));
    command.arg(format!("--socket={}", place.dir.join("s").display()));
    command.arg(format!("--innodb-buffer-pool-size={}M", place.limit / 2));
    command.args(["--innodb-flush-log-at-trx-commit=2", "--innodb-buffer-pool-dump-at-shutdown=0"]);
    running.add(command, "mariadbd", Signal::KILL)?;
    running.wait("MariaDB", || Console::start(mariadb_console(place))?.ask("SELECT 1;\n"))?;
    let fill = format!(
        "CREATE DATABASE web; USE web; \
         CREATE TABLE items (id INT PRIMARY KEY, body VARCHAR(1000)); \
         INSERT INTO items SELECT seq, REPEAT(CHAR(65 + seq % 26), 900) FROM seq_1_to_{};",
        rows(place.data)
    );
    succeed(mariadb_console(place).args(["-e", &fill]))?;
    Ok(running)
}

const fn rows(mib: u64) -> u64 {
    (mib << 20) / ROW
}

fn mariadb_console(place: &Place) -> Command {
    let mut command = Command::new("mariadb");
    command.args(["--no-defaults", "--user=root", "--batch", "--skip-column-names"]);
    command.args(["--unbuffered"]).arg(format!("--socket={}", place.dir.join("s").display()));
    command
}

struct MariaDb(Console, u64);

/// A client of MariaDB.
pub fn mariadb_client(place: &Place) -> Result<Box<dyn Client>> {
    Ok(Box::new(MariaDb(Console::start(mariadb_console(place))?, rows(place.data))))
}

impl Client for MariaDb {
    fn ask(&mut self, random: &mut Random) -> Result<()> {
        let id = 1 + random.below(self.1);
        let answer =
            self.0.ask(&format!("SELECT LENGTH(body) FROM web.items WHERE id = {id};\n"))?;
        ensure!(answer == "900", "MariaDB: {answer}");
        Ok(())
    }
}
