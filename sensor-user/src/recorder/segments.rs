//! The files of the record: a fixed number of segments of a fixed size, which are allocated at the
//! start, so that a full disk cannot come in the night. The oldest one is used again.
//!
//! Not here: what is written (`sensor_core::record`), and when (`super::thread`).

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, bail};
use rustix::fs::{Advice, FallocateFlags, FlockOperation};
use sensor_core::record::frame::{HEADER, Header, MAX_PAYLOAD};

/// Bytes of a segment.
pub const SEGMENT: u64 = 1 << 20;
/// Fewest segments: one is written while the oldest one is cleared.
pub const MIN_SEGMENTS: u64 = 4;
/// Ending of a segment that has records. The name before it is a number that rises.
const USED: &str = "segment";
/// Ending of a segment that is allocated and has none.
const FREE: &str = "free";
/// Locked by the daemon that writes.
const LOCK: &str = "lock";
/// Digits of a number in a name, so that names sort as numbers.
const DIGITS: usize = 10;
/// A piece of a segment, as it is read and cleared: on the stack.
const PIECE: usize = 16 << 10;

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of all segments.
    pub bytes: u64,
    /// Segments that were last written longer ago are cleared.
    pub age: Duration,
}

impl Limits {
    /// Number of segments.
    const fn segments(self) -> u64 {
        let count = self.bytes / SEGMENT;
        if count < MIN_SEGMENTS { MIN_SEGMENTS } else { count }
    }
}

/// The numbers of the segments with records in a directory, in order.
pub fn numbers(dir: &Path) -> io::Result<Vec<u64>> {
    list(dir, USED)
}

/// The path of a segment with records.
pub fn path(dir: &Path, number: u64) -> PathBuf {
    named(dir, number, USED)
}

/// Whether a file of this name in the directory is one of the record.
pub fn is_name_of_one(name: &str) -> bool {
    let number = [USED, FREE].iter().find_map(|ending| name.strip_suffix(ending));
    name == LOCK || number.and_then(|name| name.strip_suffix('.')).is_some_and(is_number)
}

fn is_number(name: &str) -> bool {
    name.len() == DIGITS && name.bytes().all(|byte| byte.is_ascii_digit())
}

fn named(dir: &Path, number: u64, ending: &str) -> PathBuf {
    dir.join(format!("{number:0DIGITS$}.{ending}"))
}

fn list(dir: &Path, ending: &str) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(ending)?.strip_suffix('.'));
        let number = number.filter(|number| is_number(number));
        numbers.extend(number.and_then(|number| number.parse::<u64>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// The segment that is written, and the others.
#[derive(Debug)]
pub struct Segments {
    dir: PathBuf,
    limits: Limits,
    file: File,
    number: u64,
    at: u64,
    _lock: File,
}

/// Where writing begins after the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// In a new segment, which needs its first record.
    New,
    /// Behind the last record of the last segment.
    Behind,
}

impl Segments {
    /// Opens a directory, which exists, and allocates what is missing. The last segment is continued
    /// if nothing but an unfinished record is at its end.
    pub fn open(dir: &Path, limits: Limits) -> Result<(Self, Begin)> {
        let lock = lock(dir)?;
        let used = numbers(dir).with_context(|| format!("list {}", dir.display()))?;
        shrink(dir, limits, &used)?;
        allocate(dir, limits).with_context(|| {
            let mib = (limits.segments() * SEGMENT) >> 20;
            format!("allocate {mib} MiB for the record in {}", dir.display())
        })?;
        let last = used.last().copied();
        if let Some(number) = last
            && let Some((file, at)) = continued(&path(dir, number))?
        {
            let segments = Self { dir: dir.to_owned(), limits, file, number, at, _lock: lock };
            return Ok((segments, if at == 0 { Begin::New } else { Begin::Behind }));
        }
        let (file, number) = next(dir, last.unwrap_or(0))?;
        let segments = Self { dir: dir.to_owned(), limits, file, number, at: 0, _lock: lock };
        Ok((segments, Begin::New))
    }

    /// Whether so many bytes fit into the segment.
    pub const fn has_room(&self, bytes: usize) -> bool {
        SEGMENT - self.at >= bytes as u64
    }

    /// Writes records. They must fit.
    pub fn write(&mut self, records: &[u8]) -> io::Result<()> {
        self.file.write_all_at(records, self.at)?;
        self.at += records.len() as u64;
        Ok(())
    }

    /// Begins the next segment, in place of the oldest one if there is no free one.
    pub fn begin_next(&mut self) -> Result<()> {
        self.sync().context("write the last segment to disk")?;
        (self.file, self.number) = next(&self.dir, self.number)?;
        self.at = 0;
        Ok(())
    }

    /// Waits until everything is on disk, and gives the pages back: they are not read soon.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()?;
        rustix::fs::fadvise(&self.file, 0, None, Advice::DontNeed)?;
        Ok(())
    }

    /// Clears the oldest segment if it is too old. At most one: a clock that jumps must not clear all
    /// at once.
    pub fn clear_old(&self, now: SystemTime) -> Result<()> {
        let Some(oldest) = numbers(&self.dir)?.first().copied() else { return Ok(()) };
        let path = path(&self.dir, oldest);
        let written = fs::metadata(&path)?.modified()?;
        let is_old = now.duration_since(written).is_ok_and(|age| age > self.limits.age);
        if is_old && oldest != self.number {
            clear(&File::options().write(true).open(&path)?)?;
            fs::rename(&path, named(&self.dir, oldest, FREE))?;
        }
        Ok(())
    }
}

