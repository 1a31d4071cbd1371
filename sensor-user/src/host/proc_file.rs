//! A file that the kernel writes anew at each read: opened once, read many times into one buffer, so
//! that looking needs no descriptor, no path walk and, once it has grown, no memory.

use std::{fs::File, os::unix::fs::FileExt as _, path::Path};

use anyhow::{Context as _, Result, bail};

/// Larger texts are refused: /proc/zoneinfo, the largest of them, has a few lines per zone and CPU.
const MAX_BYTES: usize = 8 << 20;

/// An open file of the kernel's.
#[derive(Debug)]
pub struct ProcFile {
    file: File,
    buffer: Vec<u8>,
}

impl ProcFile {
    /// Opens it.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
        Ok(Self { file, buffer: vec![0; 8192] })
    }

    /// Opens it if it can be read as well: some files are there, and refuse.
    pub fn readable(path: &Path) -> Option<Self> {
        let mut text = Self::open(path).ok()?;
        text.read().is_ok().then_some(text)
    }

    /// What it says now.
    pub fn read(&mut self) -> Result<&str> {
        let mut len = 0;
        loop {
            if len == self.buffer.len() {
                if len >= MAX_BYTES {
                    bail!("a text of the kernel has more than {MAX_BYTES} bytes");
                }
                self.buffer.resize(len * 2, 0);
            }
            match self.file.read_at(&mut self.buffer[len..], len as u64)? {
                0 => break,
                n => len += n,
            }
        }
        Ok(std::str::from_utf8(&self.buffer[..len])?)
    }
}

/// Values of lines such as `name 123`, in the order of `names`; `None` for a name that is not there.
pub fn numbers<const N: usize>(text: &str, names: [&str; N]) -> [Option<u64>; N] {
    let mut found = [None; N];
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some(name), Some(value)) = (words.next(), words.next()) else { continue };
        if let Some(at) = names.iter().position(|n| *n == name.trim_end_matches(':')) {
            found[at] = value.parse().ok();
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_longer_than_the_buffer_is_read_whole_and_anew() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let mut text = ProcFile::open(file.path()).expect("opens");
        assert_eq!(text.read().expect("reads"), "");
        let long = "line\n".repeat(10_000);
        std::fs::write(file.path(), &long).expect("write");
        assert_eq!(text.read().expect("reads"), long);
        std::fs::write(file.path(), "short").expect("write");
        assert_eq!(text.read().expect("reads"), "short");
    }

    #[test]
    fn numbers_are_found_by_name() {
        let text = "pswpin 12\npswpout 7\nMemTotal:   2048 kB\nbroken x\nalone\n";
        let names = ["MemTotal", "pswpin", "broken", "absent"];
        assert_eq!(numbers(text, names), [Some(2048), Some(12), None, None]);
    }
}
