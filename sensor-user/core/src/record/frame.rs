//! Framing: how records lie in a segment, and how a damaged segment is read.
//!
//! A segment is a file of fixed size that is filled with zeros and then written from its begin. A
//! record is a header of [`HEADER`] bytes, all integers little-endian, and its payload:
//!
//! | offset | bytes | |
//! |---:|---:|---|
//! | 0 | 4 | length of the payload; never 0 |
//! | 4 | 1 | kind |
//! | 5 | 1 | version of the kind's payload |
//! | 6 | 2 | 0 |
//! | 8 | 16 | boot id |
//! | 24 | 8 | CLOCK_BOOTTIME, nanoseconds |
//! | 32 | 8 | wall time, nanoseconds since 1970, signed |
//! | 40 | 4 | CRC32 (IEEE) of the bytes above and of the payload |
//!
//! A header of zeros is the end of what is written. Everything before the first damage is intact;
//! everything after it is lost, to the end of the segment: lengths after it cannot be trusted.
//!
//! Not here: what payloads mean ([`super::content`]), and files.

/// Bytes of a record's header.
pub const HEADER: usize = 44;
/// The longest payload: a kill with its whole report has some tens of KiB.
pub const MAX_PAYLOAD: usize = 256 << 10;

/// When a record was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RecordTime {
    /// Id of the boot, as 16 bytes.
    pub boot: [u8; 16],
    /// CLOCK_BOOTTIME nanoseconds of that boot.
    pub boottime_ns: u64,
    /// Nanoseconds since 1970; the clock of a host may be set at any time.
    pub wall_ns: i64,
}

/// One record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What it is.
    pub kind: u8,
    /// Version of the payload's format.
    pub version: u8,
    /// When it was made.
    pub time: RecordTime,
    /// Its content.
    pub payload: &'a [u8],
}

impl Frame<'_> {
    /// Bytes that it takes in a segment.
    pub const fn size(&self) -> usize {
        HEADER + self.payload.len()
    }

    /// Appends it. Returns false, and appends nothing, if the payload is empty or too long.
    pub fn append(&self, out: &mut Vec<u8>) -> bool {
        let Ok(len) = u32::try_from(self.payload.len()) else { return false };
        if len == 0 || self.payload.len() > MAX_PAYLOAD {
            return false;
        }
        let begin = out.len();
        out.extend(len.to_le_bytes());
        out.extend([self.kind, self.version, 0, 0]);
        out.extend(self.time.boot);
        out.extend(self.time.boottime_ns.to_le_bytes());
        out.extend(self.time.wall_ns.to_le_bytes());
        let crc = checksum(&out[begin..], self.payload);
        out.extend(crc.to_le_bytes());
        out.extend(self.payload);
        true
    }
}

fn checksum(header: &[u8], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(header);
    hasher.update(payload);
    hasher.finalize()
}

/// Where a segment is damaged, and how much is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Damage {
    /// The first byte that cannot be read.
    pub offset: usize,
    /// Bytes from there to the last one that is not 0.
    pub lost_bytes: usize,
}

/// The records of a segment, up to its end or to the first damage.
#[derive(Debug, Clone)]
pub struct Frames<'a> {
    bytes: &'a [u8],
    at: usize,
    is_damaged: bool,
}

impl<'a> Frames<'a> {
    /// Reads the bytes of a segment, which may have been cut.
    pub const fn of(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, is_damaged: false }
    }

    /// The offset behind the last record that was returned.
    pub const fn offset(&self) -> usize {
        self.at
    }

    /// The damage at which reading ended, once there are no more records.
    pub fn damage(&self) -> Option<Damage> {
        let rest = &self.bytes[self.at..];
        let lost_bytes = rest.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        // A cut within the zeros of the header loses nothing that can be seen.
        self.is_damaged.then_some(Damage { offset: self.at, lost_bytes })
    }

    /// Whether nothing was written from here on: the header of a record is never all zeros.
    fn is_end(&self) -> bool {
        self.bytes[self.at..].iter().all(|byte| *byte == 0)
    }
}

/// A record's header, for readers that do not have the whole segment in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What the record is.
    pub kind: u8,
    /// Version of the payload's format.
    pub version: u8,
    /// When it was made.
    pub time: RecordTime,
    /// Bytes of the payload.
    pub len: usize,
}

impl Header {
    /// Reads a header; `None` if it is not one. Whether the record is intact is known after its
    /// payload has been given to [`Check`].
    pub fn parse(bytes: &[u8; HEADER]) -> Option<(Self, Check)> {
        let len = usize::try_from(u32::from_le_bytes(*bytes.first_chunk()?)).ok()?;
        if len == 0 || len > MAX_PAYLOAD || bytes[6..8] != [0, 0] {
            return None;
        }
        let time = RecordTime {
            boot: *bytes[8..].first_chunk()?,
            boottime_ns: u64::from_le_bytes(*bytes[24..].first_chunk()?),
            wall_ns: i64::from_le_bytes(*bytes[32..].first_chunk()?),
        };
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&bytes[..40]);
        let check = Check { hasher, crc: u32::from_le_bytes(*bytes[40..].first_chunk()?) };
        Some((Self { kind: bytes[4], version: bytes[5], time, len }, check))
    }
}

/// Checks the payload behind a header.
#[derive(Debug)]
pub struct Check {
    hasher: crc32fast::Hasher,
    crc: u32,
}

