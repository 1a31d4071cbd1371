//! A server behind the balancer, as the balancer reports it.

/// A server as the balancer reports it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Server {
    /// `UP`, `DRAIN`, `DOWN` and others; of Envoy with its health flags.
    pub status: String,
    /// Weight, of 100.
    pub weight: u32,
}

impl Server {
    /// Whether it gets new requests.
    pub fn serves(&self) -> bool {
        (self.status.starts_with("UP") || self.status == "no check") && self.weight > 0
    }
}
