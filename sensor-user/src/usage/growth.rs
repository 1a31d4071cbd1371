//! The sizes of one process or cgroup over a minute, ten minutes and an hour, at a few points each.
//! Pure.
//!
//! Not here: which processes and cgroups are kept (`tracker`).

/// Time spans of growth, in seconds.
const SPANS: [u32; 3] = [60, 600, 3600];

/// Points kept for each span.
const POINTS: usize = 12;

/// Sizes over time, in pages.
#[derive(Debug, Clone)]
pub(super) struct SizeHistory {
    /// For each span, oldest first: seconds since boot, and pages.
    points: [[(u32, u32); POINTS + 1]; SPANS.len()],
    filled: [usize; SPANS.len()],
}

impl SizeHistory {
    /// `born` is when the size was 0, if that is known.
    pub(super) fn new(now: u32, born: Option<u32>) -> Self {
        let mut history =
            Self { points: [[(0, 0); POINTS + 1]; SPANS.len()], filled: [0; SPANS.len()] };
        for (i, span) in SPANS.iter().enumerate() {
            if let Some(born) = born.filter(|born| now.saturating_sub(*born) <= *span) {
                history.points[i][0] = (born, 0);
                history.filled[i] = 1;
            }
        }
        history
    }

    /// Adds the present size. Returns the growth over each span, or since the first known size if
    /// that is later, and the seconds that the growth over the shortest span covers.
    pub(super) fn record(&mut self, now: u32, size: u64) -> ([i64; SPANS.len()], u32) {
        // u32 is enough for 16 TiB in pages of 4 KiB.
        let size = u32::try_from(size).unwrap_or(u32::MAX);
        let mut grown = [0; SPANS.len()];
        let mut covered = [0; SPANS.len()];
        for (i, span) in SPANS.iter().enumerate() {
            let (points, filled) = (&mut self.points[i], &mut self.filled[i]);
            let spacing = span / u32::try_from(POINTS).unwrap_or(u32::MAX);
            let last = filled.checked_sub(1).and_then(|last| points.get(last));
            if last.is_none_or(|(at, _)| now.saturating_sub(*at) >= spacing) {
                if *filled == points.len() {
                    points.rotate_left(1);
                    *filled -= 1;
                }
                points[*filled] = (now, size);
                *filled += 1;
            }
            let points = &points[..*filled];
            let start = points.iter().rfind(|(at, _)| now.saturating_sub(*at) >= *span);
            let (start, start_size) = start.or(points.first()).copied().unwrap_or((now, size));
            grown[i] = i64::from(size) - i64::from(start_size);
            covered[i] = now.saturating_sub(start);
        }
        (grown, covered[0])
    }
}
