//! Redis and memcached, with values of 1 KiB.

use std::fmt::Write as _;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::Signal;

use super::{
    clients::{Client, Tcp},
    place::{PORT, Place},
    process::Running,
};
use crate::support::random::Random;

const VALUE: u64 = 1024;

/// The number of values in so many MiB.
const fn values(mib: u64) -> u64 {
    (mib << 20) / VALUE
}

/// Redis with its values. It saves only on request.
pub fn redis(place: &Place) -> Result<Running> {
    let mut running = Running::default();
    let mut command = place.command("redis-server");
    command.arg("--port").arg(PORT.to_string()).arg("--dir").arg(&place.dir);
    command.args(["--bind", "127.0.0.1", "--save", "", "--enable-debug-command", "yes"]);
    running.add(command, "redis-server", Signal::KILL)?;
    let mut connection = running.wait("Redis", Tcp::connect)?;
    let fill = format!("DEBUG POPULATE {} key {VALUE}\r\n", values(place.data));
    connection.send(fill.as_bytes())?;
    // A large fill takes longer than a client waits.
    let filled = (0..20).find_map(|_| connection.line().ok()).context("Redis does not fill")?;
    ensure!(filled == "+OK", "Redis: {filled}");
    Ok(running)
}

/// memcached with its values, and room for as many.
pub fn memcached(place: &Place) -> Result<Running> {
    let mut running = Running::default();
    let mut command = place.command("memcached");
    let room = (place.data * 2).to_string();
    command.args(["-u", "root", "-l", "127.0.0.1", "-m", &room, "-t", "2"]);
    command.arg("-p").arg(PORT.to_string());
    running.add(command, "memcached", Signal::KILL)?;
    let mut connection = running.wait("memcached", Tcp::connect)?;
    let value = "v".repeat(VALUE.try_into()?);
    for n in 0..values(place.data) {
        connection.send(format!("set key:{n} 0 0 {VALUE} noreply\r\n{value}\r\n").as_bytes())?;
    }
    connection.send(b"version\r\n")?;
    ensure!(connection.line()?.starts_with("VERSION"), "memcached does not fill");
    Ok(running)
}

struct Redis(Tcp, u64);

/// A client of Redis.
pub fn redis_client(place: &Place) -> Result<Box<dyn Client>> {
    Ok(Box::new(Redis(Tcp::connect()?, values(place.data))))
}

impl Client for Redis {
    fn ask(&mut self, random: &mut Random) -> Result<()> {
        // As many keys as a page shows.
        let mut question = String::new();
        for _ in 0..8 {
            let _ = write!(question, "GET key:{}\r\n", random.below(self.1));
        }
        self.0.send(question.as_bytes())?;
        for _ in 0..8 {
            let size = self.0.line()?;
            let Some(size) = size.strip_prefix('$') else { bail!("Redis: {size}") };
            self.0.skip(size.parse::<u64>().context("no value")? + 2)?;
        }
        Ok(())
    }
}

struct Memcached(Tcp, u64);

/// A client of memcached.
pub fn memcached_client(place: &Place) -> Result<Box<dyn Client>> {
    Ok(Box::new(Memcached(Tcp::connect()?, values(place.data))))
}

impl Client for Memcached {
    fn ask(&mut self, random: &mut Random) -> Result<()> {
        let mut question = "get".to_owned();
        for _ in 0..8 {
            let _ = write!(question, " key:{}", random.below(self.1));
        }
        self.0.send(format!("{question}\r\n").as_bytes())?;
        loop {
            let line = self.0.line()?;
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["END"] => return Ok(()),
                ["VALUE", _, _, size] => self.0.skip(size.parse::<u64>()? + 2)?,
                _ => bail!("memcached: {line}"),
            }
        }
    }
}
