//! Arguments, terminal and exit codes.

pub mod interfaces;
