//! `memsensor drain --wait`: waits until all load balancers have received the drain.

use std::{
    net::IpAddr,
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::{admin_client, output::print};
use crate::serve::{
    admin_protocol::{Request, Response},
    state::clients::DrainAcks,
};

/// Time between two requests to the daemon.
const INTERVAL: Duration = Duration::from_millis(200);

/// Waits up to `timeout`; the drain stays in any case.
pub fn wait(socket: &Path, timeout: Duration) -> Result<ExitCode> {
    let end = Instant::now() + timeout;
    let mut shown = None;
    loop {
        let acks = drain_acks(socket).context("drained, but cannot find out which clients know")?;
        if acks.is_complete() {
            print(&acknowledged(&acks))?;
            return Ok(ExitCode::SUCCESS);
        }
        if Instant::now() >= end {
            bail!("drained, but after {timeout:?} {}", missing(&acks));
        }
        let waiting = waiting_for(&acks);
        if shown.as_ref() != Some(&waiting) {
            print(&format!("waiting for {waiting}\n"))?;
            shown = Some(waiting);
        }
        std::thread::sleep(INTERVAL);
    }
}

fn drain_acks(socket: &Path) -> Result<DrainAcks> {
    admin_client::call_one(socket, &Request::DrainAcks, |response| match response {
        Response::DrainAcks(acks) => Some(acks),
        _ => None,
    })
}

fn list(clients: &[IpAddr]) -> String {
    clients.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", ")
}

fn acknowledged(acks: &DrainAcks) -> String {
    if acks.acknowledged.is_empty() {
        return "no client asked for readiness in the last minute: no load balancer to wait for\n"
            .to_owned();
    }
    format!("clients that know of the drain: {}\n", list(&acks.acknowledged))
}

fn waiting_for(acks: &DrainAcks) -> String {
    if acks.pending.is_empty() {
        return "clients that asked before the daemon was started, less than a minute ago"
            .to_owned();
    }
    list(&acks.pending)
}

fn missing(acks: &DrainAcks) -> String {
    if acks.pending.is_empty() {
        return "no client has asked the daemon, which was just started".to_owned();
    }
    format!("these clients have not asked again: {}", list(&acks.pending))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_outcome_has_its_text() {
        let addr: IpAddr = [192, 0, 2, 1].into();
        let acks = |acknowledged: &[IpAddr], pending: &[IpAddr]| DrainAcks {
            acknowledged: acknowledged.to_vec(),
            pending: pending.to_vec(),
            listening_seconds: 100.0,
        };
        assert!(acknowledged(&acks(&[addr], &[])).contains("know of the drain: 192.0.2.1"));
        assert!(acknowledged(&acks(&[], &[])).contains("no load balancer to wait for"));
        assert!(waiting_for(&acks(&[], &[])).contains("before the daemon was started"));
        assert_eq!(waiting_for(&acks(&[], &[addr])), "192.0.2.1");
        assert!(missing(&acks(&[], &[addr])).ends_with("192.0.2.1"));
    }
}
