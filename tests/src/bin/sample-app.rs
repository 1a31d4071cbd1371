//! A small web application with a working set, for `cargo xtask replay`.
//!
//! `sample-app ADDRESS NAME MIB FILE` keeps MIB in memory. Each request touches 256 pages of it,
//! reads 16 blocks of the file, and returns a page. It has a fixed number of workers, as real
//! applications have.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::fs::FileExt as _,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

const PAGE: usize = 4096;
/// Pages of memory and blocks of the file per request.
const TOUCHED: usize = 256;
const READ: usize = 16;
const WORKERS: usize = 16;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("sample-app: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [address, name, mib, file] = &args[..] else {
        bail!("usage: sample-app ADDRESS NAME MIB FILE")
    };
    let mib: usize = mib.parse().context("MIB is a number")?;
    let app = Arc::new(App {
        name: name.clone(),
        memory: (0..mib << 20).map(|_| AtomicU8::new(1)).collect(),
        file: File::open(file).with_context(|| format!("open {file}"))?,
        random: AtomicU64::new(1),
    });
    let blocks = app.file.metadata()?.len() / PAGE as u64;
    // Reads the whole file into the page cache.
    std::io::copy(&mut &app.file, &mut std::io::sink()).with_context(|| format!("read {file}"))?;
    let listener = TcpListener::bind(address).with_context(|| format!("listen on {address}"))?;
    let worker = |_| {
        let (app, listener) = (Arc::clone(&app), listener.try_clone()?);
        Ok(std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                // A closed connection is not an error.
                let _ = app.serve(stream, blocks);
            }
        }))
    };
    let workers: Result<Vec<_>> = (0..WORKERS).map(worker).collect();
    for worker in workers? {
        let _ = worker.join();
    }
    bail!("no worker is left")
}

struct App {
    name: String,
    memory: Box<[AtomicU8]>,
    file: File,
    random: AtomicU64,
}

impl App {
    fn serve(&self, mut stream: TcpStream, blocks: u64) -> Result<()> {
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut head = [0; 2048];
        let mut len = 0;
        while !head[..len].windows(4).any(|w| w == b"\r\n\r\n") {
            match stream.read(head.get_mut(len..).unwrap_or_default())? {
                0 => return Ok(()),
                n => len += n,
            }
        }
        let page = self.page(blocks)?;
        let length = page.len();
        write!(
            stream,
            "HTTP/1.0 200 OK\r\nContent-Length: {length}\r\nX-Host: {}\r\n\r\n{page}",
            self.name
        )?;
        Ok(())
    }

    fn page(&self, blocks: u64) -> Result<String> {
        let mut random = mix(self.random.fetch_add(1, Ordering::Relaxed));
        let mut sum = 0u64;
        for _ in 0..TOUCHED {
            random = mix(random);
            let at = usize::try_from(random >> 1)? % self.memory.len();
            sum += u64::from(self.memory[at].fetch_add(1, Ordering::Relaxed));
        }
        let mut block = [0; PAGE];
        for _ in 0..READ {
            random = mix(random);
            self.file.read_exact_at(&mut block, random % blocks.max(1) * PAGE as u64)?;
            sum += u64::from(block[0]);
        }
        Ok(format!("{}: {sum}\n{}", self.name, "text ".repeat(360)))
    }
}

/// Splitmix64, a pseudo-random number generator.
fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
