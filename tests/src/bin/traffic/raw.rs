//! Frames made by hand: packets whose addresses belong to no socket of any host here.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::options::Options;
use crate::sys;

const PAYLOAD: &[u8] = b"from nobody here";
const IP_LENGTH: u16 = 20;
const UDP_LENGTH: u16 = 8;

/// Sends UDP datagrams with the given addresses through an AF_PACKET socket.
pub(crate) fn raw_udp(options: &Options) {
    let interface = sys::interface_index(options.required("--interface"));
    let from = options.address("--from").expect("--from is missing");
    let to = options.address("--to").expect("--to is missing");
    let frame = udp_frame(mac(options.required("--mac")), from, to);
    let socket = sys::packet_socket();
    for _ in 0..options.number("--count").unwrap_or(1) {
        sys::send_frame(&socket, interface, &frame);
    }
}

fn udp_frame(to_mac: [u8; 6], from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let mut frame = Vec::new();
    frame.extend_from_slice(&to_mac);
    frame.extend_from_slice(&[2, 0, 0, 0, 0, 1]);
    frame.extend_from_slice(&[0x08, 0x00]);
    frame.extend_from_slice(&ip_header(v4(from), v4(to)));
    frame.extend_from_slice(&from.port().to_be_bytes());
    frame.extend_from_slice(&to.port().to_be_bytes());
    frame.extend_from_slice(&(UDP_LENGTH + PAYLOAD.len() as u16).to_be_bytes());
    // RFC 768: "An all zero transmitted checksum value means that the transmitter generated no checksum".
    frame.extend_from_slice(&[0, 0]);
    frame.extend_from_slice(PAYLOAD);
    frame
}

fn ip_header(from: Ipv4Addr, to: Ipv4Addr) -> [u8; IP_LENGTH as usize] {
    let mut header = [0; IP_LENGTH as usize];
    header[0] = 0x45;
    header[2..4].copy_from_slice(&(IP_LENGTH + UDP_LENGTH + PAYLOAD.len() as u16).to_be_bytes());
    header[8] = 64;
    header[9] = 17;
    header[12..16].copy_from_slice(&from.octets());
    header[16..20].copy_from_slice(&to.octets());
    let checksum = checksum(&header);
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
    header
}

/// RFC 1071: the one's complement of the one's complement sum of all 16-bit words.
fn checksum(header: &[u8]) -> u16 {
    let mut sum: u32 = header.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn v4(address: SocketAddr) -> Ipv4Addr {
    match address.ip() {
        IpAddr::V4(address) => address,
        IpAddr::V6(address) => panic!("{address}: only IPv4 is made by hand"),
    }
}

fn mac(text: &str) -> [u8; 6] {
    let bytes: Vec<u8> =
        text.split(':').map(|byte| u8::from_str_radix(byte, 16).expect("a MAC has six hex bytes")).collect();
    bytes.try_into().expect("a MAC has six bytes")
}
