//! Parses arguments and hands over.

fn main() {}
