//! The edge to the kernel: BTF, loading, attaching, reading maps. Only here is aya named.
//!
//! * [`btf`] reads the running kernel's type information; pure.
//! * [`resolve`] decides from it which programs can be attached and what they must be told; pure.
//! * [`load`] does it, and keeps what was attached alive.
//! * [`read`] reads the maps.
//! * [`privilege`] checks and drops capabilities.

mod attach;
pub mod btf;
pub mod load;
pub mod privilege;
pub mod read;
pub mod resolve;
