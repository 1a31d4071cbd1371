//! A server behind the balancer, as the balancer reports it.

/// A server as the balancer reports it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Server {
    /// `UP`, `DRAIN`, `DOWN` and others; Envoy's health flags.
    pub status: String,
    /// Weight, of 100.
    pub weight: u32,
}

impl Server {
    /// Whether it gets new requests.
    pub fn serves(&self) -> bool {
        let serves = ["UP", "no check", "healthy", "/degraded_active_hc"];
        serves.iter().any(|status| self.status.starts_with(status)) && self.weight > 0
    }
}
