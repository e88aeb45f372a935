//! Captures that a test makes up: any process, any packet, any time.

use std::fs::File;
use std::io::BufWriter;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;

use recorder::model::{
    Attribution, Direction, Found, Interface, InterfaceId, LinkType, Owner, Packet, Process, ProcessTable,
    RealTime, Reason, Reception, Statistics,
};
use recorder::pcapng::{Annotate, SectionInfo, Writer};

/// 2026-11-21 12:00:00 UTC, in nanoseconds since 1970.
pub const NOON_NS: u64 = 1_795_262_400_000_000_000;

/// TCP flags.
pub mod flags {
    /// Opens.
    pub const SYN: u8 = 0x02;
    /// Resets.
    pub const RST: u8 = 0x04;
    /// Acknowledges.
    pub const ACK: u8 = 0x10;
    /// Closes, and acknowledges.
    pub const FIN: u8 = 0x11;
}

/// A capture on one interface of bare IP packets, in the making.
pub struct Capture {
    writer: Writer<BufWriter<File>>,
    processes: ProcessTable,
    statistics: Statistics,
}

impl Capture {
    /// An empty one in a new file.
    pub fn new(path: &Path) -> Self {
        let file = File::create(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mut writer = Writer::new(BufWriter::new(file), Annotate::ALL, &SectionInfo::default());
        let interface = Interface {
            name: "tun0".into(),
            description: None,
            link_type: LinkType::RAW_IP,
            mac: None,
            snap_length: 0,
            filter: None,
        };
        writer.add_interface(&interface).expect("cannot write");
        let statistics = Statistics { start: RealTime::from_ns(NOON_NS), ..Statistics::default() };
        Self { writer, processes: ProcessTable::default(), statistics }
    }

    /// Adds a process.
    pub fn process(&mut self, process: Process) -> Owner {
        Owner { process: self.processes.push(process), tid: 0 }
    }

    /// Adds a packet, so many nanoseconds after noon.
    pub fn packet(&mut self, sender: Option<Owner>, receiver: Option<Owner>, after_ns: u64, data: &[u8]) {
        let attribution = match (sender, receiver) {
            (None, None) => Attribution::Unknown(Reason::NoSocket),
            _ => Attribution::Known { sender, receiver, both_local: false, found: Found::Socket },
        };
        let direction = if sender.is_some() { Direction::Outbound } else { Direction::Inbound };
        let packet = Packet {
            interface: InterfaceId(0),
            time: RealTime::from_ns(NOON_NS + after_ns),
            direction,
            reception: Reception::Unknown,
            original_length: data.len() as u32,
            data,
        };
        self.statistics.attribution.count(&attribution);
        self.statistics.end = self.statistics.end.max(packet.time);
        self.writer.packet(&packet, &attribution, &self.processes).expect("cannot write");
    }

    /// Writes what belongs at the end.
    pub fn finish(self) {
        let out = self.writer.finish(&self.statistics, &self.processes).expect("cannot write");
        out.into_inner().expect("cannot write");
    }
}

/// A UDP datagram.
pub fn udp(from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) -> Vec<u8> {
    let mut data = Vec::new();
    data.extend(from.port().to_be_bytes());
    data.extend(to.port().to_be_bytes());
    data.extend((8 + payload.len() as u16).to_be_bytes());
    data.extend([0, 0]);
    data.extend(payload);
    ip(17, *from.ip(), *to.ip(), &data)
}

/// A TCP segment with so many bytes of payload.
pub fn tcp(
    from: SocketAddrV4,
    to: SocketAddrV4,
    flags: u8,
    [sequence, acknowledged]: [u32; 2],
    length: usize,
) -> Vec<u8> {
    let mut data = Vec::new();
    data.extend(from.port().to_be_bytes());
    data.extend(to.port().to_be_bytes());
    data.extend(sequence.to_be_bytes());
    data.extend(acknowledged.to_be_bytes());
    data.extend([0x50, flags, 0x40, 0, 0, 0, 0, 0]);
    data.resize(data.len() + length, b'x');
    ip(6, *from.ip(), *to.ip(), &data)
}

fn ip(protocol: u8, from: Ipv4Addr, to: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let mut data = vec![0x45, 0];
    data.extend((20 + payload.len() as u16).to_be_bytes());
    data.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
    data.extend(from.octets());
    data.extend(to.octets());
    data.extend(payload);
    data
}

/// A DNS message that says that a name has this address.
pub fn dns_answer(labels: &[&[u8]], address: Ipv4Addr) -> Vec<u8> {
    let mut data = vec![0x12, 0x34, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0];
    for label in labels {
        data.push(label.len() as u8);
        data.extend(*label);
    }
    data.extend([0, 0, 1, 0, 1]);
    data.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
    data.extend(address.octets());
    data
}
