//! The interfaces of this network namespace, and what becomes of them, as rtnetlink tells it.
//!
//! Not /sys/class/net: that shows the namespace in which /sys was mounted, which need not be ours, and it cannot say
//! what an interface was called that is gone already. See rtnetlink(7) for the messages.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::sys;

const HEADER: usize = 16;
const IFINFOMSG: usize = 16;
const RTMGRP_LINK: u32 = 1;
pub(super) const NLMSG_ERROR: u16 = 2;
pub(super) const NLMSG_DONE: u16 = 3;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_IFALIAS: u16 = 20;

/// One interface, as the kernel describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) hardware: u16,
    pub(super) flags: u32,
    pub(super) mac: Option<[u8; 6]>,
    pub(super) alias: Option<String>,
    pub(super) mtu: u32,
}

impl Link {
    pub(super) const fn is_up(&self) -> bool {
        self.flags & libc::IFF_UP as u32 != 0
    }

    pub(super) const fn is_loopback(&self) -> bool {
        self.flags & libc::IFF_LOOPBACK as u32 != 0
    }
}

/// What became of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// It is new, or something about it is.
    Now(Link),
    /// It is gone from this namespace.
    Gone(u32),
}

/// All interfaces, kept up to date.
#[derive(Debug)]
pub(super) struct Links {
    socket: OwnedFd,
    here: HashMap<u32, Link>,
    former: HashMap<u32, Link>,
    buffer: Vec<u8>,
}

