//! Envoy as the balancer of a replay: its command, and what its admin interface reports.

use std::{
    ffi::OsString,
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};

use super::{net, server::Server};

/// The admin interface, in the balancer's namespace.
const ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9901);

/// A degraded host beside a healthy one gets three tenths of the requests (Envoy gives the healthy
/// half 1.4 times its share). With HAProxy's weights that is 43 beside 100.
const DEGRADED: u32 = 43;

/// A command, as words, that runs it with this configuration and the admin interface.
pub(super) fn command(text: &str, dir: &Path) -> Result<Vec<OsString>> {
    let admin = format!(
        "admin: {{address: {{socket_address: {{address: {}, port_value: {}}}}}}}\n",
        ADMIN.ip(),
        ADMIN.port()
    );
    let file = dir.join("envoy.yaml");
    fs::write(&file, admin + text).with_context(|| format!("write {}", file.display()))?;
    let installed = std::env::var_os("MEMSENSOR_TOOLS").map(|dir| PathBuf::from(dir).join("envoy"));
    let program = installed.filter(|path| path.exists()).unwrap_or_else(|| "envoy".into());
    let mut words = vec![program.into_os_string()];
    let options = ["--disable-hot-restart", "--concurrency", "1", "-l", "warn", "-c"];
    words.extend(options.map(OsString::from));
    words.push(file.into());
    Ok(words)
}

/// Both servers as they are now.
pub(super) fn servers() -> Result<[Server; 2]> {
    let timeout = Duration::from_secs(1);
    let mut stream = TcpStream::connect_timeout(&ADMIN, timeout).context("connect to envoy")?;
    stream.set_read_timeout(Some(timeout))?;
    stream.write_all(b"GET /clusters HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text).context("read envoy's clusters")?;
    parse(&text)
}

fn parse(text: &str) -> Result<[Server; 2]> {
    let server = |host| -> Result<Server> {
        let start = format!("web::{}:8080::health_flags::", net::address(host));
        let flags = text.lines().find_map(|line| line.trim().strip_prefix(&start));
        let flags = flags.with_context(|| format!("envoy has no host {}", net::address(host)))?;
        let (state, weight) = if flags.contains("/failed_") {
            ("DOWN", 0)
        } else if flags.contains("/degraded_") {
            ("UP", DEGRADED)
        } else {
            ("UP", 100)
        };
        Ok(Server { status: format!("{state} {flags}"), weight })
    };
    Ok([server(0)?, server(1)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_parsed_from_their_health_flags() {
        let host = |n, flags| format!("web::192.0.2.{n}:8080::health_flags::{flags}\r\n");
        for (flags, weight, serves) in [
            ("healthy", 100, true),
            ("/degraded_active_hc", 43, true),
            ("/active_hc_timeout", 100, true),
            ("/failed_active_hc/active_hc_timeout", 0, false),
            ("/failed_outlier_check", 0, false),
            ("/failed_active_hc/failed_outlier_check", 0, false),
            ("/failed_outlier_check/degraded_active_hc", 0, false),
        ] {
            let text =
                format!("web::default_priority::x\n{}{}", host(11, flags), host(12, "healthy"));
            let [one, two] = parse(&text).expect("both");
            assert_eq!((one.weight, one.serves()), (weight, serves), "{flags}");
            assert_eq!((two.weight, two.serves()), (100, true), "{flags}");
        }
        assert!(parse(&host(11, "healthy")).is_err());
    }
}
