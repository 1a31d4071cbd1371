//! A listener with TLS and credentials. The first byte selects the client: `b` sends bytes that need
//! not be TLS, `c` speaks TLS.
//!
//! The second byte of `c` selects versions and client certificate. Actions follow, each a letter, a
//! length, and as many bytes: `p` plain text to send, `x` damage to the next bytes on the wire, `i`
//! other bytes before them, `t` their number that is sent at most. At the end the client closes.
#![no_main]

use std::{
    cell::LazyCell,
    io::{Read as _, Write as _},
    path::Path,
    sync::Arc,
    thread,
    time::Duration,
};

use libfuzzer_sys::{Corpus, fuzz_target};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme,
    client::{
        ResolvesClientCert,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::ring::{default_provider, sign::any_supported_type},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _},
    sign::{CertifiedKey, SigningKey},
    version::{TLS12, TLS13},
};
use sensor_user::{
    fuzzing::{TOKEN, ticket},
    serve::{
        http::{Handlers, Site, router, serve},
        listen::Route,
        secure::{
            listener::{Files, Security},
            passwords::{Passwords, Queue},
        },
        state::settings::Http,
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
    sync::watch,
    task::yield_now,
    time::timeout,
};

/// Certificate, key, users and token.
const FILES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tls");

/// Base64 of the user and the password.
const BASIC: &[u8] = b"dTpzZWNyZXQ=";

/// The body of the answer while a password cannot be checked.
const BUSY: &[u8] = b"too many passwords are being checked";

/// How long the check of a password takes at most.
const CHECK: Duration = Duration::from_millis(40);

fuzz_target!(|data: &[u8]| -> Corpus {
    LISTENER.with(|listener| match data.split_first() {
        Some((b'b', bytes)) => {
            let sent = listener.serve(async |mut stream| {
                let _ = stream.write_all(bytes).await;
                let _ = stream.shutdown().await;
                let mut sent = Vec::new();
                let _ = stream.read_to_end(&mut sent).await;
                sent
            });
            check_records(&sent);
            Corpus::Keep
        }
        Some((b'c', [options, actions @ ..])) => {
            let mut client = Client::new(listener, *options, actions);
            listener.serve(async |stream| client.run(stream, actions).await);
            client.check();
            Corpus::Keep
        }
        _ => Corpus::Reject,
    })
});

thread_local! {
    static LISTENER: LazyCell<Listener> = LazyCell::new(Listener::new);
}

struct Listener {
    runtime: tokio::runtime::Runtime,
    site: Site,
    /// The server's certificate, which is also the authority and the certificate of a client.
    certificate: CertificateDer<'static>,
    key: Arc<dyn SigningKey>,
}

impl Listener {
    fn new() -> Self {
        let path = |name| Path::new(FILES).join(name);
        let files = Files { web_config: Some(path("web.yml")), bearer_token: Some(path("token")) };
        let security = Some(Arc::new(Security::load(&files).expect("valid files")));
        let queue = Queue::new().expect("an eventfd");
        let passwords = Passwords::new(Arc::clone(&queue));
        // As the thread `secure`.
        thread::spawn(move || {
            loop {
                queue.check_all();
                thread::sleep(Duration::from_millis(1));
            }
        });
        let routes = [Route::Readiness, Route::Metrics, Route::Events];
        let router = router(Handlers::new(sensor_fuzz::app_state()), &routes);
        let certificate = CertificateDer::from_pem_file(path("cert.pem")).expect("a certificate");
        let key = PrivateKeyDer::from_pem_file(path("key.pem")).expect("a key");
        Self {
            runtime: sensor_fuzz::runtime(),
            site: Site { router, security, passwords },
            certificate,
            key: any_supported_type(&key).expect("a key of a known type"),
        }
    }

    /// Serves the connection of a client until both have ended.
    fn serve<T>(&self, client: impl AsyncFnOnce(DuplexStream) -> T) -> T {
        let (ours, theirs) = duplex(1 << 20);
        let (_stop, stopping) = watch::channel(false);
        let serving = serve(theirs, ticket(), self.site.clone(), Http::default(), stopping);
        self.runtime.block_on(async { tokio::join!(serving, client(ours)) }).1
    }
}

/// For any input, the server sends only records of TLS (RFC 8446, 5.1).
fn check_records(mut sent: &[u8]) {
    while let [kind, major, minor, high, low, rest @ ..] = sent {
        assert!((20..=23).contains(kind) && *major == 3 && *minor <= 4, "{sent:?}");
        let len = usize::from(u16::from_be_bytes([*high, *low]));
        assert!(len <= (1 << 14) + 256, "{len} bytes");
        sent = rest.get(len..).unwrap_or_default();
    }
}

struct Client {
    connection: ClientConnection,
    /// What the server has sent.
    wire: Vec<u8>,
    /// What the client has sent and received in plain text.
    plain: [Vec<u8>; 2],
    damage: Vec<u8>,
    inserted: Vec<u8>,
    limit: Option<usize>,
    has_failed: bool,
}

impl Client {
    /// Options: 1 only TLS 1.2, 2 only TLS 1.3, 4 a valid certificate, 8 the bytes of the first
    /// action as certificate.
    fn new(listener: &Listener, options: u8, actions: &[u8]) -> Self {
        let versions = match options & 3 {
            1 => &[&TLS12][..],
            2 => &[&TLS13],
            _ => &[&TLS12, &TLS13],
        };
        let certificate = match options & 12 {
            0 => None,
            4 => Some(listener.certificate.clone()),
            _ => action(actions).map(|(_, bytes, _)| CertificateDer::from(bytes.to_vec())),
        };
        let key =
            |certificate| Arc::new(CertifiedKey::new(vec![certificate], Arc::clone(&listener.key)));
        let certificate = Arc::new(ClientCertificate(certificate.map(key)));
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(versions)
            .expect("known versions")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyServer))
            .with_client_cert_resolver(certificate);
        let name = ServerName::try_from("localhost").expect("a name");
        let connection = ClientConnection::new(Arc::new(config), name).expect("a client");
        Self {
            connection,
            wire: Vec::new(),
            plain: Default::default(),
            damage: Vec::new(),
            inserted: Vec::new(),
            limit: None,
            has_failed: false,
        }
    }

    async fn run(&mut self, mut stream: DuplexStream, mut actions: &[u8]) {
        while let Some((letter, bytes, rest)) = action(actions) {
            actions = rest;
            match letter {
                b'p' => {
                    let _ = self.connection.writer().write_all(bytes);
                    self.plain[0].extend(bytes);
                    self.exchange(&mut stream).await;
                }
                b'x' => self.damage = bytes.to_vec(),
                b'i' => self.inserted = bytes.to_vec(),
                b't' => self.limit = Some(bytes.iter().map(|byte| usize::from(*byte)).sum()),
                _ => {}
            }
        }
        self.exchange(&mut stream).await;
        let waits = |client: &Self| {
            let is_whole = client.plain[0].windows(4).any(|bytes| bytes == b"\r\n\r\n");
            is_whole && client.plain[1].is_empty() && !client.has_failed
        };
        let mut bytes = [0; 4096];
        while waits(self)
            && let Ok(Ok(len @ 1..)) = timeout(CHECK, stream.read(&mut bytes)).await
        {
            self.receive(&bytes[..len]);
        }
        self.connection.send_close_notify();
        self.exchange(&mut stream).await;
        let _ = stream.shutdown().await;
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
        self.receive(&rest);
    }

    /// Sends what is to be sent, and receives, until neither side has more to say.
    async fn exchange(&mut self, stream: &mut DuplexStream) {
        for _ in 0..16 {
            let mut sent = Vec::new();
            while self.connection.wants_write() && self.connection.write_tls(&mut sent).is_ok() {}
            if !sent.is_empty() {
                self.spoil(&mut sent);
            }
            // It fails when the server has closed.
            let _ = stream.write_all(&sent).await;
            let received = read_available(stream).await;
            if sent.is_empty() && received.is_empty() {
                return;
            }
            self.receive(&received);
        }
    }

    /// Applies the actions on the wire.
    fn spoil(&mut self, sent: &mut Vec<u8>) {
        for (byte, damage) in sent.iter_mut().zip(self.damage.drain(..)) {
            *byte ^= damage;
        }
        sent.truncate(self.limit.take().unwrap_or(usize::MAX));
        sent.splice(0..0, self.inserted.drain(..));
    }

    fn receive(&mut self, mut received: &[u8]) {
        self.wire.extend(received);
        while !received.is_empty() && !self.has_failed {
            let read = self.connection.read_tls(&mut received);
            self.has_failed = read.is_err() || self.connection.process_new_packets().is_err();
            let _ = self.connection.reader().read_to_end(&mut self.plain[1]);
        }
    }

    /// Without credentials there is no other answer than a refusal.
    fn check(&self) {
        check_records(&self.wire);
        let [sent, received] = &self.plain;
        let Some(head) = received.get(..12) else { return };
        let head = std::str::from_utf8(head).expect("an answer begins with ASCII");
        assert!(head.starts_with("HTTP/1."), "{head:?}");
        let contains = |text: &[u8], part: &[u8]| text.windows(part.len()).any(|at| at == part);
        let has = |secret: &[u8]| contains(sent, secret);
        // Where the thread that checks passwords gets no processor for five seconds.
        let is_busy = head[9..].starts_with("503") && contains(received, BUSY);
        let is_refused = head[9..].starts_with('4') || is_busy;
        assert!(is_refused || has(TOKEN.as_bytes()) || has(BASIC), "{head:?}");
        assert!(["2", "4", "503"].iter().any(|code| head[9..].starts_with(code)), "{head:?}");
    }
}

/// Letter, bytes, and the actions after it.
fn action(actions: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let [letter, len, rest @ ..] = actions else { return None };
    let (bytes, rest) = rest.split_at(rest.len().min((*len).into()));
    Some((*letter, bytes, rest))
}

/// What the server sends without waiting for anything.
async fn read_available(stream: &mut DuplexStream) -> Vec<u8> {
    let mut received = Vec::new();
    for _ in 0..4 {
        yield_now().await;
        let mut bytes = [0; 4096];
        tokio::select! {
            biased;
            len = stream.read(&mut bytes) => received.extend(&bytes[..len.unwrap_or_default()]),
            () = std::future::ready(()) => {}
        }
    }
    received
}

#[derive(Debug)]
struct ClientCertificate(Option<Arc<CertifiedKey>>);

impl ResolvesClientCert for ClientCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.clone()
    }

    fn has_certs(&self) -> bool {
        self.0.is_some()
    }
}

/// Believes every server.
#[derive(Debug)]
struct AnyServer;

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider().signature_verification_algorithms.supported_schemes()
    }
}
