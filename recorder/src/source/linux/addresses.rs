//! The addresses of this network namespace, asked for through one socket again and again: getifaddrs(3) would open one each time,
//! which a recording may not do any more. See rtnetlink(7) for the messages.

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use super::links::{NLMSG_DONE, NLMSG_ERROR, list_request, take_attribute, take_message};
use super::sys;

/// `struct ifaddrmsg`: family, length of the prefix, flags, scope, and the interface's index.
const IFADDRMSG: usize = 8;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;

/// Asks for addresses.
#[derive(Debug)]
pub(super) struct Addresses {
    socket: OwnedFd,
    buffer: Vec<u8>,
    /// The number of the last question, which its answers bear.
    asked: u32,
}

impl Addresses {
    pub(super) fn open() -> io::Result<Self> {
        let socket = sys::socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE)?;
        sys::bind_netlink(&socket, 0)?;
        Ok(Self { socket, buffer: vec![0; 64 << 10], asked: 0 })
    }

    /// All addresses, each with the index of its interface.
    pub(super) fn list(&mut self) -> io::Result<Vec<(u32, IpAddr)>> {
        self.asked = self.asked.wrapping_add(1);
        sys::send(&self.socket, &list_request(libc::RTM_GETADDR, self.asked))?;
        let mut found = Vec::new();
        loop {
            let length = match sys::receive(&self.socket, &mut self.buffer, 0) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                length => length?.min(self.buffer.len()),
            };
            if parse(&self.buffer[..length], self.asked, &mut found) {
                return Ok(found);
            }
        }
    }
}

/// Takes the addresses out of a datagram; true if it ends the answer to the question of this number.
fn parse(mut bytes: &[u8], asked: u32, found: &mut Vec<(u32, IpAddr)>) -> bool {
    while let Some((kind, number, body, rest)) = take_message(bytes) {
        bytes = rest;
        match kind {
            // What is left of an answer that was not read to its end.
            _ if number != asked => {}
            NLMSG_DONE | NLMSG_ERROR => return true,
            libc::RTM_NEWADDR => found.extend(address(body)),
            _ => {}
        }
    }
    false
}

/// Our own address: of a point-to-point link the other end has one too.
fn address(body: &[u8]) -> Option<(u32, IpAddr)> {
    let head: &[u8; IFADDRMSG] = body.first_chunk()?;
    let index = u32::from_ne_bytes([head[4], head[5], head[6], head[7]]);
    let (mut local, mut other) = (None, None);
    let mut attributes = &body[IFADDRMSG..];
    while let Some((kind, value, rest)) = take_attribute(attributes) {
        attributes = rest;
        match kind {
            IFA_LOCAL => local = ip(value),
            IFA_ADDRESS => other = ip(value),
            _ => {}
        }
    }
    Some((index, local.or(other)?))
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = |bytes: [u8; 4]| IpAddr::from(bytes);
    let v6 = |bytes: [u8; 16]| IpAddr::from(bytes);
    bytes.try_into().map(v4).or_else(|_| bytes.try_into().map(v6)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        [&(4 + value.len() as u16).to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat()
    }

    fn message(kind: u16, number: u32, body: &[u8]) -> Vec<u8> {
        let length = 16 + body.len() as u32;
        let head = [length.to_ne_bytes(), [0; 4], number.to_ne_bytes(), [0; 4]].concat();
        let mut message = [head, body.to_vec()].concat();
        message[4..6].copy_from_slice(&kind.to_ne_bytes());
        message
    }

    fn of_interface(index: u32, attributes: &[Vec<u8>]) -> Vec<u8> {
        [&[2, 32, 0, 0][..], &index.to_ne_bytes(), &attributes.concat()].concat()
    }

    #[test]
    fn the_near_end_of_a_point_to_point_link_is_ours() {
        let (near, far) = (attribute(IFA_LOCAL, &[10, 0, 0, 1]), attribute(IFA_ADDRESS, &[10, 0, 0, 2]));
        let bytes = [
            message(libc::RTM_NEWADDR, 7, &of_interface(3, &[far, near])),
            message(libc::RTM_NEWADDR, 7, &of_interface(4, &[attribute(IFA_ADDRESS, &[0xfe; 16])])),
            message(NLMSG_DONE, 7, &[0; 4]),
        ]
        .concat();
        let mut found = Vec::new();
        assert!(parse(&bytes, 7, &mut found));
        assert_eq!(found, [(3, IpAddr::from([10, 0, 0, 1])), (4, IpAddr::from([0xfe; 16]))]);
    }

    #[test]
    fn the_rest_of_an_earlier_answer_is_passed_over() {
        let address = of_interface(3, &[attribute(IFA_LOCAL, &[10, 0, 0, 1])]);
        let earlier = [message(libc::RTM_NEWADDR, 6, &address), message(NLMSG_DONE, 6, &[0; 4])].concat();
        let mut found = Vec::new();
        assert!(!parse(&earlier, 7, &mut found));
        assert!(found.is_empty());
        for length in 0..earlier.len() {
            assert!(!parse(&earlier[..length], 7, &mut found), "a cut message ends the reading");
        }
    }

    #[test]
    fn the_machine_has_the_loopback_address_each_time_it_is_asked() {
        let mut addresses = Addresses::open().unwrap();
        for _ in 0..2 {
            let found = addresses.list().unwrap();
            assert!(found.iter().any(|(_, address)| address.is_loopback()), "{found:?}");
        }
    }
}
