//! The command `recorder`.

fn main() {}
