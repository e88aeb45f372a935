//! The words that the kernel side and the user side have in common, spelled to the byte.
#![no_std]
