//! A file that the kernel generates at each read. It is opened once and read many times into one
//! buffer: a read needs no new descriptor, no path lookup and, once the buffer has grown, no
//! memory.

use std::{
    fs::File,
    io::ErrorKind,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

/// Larger files are an error: /proc/zoneinfo, the largest of them, has a few lines per zone and
/// CPU.
const MAX_BYTES: usize = 8 << 20;

/// An open file of /proc or of a cgroup.
#[derive(Debug)]
pub struct ProcFile {
    path: PathBuf,
    file: File,
    buffer: Vec<u8>,
}

impl ProcFile {
    /// Opens the file.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
        Ok(Self { path: path.to_owned(), file, buffer: vec![0; 8192] })
    }

    /// Opens the file if it can be read: with psi=0 pressure files exist, but reading them fails.
    pub fn readable(path: &Path) -> Option<Self> {
        let mut file = Self::open(path).ok()?;
        file.read().is_ok().then_some(file)
    }

    /// Reads the present content. Bytes that are not UTF-8 become `?`: the kernel copies names as
    /// they are, and one of them must not make the other lines unreadable.
    pub fn read(&mut self) -> Result<&str> {
        let len = self.fill().with_context(|| format!("read {}", self.path.display()))?;
        Ok(replace_invalid(&mut self.buffer[..len]))
    }

    /// Reads into the buffer, and returns the length.
    fn fill(&mut self) -> Result<usize> {
        let mut len = 0;
        loop {
            if len == self.buffer.len() {
                if len >= MAX_BYTES {
                    bail!("the file has more than {MAX_BYTES} bytes");
                }
                self.buffer.resize(len * 2, 0);
            }
            match self.file.read_at(&mut self.buffer[len..], len as u64) {
                Ok(0) => return Ok(len),
                Ok(n) => len += n,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}

/// Replaces bytes that are not UTF-8 in place, which needs no memory.
pub(crate) fn replace_invalid(bytes: &mut [u8]) -> &str {
    while let Err(e) = std::str::from_utf8(bytes) {
        let (start, len) = (e.valid_up_to(), e.error_len());
        let end = len.map_or(bytes.len(), |len| start + len);
        bytes[start..end].fill(b'?');
    }
    std::str::from_utf8(bytes).unwrap_or_default()
}

/// Values of lines such as `name 123`, in the order of `names`; `None` for a name without a line.
pub fn numbers<const N: usize>(text: &str, names: [&str; N]) -> [Option<u64>; N] {
    let mut values = [None; N];
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some(name), Some(value)) = (words.next(), words.next()) else { continue };
        if let Some(at) = names.iter().position(|n| *n == name.trim_end_matches(':')) {
            values[at] = value.parse().ok();
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_longer_than_the_buffer_is_read_completely() {
        let temp = tempfile::NamedTempFile::new().expect("a file");
        let mut file = ProcFile::open(temp.path()).expect("opens");
        assert_eq!(file.read().expect("reads"), "");
        let long = "line\n".repeat(10_000);
        std::fs::write(temp.path(), &long).expect("write");
        assert_eq!(file.read().expect("reads"), long);
        std::fs::write(temp.path(), "short").expect("write");
        assert_eq!(file.read().expect("reads"), "short");
    }

    #[test]
    fn an_invalid_byte_hides_no_other_line() {
        let temp = tempfile::NamedTempFile::new().expect("a file");
        let mut file = ProcFile::open(temp.path()).expect("opens");
        for (bytes, expected) in [
            (&b"name caf\xe9\npswpin 12\n"[..], "name caf?\npswpin 12\n"),
            (b"\xff\xfe1\n\xc3", "??1\n?"),
            ("caf\u{e9}".as_bytes(), "caf\u{e9}"),
        ] {
            std::fs::write(temp.path(), bytes).expect("write");
            assert_eq!(file.read().expect("reads"), expected);
        }
    }

    #[test]
    fn numbers_are_found_by_name() {
        let text = "pswpin 12\npswpout 7\nMemTotal:   2048 kB\nbroken x\nalone\n";
        let names = ["MemTotal", "pswpin", "broken", "absent"];
        assert_eq!(numbers(text, names), [Some(2048), Some(12), None, None]);
    }
}
