//! Servers of HTTP: nginx with files, HAProxy before such an nginx, and servers in Java and JavaScript
//! with a cache in their heap.

use std::{fs, process::Command};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;

use super::{
    clients::{Client, Tcp},
    place::{PORT, Place},
    process::{Running, succeed},
};
use crate::support::random::Random;

/// Bytes of a file of nginx, and of an item in a heap.
const FILE: usize = 32 << 10;
const ITEM: usize = 4 << 10;

/// The number of files in so many MiB.
pub(super) const fn files(mib: u64) -> u64 {
    (mib << 20) / FILE as u64
}

/// The number of items in so many MiB.
pub(super) const fn items(mib: u64) -> u64 {
    (mib << 20) / ITEM as u64
}

/// nginx with its files, which it has served once.
pub fn nginx(place: &Place) -> Result<Running> {
    let mut running = Running::default();
    start_nginx(&mut running, place, place.command("nginx"), PORT)?;
    warm(&mut running, "nginx", files(place.data))?;
    Ok(running)
}

fn start_nginx(running: &mut Running, place: &Place, mut nginx: Command, port: u16) -> Result<()> {
    let root = place.dir.join("files");
    fs::create_dir(&root)?;
    for n in 0..files(place.data) {
        fs::write(root.join(n.to_string()), vec![b'x'; FILE])?;
    }
    for n in 0..files(place.data) {
        // Clean and outside the page cache: the cgroup that reads it first is charged for it.
        drop_from_cache(&root.join(n.to_string()))?;
    }
    let dir = place.dir.display();
    let config = format!(
        "daemon off; user root; worker_processes 2; pid {dir}/pid; error_log {dir}/log;
         events {{ worker_connections 256; }}
         http {{ access_log off; sendfile on; keepalive_requests 100000000; server {{ listen 127.0.0.1:{port}; root {dir}/files; }} }}
        "
    );
    let path = place.dir.join("nginx.conf");
    fs::write(&path, config)?;
    nginx.arg("-c").arg(&path).arg("-p").arg(&place.dir);
    running.add(nginx, "nginx", Signal::QUIT)
}

fn drop_from_cache(path: &std::path::Path) -> Result<()> {
    let file = fs::File::open(path)?;
    file.sync_data()?;
    Ok(rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?)
}

/// HAProxy, and an nginx outside of the cgroup.
pub fn haproxy(place: &Place) -> Result<Running> {
    let mut running = Running::default();
    start_nginx(&mut running, place, Command::new("nginx"), PORT + 1)?;
    let config = format!(
        "global\n  nbthread 2\n  maxconn 1000\n\
         defaults\n  mode http\n  timeout connect 2s\n  timeout client 5s\n  timeout server 5s\n\
         frontend users\n  bind 127.0.0.1:{PORT}\n  default_backend web\n\
         backend web\n  server one 127.0.0.1:{}\n",
        PORT + 1
    );
    let path = place.dir.join("haproxy.cfg");
    fs::write(&path, config)?;
    let mut command = place.command("haproxy");
    command.arg("-db").arg("-f").arg(&path);
    running.add(command, "haproxy", Signal::KILL)?;
    warm(&mut running, "HAProxy", files(place.data))?;
    Ok(running)
}

/// The server in Java: a cache of items, and garbage of 64 KiB per request. Without arguments it is a
/// load: a heap nearly full of items, some of which are replaced all the time.
const JAVA: &str = r#"
import com.sun.net.httpserver.HttpServer;
import java.net.InetSocketAddress;
import java.util.HashMap;
import java.util.concurrent.Executors;

public class Web {
    static void churn() {
        byte[][] items = new byte[(int) (Runtime.getRuntime().maxMemory() / 4096 * 3 / 4)][];
        for (int i = 0; ; i = (i + 7) % items.length) items[i] = new byte[4096];
    }

