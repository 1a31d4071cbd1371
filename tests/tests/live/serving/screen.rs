//! `memsensor top` on a terminal.

use std::{
    io::{Read as _, Write as _},
    process::{Command, Stdio},
    sync::{Arc, Mutex},
};

use sensor_tests::support::{daemon::Daemon, scope::program};

use crate::Running;

/// It updates, handles keys, and restores the terminal.
#[test]
fn top_updates_and_restores_the_terminal() {
    let daemon = Daemon::start("").expect("daemon");
    let (memsensor, socket) = (program("memsensor").expect("memsensor"), daemon.socket());
    let command = format!(
        "stty rows 30 cols 120 && exec {} top --socket {}",
        memsensor.display(),
        socket.display()
    );
    let child = Command::new("script")
        .args(["-qec", &command, "/dev/null"])
        .env("TERM", "xterm")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("start script (install bsdutils)");
    let mut terminal = Running(child);
    let Running(child) = &mut terminal;
    let (mut keys, mut out) =
        (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
    let output = Arc::new(Mutex::new(Vec::new()));
    let shared = Arc::clone(&output);
    let reader = std::thread::spawn(move || {
        let mut chunk = [0; 4096];
        while let Ok(n @ 1..) = out.read(&mut chunk) {
            shared.lock().expect("lock").extend_from_slice(&chunk[..n]);
        }
    });
    let text = || String::from_utf8_lossy(&output.lock().expect("lock")).into_owned();
    crate::wait_until("it shows processes", || text().contains("own MiB"));
    let shown = text();
    assert!(shown.contains("\u{1b}[?1049h"), "no alternate screen: {shown:?}");
    assert!(shown.contains("ready") && shown.contains("weight"), "{shown:?}");
    keys.write_all(b"h").expect("a key");
    // One word: between words it moves the cursor.
    crate::wait_until("it shows help", || text().contains("throttling"));
    keys.write_all(b"q").expect("a key");
    let status = child.wait().expect("wait");
    reader.join().expect("the reader");
    assert!(status.success(), "{status}: {:?}", text());
    assert!(text().contains("\u{1b}[?1049l"), "the alternate screen is not left");
}
