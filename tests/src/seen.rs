//! The packets of a file as each reader sees them: the recorder, tshark, tcpdump, pcap-parser, pcap-file.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketOption;
use pcap_file::pcapng::blocks::opt_common::CommonOption;
use pcap_file::pcapng::{Block as PcapFileBlock, PcapNgReader};
use pcap_parser::{Block, EnhancedPacketBlock, LegacyPcapSlice, PcapBlockOwned, PcapNGOption};
use serde_json::Value;

use crate::blocks::{self, Ending};
use crate::process::{Output, run};
use crate::recorder::binary;
use crate::wireshark::{Wireshark, assert_no_complaint, assert_says_cut_short, rows};

const COMMENT: u16 = 1;
const IF_NAME: u16 = 2;

/// One packet. What a reader does not tell is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Nanoseconds since the epoch.
    pub time_ns: u64,
    /// Bytes on the wire.
    pub length: u64,
    /// Bytes in the file.
    pub captured: u64,
    /// The name of the interface.
    pub interface: Option<String>,
    /// `in`, `out`, or empty where the file does not say.
    pub direction: Option<String>,
    /// The comment; empty where there is none.
    pub comment: Option<String>,
    /// The process whose record the packet points at, as `name[pid]`; empty where it points at none.
    pub process: Option<String>,
    /// The packet itself.
    pub data: Option<Vec<u8>>,
}

impl Seen {
    /// The same, without what the other does not tell.
    fn as_far_as(&self, other: &Self) -> Self {
        fn told<T: Clone>(own: &Option<T>, other: &Option<T>) -> Option<T> {
            other.as_ref().and(own.clone())
        }
        Self {
            interface: told(&self.interface, &other.interface),
            direction: told(&self.direction, &other.direction),
            comment: told(&self.comment, &other.comment),
            process: told(&self.process, &other.process),
            data: told(&self.data, &other.data),
            ..*self
        }
    }
}

/// Panics unless two readers see the same packets, as far as both tell.
pub fn assert_same(one: (&str, &[Seen]), other: (&str, &[Seen])) {
    let ((one, ones), (other, others)) = (one, other);
    for (number, (a, b)) in ones.iter().zip(others).enumerate() {
        let context = format!("packet {} as {one} and {other} see it", number + 1);
        assert_eq!(a.as_far_as(b), b.as_far_as(a), "{context}");
    }
    assert_eq!(ones.len(), others.len(), "the number of packets that {one} and {other} see");
}

/// Panics unless the reader said what it must about the end of the file, and nothing else.
pub fn assert_said(output: &Output, ending: Ending) {
    match ending {
        Ending::Whole => {
            output.assert_code(0);
            assert_no_complaint(output);
        }
        Ending::Cut => assert_says_cut_short(output),
    }
}

// --- the recorder

/// As `recorder show` tells them, in both of its forms.
pub fn by_recorder(file: &Path, ending: Ending) -> Vec<Seen> {
    let (lines, objects) = (shown(file, &[], ending), json(file, ending));
    assert_eq!(lines.lines().count(), objects.len(), "lines of show and of show --json");
    objects.iter().zip(lines.lines()).map(|(object, line)| from_show(object, line)).collect()
}

/// The objects of `recorder show --json`.
pub fn json(file: &Path, ending: Ending) -> Vec<Value> {
    let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    shown(file, &["--json"], ending).lines().map(parse).collect()
}

fn shown(file: &Path, arguments: &[&str], ending: Ending) -> String {
    let output = run(Command::new(binary()).arg("show").args(arguments).arg(file));
    output.assert_code(if ending == Ending::Whole { 0 } else { 1 }).stdout.clone()
}

fn from_show(value: &Value, line: &str) -> Seen {
    let number = |key: &str| value[key].as_u64().unwrap_or_else(|| panic!("no {key} in {value}"));
    let text = |key: &str| value[key].as_str().unwrap_or_default().to_string();
    let (_, owners) = line.split_once("  ").unwrap_or_else(|| panic!("no process at the end of {line}"));
    let owners = if owners == "-" { "" } else { owners };
    let (sender, receiver) = (label(&value["sender"]), label(&value["receiver"]));
    assert!(is_line_of(owners, &sender, &receiver), "the forms of show disagree\n{line}\n{value}");
    Seen {
        time_ns: number("time_ns"),
        length: number("length"),
        captured: number("captured"),
        interface: Some(text("interface")),
        direction: Some(text("direction")),
        comment: Some(owners.to_string()),
        process: Some(sender.or(receiver).unwrap_or_default()),
        data: None,
    }
}