    public static void main(String[] args) throws Exception {
        if (args.length == 0) churn();
        int port = Integer.parseInt(args[0]), items = Integer.parseInt(args[1]);
        HashMap<String, byte[]> cache = new HashMap<>();
        for (int i = 0; i < items; i++) cache.put("/" + i, new byte[4096]);
        HttpServer server = HttpServer.create(new InetSocketAddress("127.0.0.1", port), 64);
        server.createContext("/", exchange -> {
            byte[] item = cache.get(exchange.getRequestURI().getPath());
            byte[] page = new byte[65536];
            for (int i = 0; i < page.length; i += item.length)
                System.arraycopy(item, 0, page, i, item.length);
            exchange.sendResponseHeaders(200, item.length);
            exchange.getResponseBody().write(page, 0, item.length);
            exchange.close();
        });
        server.setExecutor(Executors.newFixedThreadPool(16));
        server.start();
    }
}
"#;

/// The server in Java, with a heap of its data, a half more for the collector, and 32 MiB.
pub fn jvm(place: &Place) -> Result<Running> {
    fs::write(place.dir.join("Web.java"), JAVA)?;
    succeed(Command::new("javac").current_dir(&place.dir).arg("Web.java"))?;
    let heap = place.data + place.data / 2 + 32;
    let mut command = place.command("java");
    command.args(["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]).arg(format!("-Xmx{heap}m"));
    // It sends head and body apart; with Nagle's algorithm the body waits 40 ms for an acknowledgement.
    command.arg("-Dsun.net.httpserver.nodelay=true");
    command.arg("-cp").arg(&place.dir).arg("Web").arg(PORT.to_string());
    command.arg(items(place.data).to_string());
    let mut running = Running::default();
    running.add(command, "java", Signal::KILL)?;
    warm(&mut running, "the JVM", items(place.data))?;
    Ok(running)
}

/// The server in JavaScript.
const JAVASCRIPT: &str = r#"
const [port, items] = process.argv.slice(2).map(Number);
const cache = new Map();
for (let i = 0; i < items; i++) cache.set("/" + i, Buffer.alloc(4096, i));
require("http").createServer((question, answer) => {
    const item = cache.get(question.url);
    const page = Array.from({ length: 256 }, (_, i) => ({ i, text: "row " + i + item[i] }));
    answer.setHeader("Content-Length", item.length);
    answer.setHeader("X-Rows", page.length);
    answer.end(item);
}).listen(port, "127.0.0.1");
"#;

/// The server in JavaScript, with its cache.
pub fn node(place: &Place) -> Result<Running> {
    let path = place.dir.join("web.js");
    fs::write(&path, JAVASCRIPT)?;
    let mut command = place.command("node");
    command.arg(&path).arg(PORT.to_string()).arg(items(place.data).to_string());
    let mut running = Running::default();
    running.add(command, "node", Signal::KILL)?;
    warm(&mut running, "Node.js", items(place.data))?;
    Ok(running)
}

/// Asks for everything once.
fn warm(running: &mut Running, name: &str, count: u64) -> Result<()> {
    let mut connection = running.wait(name, Tcp::connect)?;
    (0..count).try_for_each(|n| get(&mut connection, n)).with_context(|| format!("warm {name}"))
}

struct Http(Tcp, u64);

/// A client that asks for one of so many.
pub(super) fn client(count: u64) -> Result<Box<dyn Client>> {
    Ok(Box::new(Http(Tcp::connect()?, count)))
}

impl Client for Http {
    fn ask(&mut self, random: &mut Random) -> Result<()> {
        get(&mut self.0, random.below(self.1))
    }
}

fn get(connection: &mut Tcp, n: u64) -> Result<()> {
    connection.send(format!("GET /{n} HTTP/1.1\r\nHost: web\r\n\r\n").as_bytes())?;
    let status = connection.line()?;
    ensure!(status.starts_with("HTTP/1.1 200"), "{status}");
    let mut length = 0;
    loop {
        let header = connection.line()?.to_ascii_lowercase();
        if header.is_empty() {
            return connection.skip(length);
        }
        if let Some(value) = header.strip_prefix("content-length:") {
            length = value.trim().parse()?;
        }
    }
}
