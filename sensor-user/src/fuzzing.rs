//! Ways into readers of foreign bytes that are private to the crate, for the fuzz targets in
//! `tests/fuzz`. Only with `--cfg fuzzing`, which `cargo xtask fuzz` and cargo-fuzz set.
//!
//! Not here: readers that are public, and what must hold of a result: both are in the targets.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::Result;
use arc_swap::ArcSwap;
use axum::http::{HeaderMap, HeaderValue, header::AUTHORIZATION};
use ratatui::{Terminal, backend::TestBackend, crossterm::event::KeyCode};
use ring::hmac::{HMAC_SHA256, Key};
use sensor_core::{
    common::clock::boot_id,
    model::{oom_report::HostMemoryUsage, readiness::FailOn},
    verdict::{reading::Reading, scope::ScopeStates},
};

use crate::{
    cgroups::patterns::Patterns,
    cli::top::{screen::Screen, sort::By},
    daemon::{
        config::Config,
        reload::{Reloader, Reread},
        store::SavedStates,
    },
    host::{
        cgroup::mounts::{parse_memory_on_v1, parse_memory_root},
        kmsg::{self, KmsgKill, PendingKills},
        memory::{parse_meminfo, parse_usage, parse_zoneinfo},
        pods,
        proc_file::replace_invalid,
        proc_walk::{Stat, Status, memory_cgroup},
        swap::{SwapRoom, parse_mm_stat},
        vmstat, zfs,
    },
    serve::{
        admin_protocol::Top,
        agent_check::{MAX_QUESTION, parse_question, read_question},
        limits::{Gate, Ticket},
        secure::{
            credentials::{Credentials, Decision},
            passwords::{Claim, Fingerprint},
        },
        state::{app::AppState, connections::ConnectionCounts, reload::Reload, settings::Served},
    },
};

const PAGE_BYTES: u64 = 4096;

/// Most kills of the kernel log that wait for their event.
pub const MAX_PENDING: usize = kmsg::KEEP;

/// The kills that are still pending after these records of the kernel log.
pub fn kernel_log<'a>(records: impl IntoIterator<Item = &'a str>) -> Vec<KmsgKill> {
    let mut pending = PendingKills::default();
    records.into_iter().for_each(|record| pending.add(record));
    let pids: Vec<_> = pending.kills.iter().map(|kill| kill.pid).collect();
    pids.into_iter().filter_map(|pid| pending.take(pid)).collect()
}

/// Bytes of a file of the kernel as text.
pub fn text(bytes: &mut [u8]) -> &str {
    replace_invalid(bytes)
}

/// The text as each of /proc/vmstat, /proc/meminfo and /proc/zoneinfo.
pub fn host_memory(text: &str) -> (Reading, HostMemoryUsage) {
    let mut reading = Reading::default();
    vmstat::parse(text, PAGE_BYTES, &mut reading);
    vmstat::parse_kill_counts(text);
    vmstat::parse_origins(text);
    parse_meminfo(text, &mut reading);
    reading.above_low_bytes = parse_zoneinfo(text, PAGE_BYTES);
    (reading, parse_usage(text))
}

/// The text as arcstats of ZFS: the bytes of its cache, and those that it can give back.
pub fn zfs_cache(text: &str) -> [Option<u64>; 2] {
    [zfs::size(text), zfs::evictable(text)]
}

/// The room in free swap by a text of /proc/swaps, and in a zram device by a text of its mm_stat,
/// for so many free bytes.
pub fn swap_room(text: &str, free: u64) -> (u64, Option<u64>) {
    let zram = parse_mm_stat(text).map(|usage| usage.room(free));
    (SwapRoom::read(text, &mut []).of(free), zram)
}

/// The bytes as each of /proc/PID/stat, status and cgroup. Returns the path in the last.
pub fn process(bytes: &[u8]) -> Option<&[u8]> {
    Stat::parse(bytes);
    Status::parse(bytes);
    memory_cgroup(bytes)
}

/// The bytes as /proc/self/mounts: the mount points of the memory controller on v1, and of v2.
pub fn mounts(bytes: &[u8]) -> [Option<PathBuf>; 2] {
    [true, false].map(|v1| parse_memory_root(bytes, v1))
}

/// The text as /proc/cgroups: whether the memory controller is on v1.
pub fn memory_on_v1(text: &str) -> bool {
    parse_memory_on_v1(text)
}

