//! An optional address. TOML has no null, so an empty string is none.

use std::net::SocketAddr;

use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

#[allow(clippy::ref_option, reason = "serde's signature")]
pub(super) fn serialize<S: Serializer>(
    addr: &Option<SocketAddr>,
    to: S,
) -> Result<S::Ok, S::Error> {
    to.serialize_str(&addr.map_or_else(String::new, |a| a.to_string()))
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<SocketAddr>, D::Error> {
    let text = String::deserialize(from)?;
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(D::Error::custom)
}