/// `curl[4242]`, of an object of `show --json`.
fn label(process: &Value) -> Option<String> {
    Some(format!("{}[{}]", process["name"].as_str()?, process["pid"].as_u64()?))
}

/// Whether this is the line that docs/FORMAT.md has for these two processes.
fn is_line_of(line: &str, sender: &Option<String>, receiver: &Option<String>) -> bool {
    match (sender, receiver) {
        (None, None) => line.is_empty(),
        (Some(sender), Some(receiver)) => line == format!("{sender} > {receiver}"),
        (Some(one), None) => line == one || line == format!("{one} > ?"),
        (None, Some(one)) => line == one || line == format!("? > {one}"),
    }
}

// --- tshark

const FIELDS: [&str; 7] = [
    "frame.time_epoch",
    "frame.len",
    "frame.cap_len",
    "frame.interface_name",
    "frame.packet_flags_direction",
    "frame.comment",
    "_ws.malformed",
];
/// Those that Wireshark 4.6 has.
const PROCESS_FIELDS: [&str; 2] = ["frame.darwin.process_info.pname", "frame.darwin.process_info.pid"];

/// The protocols that are dissected. Any other is only taken for one by its port, which was any that was free, and finds
/// packets malformed that are not its own.
const PROTOCOLS: [&str; 10] =
    ["frame", "eth", "ethertype", "arp", "ip", "ipv6", "icmp", "icmpv6", "tcp", "udp"];

/// As a tshark dissects them, without custom blocks, which are rows too; nothing may be malformed.
pub fn by_tshark(wireshark: &Wireshark, file: &Path, ending: Ending) -> Vec<Seen> {
    let mut names = FIELDS.to_vec();
    let mut protocols = PROTOCOLS.to_vec();
    if wireshark.knows_field(PROCESS_FIELDS[0]) {
        names.extend(PROCESS_FIELDS);
        protocols.push("darwin");
    }
    let mut command = wireshark.fields_command(file, "not frame.cb_pen", &names);
    command.args(["--disable-protocol", "ALL"]);
    command.args(protocols.iter().flat_map(|protocol| ["--enable-protocol", *protocol]));
    let output = run(&mut command);
    assert_said(&output, ending);
    rows(&output).iter().map(|row| from_tshark(row)).collect()
}

fn from_tshark(row: &[String]) -> Seen {
    let [time, length, captured, interface, direction, comment, malformed, process @ ..] = row else {
        panic!("too few fields: {row:?}")
    };
    assert_eq!(malformed, "", "tshark takes a packet for malformed: {row:?}");
    let number = |text: &str| text.parse().unwrap_or_else(|_| panic!("not a number: {text}: {row:?}"));
    // Of a backslash tshark makes two.
    let text = |text: &str| text.replace(r"\\", r"\");
    let process = match process {
        [] => None,
        [name, pid] if name.is_empty() && pid.is_empty() => Some(String::new()),
        [name, pid] => Some(format!("{}[{pid}]", text(name))),
        _ => panic!("too many fields: {row:?}"),
    };
    Seen {
        time_ns: nanoseconds(time),
        length: number(length),
        captured: number(captured),
        interface: Some(text(interface)),
        direction: Some(direction_of(direction).to_string()),
        comment: Some(text(comment)),
        process,
        data: None,
    }
}

/// Of a time as text: seconds, and nine digits after the point.
pub fn nanoseconds(time: &str) -> u64 {
    let parts = time.split_once('.').filter(|(_, fraction)| fraction.len() == 9);
    let (seconds, fraction) = parts.unwrap_or_else(|| panic!("not a time in nanoseconds: {time}"));
    format!("{seconds}{fraction}").parse().unwrap_or_else(|_| panic!("not a time: {time}"))
}

fn direction_of(flags: &str) -> &'static str {
    match flags.trim_start_matches("0x").trim_start_matches('0') {
        "" => "",
        "1" => "in",
        "2" => "out",
        _ => panic!("not a direction: {flags}"),
    }
}

