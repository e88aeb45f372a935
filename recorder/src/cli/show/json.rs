//! One JSON object for each packet.

use std::io::{self, Write};

use serde::Serialize;

use super::super::text;
use crate::decode::{self, Decoded, Transport};
use crate::model::{Attribution, Direction, Owner, ProcessTable};
use crate::pcapng::Record;
use crate::pcapng::annotation::{escape_name, escape_text};

/// One packet as `--json` prints it. docs/FORMAT.md describes it; keys are only ever added.
#[derive(Serialize)]
struct PacketJson<'a> {
    frame: u64,
    time_ns: u64,
    #[serde(skip_serializing_if = "str::is_empty")]
    interface: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    direction: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reception: Option<&'static str>,
    length: u32,
    captured: usize,
    protocol: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source_port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    destination: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    destination_port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tcp_flags: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_length: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    icmp_type: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    icmp_code: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    echo_id: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fragment_offset: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sender: Option<OwnerJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    receiver: Option<OwnerJson>,
}

/// One end of a packet.
#[derive(Serialize)]
struct OwnerJson {
    pid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    tid: Option<u32>,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cgroup: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    container: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unit: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cmdline: Option<Vec<String>>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    cmdline_cut: bool,
}

impl OwnerJson {
    fn of(owner: Option<Owner>, processes: &ProcessTable) -> Option<Self> {
        let owner = owner?;
        let process = processes.get(owner.process)?;
        let line = process.command_line.as_ref();
        Some(Self {
            pid: process.pid,
            tid: (owner.tid != 0).then_some(owner.tid),
            name: escape_name(&process.name),
            path: process.path.as_ref().map(|path| escape_text(path)),
            uid: process.uid,
            cgroup: process.cgroup.clone(),
            container: process.container.clone(),
            unit: process.unit.clone(),
            cmdline: line.map(|line| line.arguments().map(escape_text).collect()),
            cmdline_cut: line.is_some_and(|line| line.is_cut),
        })
    }
}

/// Prints packet number `frame` as one object on a line.
pub(super) fn print(out: &mut impl Write, frame: u64, record: &Record<'_>) -> io::Result<()> {
    let packet = &record.packet;
    let decoded = decode::packet(record.interface.link_type, packet.data);
    let (sender, receiver) = match record.attribution {
        Attribution::Known { sender, receiver, .. } => (sender, receiver),
        Attribution::Unknown(_) => (None, None),
    };
    let mut object = PacketJson {
        frame,
        time_ns: packet.time.as_ns(),
        interface: &record.interface.name,
        direction: match packet.direction {
            Direction::Unknown => None,
            Direction::Inbound => Some("in"),
            Direction::Outbound => Some("out"),
        },
        reception: text::reception(packet.reception),
        length: packet.original_length,
        captured: packet.data.len(),
        protocol: spelled(|text| text::protocol(text, &decoded)),
        source: None,
        source_port: None,
        destination: None,
        destination_port: None,
        tcp_flags: None,
        payload_length: None,
        icmp_type: None,
        icmp_code: None,
        echo_id: None,
        fragment_offset: None,
        sender: OwnerJson::of(sender, record.processes),
        receiver: OwnerJson::of(receiver, record.processes),
    };
    object.add_headers(&decoded);
    writeln!(out, "{}", text::json(serde_json::to_string(&object)?))
}

impl PacketJson<'_> {
    fn add_headers(&mut self, decoded: &Decoded) {
        let Decoded::Ip(ip) = decoded else { return };
        let ports = text::has_ports(ip).then_some((ip.flow.local.port, ip.flow.remote.port));
        self.source = Some(ip.flow.local.ip().to_string());
        self.destination = Some(ip.flow.remote.ip().to_string());
        self.source_port = ports.map(|(source, _)| source);
        self.destination_port = ports.map(|(_, destination)| destination);
        self.fragment_offset = ip.fragment.map(|fragment| fragment.offset);
        match ip.transport {
            Transport::Tcp { flags, payload_length } => {
                self.tcp_flags = Some(spelled(|text| text::tcp_flags(text, flags)));
                self.payload_length = Some(payload_length);
            }
            Transport::Icmp { kind, code, echo } => {
                self.icmp_type = Some(kind);
                self.icmp_code = Some(code);
                self.echo_id = echo.then_some(ip.flow.local.port);
            }
            Transport::Udp | Transport::Other => {}
        }
    }
}

fn spelled(spell: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut text = Vec::new();
    spell(&mut text);
    String::from_utf8_lossy(&text).into_owned()
}
