//! libpcap's filter expressions, compiled; and applied to packets that come from a file.

use std::collections::HashMap;
use std::ffi::c_uint;
use std::fmt;

use pcap::{BpfInstruction, BpfProgram, Linktype};

use super::Error;
use crate::model::{LinkType, Packet};

/// Link types of which some expressions are: an expression that has a meaning for none of them is a mistake. The last two are
/// 802.11, bare and with a radiotap header.
const USUAL: [LinkType; 5] =
    [LinkType::ETHERNET, LinkType::RAW_IP, LinkType::LINUX_SLL2, LinkType(105), LinkType(127)];

/// libpcap's number on this system (DLT_), which differs from the file's (LINKTYPE_) for bare IP.
pub(super) const fn dlt(link_type: LinkType) -> Linktype {
    const DLT_RAW: Linktype = Linktype(12);
    match link_type {
        LinkType::RAW_IP => DLT_RAW,
        LinkType(number) => Linktype(number as i32),
    }
}

/// Compiles for packets of this link type, as they stand in a file. The error is libpcap's message.
pub(super) fn compile_dead(expression: &str, link_type: LinkType) -> Result<BpfProgram, String> {
    compile(&pcap::Capture::dead(dlt(link_type)).map_err(message)?, expression)
}

/// libpcap's optimizer takes cubic time: a second for 200 hosts (6000 instructions), ten for 400. What is longer stays
/// as it is; the kernel refuses it then, and it is applied in user space.
pub(super) fn compile<T: pcap::Activated>(
    handle: &pcap::Capture<T>,
    expression: &str,
) -> Result<BpfProgram, String> {
    const OPTIMIZABLE: usize = 6000;
    let plain = handle.compile(expression, false).map_err(message)?;
    if plain.get_instructions().len() > OPTIMIZABLE {
        return Ok(plain);
    }
    handle.compile(expression, true).map_err(message)
}

fn message(error: pcap::Error) -> String {
    match error {
        pcap::Error::PcapError(message) => message,
        other => other.to_string(),
    }
}

/// A filter for the packets of files, of whatever link types.
pub struct PacketFilter {
    expression: String,
    /// Nothing where the expression has no meaning.
    programs: HashMap<u16, Option<BpfProgram>>,
    notes: Vec<String>,
}

impl fmt::Debug for PacketFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PacketFilter").field("expression", &self.expression).finish_non_exhaustive()
    }
}

impl PacketFilter {
    /// A filter by an expression as pcap-filter(7) describes them.
    ///
    /// # Errors
    /// If it has no meaning for any usual link type.
    pub fn new(expression: &str) -> Result<Self, Error> {
        let mut first = None;
        for usual in USUAL {
            match compile_dead(expression, usual) {
                Ok(_) => return Ok(Self::unused(expression)),
                Err(message) => _ = first.get_or_insert(message),
            }
        }
        Err(Error::Filter { expression: expression.to_owned(), message: first.unwrap_or_default() })
    }

    fn unused(expression: &str) -> Self {
        Self { expression: expression.to_owned(), programs: HashMap::new(), notes: Vec::new() }
    }

    /// Whether this packet passes, judged by the bytes that were captured of it and by its length on the wire. Where the
    /// expression has no meaning for its link type it does not, and there is a note.
    pub fn passes(&mut self, packet: &Packet<'_>, link_type: LinkType) -> bool {
        let program = self.programs.entry(link_type.0).or_insert_with(|| {
            let compiled = compile_dead(&self.expression, link_type);
            compiled.inspect_err(|message| self.notes.extend(note(link_type, message))).ok()
        });
        program.as_ref().is_some_and(|program| run(program.get_instructions(), packet))
    }

    /// What the user should know about it.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }
}

/// A program that says "rejects all packets" just does that; any other complaint is worth a word.
fn note(LinkType(link_type): LinkType, message: &str) -> Option<String> {
    let is_harmless = message.contains("rejects all packets");
    (!is_harmless).then(|| format!("the filter passes nothing of link type {link_type}: {message}"))
}

// From libpcap, as the package itself uses it; but the package knows no packet that is longer than what was captured of it.
unsafe extern "C" {
    fn bpf_filter(
        program: *const BpfInstruction,
        packet: *const u8,
        length_on_the_wire: c_uint,
        captured: c_uint,
    ) -> c_uint;
}

fn run(program: &[BpfInstruction], packet: &Packet<'_>) -> bool {
    let captured = packet.data.len() as u32;
    let on_the_wire = packet.original_length.max(captured);
    // SAFETY: libpcap compiled the program, so it ends with a return and jumps within itself only; `BpfInstruction` is libpcap's
    // `bpf_insn` (repr(transparent)). Of the packet no more than `captured` bytes are read, and so many there are.
    let verdict = unsafe { bpf_filter(program.as_ptr(), packet.data.as_ptr(), on_the_wire, captured) };
    verdict > 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Direction, InterfaceId, RealTime, Reception};

    /// From 10.0.0.1:40000 to 10.0.0.2:53, bare IP.
    const UDP: [u8; 28] = [
        0x45, 0, 0, 100, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, // IP
        0x9c, 0x40, 0, 53, 0, 80, 0, 0,
    ];

    fn packet(data: &[u8], original_length: u32) -> Packet<'_> {
        Packet {
            interface: InterfaceId(0),
            time: RealTime::default(),
            direction: Direction::Unknown,
            reception: Reception::Unknown,
            original_length,
            data,
        }
    }

    fn passes(expression: &str, data: &[u8], original_length: u32, link_type: LinkType) -> bool {
        PacketFilter::new(expression).unwrap().passes(&packet(data, original_length), link_type)
    }

    #[test]
    fn a_packet_is_judged_by_what_its_link_type_makes_of_it() {
        let mut ethernet = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
        ethernet.extend(UDP);
        for (expression, expected) in [("udp port 53", true), ("host 10.0.0.2", true), ("tcp", false)] {
            assert_eq!(passes(expression, &UDP, 100, LinkType::RAW_IP), expected, "{expression}");
            assert_eq!(passes(expression, &ethernet, 114, LinkType::ETHERNET), expected, "{expression}");
            assert!(!passes(expression, &UDP, 100, LinkType::ETHERNET), "{expression}");
        }
    }

    #[test]
    fn a_cut_packet_has_its_length_on_the_wire() {
        assert!(passes("greater 100", &UDP, 100, LinkType::RAW_IP));
        assert!(!passes("less 99", &UDP, 100, LinkType::RAW_IP));
        assert!(!passes("udp[8] = 0", &UDP, 100, LinkType::RAW_IP), "what was not captured fits nothing");
    }

    #[test]
    fn an_expression_that_means_nothing_is_an_error_at_once() {
        for expression in ["tcp prt 80", "((tcp)", "host"] {
            let error = PacketFilter::new(expression).unwrap_err();
            assert!(matches!(&error, Error::Filter { .. }), "{expression}: {error}");
        }
    }

    #[test]
    fn where_an_expression_has_no_meaning_nothing_passes_and_it_is_said_once() {
        let mut filter = PacketFilter::new("ether host 02:00:00:00:00:01").unwrap();
        assert!(!filter.passes(&packet(&UDP, 100), LinkType::RAW_IP));
        assert!(!filter.passes(&packet(&UDP, 100), LinkType::RAW_IP));
        assert_eq!(filter.notes().len(), 1, "{:?}", filter.notes());
        assert!(
            filter.notes()[0].starts_with("the filter passes nothing of link type 101: "),
            "{:?}",
            filter.notes()
        );
    }
}
