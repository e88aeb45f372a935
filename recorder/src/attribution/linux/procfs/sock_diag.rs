//! The sockets of one network namespace, as the kernel's sock_diag tells them (sock_diag(7), net/ipv4/inet_diag.c).

use std::io;
use std::net::IpAddr;

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{
    AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP, IPPROTO_UDPLITE, TCP_CLOSE_WAIT, TCP_ESTABLISHED,
};
use netlink_packet_sock_diag::inet::nlas::Nla;
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket, SocketAddr};

use super::ScanError;
use crate::attribution::event::{Cookie, Reach};
use crate::model::{Endpoint, Flow, Protocol};

/// Answers come in pieces; the kernel fills what there is room for, up to 32 KiB.
const PIECE_BYTES: usize = 64 << 10;
/// Raw and ping sockets are not asked for: what they send and receive does not follow from an address and a port.
const PROTOCOLS: [u8; 3] = [IPPROTO_TCP, IPPROTO_UDP, IPPROTO_UDPLITE];

/// One socket, but for its network namespace and its holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) cookie: Cookie,
    /// Remote port 0: no remote end.
    pub(super) flow: Flow,
    pub(super) reach: Reach,
    /// The number in `socket:[N]` of /proc/PID/fd; 0 where no process has it open, or has accepted it.
    pub(super) inode: u32,
    /// It is connected, and no process has accepted it.
    pub(super) waits: bool,
}

/// Asks about all sockets of the network namespace that this netlink socket was opened in.
#[derive(Debug)]
pub(super) struct SockDiag {
    socket: Socket,
}

impl SockDiag {
    /// Opens the netlink socket, in the network namespace that the calling thread is in.
    pub(super) fn open() -> io::Result<Self> {
        let socket = Socket::new(NETLINK_SOCK_DIAG)?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket })
    }

    /// All TCP, UDP and UDP-Lite sockets, IPv4 and IPv6, but those that no process can have any more.
    pub(super) fn dump(&self, entries: &mut Vec<Entry>) -> Result<(), ScanError> {
        for protocol in PROTOCOLS {
            for family in [AF_INET, AF_INET6] {
                match self.dump_one(family, protocol, entries) {
                    // A kernel without UDP-Lite (7.1 and later), or without its part of sock_diag.
                    Err(error) if protocol == IPPROTO_UDPLITE && error.kind() == io::ErrorKind::NotFound => {}
                    result => result
                        .map_err(|source| ScanError::SockDiag { protocol: Protocol(protocol), source })?,
                }
            }
        }
        Ok(())
    }

    fn dump_one(&self, family: u8, protocol: u8, entries: &mut Vec<Entry>) -> io::Result<()> {
        self.socket.send(&request(family, protocol), 0)?;
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let length = self.socket.recv(&mut &mut piece[..], 0)?;
            if read_piece(piece.get(..length).unwrap_or_default(), protocol, entries)? {
                return Ok(());
            }
        }
    }
}

/// Reads the messages of one piece; true if the list ends in it.
pub(super) fn read_piece(mut piece: &[u8], protocol: u8, entries: &mut Vec<Entry>) -> io::Result<bool> {
    while !piece.is_empty() {
        let message = NetlinkMessage::<SockDiagMessage>::deserialize(piece)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        match message.payload {
            NetlinkPayload::Done(_) => return Ok(true),
            NetlinkPayload::Error(error) => return Err(error.to_io()),
            NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                entries.push(entry(&response, protocol));
            }
            _ => {}
        }
        // Messages are padded to four bytes (NLMSG_ALIGN).
        let used = (message.header.length as usize).next_multiple_of(4).max(4);
        piece = piece.get(used..).unwrap_or_default();
    }
    Ok(false)
}

/// All states, but those of which only the kernel knows: a handshake, and the time after the end.
fn request(family: u8, protocol: u8) -> Vec<u8> {
    let states = StateFlags::all() - StateFlags::TIME_WAIT - StateFlags::SYN_RECV;
    let socket_id = if family == AF_INET { SocketId::new_v4() } else { SocketId::new_v6() };
    let request = InetRequest { family, protocol, extensions: ExtensionFlags::empty(), states, socket_id };
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

fn entry(response: &InetResponse, protocol: u8) -> Entry {
    let InetResponse { header, nlas } = response;
    let id = &header.socket_id;
    let is_v6 = header.family == AF_INET6;
    let only_v6 = nlas.iter().find_map(|nla| match nla {
        Nla::SkV6Only(only_v6) => Some(*only_v6),
        _ => None,
    });
    Entry {
        cookie: Cookie(u64::from_ne_bytes(id.cookie)),
        flow: Flow {
            protocol: Protocol(protocol),
            local: end(id.source_address, id.source_port),
            remote: end(id.destination_address, id.destination_port),
        },
        reach: Reach {
            // Where the kernel does not say, it may or may not.
            v4: !is_v6 || only_v6 == Some(false),
            v6: is_v6,
            one_device: id.interface_id != 0 || (is_v6 && only_v6.is_none()),
        },
        inode: header.inode,
        waits: header.inode == 0 && matches!(header.state, TCP_ESTABLISHED | TCP_CLOSE_WAIT),
    }
}

fn end(address: IpAddr, port: u16) -> Endpoint {
    Endpoint::new(address, port)
}
