//! Strings that repeat within a segment, such as paths of cgroups: each is written once, in the record
//! that first has it, and then named by a number. Each segment has names of its own, so that it can be
//! read without the others.

use std::collections::BTreeMap;

/// Most names of a segment: they are in memory, and a segment with more is followed by the next.
pub const MAX_NAMES: usize = 1024;
/// Longest name, in bytes; the rest of a longer one is cut off.
const MAX_BYTES: usize = 256;

/// The names that a segment has so far, for writing.
#[derive(Debug, Default)]
pub struct NamesWritten {
    numbers: BTreeMap<String, u16>,
    new: Vec<String>,
}

impl NamesWritten {
    /// The number of a name; `None` if the segment has too many.
    pub fn number(&mut self, name: &str) -> Option<u16> {
        let name = &name[..name.floor_char_boundary(MAX_BYTES)];
        if let Some(number) = self.numbers.get(name) {
            return Some(*number);
        }
        let number = u16::try_from(self.numbers.len()).ok()?;
        if self.numbers.len() >= MAX_NAMES {
            return None;
        }
        self.numbers.insert(name.to_owned(), number);
        self.new.push(name.to_owned());
        Some(number)
    }

    /// The names that the next record must contain, in the order of their numbers.
    pub fn take_new(&mut self) -> Vec<String> {
        std::mem::take(&mut self.new)
    }

    /// A new segment begins.
    pub fn clear(&mut self) {
        self.numbers.clear();
        self.new.clear();
    }
}

/// The names that a segment has so far, for reading.
#[derive(Debug, Default)]
pub struct NamesRead(Vec<String>);

impl NamesRead {
    /// Adds those of a record. False if there are more than a segment can have.
    pub fn add(&mut self, names: Vec<String>) -> bool {
        self.0.extend(names);
        self.0.len() <= MAX_NAMES
    }

    /// The name of a number.
    pub fn get(&self, number: u16) -> Option<&str> {
        self.0.get(usize::from(number)).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_written_once() {
        let (mut written, mut read) = (NamesWritten::default(), NamesRead::default());
        for (names, new) in [
            (&["/a", "/b", "/a"][..], &["/a", "/b"][..]),
            (&["/b"], &[]),
            (&["", "/ü"], &["", "/ü"]),
        ] {
            let numbers: Vec<_> =
                names.iter().map(|name| written.number(name).expect("room")).collect();
            let added = written.take_new();
            assert_eq!(added, new);
            assert!(read.add(added));
            let back: Vec<_> = numbers.iter().filter_map(|number| read.get(*number)).collect();
            assert_eq!(back, names);
        }
        assert_eq!(read.get(99), None);
        written.clear();
        assert_eq!(written.number("/c"), Some(0));
    }

    #[test]
    fn names_are_bounded() {
        let mut names = NamesWritten::default();
        assert!((0..MAX_NAMES).all(|n| names.number(&n.to_string()).is_some()));
        assert_eq!(names.number("one more"), None);
        assert_eq!(names.number("7"), Some(7), "known ones stay");
        let mut names = NamesWritten::default();
        let long = "é".repeat(1000);
        assert!(names.number(&format!("x{long}")).is_some());
        assert_eq!(names.take_new()[0].len(), MAX_BYTES - 1, "cut between characters");
        assert!(!NamesRead::default().add(vec![String::new(); MAX_NAMES + 1]));
    }
}
