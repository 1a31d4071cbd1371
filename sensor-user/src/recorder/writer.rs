//! Writes records into segments, and goes on after errors: a record that cannot be written is counted
//! and named later, never retried for ever.
//!
//! Not here: what is recorded (`super::thread`).

use std::{
    path::PathBuf,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result};
use sensor_core::record::{
    codec::{Encoder, NotAdded},
    content::{Content, Missing, Schema},
    frame::RecordTime,
};
use tracing::{info, warn};

use super::segments::{Begin, Limits, Segments};

/// Records are on disk at the latest after this time; those that matter at once are there sooner.
const SYNC_AFTER: Duration = Duration::from_secs(10);
/// After an error, the directory is opened again after this time.
const RETRY_AFTER: Duration = Duration::from_secs(10);
/// Old segments are looked for this often.
const CLEAR_AFTER: Duration = Duration::from_hours(1);

/// What is counted for the metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Written {
    /// Bytes since the start.
    pub bytes: u64,
    /// Records since the start.
    pub records: u64,
    /// Records that could not be written.
    pub lost: u64,
    /// Errors of files.
    pub errors: u64,
}

/// Writes into one directory.
#[derive(Debug)]
pub struct Writer {
    dir: PathBuf,
    limits: Limits,
    encoder: Encoder,
    /// `None` while the directory cannot be written.
    segments: Option<Segments>,
    failed: Option<Instant>,
    synced: Instant,
    /// The same as seconds since 1970; 0 before the first time.
    synced_unix: u64,
    cleared: Instant,
    is_dirty: bool,
    /// Counts.
    pub written: Written,
    /// Records lost since the last one that names a loss.
    unnamed: u64,
}

impl Writer {
    /// Nothing is opened yet.
    pub fn new(dir: PathBuf, limits: Limits, schema: Schema) -> Self {
        let now = Instant::now();
        Self {
            dir,
            limits,
            encoder: Encoder::new(schema),
            segments: None,
            failed: None,
            synced: now,
            synced_unix: 0,
            cleared: now,
            is_dirty: false,
            written: Written::default(),
            unnamed: 0,
        }
    }

    /// Writes a record; [`Self::end`] waits until it is on disk.
    pub fn write(&mut self, content: &Content, time: RecordTime) {
        if !self.is_open(time) {
            self.lose();
            return;
        }
        let written = self.name_losses(time).and_then(|()| self.try_write(content, time));
        if let Err(e) = written {
            self.fail(&e);
            self.lose();
        }
    }

    /// Writes encoded records of this time, which need no names.
    pub fn write_encoded(&mut self, records: &[u8], time: RecordTime) {
        if !self.is_open(time) {
            self.lose();
            return;
        }
        if let Err(e) = self.append(records, time) {
            self.fail(&e);
            self.lose();
        }
    }

    /// To be called from time to time: syncs, and clears old segments.
    pub fn keep(&mut self, now: Instant) {
        if self.is_dirty && now.duration_since(self.synced) >= SYNC_AFTER {
            self.end();
        }
        if now.duration_since(self.cleared) >= CLEAR_AFTER {
            self.cleared = now;
            let cleared = self.segments.as_ref().map(|s| s.clear_old(SystemTime::now()));
            if let Some(Err(e)) = cleared {
                self.fail(&e.context("clear old records"));
            }
        }
    }

    /// Waits until everything is on disk.
    pub fn end(&mut self) {
        if let Err(e) = self.sync() {
            self.fail(&e);
        }
    }

    /// When everything before was last on disk: seconds since 1970, 0 if never.
    pub const fn synced_unix(&self) -> u64 {
        self.synced_unix
    }

    /// Whether the last attempt succeeded.
    pub const fn is_writable(&self) -> bool {
        self.segments.is_some()
    }

    fn lose(&mut self) {
        self.written.lost += 1;
        self.unnamed += 1;
    }

    /// Opens the directory if it is not open, and not again too soon.
    fn is_open(&mut self, time: RecordTime) -> bool {
        if self.segments.is_some() {
            return true;
        }
        if self.failed.is_some_and(|at| at.elapsed() < RETRY_AFTER) {
            return false;
        }
        match self.open(time) {
            Ok(()) => {
                if self.failed.take().is_some() {
                    info!("the record can be written again");
                }
                true
            }
            Err(e) => {
                self.fail(&e);
                false
            }
        }
    }

    fn open(&mut self, time: RecordTime) -> Result<()> {
        let (segments, begin) = Segments::open(&self.dir, self.limits)?;
        self.segments = Some(segments);
        // Names begin anew, also in a segment that is continued: a schema is the begin for readers.
        let schema = self.encoder.begin(time);
        match begin {
            Begin::Behind if !self.has_room(schema.len()) => self.next_segment(time),
            Begin::Behind | Begin::New => self.put(&schema),
        }
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.segments.as_ref().is_some_and(|segments| segments.has_room(bytes))
    }

