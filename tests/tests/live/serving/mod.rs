//! What consumers meet: formats and names, the command line, clients that misbehave, and a sensor
//! that stands still.

mod formats;
mod frozen;
mod limits;
mod outside;

use std::{io::Read as _, net::TcpStream};

use sensor_tests::daemon::{Daemon, PATIENCE};

fn agent_check(daemon: &Daemon) -> String {
    let mut stream = TcpStream::connect(daemon.listening[1]).expect("connect");
    stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
    let mut line = String::new();
    stream.read_to_string(&mut line).expect("a line and the end");
    line
}
