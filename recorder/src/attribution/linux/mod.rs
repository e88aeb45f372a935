//! How owners are learnt on Linux.

pub mod ebpf;
