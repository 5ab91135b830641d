//! The world of the demo (examples/demo).
#![forbid(unsafe_code)]

fn main() {}
