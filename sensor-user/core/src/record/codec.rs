//! Records as bytes and back. Each kind has a number and a version of its own; a reader that does not
//! know one says so and goes on with the next record.
//!
//! Events are JSON, as everywhere else; all others are postcard, which is smaller.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    content::{CgroupSize, Content, Look, ProcessSize, Schema, Usage},
    frame::{Frame, RecordTime},
    names::{NamesRead, NamesWritten},
};

/// Numbers of the kinds. A number is never used again for something else.
mod kind {
    pub(super) const SCHEMA: u8 = 1;
    pub(super) const LOOK: u8 = 2;
    pub(super) const USAGE: u8 = 3;
    pub(super) const EVENT: u8 = 4;
    pub(super) const CHANGE: u8 = 5;
    pub(super) const ANSWER: u8 = 6;
    pub(super) const LIFE: u8 = 7;
    pub(super) const MISSING: u8 = 8;
    pub(super) const ALL: std::ops::RangeInclusive<u8> = SCHEMA..=MISSING;
}

/// The version of all kinds so far. A kind whose format changes gets the next one, and keeps a
/// decoder and a fixture of each earlier one.
const VERSION: u8 = 1;

/// [`Usage`] with names by number.
#[derive(Serialize, Deserialize)]
struct UsageWire {
    names: Vec<String>,
    calm_seconds_ago: Option<u32>,
    memory: Vec<Option<u64>>,
    scopes: Vec<Vec<Option<u64>>>,
    processes: Vec<ProcessWire>,
    cgroups: Vec<CgroupWire>,
}

#[derive(Serialize, Deserialize)]
struct ProcessWire {
    pid: u32,
    comm: u16,
    cgroup: u16,
    age_seconds: u32,
    own_bytes: u64,
    swap_bytes: u64,
    growth_bytes: i64,
    growth_seconds: u32,
}

#[derive(Serialize, Deserialize)]
struct CgroupWire {
    path: u16,
    processes: u32,
    own_bytes: u64,
    swap_bytes: u64,
    growth_bytes: i64,
    stall_ns: u64,
}

/// Writes the records of one segment after the other.
#[derive(Debug)]
pub struct Encoder {
    schema: Schema,
    names: NamesWritten,
}

/// Why a record could not be added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotAdded {
    /// The segment has too many names; the next one has room.
    SegmentFull,
    /// It is too long for any segment.
    TooLong,
}

impl Encoder {
    /// Segments begin with this schema.
    pub fn new(schema: Schema) -> Self {
        Self { schema, names: NamesWritten::default() }
    }

    /// The first record of a new segment.
    pub fn begin(&mut self, time: RecordTime) -> Vec<u8> {
        self.names.clear();
        let mut out = Vec::new();
        // A schema is a few hundred bytes, so it always fits.
        let _ = append(&mut out, kind::SCHEMA, time, &postcard(&self.schema));
        out
    }

    /// Adds a record to `out`.
    pub fn add(
        &mut self,
        content: &Content,
        time: RecordTime,
        out: &mut Vec<u8>,
    ) -> Result<(), NotAdded> {
        let (kind, payload) = match content {
            Content::Schema(schema) => (kind::SCHEMA, postcard(schema)),
            Content::Look(look) => (kind::LOOK, postcard(look)),
            Content::Usage(usage) => (kind::USAGE, postcard(&self.usage(usage)?)),
            Content::Event(event) => {
                (kind::EVENT, serde_json::to_vec(event).map_err(|_| NotAdded::TooLong)?)
            }
            Content::Change(change) => (kind::CHANGE, postcard(change)),
            Content::Answer(answer) => (kind::ANSWER, postcard(answer)),
            Content::Life(life) => (kind::LIFE, postcard(life)),
            Content::Missing(missing) => (kind::MISSING, postcard(missing)),
        };
        append(out, kind, time, &payload)
    }

