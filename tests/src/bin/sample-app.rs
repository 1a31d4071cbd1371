//! A small web application with a working set, for `cargo xtask replay`: what a thrash does to it, it
//! does to real ones.
//!
//! `shop ADDRESS NAME MIB FILE` keeps so many MiB in memory. Each request touches some hundred pages of
//! them, reads a few blocks of the file, and gets its page. As real ones do, it has so many workers and
//! no more.

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
/// Pages of memory and blocks of the file that a request needs.
const TOUCHED: usize = 256;
const READ: usize = 16;
const WORKERS: usize = 16;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("shop: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [address, name, mib, file] = &args[..] else { bail!("usage: shop ADDRESS NAME MIB FILE") };
    let mib: usize = mib.parse().context("MIB is a number")?;
    let shop = Arc::new(Shop {
        name: name.clone(),
        goods: (0..mib << 20).map(|_| AtomicU8::new(1)).collect(),
        file: File::open(file).with_context(|| format!("open {file}"))?,
        dice: AtomicU64::new(1),
    });
    let blocks = shop.file.metadata()?.len() / PAGE as u64;
    // As warm as after a day of customers.
    std::io::copy(&mut &shop.file, &mut std::io::sink()).with_context(|| format!("read {file}"))?;
    let listener = TcpListener::bind(address).with_context(|| format!("listen on {address}"))?;
    let worker = |_| {
        let (shop, listener) = (Arc::clone(&shop), listener.try_clone()?);
        Ok(std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                // A customer who went away is no reason to close.
                let _ = shop.serve(stream, blocks);
            }
        }))
    };
    let workers: Result<Vec<_>> = (0..WORKERS).map(worker).collect();
    for worker in workers? {
        let _ = worker.join();
    }
    bail!("no worker is left")
}

struct Shop {
    name: String,
    goods: Box<[AtomicU8]>,
    file: File,
    dice: AtomicU64,
}

impl Shop {
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
        let mut dice = mix(self.dice.fetch_add(1, Ordering::Relaxed));
        let mut sum = 0u64;
        for _ in 0..TOUCHED {
            dice = mix(dice);
            let at = usize::try_from(dice >> 1)? % self.goods.len();
            sum += u64::from(self.goods[at].fetch_add(1, Ordering::Relaxed));
        }
        let mut block = [0; PAGE];
        for _ in 0..READ {
            dice = mix(dice);
            self.file.read_exact_at(&mut block, dice % blocks.max(1) * PAGE as u64)?;
            sum += u64::from(block[0]);
        }
        Ok(format!("{}: {sum}\n{}", self.name, "goods ".repeat(300)))
    }
}

/// Splitmix64: evenly spread, and enough for dice.
fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
