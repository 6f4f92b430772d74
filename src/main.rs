//! The `weirmq` binary.
#![forbid(unsafe_code)]

fn main() {}
