//! HAProxy as the balancer of a replay: its command, and what its stats socket reports.

use std::{
    ffi::OsString,
    fs,
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
};

use anyhow::{Context as _, Result};

use super::server::Server;

/// A command, as words, that runs it with this configuration and a stats socket.
pub(super) fn command(text: &str, dir: &Path, socket: &Path) -> Result<Vec<OsString>> {
    let global = format!("global\n    stats socket {} level admin\n\n", socket.display());
    let file = dir.join("haproxy.cfg");
    fs::write(&file, global + text).with_context(|| format!("write {}", file.display()))?;
    Ok(vec!["haproxy".into(), "-db".into(), "-f".into(), file.into()])
}

/// Both servers as they are now, from the stats socket.
pub(super) fn servers(socket: &Path) -> Result<[Server; 2]> {
    let mut stream = UnixStream::connect(socket)
        .with_context(|| format!("connect to haproxy at {}", socket.display()))?;
    stream.write_all(b"show stat\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    parse(&text)
}

fn parse(text: &str) -> Result<[Server; 2]> {
    let mut lines = text.trim_start_matches("# ").lines().map(|l| l.split(',').collect::<Vec<_>>());
    let names = lines.next().context("haproxy returned no header")?;
    let at = |name: &str| {
        let at = names.iter().position(|n| *n == name);
        at.with_context(|| format!("haproxy's statistics have no {name}"))
    };
    let (status, weight) = (at("status")?, at("weight")?);
    let mut found = [Server::default(), Server::default()];
    for (server, name) in found.iter_mut().zip(["web-01", "web-02"]) {
        let line = lines.by_ref().find(|l| l[0] == "web" && l.get(1) == Some(&name));
        let line = line.with_context(|| format!("haproxy has no server web/{name}"))?;
        let column = |at: usize| line.get(at).copied().unwrap_or_default();
        column(status).clone_into(&mut server.status);
        server.weight = column(weight).parse().unwrap_or(0);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_parsed_by_column_name() {
        let text = "# pxname,svname,status,weight,\nwww,FRONTEND,OPEN,,\n\
                    web,web-01,DRAIN (agent),0,\nweb,web-02,UP,100,\nweb,BACKEND,UP,100,\n";
        let [one, two] = parse(text).expect("both");
        assert_eq!((one.status.as_str(), one.weight, one.serves()), ("DRAIN (agent)", 0, false));
        assert_eq!((two.status.as_str(), two.weight, two.serves()), ("UP", 100, true));
        assert!(parse("# pxname,svname,status,weight,\n").is_err());
    }
}