/// Only one daemon may write.
fn lock(dir: &Path) -> Result<File> {
    let path = dir.join(LOCK);
    let file = create(&path).with_context(|| format!("open {}", path.display()))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            bail!("another memsensor writes its record in {}", dir.display())
        }
        Err(e) => Err(e).with_context(|| format!("lock {}", path.display())),
    }
}

fn create(path: &Path) -> io::Result<File> {
    File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// Removes segments if there are more than the limit: it was higher before.
fn shrink(dir: &Path, limits: Limits, used: &[u64]) -> Result<()> {
    let free = list(dir, FREE)?;
    let most = usize::try_from(limits.segments())?;
    let excess = (free.len() + used.len()).saturating_sub(most);
    let free = free.iter().map(|number| named(dir, *number, FREE));
    let oldest = used.iter().map(|number| path(dir, *number));
    for path in free.chain(oldest).take(excess) {
        fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
    }
    Ok(())
}

/// Allocates free segments until there are as many as the limit.
fn allocate(dir: &Path, limits: Limits) -> io::Result<()> {
    let (used, free) = (numbers(dir)?, list(dir, FREE)?);
    let missing = limits.segments().saturating_sub((used.len() + free.len()) as u64);
    let taken = |number: &u64| free.contains(number) || used.contains(number);
    let unused = (1..).filter(|number| !taken(number));
    for number in unused.take(usize::try_from(missing).unwrap_or(0)) {
        let path = named(dir, number, FREE);
        let file = create(&path)?;
        if let Err(e) = clear(&file) {
            // Half a segment would be taken for a whole one.
            let _ = fs::remove_file(&path);
            return Err(e);
        }
    }
    Ok(())
}

/// Fills a segment with zeros that have their place on disk.
fn clear(file: &File) -> io::Result<()> {
    file.set_len(SEGMENT)?;
    let zeroed = rustix::fs::fallocate(file, FallocateFlags::ZERO_RANGE, 0, SEGMENT);
    if zeroed.is_err() {
        // Not every file system can: then they are written.
        write_zeros(file, 0, SEGMENT)?;
    }
    file.sync_data()
}

/// The last segment, open for writing behind its last record; `None` if it is damaged before its end,
/// so that what follows the damage is kept for people.
fn continued(path: &Path) -> Result<Option<(File, u64)>> {
    let file = create(path).with_context(|| format!("open {}", path.display()))?;
    if file.metadata()?.len() != SEGMENT {
        return Ok(None);
    }
    let end = end_of(&file).with_context(|| format!("read {}", path.display()))?;
    if end.unfinished == 0 {
        return Ok(Some((file, end.at)));
    }
    if end.unfinished > (HEADER + MAX_PAYLOAD) as u64 || end.at == 0 {
        return Ok(None);
    }
    // A record that was being written when the daemon or the machine died.
    write_zeros(&file, end.at, end.at + end.unfinished)?;
    Ok(Some((file, end.at)))
}

/// Where the records of a segment end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct End {
    /// The offset behind the last intact record.
    at: u64,
    /// Bytes from there to the last one that is not 0.
    unfinished: u64,
}