impl Links {
    /// Lists the interfaces, and subscribes to their changes first, so that none is missed.
    pub(super) fn open() -> io::Result<Self> {
        let socket = sys::socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE)?;
        sys::bind_netlink(&socket, RTMGRP_LINK)?;
        let mut links =
            Self { socket, here: HashMap::new(), former: HashMap::new(), buffer: vec![0; 64 << 10] };
        links.list()?;
        Ok(links)
    }

    /// Asks for all interfaces and reads until the kernel says that these were all.
    fn list(&mut self) -> io::Result<Vec<Change>> {
        sys::send(&self.socket, &list_request(libc::RTM_GETLINK, 0))?;
        let mut changes = Vec::new();
        while !self.receive(0, &mut changes)? {}
        Ok(changes)
    }

    /// What has changed since the last call. Does not wait.
    pub(super) fn changes(&mut self) -> io::Result<Vec<Change>> {
        let mut changes = Vec::new();
        loop {
            match self.receive(libc::MSG_DONTWAIT, &mut changes) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(changes),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Changes came faster than we read, and some are lost: compare with what is there now.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    changes.extend(self.list_again()?)
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn list_again(&mut self) -> io::Result<Vec<Change>> {
        let before = std::mem::take(&mut self.here);
        let mut changes = self.list()?;
        for (index, link) in before {
            if !self.here.contains_key(&index) {
                self.former.insert(index, link);
                changes.push(Change::Gone(index));
            }
        }
        Ok(changes)
    }

    /// Receives one datagram; true if it ends a list.
    fn receive(&mut self, flags: i32, changes: &mut Vec<Change>) -> io::Result<bool> {
        let length = sys::receive(&self.socket, &mut self.buffer, flags)?.min(self.buffer.len());
        let (found, is_end) = parse(&self.buffer[..length]);
        for change in &found {
            self.apply(change);
        }
        changes.extend(found);
        Ok(is_end)
    }

    fn apply(&mut self, change: &Change) {
        match change {
            Change::Now(link) => {
                self.here.insert(link.index, link.clone());
            }
            Change::Gone(index) => {
                if let Some(link) = self.here.remove(index) {
                    self.former.insert(*index, link);
                }
            }
        }
    }

    /// The interface of this index; one that is gone if there is none now.
    pub(super) fn get(&self, index: u32) -> Option<&Link> {
        self.here.get(&index).or_else(|| self.former.get(&index))
    }

    /// The interface of this name.
    pub(super) fn named(&self, name: &str) -> Option<&Link> {
        self.here.values().find(|link| link.name == name)
    }

    /// All interfaces that are here, by index.
    pub(super) fn all(&self) -> Vec<&Link> {
        let mut all: Vec<_> = self.here.values().collect();
        all.sort_by_key(|link| link.index);
        all
    }

    /// The descriptor to wait for.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Asks for all that there is of a kind, in messages that bear this number. The header that follows has zeros only, and may be longer
/// than that of the kind.
pub(super) fn list_request(kind: u16, number: u32) -> [u8; HEADER + IFINFOMSG] {
    let mut message = [0; HEADER + IFINFOMSG];
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
    message[0..4].copy_from_slice(&((HEADER + IFINFOMSG) as u32).to_ne_bytes());
    message[4..6].copy_from_slice(&kind.to_ne_bytes());
    message[6..8].copy_from_slice(&flags.to_ne_bytes());
    message[8..12].copy_from_slice(&number.to_ne_bytes());
    message
}

/// How many changes a datagram of rtnetlink tells of, for the fuzz target `kernel`.
#[cfg(fuzzing)]
#[doc(hidden)]
pub fn link_changes_in(datagram: &[u8]) -> usize {
    parse(datagram).0.len()
}

/// Splits a datagram into its messages; also whether a list ends in it.
fn parse(mut bytes: &[u8]) -> (Vec<Change>, bool) {
    let mut changes = Vec::new();
    while let Some((kind, _, body, rest)) = take_message(bytes) {
        bytes = rest;
        match kind {
            NLMSG_DONE | NLMSG_ERROR => return (changes, true),
            libc::RTM_NEWLINK => changes.extend(link(body).map(Change::Now)),
            libc::RTM_DELLINK => changes.extend(link(body).map(|link| Change::Gone(link.index))),
            _ => {}
        }
    }
    (changes, false)
}

/// The first message: its type, its number, its body, and what follows it.
pub(super) fn take_message(bytes: &[u8]) -> Option<(u16, u32, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
    let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
    let number = u32::from_ne_bytes(*bytes.get(8..)?.first_chunk()?);
    let body = bytes.get(HEADER..length)?;
    Some((kind, number, body, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

fn link(body: &[u8]) -> Option<Link> {
    let head: &[u8; IFINFOMSG] = body.first_chunk()?;
    // Bridges send RTM_DELLINK with their own family when a port leaves the bridge; the interface itself stays.
    if i32::from(head[0]) != libc::AF_UNSPEC {
        return None;
    }
    let mut link = Link {
        hardware: u16::from_ne_bytes([head[2], head[3]]),
        index: u32::from_ne_bytes([head[4], head[5], head[6], head[7]]),
        flags: u32::from_ne_bytes([head[8], head[9], head[10], head[11]]),
        ..Link::default()
    };
    let mut attributes = &body[IFINFOMSG..];
    while let Some((kind, value, rest)) = take_attribute(attributes) {
        attributes = rest;
        match kind {
            IFLA_IFNAME => link.name = text(value),
            IFLA_IFALIAS => link.alias = Some(text(value)),
            IFLA_ADDRESS => link.mac = value.try_into().ok(),
            IFLA_MTU => link.mtu = value.try_into().map(u32::from_ne_bytes).unwrap_or_default(),
            _ => {}
        }
    }
    // Loopback has an address of zeros, and a tunnel's six bytes would be no Ethernet address.
    let has_mac = link.hardware == libc::ARPHRD_ETHER && link.mac != Some([0; 6]);
    link.mac = link.mac.filter(|_| has_mac);
    Some(link)
}

pub(super) fn take_attribute(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
    let kind = u16::from_ne_bytes(*bytes.get(2..)?.first_chunk()?);
    let value = bytes.get(4..length)?;
    Some((kind, value, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

fn text(value: &[u8]) -> String {
    let value = value.split(|&byte| byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(value).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, family: u8, index: u32, name: &str) -> Vec<u8> {
        let mut body = vec![family, 0, 1, 0];
        body.extend(index.to_ne_bytes());
        body.extend(1u32.to_ne_bytes());
        body.extend([0; 4]);
        body.extend((4 + name.len() as u16 + 1).to_ne_bytes());
        body.extend(IFLA_IFNAME.to_ne_bytes());
        body.extend(name.as_bytes());
        body.push(0);
        let mut message = ((HEADER + body.len()) as u32).to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.extend([0; 10]);
        message.extend(body);
        message.resize(message.len().next_multiple_of(4), 0);
        message
    }

    #[test]
    fn links_come_and_go() {
        let bytes =
            [message(libc::RTM_NEWLINK, 0, 7, "veth0"), message(libc::RTM_DELLINK, 0, 7, "veth0")].concat();
        let (changes, is_end) = parse(&bytes);
        assert!(!is_end);
        assert!(
            matches!(&changes[0], Change::Now(link) if link.name == "veth0" && link.index == 7 && link.is_up())
        );
        assert_eq!(changes[1], Change::Gone(7));
    }

    #[test]
    fn a_port_that_leaves_its_bridge_is_not_gone() {
        assert_eq!(parse(&message(libc::RTM_DELLINK, libc::AF_BRIDGE as u8, 7, "veth0")).0, vec![]);
    }

    #[test]
    fn cut_messages_end_the_reading() {
        let whole = message(libc::RTM_NEWLINK, 0, 7, "veth0");
        for length in 0..whole.len() - 4 {
            assert!(parse(&whole[..length]).0.is_empty());
        }
    }
}