impl Check {
    /// Adds the next bytes of the payload.
    pub fn add(&mut self, payload: &[u8]) {
        self.hasher.update(payload);
    }

    /// Whether header and payload are as they were written.
    pub fn is_intact(self) -> bool {
        self.hasher.finalize() == self.crc
    }
}

fn parse(bytes: &[u8]) -> Option<Frame<'_>> {
    let (header, mut check) = Header::parse(bytes.first_chunk()?)?;
    let payload = bytes.get(HEADER..HEADER + header.len)?;
    check.add(payload);
    let Header { kind, version, time, .. } = header;
    check.is_intact().then_some(Frame { kind, version, time, payload })
}

impl<'a> Iterator for Frames<'a> {
    type Item = Frame<'a>;

    fn next(&mut self) -> Option<Frame<'a>> {
        let frame = if self.is_damaged { None } else { parse(&self.bytes[self.at..]) };
        match &frame {
            Some(frame) => self.at += frame.size(),
            None => self.is_damaged = !self.is_end(),
        }
        frame
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn time(n: u64) -> RecordTime {
        RecordTime { boot: [7; 16], boottime_ns: n, wall_ns: -1 }
    }

    /// A segment of these payloads with a tail of zeros, and the offsets behind each record.
    fn segment(payloads: &[Vec<u8>], tail: usize) -> (Vec<u8>, Vec<usize>) {
        let (mut bytes, mut ends) = (Vec::new(), Vec::new());
        for (n, payload) in (0..).zip(payloads) {
            let frame = Frame { kind: 3, version: 1, time: time(n), payload };
            assert!(frame.append(&mut bytes), "written");
            ends.push(bytes.len());
        }
        bytes.resize(bytes.len() + tail, 0);
        (bytes, ends)
    }

    fn read(bytes: &[u8]) -> (Vec<Vec<u8>>, Option<Damage>) {
        let mut frames = Frames::of(bytes);
        let read = frames.by_ref().map(|frame| frame.payload.to_vec()).collect();
        (read, frames.damage())
    }

    fn payloads() -> Vec<Vec<u8>> {
        // Of one byte, of zeros, with a header inside.
        let mut inner = Vec::new();
        let frame = Frame { kind: 1, version: 1, time: time(9), payload: b"inner" };
        assert!(frame.append(&mut inner), "written");
        vec![vec![1], vec![0; 70], inner, vec![255; 300], b"last".to_vec()]
    }

    #[test]
    fn records_are_read_as_they_were_written() {
        let (bytes, ends) = segment(&payloads(), 100);
        assert_eq!(read(&bytes), (payloads(), None));
        let mut frames = Frames::of(&bytes);
        let first = frames.next().expect("a record");
        assert_eq!((first.kind, first.version, first.time), (3, 1, time(0)));
        assert_eq!(frames.offset(), ends[0]);
        assert_eq!(read(&[]), (Vec::new(), None));
        assert_eq!(read(&[0; 4096]), (Vec::new(), None), "a new segment");
    }

    #[test]
    fn empty_and_long_payloads_are_not_written() {
        let mut bytes = Vec::new();
        for payload in [vec![], vec![1; MAX_PAYLOAD + 1]] {
            let frame = Frame { kind: 1, version: 1, time: time(0), payload: &payload };
            assert!(!frame.append(&mut bytes) && bytes.is_empty());
        }
    }

    /// How many records end at or before an offset.
    fn intact(ends: &[usize], offset: usize) -> usize {
        ends.iter().filter(|end| **end <= offset).count()
    }

    #[test]
    fn a_segment_may_be_cut_anywhere() {
        let (bytes, ends) = segment(&payloads(), 100);
        let written = ends.last().copied().expect("records");
        for cut in 0..bytes.len() {
            let (records, damage) = read(&bytes[..cut]);
            let intact = intact(&ends, cut);
            assert_eq!(records, payloads()[..intact], "cut at {cut}");
            let begin = if intact == 0 { 0 } else { ends[intact - 1] };
            // The bytes after the last whole record are lost, if there are any.
            let is_lost = cut > begin && cut < written;
            assert_eq!(damage.is_some(), is_lost, "cut at {cut}");
            assert!(damage.is_none_or(|d| d.offset == begin && d.lost_bytes <= cut - begin));
        }
    }

    #[test]
    fn any_byte_of_a_segment_may_change() {
        let (bytes, ends) = segment(&payloads(), 100);
        for (at, flip) in (0..bytes.len()).flat_map(|at| [1u8, 0x80, 0xff].map(|flip| (at, flip))) {
            let mut damaged = bytes.clone();
            damaged[at] ^= flip;
            let (records, damage) = read(&damaged);
            let intact = intact(&ends, at);
            assert_eq!(records, payloads()[..intact], "byte {at}");
            let begin = if intact == 0 { 0 } else { ends[intact - 1] };
            let damage = damage.expect("it is named");
            assert_eq!(damage.offset, begin, "byte {at}");
            assert!(damage.lost_bytes > 0 && damage.offset + damage.lost_bytes <= bytes.len());
        }
    }

    proptest! {
        #[test]
        fn foreign_bytes_are_read_without_a_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..2000),
        ) {
            let mut frames = Frames::of(&bytes);
            let read: usize = frames.by_ref().map(|frame| frame.size()).sum();
            prop_assert_eq!(read, frames.offset());
            prop_assert!(frames.offset() <= bytes.len());
        }
    }
}
