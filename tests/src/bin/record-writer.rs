//! Writes records as fast as it can until it is killed: for tests that kill it, or cut its power.
//!
//! `record-writer DIR RUN` prints the number of each record once it is on disk. A record is a scan of
//! one process with the number of the run as its id and that of the record as its age.

use std::{
    io::Write as _,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use sensor_core::{
    common::clock::{boot_id, monotonic_ns},
    record::content::{Content, ProcessSize, Usage},
};
use sensor_user::recorder::{
    clock::RecordClock,
    names,
    segments::{Limits, SEGMENT},
    writer::Writer,
};

/// Processes in a record, so that segments fill up within a few runs.
const PROCESSES: usize = 40;

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let dir = PathBuf::from(args.next().context("record-writer DIR RUN")?);
    let run = args.next().and_then(|run| run.parse().ok()).context("record-writer DIR RUN")?;
    let limits = Limits { bytes: 4 * SEGMENT, age: Duration::MAX };
    let (mut writer, clock) =
        (Writer::new(dir, limits, names::schema(Vec::new())), RecordClock::new(&boot_id()));
    let mut stdout = std::io::stdout().lock();
    let begin = Instant::now();
    for number in 1.. {
        let process = ProcessSize {
            pid: run,
            comm: "writer".into(),
            age_seconds: number,
            own_bytes: begin.elapsed().subsec_nanos().into(),
            ..ProcessSize::default()
        };
        let processes = vec![process; PROCESSES];
        let usage = Usage { processes, ..Usage::default() };
        writer.write(&Content::Usage(usage), clock.at(monotonic_ns()));
        writer.end();
        ensure!(writer.written.errors == 0, "a record could not be written");
        writeln!(stdout, "{number}")?;
        stdout.flush()?;
    }
    Ok(())
}
