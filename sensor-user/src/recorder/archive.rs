//! Reads a record: that of this host while it is written, or a copy of the directory from another
//! one. Damage is named and passed over; it is never an error.
//!
//! Not here: what is made of it (`history`).

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use sensor_core::record::{
    codec::{Decoder, Unreadable},
    content::Content,
    frame::{Damage, Frames, RecordTime},
};

use super::segments::{self, SEGMENT};

/// Longest time in which a record is written, but for a disk that hangs.
const WRITING: Duration = Duration::from_millis(100);

/// One record with its time.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// When it was made.
    pub time: RecordTime,
    /// What it says.
    pub content: Content,
}

/// Something that could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// The segment.
    pub file: PathBuf,
    /// What is wrong with it.
    pub kind: LossKind,
}

/// What is wrong with a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LossKind {
    /// Bytes were changed or cut off.
    Damage(Damage),
    /// So many records are intact and not understood; the first reason is given.
    Unreadable(Unreadable, u64),
    /// The file could not be read.
    File(String),
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.display();
        match &self.kind {
            LossKind::Damage(Damage { offset, lost_bytes }) => {
                write!(f, "{file}: damaged at byte {offset}; {lost_bytes} bytes are lost")
            }
            LossKind::Unreadable(reason, count) => write!(f, "{file}: {count} x {reason}"),
            LossKind::File(error) => write!(f, "{file}: {error}"),
        }
    }
}

/// The segments of a directory, oldest first.
#[derive(Debug)]
pub struct Archive {
    dir: PathBuf,
    numbers: Vec<u64>,
}

impl Archive {
    /// Lists a directory. One without segments is an error, because it is most likely another one.
    pub fn open(dir: &Path) -> Result<Self> {
        let numbers = segments::numbers(dir);
        let numbers = numbers.with_context(|| format!("list {}", dir.display()))?;
        let is_record = !numbers.is_empty();
        ensure!(is_record, "{} has no record of memsensor (NNNNNNNNNN.segment)", dir.display());
        Ok(Self { dir: dir.to_owned(), numbers })
    }

    /// Only the last so many segments.
    #[must_use]
    pub fn last(mut self, count: usize) -> Self {
        self.numbers.drain(..self.numbers.len().saturating_sub(count));
        self
    }

    /// Reads all segments one by one, and passes each record to `each`, in the order of writing:
    /// records of about the same time may be out of order. Returns what could not be read. At most one
    /// segment is in memory.
    pub fn read(&self, mut each: impl FnMut(Entry)) -> Vec<Loss> {
        let mut losses = Vec::new();
        for number in &self.numbers {
            let file = segments::path(&self.dir, *number);
            let loss = |kind| Loss { file: file.clone(), kind };
            let is_last = self.numbers.last() == Some(number);
            match read_segment(&file, is_last) {
                Ok(bytes) => losses.extend(entries(&bytes, &mut each).into_iter().map(loss)),
                Err(e) => losses.push(loss(LossKind::File(format!("{e:#}")))),
            }
        }
        losses
    }
}

/// Reads a segment. The last one may be written right now: a record that is half there is read again.
fn read_segment(path: &Path, is_last: bool) -> Result<Vec<u8>> {
    let metadata = fs::metadata(path)?;
    ensure!(metadata.is_file(), "not a regular file");
    ensure!(metadata.len() <= SEGMENT, "longer than a segment");
    let bytes = fs::read(path)?;
    let mut frames = Frames::of(&bytes);
    frames.by_ref().for_each(drop);
    if is_last && frames.damage().is_some() {
        std::thread::sleep(WRITING);
        return Ok(fs::read(path)?);
    }
    Ok(bytes)
}

fn entries(bytes: &[u8], each: &mut impl FnMut(Entry)) -> Vec<LossKind> {
    let (mut frames, mut decoder) = (Frames::of(bytes), Decoder::default());
    let mut unreadable: Option<(Unreadable, u64)> = None;
    for frame in frames.by_ref() {
        match decoder.decode(&frame) {
            Ok(content) => each(Entry { time: frame.time, content }),
            Err(reason) => {
                let (_, count) = unreadable.get_or_insert((reason, 0));
                *count += 1;
            }
        }
    }
    let unreadable = unreadable.map(|(reason, count)| LossKind::Unreadable(reason, count));
    unreadable.into_iter().chain(frames.damage().map(LossKind::Damage)).collect()
}

#[cfg(test)]
mod tests {
    use sensor_core::record::{
        codec::Encoder,
        content::{Life, Schema},
    };

    use super::{
        super::segments::{Limits, Segments},
        *,
    };

    fn life(pid: u32) -> Content {
        Content::Life(Life::Started { pid })
    }

    /// Two segments with a start of the daemon each, beside their schemas.
    fn record(dir: &Path) {
        let limits = Limits { bytes: 4 * SEGMENT, age: Duration::MAX };
        let (mut segments, _) = Segments::open(dir, limits).expect("opened");
        let mut encoder = Encoder::new(Schema::default());
        for pid in 1..=2 {
            let mut bytes = encoder.begin(RecordTime::default());
            encoder.add(&life(pid), RecordTime::default(), &mut bytes).expect("added");
            segments.write(&bytes).expect("written");
            if pid == 1 {
                segments.begin_next().expect("the next one");
            }
        }
    }

    fn read(dir: &Path) -> (Vec<Content>, Vec<Loss>) {
        let mut contents = Vec::new();
        let losses = Archive::open(dir).expect("opened").read(|entry| contents.push(entry.content));
        (contents, losses)
    }

    #[test]
    fn a_copy_is_read_in_order() {
        let dir = tempfile::tempdir().expect("a directory");
        record(dir.path());
        let schema = || Content::Schema(Schema::default());
        assert_eq!(read(dir.path()), (vec![schema(), life(1), schema(), life(2)], vec![]));
    }

    #[test]
    fn damage_is_named_and_the_rest_is_read() {
        let dir = tempfile::tempdir().expect("a directory");
        record(dir.path());
        let first = segments::path(dir.path(), 1);
        let mut bytes = fs::read(&first).expect("read");
        bytes[10] ^= 1;
        fs::write(&first, &bytes).expect("damaged");
        // Longer than a segment: not ours.
        fs::write(segments::path(dir.path(), 7), vec![0; (1 << 20) + 1]).expect("written");
        fs::create_dir(segments::path(dir.path(), 8)).expect("made");
        let (contents, losses) = read(dir.path());
        assert_eq!(contents, [Content::Schema(Schema::default()), life(2)]);
        let words: Vec<_> = losses.iter().map(ToString::to_string).collect();
        assert_eq!(words.len(), 3, "{words:?}");
        assert!(words[0].contains("0000000001.segment: damaged at byte 0"), "{words:?}");
        assert!(words[1].contains("longer than a segment"), "{words:?}");
        assert!(words[2].contains("not a regular file"), "{words:?}");
    }

    #[test]
    fn another_directory_is_an_error_that_says_so() {
        let dir = tempfile::tempdir().expect("a directory");
        let error = Archive::open(dir.path()).expect_err("empty").to_string();
        assert!(error.contains("has no record of memsensor"), "{error}");
        let error = Archive::open(&dir.path().join("missing")).expect_err("missing");
        assert!(format!("{error:#}").contains("No such file"), "{error:#}");
    }
}
