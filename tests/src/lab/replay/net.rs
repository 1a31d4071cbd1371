//! Network namespaces: one for the balancer and its users, one for each host behind it. They have
//! no names and end with their last process and descriptor, so there is nothing to remove.

use std::{
    fs::File,
    io::{BufRead as _, BufReader},
    net::Ipv4Addr,
    os::fd::{AsFd as _, AsRawFd as _},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A network namespace.
#[derive(Debug)]
pub struct Net(File);

impl Net {
    /// Creates one with only a loopback device.
    fn new() -> Result<Self> {
        let mut holder = Command::new("unshare")
            .args(["--net", "sh", "-c", "ip link set lo up && echo made && read -r end"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start unshare (install util-linux)")?;
        let mut line = String::new();
        let stdout = holder.stdout.take().context("no stdout")?;
        BufReader::new(stdout).read_line(&mut line)?;
        let file = File::open(format!("/proc/{}/ns/net", holder.id()));
        drop(holder.stdin.take());
        holder.wait().context("wait for unshare")?;
        ensure!(
            line == "made\n",
            "no network namespace could be made: needs root and ip (install iproute2)"
        );
        file.map(Self).context("open the network namespace")
    }

    /// A path to enter it by, valid while this value lives.
    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// Prefix of a command that runs in this namespace. Mounts stay as they are: `ip netns exec`
    /// would hide the cgroups.
    pub fn enter(&self) -> Vec<String> {
        vec!["nsenter".into(), format!("--net={}", self.path())]
    }

    fn ip(&self, words: &[&str]) -> Result<()> {
        let enter = self.enter();
        let mut command = Command::new(&enter[0]);
        command.args(&enter[1..]).arg("ip").args(words);
        succeed(command)
    }
}

/// The balancer's address.
pub const BALANCER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// The address of a host, counted from 0, as in the shipped configuration of HAProxy.
pub const fn address(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, 11 + host)
}

/// Creates a namespace for the balancer and its users and moves this thread into it, with its later
/// children. Returns the namespaces of so many hosts, each linked to it. The thread cannot go back:
/// do not call this in a thread that needs the machine's own network.
pub fn connect_hosts(hosts: u8) -> Result<Vec<Net>> {
    let balancer = Net::new()?;
    move_into_link_name_space(balancer.0.as_fd(), Some(LinkNameSpaceType::Network))
        .context("enter a network namespace")?;
    (0..hosts).map(connect_host).collect()
}

/// Creates a pair of veth devices, with a route to the other end on each side.
fn connect_host(host: u8) -> Result<Net> {
    let net = Net::new()?;
    let name = format!("host{host}");
    let (here, there, path) = (BALANCER.to_string(), address(host).to_string(), net.path());
    ip(&["link", "add", &name, "type", "veth", "peer", "name", "eth0", "netns", &path])?;
    ip(&["addr", "add", &here, "peer", &there, "dev", &name])?;
    ip(&["link", "set", &name, "up"])?;
    net.ip(&["addr", "add", &there, "peer", &here, "dev", "eth0"])?;
    net.ip(&["link", "set", "eth0", "up"])?;
    Ok(net)
}

fn ip(words: &[&str]) -> Result<()> {
    let mut command = Command::new("ip");
    command.args(words);
    succeed(command)
}

fn succeed(mut command: Command) -> Result<()> {
    let out = command.output().context("start ip (install iproute2 and util-linux)")?;
    let stderr = String::from_utf8_lossy(&out.stderr);
    ensure!(out.status.success(), "{command:?}: {}", stderr.trim());
    Ok(())
}
