//! RabbitMQ: a client sends a message to a queue of its own and waits for it; other messages wait in
//! another queue. The protocol is STOMP, whose plugin is part of the server's package.

use std::{
    fs,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Result, ensure};
use rustix::process::Signal;

use super::{
    clients::{Client, Tcp},
    place::{PORT, Place},
    process::Running,
};
use crate::support::random::Random;

/// Bytes of a message.
const MESSAGE: usize = 1024;

/// RabbitMQ with its waiting messages.
pub fn rabbitmq(place: &Place) -> Result<Running> {
    let dir = place.dir.display();
    let config = format!(
        "stomp.listeners.tcp.1 = 127.0.0.1:{PORT}\nlisteners.tcp.1 = 127.0.0.1:{}\n\
         vm_memory_high_watermark.absolute = 8GB\ndisk_free_limit.absolute = 50MB\n",
        PORT + 1
    );
    fs::write(place.dir.join("rabbitmq.conf"), config)?;
    fs::write(place.dir.join("plugins"), "[rabbitmq_stomp].\n")?;
    let mut command = place.command("/usr/lib/rabbitmq/bin/rabbitmq-server");
    command.env("HOME", &place.dir).env("RABBITMQ_NODENAME", "memsensor@localhost");
    command.env("RABBITMQ_CONFIG_FILE", place.dir.join("rabbitmq"));
    command.env("RABBITMQ_ENABLED_PLUGINS_FILE", place.dir.join("plugins"));
    command.env("RABBITMQ_MNESIA_BASE", format!("{dir}/mnesia"));
    command.env("RABBITMQ_LOG_BASE", format!("{dir}/log"));
    command.env("RABBITMQ_PID_FILE", format!("{dir}/pid"));
    command.env("RABBITMQ_DIST_PORT", (PORT + 2).to_string());
    // Without a name service for Erlang nodes, which would outlive the test.
    command.env("ERL_EPMD_PORT", (PORT + 3).to_string());
    let mut running = Running::default();
    running.add(command, "rabbitmq-server", Signal::KILL)?;
    let mut connection = running.wait("RabbitMQ", connect)?;
    let body = "m".repeat(MESSAGE);
    let count = (place.data << 20) / MESSAGE as u64;
    for n in 0..count {
        let receipt = if n + 1 == count { "receipt:last\n" } else { "" };
        let frame = format!("SEND\ndestination:/queue/waiting\n{receipt}\n{body}\0");
        connection.send(frame.as_bytes())?;
    }
    let answer = connection.until(0)?;
    ensure!(is(&answer, "RECEIPT"), "RabbitMQ: {}", String::from_utf8_lossy(&answer));
    Ok(running)
}

/// Whether a frame is of this kind; line ends may come before it.
fn is(frame: &[u8], kind: &str) -> bool {
    frame.trim_ascii_start().starts_with(kind.as_bytes())
}

fn connect() -> Result<Tcp> {
    let mut connection = Tcp::connect()?;
    connection.send(
        b"CONNECT\naccept-version:1.2\nhost:/\nlogin:guest\npasscode:guest\nheart-beat:0,0\n\n\0",
    )?;
    let answer = connection.until(0)?;
    ensure!(is(&answer, "CONNECTED"), "RabbitMQ: {}", String::from_utf8_lossy(&answer));
    Ok(connection)
}

struct Stomp(Tcp, String);

/// A client with a queue of its own.
pub(super) fn client() -> Result<Box<dyn Client>> {
    static CLIENTS: AtomicU32 = AtomicU32::new(0);
    let queue = format!("/queue/client-{}", CLIENTS.fetch_add(1, Ordering::Relaxed));
    let mut connection = connect()?;
    let subscribe = format!("SUBSCRIBE\nid:0\ndestination:{queue}\nack:auto\nreceipt:s\n\n\0");
    connection.send(subscribe.as_bytes())?;
    let answer = connection.until(0)?;
    ensure!(is(&answer, "RECEIPT"), "RabbitMQ: {}", String::from_utf8_lossy(&answer));
    let send = format!("SEND\ndestination:{queue}\n\n{}\0", "m".repeat(MESSAGE));
    Ok(Box::new(Stomp(connection, send)))
}

impl Client for Stomp {
    fn ask(&mut self, _: &mut Random) -> Result<()> {
        self.0.send(self.1.as_bytes())?;
        let message = self.0.until(0)?;
        ensure!(is(&message, "MESSAGE"), "RabbitMQ: {}", String::from_utf8_lossy(&message));
        Ok(())
    }
}