    fn usage(&mut self, usage: &Usage) -> Result<UsageWire, NotAdded> {
        let mut number = |name: &str| self.names.number(name).ok_or(NotAdded::SegmentFull);
        let processes = usage.processes.iter().map(|p| {
            Ok(ProcessWire {
                pid: p.pid,
                comm: number(&p.comm)?,
                cgroup: number(&p.cgroup)?,
                age_seconds: p.age_seconds,
                own_bytes: p.own_bytes,
                swap_bytes: p.swap_bytes,
                growth_bytes: p.growth_bytes,
                growth_seconds: p.growth_seconds,
            })
        });
        let processes = processes.collect::<Result<_, _>>()?;
        let cgroups = usage.cgroups.iter().map(|c| {
            Ok(CgroupWire {
                path: number(&c.path)?,
                processes: c.processes,
                own_bytes: c.own_bytes,
                swap_bytes: c.swap_bytes,
                growth_bytes: c.growth_bytes,
                stall_ns: c.stall_ns,
            })
        });
        let cgroups = cgroups.collect::<Result<_, _>>()?;
        let names = self.names.take_new();
        let (memory, scopes) = (usage.memory.clone(), usage.scopes.clone());
        let calm_seconds_ago = usage.calm_seconds_ago;
        Ok(UsageWire { names, calm_seconds_ago, memory, scopes, processes, cgroups })
    }
}

fn append(out: &mut Vec<u8>, kind: u8, time: RecordTime, payload: &[u8]) -> Result<(), NotAdded> {
    let frame = Frame { kind, version: VERSION, time, payload };
    if frame.append(out) { Ok(()) } else { Err(NotAdded::TooLong) }
}

/// A look as a record. It has no names, so it fits into any segment; `None` if it is too long.
pub fn encode_look(look: &Look, time: RecordTime) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    append(&mut out, kind::LOOK, time, &postcard(look)).is_ok().then_some(out)
}

/// Plain data can always be encoded: an error would be an empty payload, which is not written.
fn postcard(value: &impl Serialize) -> Vec<u8> {
    ::postcard::to_stdvec(value).unwrap_or_default()
}

/// Why a record cannot be read although its bytes are intact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreadable {
    /// A newer memsensor wrote a kind that this one does not know.
    UnknownKind(u8),
    /// A newer memsensor wrote another version of this kind.
    NewerVersion(u8),
    /// Something else wrote it.
    Malformed(u8),
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownKind(kind) => {
                write!(f, "a record of kind {kind}, which a newer memsensor wrote")
            }
            Self::NewerVersion(kind) => {
                write!(f, "a record of kind {kind} in a version that a newer memsensor wrote")
            }
            Self::Malformed(kind) => write!(f, "a record of kind {kind} with unexpected content"),
        }
    }
}

/// Reads the records of one segment.
#[derive(Debug, Default)]
pub struct Decoder {
    names: NamesRead,
}

impl Decoder {
    /// The content of the next record of the segment.
    pub fn decode(&mut self, frame: &Frame<'_>) -> Result<Content, Unreadable> {
        if !kind::ALL.contains(&frame.kind) {
            return Err(Unreadable::UnknownKind(frame.kind));
        }
        if frame.version != VERSION {
            return Err(Unreadable::NewerVersion(frame.kind));
        }
        let content = match frame.kind {
            kind::SCHEMA => {
                // Written at the begin of a segment, and where a daemon continues one.
                self.names = NamesRead::default();
                read(frame).map(Content::Schema)
            }
            kind::LOOK => read(frame).map(Content::Look),
            kind::USAGE => read(frame).and_then(|wire| self.usage(wire)).map(Content::Usage),
            kind::EVENT => {
                serde_json::from_slice(frame.payload).ok().map(|e| Content::Event(Arc::new(e)))
            }
            kind::CHANGE => read(frame).map(Content::Change),
            kind::ANSWER => read(frame).map(Content::Answer),
            kind::LIFE => read(frame).map(Content::Life),
            _ => read(frame).map(Content::Missing),
        };
        content.ok_or(Unreadable::Malformed(frame.kind))
    }