    fn next_segment(&mut self, time: RecordTime) -> Result<()> {
        self.segments.as_mut().context("not open")?.begin_next()?;
        let schema = self.encoder.begin(time);
        self.put(&schema)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        let segments = self.segments.as_mut().context("not open")?;
        segments.write(bytes).context("write the record")?;
        self.written.bytes += bytes.len() as u64;
        self.written.records += 1;
        self.is_dirty = true;
        Ok(())
    }

    fn append(&mut self, record: &[u8], time: RecordTime) -> Result<()> {
        if !self.has_room(record.len()) {
            self.next_segment(time)?;
        }
        self.put(record)
    }

    fn try_write(&mut self, content: &Content, time: RecordTime) -> Result<()> {
        let mut record = Vec::new();
        let mut added = self.encoder.add(content, time, &mut record);
        if added == Err(NotAdded::SegmentFull) || (added.is_ok() && !self.has_room(record.len())) {
            // With the names of the new segment.
            self.next_segment(time)?;
            record.clear();
            added = self.encoder.add(content, time, &mut record);
        }
        if added.is_ok() {
            return self.put(&record);
        }
        self.lose();
        Ok(())
    }

    /// The first record after a loss names it.
    fn name_losses(&mut self, time: RecordTime) -> Result<()> {
        if self.unnamed == 0 {
            return Ok(());
        }
        let because = "the record could not be written".to_owned();
        let missing = Missing { records: [0, 0, self.unnamed], because };
        self.try_write(&Content::Missing(missing), time)?;
        self.unnamed = 0;
        Ok(())
    }

    fn sync(&mut self) -> Result<()> {
        let Some(segments) = &self.segments else { return Ok(()) };
        segments.sync().context("write the record to disk")?;
        self.synced = Instant::now();
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        self.synced_unix = since_epoch.unwrap_or_default().as_secs();
        self.is_dirty = false;
        Ok(())
    }

    fn fail(&mut self, error: &anyhow::Error) {
        self.written.errors += 1;
        if self.failed.replace(Instant::now()).is_none() {
            warn!("memsensor keeps no record until this is mended: {error:#}");
        }
        self.segments = None;
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use sensor_core::record::content::{CgroupSize, Life, Usage};

    use super::{
        super::{archive::Archive, segments::SEGMENT},
        *,
    };

    const LIMITS: Limits = Limits { bytes: 4 * SEGMENT, age: Duration::MAX };

    fn time() -> RecordTime {
        RecordTime::default()
    }

    fn usage(n: u64) -> Content {
        let path = format!("/system.slice/{n}.service");
        Content::Usage(Usage {
            cgroups: vec![CgroupSize { path, own_bytes: n, ..CgroupSize::default() }],
            ..Usage::default()
        })
    }

    fn read(dir: &std::path::Path) -> Vec<Content> {
        let mut contents = Vec::new();
        let losses = Archive::open(dir).expect("opened").read(|e| contents.push(e.content));
        assert_eq!(losses, []);
        contents.retain(|content| !matches!(content, Content::Schema(_)));
        contents
    }

    #[test]
    fn what_is_written_is_read_over_segments_and_restarts() {
        let dir = tempfile::tempdir().expect("a directory");
        // More names than a segment can have, twice.
        let mut n = 0;
        for _ in 0..2 {
            let mut writer = Writer::new(dir.path().to_owned(), LIMITS, Schema::default());
            for _ in 0..1200 {
                writer.write(&usage(n), time());
                n += 1;
            }
            writer.end();
            assert_eq!((writer.written.lost, writer.written.errors), (0, 0));
        }
        assert_eq!(read(dir.path()), (0..n).map(usage).collect::<Vec<_>>());
    }

    #[test]
    fn a_directory_that_appears_later_is_used_and_the_loss_is_named() {
        let parent = tempfile::tempdir().expect("a directory");
        let dir = parent.path().join("later");
        let mut writer = Writer::new(dir.clone(), LIMITS, Schema::default());
        for n in 0..3 {
            writer.write(&usage(n), time());
        }
        assert_eq!((writer.written.lost, writer.written.errors), (3, 1));
        fs::create_dir(&dir).expect("made");
        writer.write(&usage(3), time());
        assert_eq!(writer.written.lost, 4, "not again too soon");
        writer.failed = Instant::now().checked_sub(RETRY_AFTER);
        writer.write(&usage(4), time());
        let because = "the record could not be written".to_owned();
        let missing = Content::Missing(Missing { records: [0, 0, 4], because });
        assert_eq!(read(&dir), [missing, usage(4)]);
    }

    #[test]
    fn records_that_are_too_long_are_counted() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut writer = Writer::new(dir.path().to_owned(), LIMITS, Schema::default());
        let cgroups =
            (0..40_000).map(|_| CgroupSize { own_bytes: u64::MAX, ..CgroupSize::default() });
        let usage = Usage { cgroups: cgroups.collect(), ..Usage::default() };
        writer.write(&Content::Usage(usage), time());
        writer.write(&Content::Life(Life::Ended), time());
        assert_eq!(writer.written.lost, 1);
        assert_eq!(read(dir.path()).last(), Some(&Content::Life(Life::Ended)));
    }
}
