//! The file: pcapng in which each packet names its process.
//!
//! Touches only the `Write` or `Read` it is given: no files, no clocks. What stands where, byte for byte, is
//! in `docs/FORMAT.md`; why, in the comments here.

pub mod annotation;
mod blocks;
mod claims;
mod copy;
mod cut;
mod encode;
mod foreign;
mod kept;
mod legacy;
mod little_endian;
mod owners;
mod parse;
mod process;
mod reader;
mod rewrite;
mod statistics;
mod suffixes;
mod writer;

pub use copy::{Copied, Copier, CopyError};
pub use cut::Cut;
pub use kept::Kept;
pub use reader::{Item, LONGEST_BLOCK, MOST_RECORDS, ReadError, Reader, Record};
pub use rewrite::{Known, Rewriter, Rewritten};
pub use writer::Writer;

use std::fmt;
use std::str::FromStr;

/// Block types, as the pcapng draft numbers them, and Apple's process block.
mod block {
    pub(super) const SECTION_HEADER: u32 = 0x0a0d_0d0a;
    pub(super) const INTERFACE_DESCRIPTION: u32 = 1;
    /// Obsolete; only in files of others.
    pub(super) const PACKET: u32 = 2;
    pub(super) const SIMPLE_PACKET: u32 = 3;
    pub(super) const INTERFACE_STATISTICS: u32 = 5;
    pub(super) const ENHANCED_PACKET: u32 = 6;
    /// The custom block that programs which do not know it may copy.
    pub(super) const CUSTOM: u32 = 0x0000_0bad;
    /// The custom block that nobody may copy.
    pub(super) const CUSTOM_NOT_COPIED: u32 = 0x4000_0bad;
    /// Apple's libpcap/pcap/pcap-ng.h: PCAPNG_BT_PIB. Wireshark 4.6 reads it on every system.
    pub(super) const DARWIN_PROCESS: u32 = 0x8000_0001;
    /// Events kept for replay, ours: of the range for local use, which every Wireshark skips without a row.
    pub(super) const KEPT_EVENTS: u32 = 0x8052_4543;
}

/// Option codes that more than one file of this room needs.
mod option {
    pub(super) const COMMENT: u16 = 1;
    pub(super) const EPB_FLAGS: u16 = 2;
    pub(super) const EPB_PROCESSID_THREADID: u16 = 8;
    /// Apple's PCAPNG_EPB_PIB_INDEX.
    pub(super) const EPB_DARWIN_PROCESS: u16 = 0x8001;
    /// Apple's PCAPNG_EPB_E_PIB_INDEX: the process on whose behalf that one acts.
    pub(super) const EPB_DARWIN_EFFECTIVE: u16 = 0x8003;
}

/// In which ways a packet's process is written. All four, unless the user chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Annotate {
    /// `opt_comment`: a line for people, in every Wireshark.
    pub comment: bool,
    /// `epb_processid_threadid` (option 8).
    pub ids: bool,
    /// Darwin process blocks, and the index of one in each packet (option 0x8001).
    pub darwin: bool,
    /// Wireshark Process Information custom blocks, after the last packet.
    pub custom: bool,
}

impl Annotate {
    /// In no way: a plain capture.
    pub const NONE: Self = Self { comment: false, ids: false, darwin: false, custom: false };
    /// In all ways.
    pub const ALL: Self = Self { comment: true, ids: true, darwin: true, custom: true };
}

impl Default for Annotate {
    fn default() -> Self {
        Self::ALL
    }
}

impl FromStr for Annotate {
    type Err = UnknownAnnotation;

    /// From a list such as `comment,ids`; `none` and `all` stand alone.
    fn from_str(list: &str) -> Result<Self, UnknownAnnotation> {
        match list.trim() {
            "all" => return Ok(Self::ALL),
            "none" => return Ok(Self::NONE),
            _ => {}
        }
        let mut chosen = Self::NONE;
        for word in list.split(',').map(str::trim) {
            let choice = match word {
                "comment" => &mut chosen.comment,
                "ids" => &mut chosen.ids,
                "darwin" => &mut chosen.darwin,
                "custom" => &mut chosen.custom,
                _ => return Err(UnknownAnnotation(word.to_owned())),
            };
            *choice = true;
        }
        Ok(chosen)
    }
}

impl fmt::Display for Annotate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { comment, ids, darwin, custom } = *self;
        let words = [(comment, "comment"), (ids, "ids"), (darwin, "darwin"), (custom, "custom")];
        let chosen: Vec<&str> =
            words.iter().filter(|(is_chosen, _)| *is_chosen).map(|(_, word)| *word).collect();
        f.write_str(if chosen.is_empty() { "none".to_owned() } else { chosen.join(",") }.as_str())
    }
}

/// A word that names no kind of annotation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown annotation `{0}`\n  give a list of comment, ids, darwin, custom; or one of all, none")]
pub struct UnknownAnnotation(pub String);

/// What the section header says about the recording. Nothing is looked up here; the caller knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SectionInfo {
    /// `shb_hardware`: the processor, such as `x86_64`.
    pub hardware: Option<String>,
    /// `shb_os`: such as `Linux 6.12.0`.
    pub os: Option<String>,
    /// `shb_userappl`: such as `recorder 0.1.0`.
    pub application: Option<String>,
    /// `opt_comment`, one each: the capture comments.
    pub comments: Vec<String>,
}

#[cfg(test)]
mod tests;