    fn usage(&mut self, wire: UsageWire) -> Option<Usage> {
        if !self.names.add(wire.names) {
            return None;
        }
        let name = |number| self.names.get(number).map(str::to_owned);
        let processes = wire.processes.into_iter().map(|p| {
            Some(ProcessSize {
                pid: p.pid,
                comm: name(p.comm)?,
                cgroup: name(p.cgroup)?,
                age_seconds: p.age_seconds,
                own_bytes: p.own_bytes,
                swap_bytes: p.swap_bytes,
                growth_bytes: p.growth_bytes,
                growth_seconds: p.growth_seconds,
            })
        });
        let cgroups = wire.cgroups.into_iter().map(|c| {
            Some(CgroupSize {
                path: name(c.path)?,
                processes: c.processes,
                own_bytes: c.own_bytes,
                swap_bytes: c.swap_bytes,
                growth_bytes: c.growth_bytes,
                stall_ns: c.stall_ns,
            })
        });
        Some(Usage {
            calm_seconds_ago: wire.calm_seconds_ago,
            memory: wire.memory,
            scopes: wire.scopes,
            processes: processes.collect::<Option<_>>()?,
            cgroups: cgroups.collect::<Option<_>>()?,
        })
    }
}

fn read<T: DeserializeOwned>(frame: &Frame<'_>) -> Option<T> {
    let (value, rest) = ::postcard::take_from_bytes(frame.payload).ok()?;
    rest.is_empty().then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::event::{Event, EventKind, OperatorCommand},
        record::{
            content::{Answer, Change, Life, Missing, RuleNumbers, ScopeLook},
            frame::Frames,
            names::MAX_NAMES,
        },
        verdict::state::VerdictState,
    };

    fn usage(n: u64) -> Usage {
        let process = ProcessSize {
            pid: 4711,
            comm: "agent | <b>".into(),
            cgroup: format!("/system.slice/agent-{n}.service"),
            own_bytes: n << 20,
            growth_bytes: -5,
            ..ProcessSize::default()
        };
        let cgroup = CgroupSize { path: process.cgroup.clone(), ..CgroupSize::default() };
        Usage {
            calm_seconds_ago: Some(3),
            memory: vec![Some(n), None],
            scopes: vec![vec![Some(n)], Vec::new()],
            processes: vec![process],
            cgroups: vec![cgroup],
        }
    }

    fn event() -> Event {
        Event {
            id: "b00t0000-17".into(),
            seq: 17,
            time: "2026-11-28T03:12:00.000Z".into(),
            kind: EventKind::Operator {
                command: OperatorCommand::Drain,
                uid: 0,
                pid: 1,
                comm: None,
                detail: "a ’quoted’ reason".into(),
            },
            report: None,
        }
    }

    fn contents() -> Vec<Content> {
        let scope = ScopeLook {
            scope: "host".into(),
            state: Some(VerdictState::Degraded),
            weight: 0.5,
            fires: 1 << 20,
            signals: vec![Some(0.25), None],
            total_bytes: Some(1 << 40),
            ..ScopeLook::default()
        };
        let change = Change {
            scope: "host".into(),
            from: VerdictState::Ready,
            to: VerdictState::Overloaded,
            weight: 0.0,
            rules: vec![RuleNumbers {
                rule: "stalled".into(),
                numbers: vec![("full_share_10s".into(), 0.3, 0.25)],
            }],
        };
        let answer = Answer {
            client: "10.0.0.1".into(),
            scope: "host".into(),
            protocol: "agent".into(),
            state: "overloaded".into(),
            weight: 0.0,
        };
        vec![
            Content::Life(Life::Started { pid: 1 }),
            Content::Look(Look { scopes: vec![scope], stalls_ns: vec![1, 2, 3] }),
            Content::Usage(usage(1)),
            Content::Usage(usage(2)),
            Content::Usage(usage(1)),
            Content::Change(change),
            Content::Answer(answer),
            Content::Event(Arc::new(event())),
            Content::Missing(Missing { records: [5, 0, 1], because: "the disk hangs".into() }),
            Content::Life(Life::Ended),
        ]
    }

    fn schema() -> Schema {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Schema {
            version: "1.0".into(),
            host: "web-01".into(),
            kernel: "6.12.0".into(),
            scopes: vec![("web".into(), "/system.slice/web.service".into())],
            signals: names(&["full_share_10s", "some_share_1s"]),
            rules: names(&["stalled"]),
            causes: names(&["direct_reclaim", "memcg_reclaim", "throttle"]),
            memory: names(&["anon", "shmem"]),
            scope_memory: names(&["anon"]),
        }
    }

    fn segment(contents: &[Content]) -> Vec<u8> {
        let mut encoder = Encoder::new(schema());
        let mut bytes = encoder.begin(RecordTime::default());
        for content in contents {
            assert_eq!(encoder.add(content, RecordTime::default(), &mut bytes), Ok(()));
        }
        bytes
    }

    fn decode(bytes: &[u8]) -> Vec<Result<Content, Unreadable>> {
        let mut decoder = Decoder::default();
        Frames::of(bytes).map(|frame| decoder.decode(&frame)).collect()
    }

    #[test]
    fn all_contents_are_read_as_they_were_written() {
        let expected: Vec<_> =
            std::iter::once(Content::Schema(schema())).chain(contents()).map(Ok).collect();
        assert_eq!(decode(&segment(&contents())), expected);
    }

    /// The file was written once by version 1, and never changes.
    #[test]
    fn what_version_1_wrote_is_read() {
        let digits: Vec<u8> =
            include_str!("version-1.hex").bytes().filter(u8::is_ascii_hexdigit).collect();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        let bytes: Vec<_> = digits.chunks(2).map(|pair| byte(pair).expect("a byte")).collect();
        let expected: Vec<_> =
            std::iter::once(Content::Schema(schema())).chain(contents()).map(Ok).collect();
        assert_eq!(decode(&bytes), expected);
    }

    #[test]
    fn names_are_written_once_per_segment() {
        let sizes = |n| {
            let mut encoder = Encoder::new(schema());
            let mut bytes = encoder.begin(RecordTime::default());
            let begin = bytes.len();
            let added = encoder.add(&Content::Usage(usage(1)), RecordTime::default(), &mut bytes);
            assert_eq!(added, Ok(()));
            let first = bytes.len() - begin;
            let added = encoder.add(&Content::Usage(usage(n)), RecordTime::default(), &mut bytes);
            assert_eq!(added, Ok(()));
            (first, bytes.len() - begin - first)
        };
        let (first, again) = sizes(1);
        assert!(again + 40 < first, "{again} of {first}");
        assert!(sizes(2).1 > again, "a new name");
    }

    #[test]
    fn a_segment_with_too_many_names_is_full() {
        let mut encoder = Encoder::new(schema());
        let mut bytes = encoder.begin(RecordTime::default());
        let results: Vec<_> = (0..=MAX_NAMES as u64)
            .map(|n| encoder.add(&Content::Usage(usage(n)), RecordTime::default(), &mut bytes))
            .collect();
        assert_eq!(results.last(), Some(&Err(NotAdded::SegmentFull)));
        assert!(decode(&bytes).iter().all(Result::is_ok), "the others are intact");
        let mut next = encoder.begin(RecordTime::default());
        let added = encoder.add(&Content::Usage(usage(5000)), RecordTime::default(), &mut next);
        assert_eq!((added, decode(&next).len()), (Ok(()), 2));
    }

    #[test]
    fn what_a_newer_version_wrote_is_named_and_skipped() {
        let mut bytes = segment(&contents()[..1]);
        let mut add = |kind, version, payload: &[u8]| {
            let frame = Frame { kind, version, time: RecordTime::default(), payload };
            assert!(frame.append(&mut bytes));
        };
        add(200, 1, b"new");
        add(kind::LOOK, 9, b"new");
        add(kind::LOOK, VERSION, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff");
        add(kind::EVENT, VERSION, b"{");
        add(kind::LIFE, VERSION, &[1, 0]);
        let read = decode(&bytes);
        let expected = [
            Unreadable::UnknownKind(200),
            Unreadable::NewerVersion(kind::LOOK),
            Unreadable::Malformed(kind::LOOK),
            Unreadable::Malformed(kind::EVENT),
            Unreadable::Malformed(kind::LIFE),
        ];
        assert_eq!(read[2..], expected.map(Err));
    }
}