/// Finds the end in pieces: the daemon's heap is locked, and a whole segment would stay in it.
fn end_of(file: &File) -> io::Result<End> {
    let mut at = 0;
    while let Some(size) = intact_record(file, at)? {
        at += size;
    }
    let (mut piece, mut last) = ([0; PIECE], at);
    for offset in (at..SEGMENT).step_by(PIECE) {
        let piece = &mut piece[..piece_len(offset, SEGMENT)];
        file.read_exact_at(piece, offset)?;
        if let Some(n) = piece.iter().rposition(|byte| *byte != 0) {
            last = offset + n as u64 + 1;
        }
    }
    Ok(End { at, unfinished: last - at })
}

/// The size of the record at this offset; `None` if there is no intact one.
fn intact_record(file: &File, at: u64) -> io::Result<Option<u64>> {
    let mut header = [0; HEADER];
    let payload = at + HEADER as u64;
    if payload > SEGMENT {
        return Ok(None);
    }
    file.read_exact_at(&mut header, at)?;
    let Some((header, mut check)) = Header::parse(&header) else { return Ok(None) };
    let end = payload + header.len as u64;
    if end > SEGMENT {
        return Ok(None);
    }
    let mut piece = [0; PIECE];
    for offset in (payload..end).step_by(PIECE) {
        let piece = &mut piece[..piece_len(offset, end)];
        file.read_exact_at(piece, offset)?;
        check.add(piece);
    }
    Ok(check.is_intact().then_some(end - at))
}

fn piece_len(offset: u64, end: u64) -> usize {
    usize::try_from(end - offset).map_or(PIECE, |left| left.min(PIECE))
}

fn write_zeros(file: &File, from: u64, to: u64) -> io::Result<()> {
    let zeros = [0; PIECE];
    for offset in (from..to).step_by(PIECE) {
        file.write_all_at(&zeros[..piece_len(offset, to)], offset)?;
    }
    Ok(())
}

/// A segment for the number after `last`: a free one, or the oldest one.
fn next(dir: &Path, last: u64) -> Result<(File, u64)> {
    let number = last + 1;
    let free = list(dir, FREE)?.first().copied();
    let from = if let Some(free) = free {
        named(dir, free, FREE)
    } else {
        let oldest = numbers(dir)?.first().copied().context("there is no segment")?;
        path(dir, oldest)
    };
    let file = create(&from).with_context(|| format!("open {}", from.display()))?;
    if free.is_none() {
        clear(&file).with_context(|| format!("clear {}", from.display()))?;
    }
    let to = path(dir, number);
    fs::rename(&from, &to).with_context(|| format!("rename to {}", to.display()))?;
    Ok((file, number))
}

#[cfg(test)]
mod tests {
    use sensor_core::record::frame::{Frame, Frames, RecordTime};

    use super::*;

    const LIMITS: Limits = Limits { bytes: 4 * SEGMENT, age: Duration::from_mins(1) };

    fn record(text: &str) -> Vec<u8> {
        let mut out = Vec::new();
        let time = RecordTime::default();
        assert!(Frame { kind: 1, version: 1, time, payload: text.as_bytes() }.append(&mut out));
        out
    }

    fn read(dir: &Path, number: u64) -> Vec<String> {
        let bytes = fs::read(path(dir, number)).expect("a segment");
        assert_eq!(bytes.len() as u64, SEGMENT);
        let text = |frame: Frame<'_>| String::from_utf8_lossy(frame.payload).into_owned();
        Frames::of(&bytes).map(text).collect()
    }

    fn files(dir: &Path) -> usize {
        numbers(dir).expect("listed").len() + list(dir, FREE).expect("listed").len()
    }

