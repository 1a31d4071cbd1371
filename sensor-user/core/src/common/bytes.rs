//! Records of ring buffers as structures.

/// The beginning of a record as a `T`; `None` if the record is shorter.
pub fn decode<T: bytemuck::AnyBitPattern>(bytes: &[u8]) -> Option<T> {
    bytemuck::try_pod_read_unaligned(bytes.get(..size_of::<T>())?).ok()
}
