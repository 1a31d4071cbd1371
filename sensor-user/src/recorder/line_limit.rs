//! How many lines a minute the log gets, or how many entries the record. Pure.

const MINUTE: u64 = 60_000_000_000;
/// Limits lines, and counts the others.
#[derive(Debug)]
pub struct LineLimit {
    most: u32,
    minute: u64,
    lines: u32,
    omitted: u32,
}

impl LineLimit {
    /// At most so many a minute.
    pub const fn new(most: u32) -> Self {
        Self { most, minute: 0, lines: 0, omitted: 0 }
    }

    /// Whether a line may be logged at this time; otherwise it is counted.
    pub fn has_room(&mut self, now_ns: u64) -> bool {
        if self.minute != now_ns / MINUTE {
            (self.minute, self.lines) = (now_ns / MINUTE, 0);
        }
        let has_room = self.lines < self.most;
        if has_room {
            self.lines += 1;
        } else {
            self.omitted += 1;
        }
        has_room
    }

    /// The number of lines that were omitted, once their minute is over.
    pub fn omitted(&mut self, now_ns: u64) -> Option<u32> {
        let is_over = self.omitted > 0 && self.minute != now_ns / MINUTE;
        is_over.then(|| std::mem::take(&mut self.omitted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_has_so_many_lines_and_the_rest_is_counted() {
        let mut limit = LineLimit::new(20);
        let logged = (0..50).filter(|n| limit.has_room(MINUTE + n)).count();
        assert_eq!(logged, 20);
        assert_eq!(limit.omitted(MINUTE + 100), None, "more may come");
        assert_eq!(limit.omitted(2 * MINUTE), Some(30));
        assert_eq!(limit.omitted(2 * MINUTE), None, "once");
        assert!(limit.has_room(2 * MINUTE));
    }
}