/// The name of a pod by the name of its directory of logs.
pub fn pod_name(dir: &str, uid: &str) -> Option<String> {
    pods::name_in(dir, uid)
}

/// Whether a cgroup's path matches a pattern of the configuration, and the deepest of the path and
/// its ancestors that does. `None` if the pattern is not valid.
pub fn pattern<'a>(pattern: &str, path: &'a str) -> Option<(bool, Option<&'a str>)> {
    let patterns = Patterns::new(&[pattern.to_owned()]).ok()?;
    Some((patterns.match_path(path), patterns.deepest(path)))
}

/// The scope and the `fail_on` of an agent-check's question.
pub async fn question(mut bytes: &[u8], state: &AppState) -> Option<(usize, FailOn)> {
    let mut buffer = [0; MAX_QUESTION];
    let question = read_question(&mut bytes, &mut buffer, Duration::from_secs(1)).await;
    parse_question(question, state)
}

/// The token of [`credentials`].
pub const TOKEN: &str = "0123456789abcdef";

/// A user, and a token.
pub fn credentials() -> Credentials {
    let users = [("u".to_owned(), "a hash".to_owned())].into();
    let key = Key::new(HMAC_SHA256, b"fuzzing");
    Credentials::new(users, Some(TOKEN.as_bytes()), key).expect("a valid token")
}

/// The decision on a request by its header `Authorization`; `None` if that cannot be one.
pub fn authorization(credentials: &Credentials, value: &[u8]) -> Option<Decision> {
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, HeaderValue::from_bytes(value).ok()?);
    Some(credentials.decide(&headers))
}

/// Whether the password is that of the bcrypt hash; an error if no password can be.
pub fn is_password(hash: &str, password: &[u8]) -> Result<bool> {
    let (hash, password) = (hash.to_owned(), password.to_vec());
    Claim { hash, is_user: true, password, fingerprint: Fingerprint::default() }.verify()
}

/// Replaces the default settings by those of a configuration.
pub fn reloader(reread: Reread, served: Arc<ArcSwap<Served>>) -> Arc<dyn Reload> {
    Arc::new(Reloader::new(Config::default(), reread, served, Arc::default()))
}

/// The live screen of `top` in a terminal of this size: after each of these keys, for as long as
/// none quits, the text of its rows.
pub fn top_screens(
    top: &mut Top,
    keys: impl IntoIterator<Item = KeyCode>,
    [width, height]: [u16; 2],
    error: Option<&str>,
) -> Vec<String> {
    let (mut screen, mut rows) = (Screen::new(By::Memory), Vec::new());
    let Ok(mut terminal) = Terminal::new(TestBackend::new(width, height));
    for key in keys {
        screen.update(top);
        let Ok(_) = terminal.draw(|frame| screen.draw(frame, top, error));
        let cells = terminal.backend().buffer().content();
        let text = |row: &[_]| row.iter().map(ratatui::buffer::Cell::symbol).collect();
        rows.extend(cells.chunks(usize::from(width).max(1)).map(text));
        if !screen.key(key, Screen::page(height)) {
            break;
        }
        screen.order(top);
    }
    rows
}

/// A key for each byte: those of the screen, and some that it ignores.
pub fn key(byte: u8) -> KeyCode {
    match byte {
        0 => KeyCode::Tab,
        1 => KeyCode::Up,
        2 => KeyCode::Down,
        3 => KeyCode::PageUp,
        4 => KeyCode::PageDown,
        5 => KeyCode::Home,
        6 => KeyCode::End,
        7 => KeyCode::Esc,
        8..=20 => KeyCode::F(byte - 7),
        other => KeyCode::Char(other.into()),
    }
}

/// The ticket of the only connection of a listener.
pub fn ticket() -> Arc<Ticket> {
    let gate = Gate::new(1, Arc::new(ConnectionCounts::default()));
    let ticket = gate.admit(IpAddr::V4(Ipv4Addr::LOCALHOST), false);
    Arc::new(ticket.expect("the first connection has a place"))
}

/// The valid states in a saved verdict, as if the daemon had saved it in this boot.
pub fn saved_states(json: &[u8], now_ns: u64, max_age: Duration) -> Option<ScopeStates> {
    let mut saved: SavedStates = serde_json::from_slice(json).ok()?;
    saved.boot = boot_id();
    Some(saved.valid(now_ns, max_age))
}
