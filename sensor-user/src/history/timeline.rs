//! The entries of a record in the order of time.
//!
//! Within a boot the order is that of CLOCK_BOOTTIME, because the wall clock may be set at any time.
//! Boots are in the order in which they were written.

use std::collections::BTreeMap;

use sensor_core::record::content::{Content, Schema};

use crate::recorder::archive::{Archive, Entry, Loss};

/// A record, or the part of it between two times.
#[derive(Debug, Default)]
pub struct Timeline {
    /// The entries, without schemas.
    pub entries: Vec<Entry>,
    /// The last schema, which names signals and rules.
    pub schema: Schema,
    /// What could not be read.
    pub losses: Vec<Loss>,
}

impl Timeline {
    /// Reads the entries from `since` to `until`, both nanoseconds since 1970.
    pub fn read(archive: &Archive, since: i64, until: i64) -> Self {
        let mut timeline = Self::default();
        let mut boots = BTreeMap::new();
        timeline.losses = archive.read(|entry| {
            let next = boots.len();
            boots.entry(entry.time.boot).or_insert(next);
            match entry.content {
                Content::Schema(schema) => timeline.schema = schema,
                _ if (since..=until).contains(&entry.time.wall_ns) => timeline.entries.push(entry),
                _ => {}
            }
        });
        let boot = |entry: &Entry| boots.get(&entry.time.boot).copied().unwrap_or_default();
        timeline.entries.sort_by_key(|entry| (boot(entry), entry.time.boottime_ns));
        timeline
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use sensor_core::record::{
        content::{Life, Look},
        frame::RecordTime,
    };

    use super::*;
    use crate::recorder::{segments::Limits, writer::Writer};

    fn time(boot: u8, boottime_ns: u64, wall_ns: i64) -> RecordTime {
        RecordTime { boot: [boot; 16], boottime_ns, wall_ns }
    }

    #[test]
    fn entries_are_in_the_order_of_boots_and_of_their_clock() {
        let dir = tempfile::tempdir().expect("a directory");
        let limits = Limits { bytes: 0, age: Duration::MAX };
        let schema = Schema { host: "web-01".into(), ..Schema::default() };
        let mut writer = Writer::new(dir.path().to_owned(), limits, schema);
        let look = Content::Look(Look::default());
        // The second boot has a clock that is behind; a look of before comes late.
        for (boot, boottime_ns, wall_ns) in
            [(9, 100, 1000), (9, 120, 1020), (9, 110, 1010), (3, 5, 900), (3, 7, 2000)]
        {
            writer.write(&look, time(boot, boottime_ns, wall_ns));
        }
        writer.write(&Content::Life(Life::Ended), time(3, 8, 5000));
        let archive = Archive::open(dir.path()).expect("opened");
        let walls = |since, until| {
            let timeline = Timeline::read(&archive, since, until);
            assert_eq!((timeline.schema.host.as_str(), timeline.losses.len()), ("web-01", 0));
            timeline.entries.iter().map(|entry| entry.time.wall_ns).collect::<Vec<_>>()
        };
        assert_eq!(walls(0, 3000), [1000, 1010, 1020, 900, 2000]);
        assert_eq!(walls(1010, i64::MAX), [1010, 1020, 2000, 5000]);
        assert_eq!(walls(0, 1), [0; 0]);
    }
}