// --- tcpdump

/// As tcpdump, and so libpcap, reads them: it writes them into a file of its own format, `copy`.
pub fn by_tcpdump(file: &Path, copy: &Path, ending: Ending) -> Vec<Seen> {
    let mut command = Command::new("tcpdump");
    command.args(["--time-stamp-precision=nano", "-r"]).arg(file).arg("-w").arg(copy);
    assert_said(&run(&mut command), ending);
    of_pcap(copy)
}

/// The packets of a file in the format of tcpdump, by pcap-parser.
pub fn of_pcap(file: &Path) -> Vec<Seen> {
    let bytes = fs::read(file).unwrap_or_else(|error| panic!("cannot read {}: {error}", file.display()));
    let packets = LegacyPcapSlice::from_slice(&bytes).unwrap_or_else(|error| panic!("not pcap: {error:?}"));
    let unit_ns = if packets.header.is_nanosecond_precision() { 1 } else { 1000 };
    let packets = packets.map(|packet| match packet {
        Ok(PcapBlockOwned::Legacy(packet)) => Seen {
            time_ns: u64::from(packet.ts_sec) * 1_000_000_000 + u64::from(packet.ts_usec) * unit_ns,
            length: u64::from(packet.origlen),
            captured: u64::from(packet.caplen),
            data: Some(packet.data.to_vec()),
            ..Seen::default()
        },
        Ok(_) => panic!("{}: not a packet", file.display()),
        Err(error) => panic!("{}: {error:?}", file.display()),
    });
    packets.collect()
}

// --- pcap-parser

/// As the crate pcap-parser reads them, and how the file ends.
pub fn by_pcap_parser(file: &Path) -> (Vec<Seen>, Ending) {
    let (mut packets, mut interfaces) = (Vec::new(), Vec::new());
    let ending = blocks::walk(file, |block| match block {
        Block::SectionHeader(_) => interfaces.clear(),
        Block::InterfaceDescription(interface) => {
            assert_eq!(interface.ts_resolution(), Some(1_000_000_000), "nanoseconds");
            interfaces.push(text(&interface.options, IF_NAME));
        }
        Block::EnhancedPacket(packet) => packets.push(from_pcap_parser(packet, &interfaces)),
        _ => {}
    });
    (packets, ending)
}

fn from_pcap_parser(packet: &EnhancedPacketBlock<'_>, interfaces: &[String]) -> Seen {
    Seen {
        time_ns: u64::from(packet.ts_high) << 32 | u64::from(packet.ts_low),
        length: u64::from(packet.origlen),
        captured: u64::from(packet.caplen),
        interface: interfaces.get(packet.if_id as usize).cloned(),
        comment: Some(text(&packet.options, COMMENT)),
        data: packet.data.get(..packet.caplen as usize).map(<[u8]>::to_vec),
        ..Seen::default()
    }
}

/// The option with this code as text; empty without one.
fn text(options: &[PcapNGOption<'_>], code: u16) -> String {
    let option = options.iter().find(|option| option.code.0 == code);
    option.map(|option| String::from_utf8_lossy(blocks::bytes(option)).into_owned()).unwrap_or_default()
}

// --- pcap-file

/// As the crate pcap-file decodes them, with all their options: it refuses a block in which one has a wrong form.
pub fn by_pcap_file(file: &Path) -> Vec<Seen> {
    let open = File::open(file).unwrap_or_else(|error| panic!("cannot open {}: {error}", file.display()));
    let mut reader = PcapNgReader::new(open).unwrap_or_else(|error| panic!("not pcapng: {error}"));
    let mut packets = Vec::new();
    while let Some(block) = reader.next_block() {
        let (block, _) = block.unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let PcapFileBlock::EnhancedPacket(packet) = block else { continue };
        let comment = packet.options.iter().find_map(|option| match option {
            EnhancedPacketOption::Common(CommonOption::Comment(text)) => Some(text.to_string()),
            _ => None,
        });
        packets.push(Seen {
            time_ns: u64::try_from(packet.timestamp.as_nanos()).expect("a time of this century"),
            length: u64::from(packet.original_len),
            captured: packet.data.len() as u64,
            comment: Some(comment.unwrap_or_default()),
            data: Some(packet.data.to_vec()),
            ..Seen::default()
        });
    }
    packets
}