    #[test]
    fn all_segments_are_allocated_at_the_start_and_used_in_turn() {
        let dir = tempfile::tempdir().expect("a directory");
        let (mut segments, begin) = Segments::open(dir.path(), LIMITS).expect("opened");
        assert_eq!((begin, files(dir.path())), (Begin::New, 4));
        for n in 1..=6 {
            segments.write(&record(&format!("of {n}"))).expect("written");
            segments.begin_next().expect("the next one");
        }
        assert_eq!(files(dir.path()), 4, "no more, no less");
        assert_eq!(numbers(dir.path()).expect("listed"), [4, 5, 6, 7]);
        assert_eq!(read(dir.path(), 6), ["of 6"]);
        assert_eq!(read(dir.path(), 7), [""; 0], "cleared");
    }

    #[test]
    fn writing_goes_on_behind_the_last_record() {
        let dir = tempfile::tempdir().expect("a directory");
        let open = || Segments::open(dir.path(), LIMITS).expect("opened");
        let (mut segments, _) = open();
        segments.write(&record("one")).expect("written");
        assert!(Segments::open(dir.path(), LIMITS).is_err(), "one writes already");
        drop(segments);
        let (mut segments, begin) = open();
        assert_eq!(begin, Begin::Behind);
        segments.write(&record("two")).expect("written");
        // As after a power cut within a record.
        let unfinished = record("three");
        segments.write(&unfinished[..unfinished.len() - 2]).expect("written");
        drop(segments);
        let (mut segments, begin) = open();
        assert_eq!(begin, Begin::Behind);
        segments.write(&record("3")).expect("written");
        assert_eq!(read(dir.path(), 1), ["one", "two", "3"]);
    }

    #[test]
    fn a_damaged_segment_is_kept_as_it_is() {
        let dir = tempfile::tempdir().expect("a directory");
        let (mut segments, _) = Segments::open(dir.path(), LIMITS).expect("opened");
        let text = "x".repeat(MAX_PAYLOAD);
        for _ in 0..3 {
            segments.write(&record(&text)).expect("written");
        }
        drop(segments);
        let file = create(&path(dir.path(), 1)).expect("opened");
        file.write_all_at(b"!", 100).expect("damaged");
        let before = fs::read(path(dir.path(), 1)).expect("read");
        let (segments, begin) = Segments::open(dir.path(), LIMITS).expect("opened");
        assert_eq!((begin, segments.number), (Begin::New, 2));
        assert_eq!(fs::read(path(dir.path(), 1)).expect("read"), before);
    }

    #[test]
    fn a_lower_limit_removes_the_oldest() {
        let dir = tempfile::tempdir().expect("a directory");
        let limits = Limits { bytes: 8 * SEGMENT, ..LIMITS };
        let (mut segments, _) = Segments::open(dir.path(), limits).expect("opened");
        for _ in 0..6 {
            segments.write(&record("x")).expect("written");
            segments.begin_next().expect("the next one");
        }
        drop(segments);
        let (_segments, _) = Segments::open(dir.path(), LIMITS).expect("opened");
        assert_eq!(
            (files(dir.path()), numbers(dir.path()).expect("listed")),
            (4, vec![4, 5, 6, 7])
        );
    }

    #[test]
    fn old_segments_are_cleared_one_at_a_time() {
        let dir = tempfile::tempdir().expect("a directory");
        let (mut segments, _) = Segments::open(dir.path(), LIMITS).expect("opened");
        for _ in 0..2 {
            segments.write(&record("x")).expect("written");
            segments.begin_next().expect("the next one");
        }
        let now = SystemTime::now();
        segments.clear_old(now).expect("looked");
        assert_eq!(numbers(dir.path()).expect("listed"), [1, 2, 3]);
        for left in [vec![2, 3], vec![3], vec![3]] {
            segments.clear_old(now + Duration::from_mins(2)).expect("cleared");
            assert_eq!(numbers(dir.path()).expect("listed"), left);
        }
        assert_eq!(files(dir.path()), 4);
    }

    #[test]
    fn foreign_files_are_left_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        for name in ["1.segment", "aaaaaaaaaa.segment", "notes.txt", "0000000001.segment.bak"] {
            fs::write(dir.path().join(name), "mine").expect("written");
        }
        let (_segments, _) = Segments::open(dir.path(), LIMITS).expect("opened");
        assert_eq!(files(dir.path()), 4);
        assert_eq!(fs::read(dir.path().join("1.segment")).expect("kept"), b"mine");
    }
}
