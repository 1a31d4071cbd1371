//! Reasons for a failed start, for the exit code.

/// Reason of an error of `memsensor run`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The kernel or the privileges do not allow what memsensor needs.
    Unsupported,
    /// An address or the socket is in use.
    InUse,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Unsupported => "cannot sense on this host",
            Self::InUse => "cannot serve",
        })
    }
}

impl std::error::Error for Failure {}
