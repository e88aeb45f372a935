//! What the tests share: network namespaces, the recorder as a user runs it, other people's readers, the judge.
//!
//! Everything here waits for a condition, never for a time; the deadlines only end what hangs. What fails panics with all
//! its evidence: command, standard output, standard error, expected, got. What is made is taken away again by `Drop`.
#![expect(clippy::panic, reason = "this is test code: a panic is how it fails")]
#![expect(clippy::expect_used, reason = "the same")]

pub mod apt;
pub mod blocks;
pub mod browser;
pub mod capture;
pub mod cgroup;
pub mod clock;
pub mod disk;
pub mod document;
pub mod judge;
pub mod lab;
pub mod made;
pub mod namespace;
pub mod process;
pub mod recorder;
pub mod rooms;
pub mod rotation;
pub mod seen;
pub mod summary;
mod sys;
pub mod truth;
pub mod tshark;
pub mod wait;
pub mod wireshark;
