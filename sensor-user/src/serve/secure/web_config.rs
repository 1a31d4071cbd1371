//! The file that exporters read for TLS and basic auth: the web-config of Prometheus's
//! exporter-toolkit. Pure. A key that memsensor cannot follow is refused by name: to ignore it could
//! leave a listener open. Not here: the files that it names (`tls`).

use std::{
    collections::BTreeMap,
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};
use bcrypt::HashParts;
use serde_yaml_ng::{Mapping, Value};

/// Highest number of users.
const MAX_USERS: usize = 64;
/// Cost of a password's hash: one more doubles the time. Of 14 it is about a second. Below 4 no
/// password can be checked.
const COST: RangeInclusive<u32> = 4..=14;

/// Keys of the format that are refused, and why.
const REFUSED: [(&str, &str); 11] = [
    ("http_server_config", "there is no HTTP/2, and no header to add"),
    ("rate_limit", "each listener has limits of its own, per address"),
    ("tls_server_config.cert", "write the certificate to a file, for cert_file"),
    ("tls_server_config.key", "write the key to a file, for key_file"),
    ("tls_server_config.client_ca", "write the certificates to a file, for client_ca_file"),
    ("tls_server_config.client_allowed_sans", "every certificate of client_ca_file is accepted"),
    ("tls_server_config.cipher_suites", "all cipher suites are safe ones; there is no choice"),
    ("tls_server_config.prefer_server_cipher_suites", "the server's order is always used"),
    ("tls_server_config.curve_preferences", "all curves are safe ones; there is no choice"),
    ("tls_server_config.session_tickets", "sessions are never resumed"),
    ("tls_server_config.session_tickets_disabled", "sessions are never resumed"),
];

/// The content of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebConfig {
    /// TLS, if it is on.
    pub tls: Option<TlsFiles>,
    /// Users, with the bcrypt hashes of their passwords.
    pub users: BTreeMap<String, String>,
}

/// Certificate and key, and who may connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, and those of intermediate authorities (PEM).
    pub cert: PathBuf,
    /// Its private key (PEM).
    pub key: PathBuf,
    /// Certificates of clients.
    pub client_auth: ClientAuth,
    /// Whether TLS 1.2 is accepted.
    pub tls12: bool,
    /// Whether TLS 1.3 is accepted.
    pub tls13: bool,
}

/// Which clients may connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientAuth {
    /// All.
    Anyone,
    /// Those without a certificate, and those with one of these authorities.
    IfGiven(PathBuf),
    /// Those with a certificate of these authorities.
    Required(PathBuf),
}

/// A table of the file, and its path.
struct Section<'a> {
    path: &'a str,
    keys: Mapping,
}

impl<'a> Section<'a> {
    fn new(path: &'a str, value: Value) -> Result<Self> {
        match value {
            Value::Mapping(keys) => Ok(Self { path, keys }),
            Value::Null => Ok(Self { path, keys: Mapping::new() }),
            _ => bail!("{path}: not a mapping of keys to values"),
        }
    }

    fn full(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    fn take(&mut self, key: &str) -> Option<Value> {
        self.keys.remove(key)
    }

    fn text(&mut self, key: &str) -> Result<Option<String>> {
        match self.take(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) if text.is_empty() => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => bail!("{}: not a string", self.full(key)),
        }
    }

    /// An error if a key is left.
    fn end(self) -> Result<()> {
        let Some((key, _)) = self.keys.iter().next() else { return Ok(()) };
        let path = self.full(key.as_str().unwrap_or("a key that is not a string"));
        match REFUSED.iter().find(|(refused, _)| *refused == path) {
            Some((_, why)) => bail!("{path} is not supported: {why}"),
            None => bail!("unknown key {path}"),
        }
    }
}

impl WebConfig {
    /// Parses a file; the files that it names are in `dir`, if their paths are relative.
    pub fn parse(text: &str, dir: &Path) -> Result<Self> {
        let mut root = Section::new("", serde_yaml_ng::from_str(text)?)
            .context("the file is not a mapping of keys to values")?;
        let tls = root.take("tls_server_config").map(|value| tls(value, dir)).transpose()?;
        let users = root.take("basic_auth_users").map(users).transpose()?.unwrap_or_default();
        root.end()?;
        let is_open = tls.is_none() && users.is_empty();
        ensure!(!is_open, "neither tls_server_config nor basic_auth_users: it protects nothing");
        Ok(Self { tls, users })
    }
}

