//! Who may send requests to a listener: users with passwords (basic auth), or who has a token
//! (bearer). Not here: how passwords are checked (`passwords`).

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use axum::http::{HeaderMap, header::AUTHORIZATION};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use ring::hmac::{self, Key, Tag};

use super::passwords::{Claim, Fingerprint};

/// Longest token, and longest user name with a password.
const MAX_SECRET: usize = 1024;

/// Users and token.
pub struct Credentials {
    users: BTreeMap<String, String>,
    token: Option<Tag>,
    /// Made at start: tags of secrets are worth nothing outside of this process.
    key: Key,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("users", &self.users.keys()).finish_non_exhaustive()
    }
}

/// What a request's header says.
#[derive(Debug)]
pub enum Decision {
    /// Nothing is asked for, or the token is right.
    Allowed,
    /// No credentials, or wrong ones.
    Refused,
    /// The password has to be checked.
    Check(Claim),
}

impl Credentials {
    /// With these users and the content of a token file.
    pub fn new(users: BTreeMap<String, String>, token: Option<&[u8]>, key: Key) -> Result<Self> {
        let token = token.map(<[u8]>::trim_ascii);
        if let Some(token) = token {
            let is_valid = token.iter().all(u8::is_ascii_graphic);
            ensure!(is_valid, "bearer_token_file: a token is one word of printable ASCII");
            ensure!(
                (16..=MAX_SECRET).contains(&token.len()),
                "bearer_token_file: a token has 16 to 1024 characters"
            );
        }
        let token = token.map(|token| hmac::sign(&key, token));
        Ok(Self { users, token, key })
    }

    /// What a client without credentials is asked for.
    pub fn challenge(&self) -> &'static str {
        if self.users.is_empty() { "Bearer" } else { "Basic realm=\"memsensor\"" }
    }

    /// Decides on a request.
    pub fn decide(&self, headers: &HeaderMap) -> Decision {
        if self.users.is_empty() && self.token.is_none() {
            return Decision::Allowed;
        }
        let header = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let Some((scheme, secret)) = header.and_then(|text| text.split_once(' ')) else {
            return Decision::Refused;
        };
        let secret = secret.trim_ascii();
        if secret.len() > 2 * MAX_SECRET {
            return Decision::Refused;
        }
        if scheme.eq_ignore_ascii_case("bearer") {
            return self.decide_token(secret);
        }
        let claim = scheme.eq_ignore_ascii_case("basic").then(|| self.claim(secret));
        claim.flatten().map_or(Decision::Refused, Decision::Check)
    }

    /// The comparison of two tags takes the same time wherever they differ.
    fn decide_token(&self, secret: &str) -> Decision {
        let is_right = |tag: &Tag| hmac::verify(&self.key, secret.as_bytes(), tag.as_ref()).is_ok();
        if self.token.as_ref().is_some_and(is_right) {
            Decision::Allowed
        } else {
            Decision::Refused
        }
    }

    fn claim(&self, secret: &str) -> Option<Claim> {
        let decoded = BASE64_STANDARD.decode(secret).ok()?;
        let colon = decoded.iter().position(|byte| *byte == b':')?;
        let (user, password) = (&decoded[..colon], decoded[colon + 1..].to_vec());
        let of_user = std::str::from_utf8(user).ok().and_then(|user| self.users.get(user));
        let hash = of_user.or_else(|| self.users.values().next())?.clone();
        let fingerprint = self.fingerprint(&[user, hash.as_bytes(), &password]);
        Some(Claim { hash, is_user: of_user.is_some(), password, fingerprint })
    }

    fn fingerprint(&self, parts: &[&[u8]]) -> Fingerprint {
        let mut context = hmac::Context::with_key(&self.key);
        for part in parts {
            context.update(&part.len().to_ne_bytes());
            context.update(part);
        }
        let mut fingerprint = Fingerprint::default();
        fingerprint.copy_from_slice(context.sign().as_ref());
        fingerprint
    }
}

#[cfg(test)]
mod tests {
    use ring::{hmac::HMAC_SHA256, rand::SystemRandom};

    use super::*;

    fn credentials(users: &[&str], token: Option<&str>) -> Result<Credentials> {
        let users = users.iter().map(|name| ((*name).to_owned(), format!("hash of {name}")));
        let key = Key::generate(HMAC_SHA256, &SystemRandom::new()).expect("random numbers");
        Credentials::new(users.collect(), token.map(str::as_bytes), key)
    }

    fn decide(credentials: &Credentials, header: &str) -> Decision {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, header.parse().expect("a header"));
        credentials.decide(&headers)
    }

    fn basic(credentials: &Credentials, pair: &[u8]) -> Option<Claim> {
        let header = format!("Basic {}", BASE64_STANDARD.encode(pair));
        match decide(credentials, &header) {
            Decision::Check(claim) => Some(claim),
            _ => None,
        }
    }

    #[test]
    fn a_token_must_be_the_same() {
        let all = credentials(&[], Some("0123456789abcdef\n")).expect("valid");
        for header in ["Bearer 0123456789abcdef", "bearer  0123456789abcdef "] {
            assert!(matches!(decide(&all, header), Decision::Allowed), "{header}");
        }
        for header in
            ["Bearer 0123456789abcdeF", "Bearer", "Bearer ", "0123456789abcdef", "Basic YTpi", ""]
        {
            assert!(matches!(decide(&all, header), Decision::Refused), "{header}");
        }
        assert!(matches!(all.decide(&HeaderMap::new()), Decision::Refused));
        let none = credentials(&[], None).expect("valid");
        assert!(matches!(none.decide(&HeaderMap::new()), Decision::Allowed));
        let no_token = credentials(&["a"], None).expect("valid");
        assert!(matches!(decide(&no_token, "Bearer 0123456789abcdef"), Decision::Refused));
    }

    #[test]
    fn a_token_that_is_weak_or_no_word_is_refused() {
        for token in ["", "short", "0123456789 abcdef", "0123456789\u{e9}abcdef", &"a".repeat(1025)]
        {
            assert!(credentials(&[], Some(token)).is_err(), "{token:?}");
        }
    }

    #[test]
    fn a_password_is_checked_by_the_hash_of_its_user() {
        let all = credentials(&["ann", "bob"], None).expect("valid");
        let claim = basic(&all, b"bob:a:b").expect("a password");
        assert_eq!((&*claim.hash, claim.is_user), ("hash of bob", true));
        assert_eq!(claim.password, b"a:b");
        // As long as for a user, and never right.
        let unknown = basic(&all, b"eve:a:b").expect("a password");
        assert_eq!((&*unknown.hash, unknown.is_user), ("hash of ann", false));
        for pair in [&b"bob"[..], b""] {
            assert!(basic(&all, pair).is_none(), "{pair:?}");
        }
        assert!(matches!(decide(&all, "Basic =="), Decision::Refused));
        let fingerprint = |pair| basic(&all, pair).expect("a password").fingerprint;
        assert_eq!(fingerprint(b"bob:a:b"), claim.fingerprint);
        for pair in [&b"bob:a"[..], b"ann:a:b", b"bob:a:bc"] {
            assert_ne!(fingerprint(pair), claim.fingerprint, "{pair:?}");
        }
    }
}
