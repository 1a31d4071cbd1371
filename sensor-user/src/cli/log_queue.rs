//! A bounded queue of log lines and a thread that writes them: if nothing reads the log, a line is
//! dropped and counted, and no other thread waits. The queue has no lock: the writing thread has
//! normal priority, and may have to wait for a processor while it holds one. For the same reason it is
//! no channel, whose receiver takes a lock of its own.
//!
//! Own code instead of tracing-appender: its thread keeps all capabilities, and its guard prints to
//! stdout if the log is not read, which may block for the same reason.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use crossbeam_queue::ArrayQueue;
use tracing_subscriber::fmt::MakeWriter;

use crate::publish::control::EventFd;

/// Lines that may wait.
const MAX_LINES: usize = 512;
/// Bytes that may wait: they are locked memory.
const MAX_BYTES: usize = 256 << 10;
/// The writing thread looks for lines at least this often; a new line wakes it.
const POLL: Duration = Duration::from_mins(10);
/// Stack of the writing thread.
const STACK_BYTES: usize = 128 << 10;
/// Time that the end of the process waits for the last lines.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// The queue; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct LogQueue {
    lines: Arc<Lines>,
    /// Bytes that wait, including those of the line that is being written.
    waiting: Arc<AtomicUsize>,
    lost: &'static AtomicU64,
}

#[derive(Debug)]
struct Lines {
    queue: ArrayQueue<Vec<u8>>,
    added: EventFd,
}

impl Lines {
    /// Adds a line; false if there is no room.
    fn add(&self, line: Vec<u8>) -> bool {
        let has_room = self.queue.push(line).is_ok();
        if has_room {
            self.added.signal();
        }
        has_room
    }
}

impl LogQueue {
    /// An empty queue; lines wait until the thread is started. `lost` counts those without room.
    pub(super) fn new(lost: &'static AtomicU64) -> io::Result<Self> {
        let queue = ArrayQueue::new(MAX_LINES);
        let added = EventFd::new().map_err(io::Error::other)?;
        let lines = Arc::new(Lines { queue, added });
        Ok(Self { lines, waiting: Arc::new(AtomicUsize::new(0)), lost })
    }

    /// Starts the thread, which writes to `out`. When lines were lost and all others are written,
    /// it calls `report` with the number of lost ones. `prepare` runs first.
    pub(super) fn start(
        &self,
        mut out: impl Write + Send + 'static,
        prepare: impl FnOnce() + Send + 'static,
        report: impl Fn(u64) + Send + 'static,
    ) -> io::Result<()> {
        let Self { lines, waiting, lost } = self.clone();
        let body = move || {
            prepare();
            let mut reported = 0;
            loop {
                lines.added.take();
                while let Some(line) = lines.queue.pop() {
                    // A closed log must not end the daemon.
                    let _ = out.write_all(&line);
                    waiting.fetch_sub(line.len(), Ordering::Relaxed);
                }
                report_losses(lost, &mut reported, &report);
                lines.added.wait(POLL);
            }
        };
        std::thread::Builder::new().name("log".to_owned()).stack_size(STACK_BYTES).spawn(body)?;
        Ok(())
    }

    /// Adds a line, or drops and counts it. Never waits for the writer.
    pub(super) fn push(&self, line: &[u8]) {
        let waiting = self.waiting.fetch_add(line.len(), Ordering::Relaxed);
        let has_room = waiting.saturating_add(line.len()) <= MAX_BYTES;
        if !has_room || !self.lines.add(line.to_vec()) {
            self.waiting.fetch_sub(line.len(), Ordering::Relaxed);
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until all lines are written, but not long.
    pub(super) fn flush(&self) {
        let end = Instant::now() + FLUSH_TIMEOUT;
        while self.waiting.load(Ordering::Relaxed) > 0 && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

fn report_losses(lost: &AtomicU64, reported: &mut u64, report: &impl Fn(u64)) {
    let now = lost.load(Ordering::Relaxed);
    if now > *reported {
        report(now - *reported);
    }
    *reported = now;
}

impl Write for LogQueue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogQueue {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// Blocks until a permit arrives for each line; sends what was written.
    struct Blocked(Receiver<()>, Sender<Vec<u8>>);

    impl Write for Blocked {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            let _ = self.1.send(line.to_vec());
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_without_room_are_dropped_counted_and_reported() {
        static LOST: AtomicU64 = AtomicU64::new(0);
        let ((permits, permitted), (written, lines)) = (channel(), channel());
        let (report, reports) = channel();
        let out = Blocked(permitted, written);
        let report = move |n| _ = report.send(n);
        let queue = LogQueue::new(&LOST).expect("an eventfd");
        queue.start(out, || {}, report).expect("a thread");
        // Too long for the rest of the room.
        queue.push(&vec![b'x'; MAX_BYTES + 1]);
        assert_eq!(LOST.load(Ordering::Relaxed), 1);
        let long = vec![b'x'; MAX_BYTES - 100];
        queue.push(&long);
        queue.push(&[b'x'; 101]);
        assert_eq!(LOST.load(Ordering::Relaxed), 2);
        permits.send(()).expect("a writer");
        assert_eq!(lines.recv().expect("written"), long);
        queue.flush();
        let began = Instant::now();
        for n in 0..MAX_LINES + 1000 {
            queue.push(n.to_string().as_bytes());
        }
        queue.flush();
        assert!(began.elapsed() < FLUSH_TIMEOUT * 5, "{:?}", began.elapsed());
        let lost = LOST.load(Ordering::Relaxed);
        // The writer may hold one line beside those of the queue.
        assert!((1001..=1002).contains(&lost), "{lost}");
        drop(permits);
        let number = |line: Vec<u8>| String::from_utf8(line).ok()?.parse::<u64>().ok();
        let kept = (lost - 2..MAX_LINES as u64 + 1000).map(|_| lines.recv().ok().and_then(number));
        let kept: Vec<_> = kept.collect();
        assert!(kept.is_sorted_by(|a, b| a < b) && kept[0] == Some(0), "{kept:?}");
        let mut reported = 0;
        while reported < lost {
            reported += reports.recv().expect("a report");
        }
        assert_eq!(reported, lost);
        queue.flush();
        assert_eq!(queue.waiting.load(Ordering::Relaxed), 0);
    }

    /// A line of the start is not lost because the writer is at work.
    #[test]
    fn threads_that_log_at_once_lose_no_line_while_there_is_room() {
        static LOST: AtomicU64 = AtomicU64::new(0);
        let queue = LogQueue::new(&LOST).expect("an eventfd");
        queue.start(io::sink(), || {}, |_| {}).expect("a thread");
        for _ in 0..200 {
            std::thread::scope(|threads| {
                for _ in 0..4 {
                    threads.spawn(|| (0..16).for_each(|_| queue.push(b"line")));
                }
            });
            queue.flush();
        }
        let lines = (LOST.load(Ordering::Relaxed), queue.waiting.load(Ordering::Relaxed));
        assert_eq!(lines, (0, 0));
    }
}
