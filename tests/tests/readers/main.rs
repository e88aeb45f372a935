//! A matrix of readers: what tshark, capinfos, editcap and mergecap of three Wiresharks, tcpdump, and the crates pcap-parser
//! and pcap-file make of our files is what `recorder show` makes of them; and what is left of a file that somebody has saved
//! again.
//!
//! Only the sample is read without root. Wiresharks that are not here are skipped and said (tests/install-wiresharks).

#![expect(clippy::expect_used, reason = "helpers of tests are test code too")]
#![expect(clippy::panic, reason = "the same")]

mod matrix;
mod recordings;
mod saved_again;