fn tls(value: Value, dir: &Path) -> Result<TlsFiles> {
    let mut section = Section::new("tls_server_config", value)?;
    let mut file = |key| Ok::<_, anyhow::Error>(section.text(key)?.map(|path| dir.join(path)));
    let missing = |key| format!("tls_server_config.{key} is missing");
    let cert = file("cert_file")?.with_context(|| missing("cert_file"))?;
    let key = file("key_file")?.with_context(|| missing("key_file"))?;
    let ca = file("client_ca_file")?;
    let client_auth = client_auth(section.text("client_auth_type")?.as_deref(), ca)?;
    let version = |section: &mut Section, key, default| {
        let version = section.text(key)?;
        version.map_or(Ok(default), |text| tls_version(&text).with_context(|| section.full(key)))
    };
    let min = version(&mut section, "min_version", 12)?;
    let max = version(&mut section, "max_version", 13)?;
    ensure!(min <= max, "tls_server_config.min_version is higher than max_version");
    section.end()?;
    Ok(TlsFiles { cert, key, client_auth, tls12: min == 12, tls13: max == 13 })
}

fn tls_version(text: &str) -> Result<u8> {
    match text {
        "TLS12" => Ok(12),
        "TLS13" => Ok(13),
        "TLS10" | "TLS11" => bail!("{text} is not safe and not supported: TLS12 or TLS13"),
        _ => bail!("{text:?} is neither TLS12 nor TLS13"),
    }
}

fn client_auth(policy: Option<&str>, ca: Option<PathBuf>) -> Result<ClientAuth> {
    const KEY: &str = "tls_server_config.client_auth_type";
    let with = |ca: Option<PathBuf>| ca.with_context(|| format!("{KEY} needs client_ca_file"));
    match policy.unwrap_or("NoClientCert") {
        "NoClientCert" if ca.is_none() => Ok(ClientAuth::Anyone),
        "NoClientCert" => bail!("client_ca_file has no effect: set {KEY} to a type that verifies"),
        "VerifyClientCertIfGiven" => Ok(ClientAuth::IfGiven(with(ca)?)),
        "RequireAndVerifyClientCert" => Ok(ClientAuth::Required(with(ca)?)),
        policy @ ("RequestClientCert" | "RequireAnyClientCert") => bail!(
            "{KEY}: {policy} is not supported, because it verifies nothing: \
             RequireAndVerifyClientCert or VerifyClientCertIfGiven"
        ),
        policy => bail!("{KEY}: unknown type {policy:?}"),
    }
}

