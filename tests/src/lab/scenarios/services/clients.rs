//! Connections that ask one question at a time: over TCP, or through the console of a client program.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::{fd::OwnedFd, unix::net::UnixStream},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};

use super::place::PORT;
use crate::support::random::Random;

/// A client gives up after this time.
pub const TIMEOUT: Duration = Duration::from_secs(2);

/// A connection.
pub trait Client: Send {
    /// Asks a question, chosen at random, and waits for the answer.
    fn ask(&mut self, random: &mut Random) -> Result<()>;
}

/// A TCP connection to the service.
#[derive(Debug)]
pub struct Tcp(BufReader<TcpStream>);

impl Tcp {
    /// Connects to the service.
    pub fn connect() -> Result<Self> {
        Self::to(PORT)
    }

    /// Connects to a port on 127.0.0.1.
    pub fn to(port: u16) -> Result<Self> {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        stream.set_nodelay(true)?;
        Ok(Self(BufReader::new(stream)))
    }

    /// Sends bytes.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.0.get_mut().write_all(bytes)?)
    }

    /// Reads a line, without its end.
    pub fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        ensure!(self.0.read_line(&mut line)? > 0, "the service closed the connection");
        Ok(line.trim_end().to_owned())
    }

    /// Reads and drops so many bytes.
    pub fn skip(&mut self, bytes: u64) -> Result<()> {
        let copied = std::io::copy(&mut self.0.by_ref().take(bytes), &mut std::io::sink())?;
        ensure!(copied == bytes, "the service closed the connection");
        Ok(())
    }

    /// Reads up to and with a byte.
    pub fn until(&mut self, byte: u8) -> Result<Vec<u8>> {
        let mut read = Vec::new();
        self.0.read_until(byte, &mut read)?;
        ensure!(read.last() == Some(&byte), "the service closed the connection");
        Ok(read)
    }
}

/// A client program that reads questions from its standard input and prints one line for each.
#[derive(Debug)]
pub struct Console {
    child: Child,
    pipe: BufReader<UnixStream>,
}

impl Console {
    /// Starts it.
    pub fn start(mut command: Command) -> Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_read_timeout(Some(TIMEOUT))?;
        let input = OwnedFd::from(theirs.try_clone()?);
        command.stdin(input).stdout(OwnedFd::from(theirs)).stderr(Stdio::null());
        let child = command.spawn().with_context(|| format!("start {command:?}"))?;
        Ok(Self { child, pipe: BufReader::new(ours) })
    }

    /// Asks a question and returns its line.
    pub fn ask(&mut self, question: &str) -> Result<String> {
        self.pipe.get_mut().write_all(question.as_bytes())?;
        let mut line = String::new();
        let read = self.pipe.read_line(&mut line);
        if read? == 0 {
            bail!("the client program has ended");
        }
        Ok(line.trim_end().to_owned())
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
