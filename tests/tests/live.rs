//! Real OOM kills and real reclaim, and the daemon from outside.
