//! The kernel's type information.
//!
//! * [`reader`] parses BTF: prototypes, structure members, enums.
//! * [`resolve`] decides from it which programs can be attached and which offsets they need.
//!
//! Not here: loading and attaching.

pub mod reader;
pub mod resolve;