fn users(value: Value) -> Result<BTreeMap<String, String>> {
    let section = Section::new("basic_auth_users", value)?;
    let count = section.keys.len();
    ensure!(count <= MAX_USERS, "basic_auth_users: {count} users, at most {MAX_USERS}");
    let user = |(name, hash): (Value, Value)| {
        let (Value::String(name), Value::String(hash)) = (name, hash) else {
            bail!("basic_auth_users: a name or a hash is not a string; put it in quotes");
        };
        let what = || format!("basic_auth_users: the password of {name:?}");
        // The hash is secret: it is not part of the message.
        let Ok(parts) = hash.parse::<HashParts>() else {
            bail!("{} is not a bcrypt hash, such as htpasswd -nB prints", what());
        };
        let cost = parts.get_cost();
        ensure!(COST.contains(&cost), "{} has the cost {cost}, not 4 to 14", what());
        Ok((name, hash))
    };
    section.keys.into_iter().map(user).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "$2b$04$abcdefghijklmnopqrstuuMJQBBVpdY8zZQzhfmTlQ0oCjVgzbq1O";

    fn parse(text: &str) -> Result<WebConfig> {
        WebConfig::parse(text, Path::new("/etc/memsensor"))
    }

    fn with_tls(more: &str) -> String {
        format!("tls_server_config:\n  cert_file: a.crt\n  key_file: /keys/a.key\n  {more}\n")
    }

    #[test]
    fn a_file_of_an_exporter_is_read() {
        let config = parse(&with_tls(&format!("\nbasic_auth_users:\n  prometheus: {HASH}")));
        let config = config.expect("valid");
        let tls = config.tls.expect("TLS");
        assert_eq!(tls.cert, Path::new("/etc/memsensor/a.crt"));
        assert_eq!(tls.key, Path::new("/keys/a.key"));
        assert_eq!((tls.client_auth, tls.tls12, tls.tls13), (ClientAuth::Anyone, true, true));
        assert_eq!(config.users, BTreeMap::from([("prometheus".to_owned(), HASH.to_owned())]));
        let only_users = parse(&format!("basic_auth_users: {{a: \"{HASH}\"}}")).expect("valid");
        assert_eq!(only_users.tls, None);
    }

    #[test]
    fn versions_and_client_certificates_are_read() {
        let tls = |more: &str| parse(&with_tls(more)).expect(more).tls.expect("TLS");
        for (more, expected) in [
            ("min_version: TLS13", (false, true)),
            ("max_version: TLS12", (true, false)),
            ("min_version: TLS12", (true, true)),
            ("min_version: \"\"", (true, true)),
        ] {
            let tls = tls(more);
            assert_eq!((tls.tls12, tls.tls13), expected, "{more}");
        }
        let ca = || PathBuf::from("/etc/memsensor/ca.crt");
        for (policy, expected) in [
            ("VerifyClientCertIfGiven", ClientAuth::IfGiven(ca())),
            ("RequireAndVerifyClientCert", ClientAuth::Required(ca())),
        ] {
            let more = format!("client_auth_type: {policy}\n  client_ca_file: ca.crt");
            assert_eq!(tls(&more).client_auth, expected);
        }
    }

    #[test]
    fn every_key_that_is_not_supported_is_refused_by_name() {
        for (key, why) in REFUSED {
            let text = match key.strip_prefix("tls_server_config.") {
                Some(key) => with_tls(&format!("{key}: x")),
                None => format!("{key}: x\nbasic_auth_users: {{a: \"{HASH}\"}}"),
            };
            let error = format!("{:#}", parse(&text).expect_err(key));
            assert_eq!(error, format!("{key} is not supported: {why}"));
        }
    }

    #[test]
    fn mistakes_name_the_key() {
        let mut many = String::from("basic_auth_users:\n");
        many.extend((0..65).map(|n| format!("  u{n}: {HASH}\n")));
        let [cheap, costly] = ["$03$", "$15$"].map(|cost| HASH.replace("$04$", cost));
        for (text, message) in [
            ("", "it protects nothing"),
            ("basic_auth_users:", "it protects nothing"),
            ("[]", "not a mapping"),
            ("tls_server_config: 1", "tls_server_config: not a mapping"),
            ("a: [\n", "line 2"),
            ("tls_server_configs: {}", "unknown key tls_server_configs"),
            ("tls_server_config: {key_file: a}", "tls_server_config.cert_file is missing"),
            ("tls_server_config: {cert_file: a}", "tls_server_config.key_file is missing"),
            (&with_tls("key_fil: a"), "unknown key tls_server_config.key_fil"),
            (&with_tls("max_version: 13"), "tls_server_config.max_version: not a string"),
            (&with_tls("min_version: TLS10"), "min_version: TLS10 is not safe"),
            (&with_tls("min_version: TLS14"), "min_version: \"TLS14\" is neither"),
            (&with_tls("min_version: TLS13\n  max_version: TLS12"), "is higher than max_version"),
            (&with_tls("client_ca_file: a"), "client_ca_file has no effect"),
            (&with_tls("client_auth_type: RequireAndVerifyClientCert"), "needs client_ca_file"),
            (&with_tls("client_auth_type: RequireAnyClientCert"), "it verifies nothing"),
            (&with_tls("client_auth_type: Some"), "unknown type \"Some\""),
            ("basic_auth_users: {a: 1}", "is not a string"),
            ("basic_auth_users: {a: secret}", "the password of \"a\" is not a bcrypt hash"),
            (&format!("basic_auth_users: {{a: \"{cheap}\"}}"), "has the cost 3, not 4 to 14"),
            (&format!("basic_auth_users: {{a: \"{costly}\"}}"), "has the cost 15, not 4 to 14"),
            (&many, "65 users, at most 64"),
        ] {
            let error = format!("{:#}", parse(text).expect_err(text));
            assert!(error.contains(message), "{text:?}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
