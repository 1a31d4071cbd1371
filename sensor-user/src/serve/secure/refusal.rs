//! Why a request is not answered.

/// A request that is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It has no credentials, or wrong ones; the client is asked for these.
    Credentials(&'static str),
    /// Its password cannot be checked now.
    Busy,
}
