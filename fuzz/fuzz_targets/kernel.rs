//! What the kernel hands over: events of the eBPF ring, blocks of the packet ring, and messages of three netlink families.
#![no_main]

use std::net::IpAddr;

use libfuzzer_sys::fuzz_target;
use recorder::attribution::Attributor;
use recorder::attribution::event::NetNs;
use recorder::attribution::linux::{conntrack, ebpf, procfs};
use recorder::attribution::news::{News, Origin};
use recorder::model::{Endpoint, Flow, Protocol, RealTime};
use recorder::source::{link_changes_in, packets_in};

/// The sizes of events: of a socket, of a process, of one with its arguments.
const EVENTS: [usize; 3] = [112, 2104, 6200];
// include/uapi/linux/sock_diag.h, nfnetlink.h, rtnetlink.h.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const CONNTRACK_NEW: u16 = 0x100;
const RTM_NEWLINK: u16 = 16;

fuzz_target!(|bytes: &[u8]| {
    let Some((&[choice, how], bytes)) = bytes.split_first_chunk() else { return };
    let message = |kind: u16| if how & 1 == 0 { message(kind, bytes) } else { bytes.to_vec() };
    match choice % 5 {
        0 => events(bytes, how),
        1 => _ = procfs::sockets_in(&message(SOCK_DIAG_BY_FAMILY)),
        2 => _ = conntrack::answer(&flow(), &message(CONNTRACK_NEW)),
        3 => _ = link_changes_in(&message(RTM_NEWLINK)),
        _ => _ = packets_in(&mut bytes.to_vec()),
    }
});

/// Some events, one after the other, as the attribution takes them.
fn events(mut bytes: &[u8], mut how: u8) {
    let origin = Origin { netns: NetNs(1), boot: RealTime::from_ns(0) };
    let mut attributor = Attributor::new(origin, None);
    while !bytes.is_empty() {
        let size = EVENTS[usize::from(how) % EVENTS.len()];
        let (event, rest) = bytes.split_at(bytes.len().min(size));
        let mut whole = event.to_vec();
        whole.resize(size, 0);
        if let Some(event) = ebpf::event(&whole) {
            attributor.learn(News::Event(event));
        }
        ebpf::event(event);
        (bytes, how) = (rest, how / 3);
    }
}

/// One message of this type, of the right length.
fn message(kind: u16, body: &[u8]) -> Vec<u8> {
    let length = (16 + body.len()) as u32;
    let mut message = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 10], body].concat();
    message.resize(message.len().next_multiple_of(4), 0);
    message
}

fn flow() -> Flow {
    let end = |last| Endpoint::new(IpAddr::from([10, 0, 0, last]), 80);
    Flow { protocol: Protocol::TCP, local: end(1), remote: end(2) }
}
