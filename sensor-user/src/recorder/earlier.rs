//! The last events of this boot that an earlier daemon recorded, so that a restart does not forget
//! them.
//!
//! Not here: the list of events that servers read (`publish/event_log`).

use std::{
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    time::Duration,
};

use anyhow::Result;
use sensor_core::{model::event::Event, record::content::Content};
use tracing::{debug, warn};

use super::archive::Archive;

/// Segments that are read, from the last one back: as many events as are kept are in a few.
const SEGMENTS: usize = 4;
/// The stack of the thread that reads: as those of the daemon's other threads, so that the next one
/// takes it over, and no memory is locked for it.
const STACK_BYTES: usize = 256 << 10;
/// The start does not wait longer: the host may be thrashing, and its disk hang.
const PATIENCE: Duration = Duration::from_secs(1);

/// The events of the boot with this prefix of ids, oldest first, or none if they cannot be read soon. Call it
/// before memory is locked.
pub fn events(dir: Option<PathBuf>, boot: &str) -> Vec<Arc<Event>> {
    let Some(dir) = dir else { return Vec::new() };
    let (sender, receiver) = mpsc::sync_channel(1);
    let boot = boot.to_owned();
    let read = move || {
        let _ = sender.send(read(&dir, &boot));
    };
    let thread = std::thread::Builder::new().name("earlier".to_owned()).stack_size(STACK_BYTES);
    if let Err(e) = thread.spawn(read) {
        warn!("cannot read the events of before the start: {e}");
        return Vec::new();
    }
    match receiver.recv_timeout(PATIENCE) {
        Ok(Ok(events)) => events,
        Ok(Err(e)) => {
            debug!("no events of before the start: {e:#}");
            Vec::new()
        }
        Err(_) => {
            warn!("the record did not answer within {PATIENCE:?}: events of before are not listed");
            Vec::new()
        }
    }
}

fn read(dir: &Path, boot: &str) -> Result<Vec<Arc<Event>>> {
    let is_of_boot = |event: &Event| event.id.split_once('-').is_some_and(|(of, _)| of == boot);
    let mut events = Vec::new();
    let losses = Archive::open(dir)?.last(SEGMENTS).read(|entry| match entry.content {
        Content::Event(event) if is_of_boot(&event) => events.push(event),
        _ => {}
    });
    for loss in losses {
        warn!("the record has a loss: {loss}");
    }
    Ok(events)
}

#[cfg(test)]
mod tests {
    use sensor_core::{
        model::event::{EventKind, OperatorCommand},
        record::{content::Schema, frame::RecordTime},
    };

    use super::{
        super::{segments::Limits, writer::Writer},
        *,
    };

    #[test]
    fn only_events_of_this_boot_are_read() {
        let dir = tempfile::tempdir().expect("a directory");
        let limits = Limits { bytes: 0, age: Duration::MAX };
        let mut writer = Writer::new(dir.path().to_owned(), limits, Schema::default());
        for (seq, id) in (1..).zip(["aa-1", "bb-1", "bb-2"]) {
            let (command, detail) = (OperatorCommand::Undrain, String::new());
            let kind = EventKind::Operator { command, uid: 0, pid: 1, comm: None, detail };
            let event = Event { id: id.into(), seq, time: String::new(), kind, report: None };
            writer.write(&Content::Event(Arc::new(event)), RecordTime::default());
        }
        writer.end();
        let ids = |boot| {
            let events = events(Some(dir.path().to_owned()), boot);
            events.iter().map(|event| event.id.clone()).collect::<Vec<_>>()
        };
        assert_eq!(ids("bb"), ["bb-1", "bb-2"]);
        assert_eq!(ids("b"), [""; 0]);
        assert_eq!(events(None, "bb"), []);
        assert_eq!(events(Some(dir.path().join("none")), "bb"), []);
    }
}
