//! The capture on real interfaces, each test in a network namespace of its own. Needs root; says so and passes otherwise.
#![cfg(target_os = "linux")]
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests may panic; clippy.toml knows only functions marked as tests"
)]

use std::ffi::CStr;
use std::fs::{self, File};
use std::io::Write;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use recorder::model::{Direction, LinkType, RealTime, Reception};
use recorder::source::{
    self, Arrival, Capture, CaptureCounts, CaptureOptions, Error, Event, InterfaceDetails, Packets, SETTLING,
    Selection,
};

const ALL: RealTime = RealTime::from_ns(u64::MAX);
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs `test` in a fresh network namespace with loopback up and IPv6 (which talks on its own) off.
fn in_namespace(test: impl FnOnce() + Send + 'static) {
    // SAFETY: takes nothing, changes nothing, cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        eprintln!("skipped: needs root for network namespaces");
        return;
    }
    let thread = std::thread::spawn(|| {
        // SAFETY: a namespace for this thread alone; it ends with the thread, and everything in it.
        let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
        assert_eq!(result, 0, "unshare: {}", std::io::Error::last_os_error());
        for scope in ["all", "default"] {
            let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{scope}/disable_ipv6"), "1");
        }
        ip("link set lo up");
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A pair with fixed addresses below, up, and no ARP between them.
fn veth(one: &str, other: &str, extra: &str) {
    ip(format!("link add {one}{extra} address 02:00:00:00:00:01 type veth peer name {other} address 02:00:00:00:00:02").trim());
    for name in [one, other] {
        ip(&format!("link set {name} arp off up"));
    }
    wait_until_running(one);
    wait_until_running(other);
}

/// The kernel starts a device's queue some time after its carrier came; until then it drops what is sent, unseen.
fn wait_until_running(name: &str) {
    let begin = Instant::now();
    loop {
        let output = Command::new("ip").args(["-o", "link", "show", "dev", name]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if text.contains("state UP") && !text.contains("qdisc noop ") {
            return;
        }
        assert!(begin.elapsed() < PATIENCE, "{text}");
    }
}

/// One packet, kept.
#[derive(Clone, Debug)]
struct Kept {
    name: String,
    link_type: LinkType,
    time: RealTime,
    direction: Direction,
    reception: Reception,
    original_length: u32,
    data: Vec<u8>,
}

fn options(names: &[&str], filter: Option<&str>) -> CaptureOptions {
    let interfaces = match names {
        ["any"] => Selection::Any,
        names => Selection::Named(names.iter().map(ToString::to_string).collect()),
    };
    CaptureOptions {
        interfaces,
        filter: filter.map(Into::into),
        buffer_bytes: 4 << 20,
        ..CaptureOptions::default()
    }
}

fn open(names: &[&str], filter: Option<&str>) -> Capture {
    Capture::open(&options(names, filter)).unwrap_or_else(|error| panic!("{error}: {:?}", error.remedy()))
}

fn take(capture: &mut Capture, deadline: RealTime, into: &mut Vec<Kept>) {
    loop {
        let Some(Arrival { packet, interfaces, .. }) = capture.next(deadline) else { return };
        let (id, data) = (packet.interface.0 as usize, packet.data.to_vec());
        let (time, direction, reception, original_length) =
            (packet.time, packet.direction, packet.reception, packet.original_length);
        let interface = &interfaces[id];
        let (name, link_type) = (interface.name.clone(), interface.link_type);
        into.push(Kept { name, link_type, time, direction, reception, original_length, data });
    }
}

/// Takes packets until the one that contains `last` has come `times` times.
fn take_until(capture: &mut Capture, last: &[u8], times: usize) -> Vec<Kept> {
    let mut kept = Vec::new();
    let begin = Instant::now();
    while kept.iter().filter(|packet: &&Kept| contains(&packet.data, last)).count() < times {
        assert!(begin.elapsed() < PATIENCE, "no {:?} in {kept:#?}", String::from_utf8_lossy(last));
        capture.wait(Duration::from_millis(100), &[]).unwrap();
        take(capture, ALL, &mut kept);
    }
    kept
}

fn contains(data: &[u8], part: &[u8]) -> bool {
    data.windows(part.len()).any(|window| window == part)
}

/// Stops, takes the rest, and counts.
fn finish(capture: &mut Capture, into: &mut Vec<Kept>) -> CaptureCounts {
    capture.stop().unwrap();
    let begin = Instant::now();
    loop {
        take(capture, ALL, into);
        let counts = capture.counts().unwrap();
        if counts.waiting == 0 {
            return counts;
        }
        assert!(begin.elapsed() < PATIENCE, "{counts:?}");
        capture.wait(SETTLING, &[]).unwrap();
    }
}

fn wait_for_event(capture: &mut Capture, event: &Event) {
    let begin = Instant::now();
    while !capture.take_events().contains(event) {
        assert!(begin.elapsed() < PATIENCE, "no {event:?}");
        capture.wait(Duration::from_millis(100), &[]).unwrap();
    }
}

/// Sends a frame as it is.
fn send_frame(interface: &str, frame: &[u8]) {
    let details = interfaces().into_iter().find(|details| details.name == interface).unwrap();
    // SAFETY: numbers in, a descriptor out.
    let socket = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    assert!(socket >= 0);
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: 0,
        sll_ifindex: details.index as i32,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let (to, length) = ((&raw const address).cast(), size_of_val(&address) as u32);
    // SAFETY: both pointers are good for the lengths beside them.
    let sent = unsafe { libc::sendto(socket, frame.as_ptr().cast(), frame.len(), 0, to, length) };
    assert_eq!(sent, frame.len() as isize, "{}", std::io::Error::last_os_error());
    // SAFETY: ours, and closed once.
    unsafe { libc::close(socket) };
}

fn interfaces() -> Vec<InterfaceDetails> {
    source::interfaces().unwrap()
}

/// A frame to `v1` of a pair, with these bytes between addresses and IP, and a UDP packet to `port` that says `text`.
fn frame(between: &[u8], port: u16, text: &str) -> Vec<u8> {
    [&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1], between, &[8, 0], &ip_packet(port, text)].concat()
}

fn ip_packet(port: u16, text: &str) -> Vec<u8> {
    let length = |header: usize| ((header + text.len()) as u16).to_be_bytes();
    let mut ip =
        [&[0x45, 0], length(28).as_slice(), &[0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]].concat();
    let sum = ip.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum::<u32>();
    ip[10..12].copy_from_slice(&(!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
    [&ip, 4000u16.to_be_bytes().as_slice(), &port.to_be_bytes(), &length(8), &[0, 0], text.as_bytes()]
        .concat()
}

/// Sends on loopback to a socket that takes it, so that nothing answers.
fn send_on_loopback(port: u16, texts: &[&str]) {
    let receiver = UdpSocket::bind(("127.0.0.1", port)).unwrap();
    for text in texts {
        receiver.send_to(text.as_bytes(), ("127.0.0.1", port)).unwrap();
    }
}

/// A tun device, up, which a packet can be put into.
fn tun(name: &str) -> File {
    let device = File::options().read(true).write(true).open("/dev/net/tun").unwrap();
    let mut request = [0u8; 40];
    request[..name.len()].copy_from_slice(name.as_bytes());
    let flags = (libc::IFF_TUN | libc::IFF_NO_PI) as u16;
    request[16..18].copy_from_slice(&flags.to_ne_bytes());
    // SAFETY: TUNSETIFF reads and writes a struct ifreq, which is 40 bytes.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF as _, request.as_mut_ptr()) };
    assert_eq!(result, 0, "TUNSETIFF: {}", std::io::Error::last_os_error());
    assert!(CStr::from_bytes_until_nul(&request).is_ok());
    ip(&format!("link set {name} up"));
    device
}

#[test]
fn each_loopback_packet_comes_once() {
    in_namespace(|| {
        for names in [["any"], ["lo"]] {
            let mut capture = open(&names, None);
            send_on_loopback(7001, &["one", "two", "three", "last"]);
            let mut kept = take_until(&mut capture, b"last", 1);
            let counts = finish(&mut capture, &mut kept);

            assert_eq!(kept.len(), 4, "{names:?}: {kept:#?}");
            assert!(kept.iter().all(|packet| packet.name == "lo" && packet.link_type == LinkType::ETHERNET));
            assert!(kept.iter().all(|packet| packet.reception == Reception::Unicast));
            assert!(capture.origins()[0].is_loopback);
            assert_eq!((counts.received, counts.delivered, counts.dropped_by_kernel), (4, 4, 0));
            let dropped = if names == ["any"] { None } else { Some(0) };
            assert_eq!(counts.interfaces[0].dropped_by_kernel, dropped);
        }
    });
}

#[test]
fn a_vlan_tag_is_back_in_its_place() {
    in_namespace(|| {
        veth("v0", "v1", "");
        let tagged = frame(&[0x81, 0, 0x60, 5], 7001, "tagged");
        let double = frame(&[0x88, 0xa8, 0, 6, 0x81, 0, 0, 7], 7001, "double");
        let plain = frame(&[], 7001, "plain");
        for names in [["v1"], ["any"]] {
            let mut capture = open(&names, None);
            for frame in [&tagged, &double, &plain] {
                send_frame("v0", frame);
            }
            let kept = take_until(&mut capture, b"plain", if names == ["any"] { 2 } else { 1 });
            let inbound: Vec<_> = kept.iter().filter(|packet| packet.name == "v1").collect();
            let bytes: Vec<_> = inbound.iter().map(|packet| packet.data.as_slice()).collect();
            assert_eq!(bytes, [&tagged, &double, &plain], "{names:?}");
            assert!(kept.iter().all(|packet| packet.original_length as usize == packet.data.len()));
            let outbound = |packet: &Kept| packet.direction == Direction::Outbound;
            assert!(kept.iter().all(|packet| outbound(packet) == (packet.name == "v0")));
        }
    });
}

#[test]
fn vlan_in_a_filter_works_although_the_kernel_takes_the_tag_out() {
    in_namespace(|| {
        veth("v0", "v1", "");
        for names in [["v1"], ["any"]] {
            let mut capture = open(&names, Some("vlan 5 and udp port 7001"));
            assert_eq!(capture.notes().iter().filter(|note| note.contains("Ethernet links")).count(), 0);
            send_frame("v0", &frame(&[0x81, 0, 0, 5], 7002, "wrong port"));
            send_frame("v0", &frame(&[0x81, 0, 0, 6], 7001, "wrong tag"));
            send_frame("v0", &frame(&[], 7001, "no tag"));
            send_frame("v0", &frame(&[0x81, 0, 0, 5], 7001, "last"));
            let mut kept = take_until(&mut capture, b"last", names.len());
            finish(&mut capture, &mut kept);
            assert!(kept.iter().all(|packet| contains(&packet.data, b"last")), "{names:?}: {kept:#?}");
            assert!(kept.iter().any(|packet| packet.name == "v1"));
        }
    });
}

#[test]
fn one_filter_serves_all_link_types() {
    in_namespace(|| {
        veth("v0", "v1", "");
        let long: String = (0..200).map(|n| format!("host 10.7.0.{n} or ")).collect();
        for filter in ["udp dst port 7001", &format!("{long}(udp dst port 7001)")] {
            let mut capture = open(&["any"], Some(filter));
            let is_here = capture.notes().iter().any(|note| note.contains("too long"));
            assert_eq!(is_here, filter.len() > 100, "{:?}", capture.notes());
            // After the capture has begun: what appears later is filtered alike.
            let mut device = tun("tun0");
            for (port, text) in [(7002, "wrong"), (7001, "right"), (7001, "last")] {
                send_on_loopback(port, &[text]);
                send_frame("v0", &frame(&[], port, text));
                assert!(device.write(&ip_packet(port, text)).unwrap() > 0);
            }
            let mut kept = take_until(&mut capture, b"last", 4);
            let counts = finish(&mut capture, &mut kept);
            kept.sort_by(|a, b| a.name.cmp(&b.name));
            let seen: Vec<_> = kept.iter().map(|packet| (packet.name.as_str(), packet.link_type)).collect();
            let (ethernet, raw) = (LinkType::ETHERNET, LinkType::RAW_IP);
            let expected = [("lo", ethernet), ("tun0", raw), ("v0", ethernet), ("v1", ethernet)];
            assert_eq!(seen, expected.map(|one| [one, one]).concat(), "{kept:#?}");
            assert_eq!((counts.received, counts.delivered), (8, 8));
            let from_tun = kept.iter().find(|packet| packet.name == "tun0").unwrap();
            assert_eq!(from_tun.data, ip_packet(7001, "right"));
        }
    });
}

#[test]
fn a_direction_in_a_filter_works() {
    in_namespace(|| {
        veth("v0", "v1", "");
        let mut capture = open(&["any"], Some("inbound and udp"));
        send_frame("v0", &frame(&[], 7001, "last"));
        let mut kept = take_until(&mut capture, b"last", 1);
        finish(&mut capture, &mut kept);
        assert_eq!(kept.iter().map(|packet| packet.name.as_str()).collect::<Vec<_>>(), ["v1"]);
    });
}

#[test]
fn what_is_not_ip_on_a_tun_device_has_an_interface_of_its_own() {
    in_namespace(|| {
        let mut device = tun("tun0");
        let mut capture = open(&["tun0"], None);
        send_frame("tun0", b"\x12neither version four nor six");
        assert!(device.write(&ip_packet(7001, "last")).unwrap() > 0);
        let mut kept = take_until(&mut capture, b"last", 1);
        let counts = finish(&mut capture, &mut kept);

        let types: Vec<_> = capture.interfaces().iter().map(|interface| interface.link_type).collect();
        assert_eq!(types, [LinkType::RAW_IP, LinkType::LINUX_SLL2]);
        let odd = kept.iter().find(|packet| packet.link_type == LinkType::LINUX_SLL2).unwrap();
        assert_eq!(odd.data[20..], *b"\x12neither version four nor six");
        assert_eq!(odd.data[4..8], capture.origins()[1].ifindex.to_be_bytes());
        assert_eq!(counts.interfaces.iter().map(|counts| counts.received).collect::<Vec<_>>(), [1, 1]);
    });
}

#[test]
fn an_interface_that_appears_later_is_recorded_under_its_name_and_a_reused_number_is_another() {
    in_namespace(|| {
        let mut capture = open(&["any"], None);
        veth("a0", "a1", " index 77");
        send_frame("a0", &frame(&[], 7001, "first"));
        let first = take_until(&mut capture, b"first", 2);
        ip("link del a0");
        // The kernel has told already; a running recorder reads it within a moment.
        capture.wait(PATIENCE, &[]).unwrap();
        veth("b0", "b1", " index 77");
        send_frame("b0", &frame(&[], 7001, "second"));
        let second = take_until(&mut capture, b"second", 2);

        let outbound = |kept: &[Kept], text: &[u8]| {
            let is_it =
                |packet: &&Kept| packet.direction == Direction::Outbound && contains(&packet.data, text);
            kept.iter().find(is_it).unwrap().name.clone()
        };
        assert_eq!(outbound(&first, b"first"), "a0");
        assert_eq!(outbound(&second, b"second"), "b0");
        assert_eq!(capture.origins().iter().filter(|origin| origin.ifindex == 77).count(), 2);
        assert_eq!(capture.interfaces()[0].mac, Some([2, 0, 0, 0, 0, 1]));
    });
}

#[test]
fn an_interface_that_goes_down_or_away_is_told_and_survived() {
    in_namespace(|| {
        veth("v0", "v1", "");
        let mut capture = open(&["v0", "lo"], None);
        ip("link set v0 down");
        wait_for_event(&mut capture, &Event::InterfaceDown { name: "v0".into() });
        let begin = Instant::now();
        while capture.wait(Duration::from_millis(200), &[]).unwrap().packets {}
        assert!(begin.elapsed() >= Duration::from_millis(190), "the error must not make it spin");

        ip("link set v0 up");
        wait_until_running("v0");
        wait_for_event(&mut capture, &Event::InterfaceUp { name: "v0".into() });
        send_frame("v1", &frame(&[], 7001, "after"));
        take_until(&mut capture, b"after", 1);

        ip("link del v0");
        wait_for_event(&mut capture, &Event::InterfaceGone { name: "v0".into() });
        assert!(!capture.all_gone());
        send_on_loopback(7001, &["still"]);
        take_until(&mut capture, b"still", 1);
    });
}

#[test]
fn when_all_are_gone_the_capture_says_so() {
    in_namespace(|| {
        veth("v0", "v1", "");
        let mut capture = open(&["v0", "v1"], None);
        send_frame("v0", &frame(&[], 7001, "before"));
        ip("link del v0");
        wait_for_event(&mut capture, &Event::InterfaceGone { name: "v0".into() });
        while !capture.all_gone() {
            capture.wait(Duration::from_millis(100), &[]).unwrap();
        }
        take_until(&mut capture, b"before", 2);
    });
}

#[test]
fn what_a_full_ring_loses_is_counted() {
    in_namespace(|| {
        let mut capture =
            Capture::open(&CaptureOptions { buffer_bytes: 0, ..options(&["lo"], Some("udp")) }).unwrap();
        let receiver = UdpSocket::bind("127.0.0.1:7001").unwrap();
        const SENT: u64 = 5000;
        for _ in 0..SENT {
            receiver.send_to(&[7; 1000], "127.0.0.1:7001").unwrap();
        }
        assert!(capture.fill() > 0.4, "{}", capture.fill());
        let mut kept = Vec::new();
        let counts = finish(&mut capture, &mut kept);

        assert_eq!(counts.received, SENT, "{counts:?}");
        assert_eq!(counts.delivered, kept.len() as u64);
        assert_eq!(counts.received, counts.delivered + counts.dropped_by_kernel);
        assert!(counts.dropped_by_kernel > 0 && counts.delivered > 0, "{counts:?}");
        assert_eq!(counts.interfaces[0].dropped_by_kernel, Some(counts.dropped_by_kernel));
        assert!(capture.fill() < 0.1, "{}", capture.fill());
    });
}

#[test]
fn several_rings_come_out_in_order_of_time_and_held_back_packets_stay() {
    in_namespace(|| {
        veth("v0", "v1", "");
        let mut capture = open(&["v1", "lo"], None);
        let mut kept = Vec::new();
        let settled = || {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() - SETTLING;
            RealTime::from_ns(now.as_nanos() as u64)
        };
        for _ in 0..200 {
            send_frame("v0", &frame(&[], 7001, "veth"));
            send_on_loopback(7001, &["loop"]);
            take(&mut capture, settled(), &mut kept);
        }
        let begin = Instant::now();
        while kept.len() < 400 {
            assert!(begin.elapsed() < PATIENCE, "{}", kept.len());
            capture.wait(Duration::from_millis(5), &[]).unwrap();
            take(&mut capture, settled(), &mut kept);
        }
        assert!(kept.is_sorted_by_key(|packet| packet.time));
        assert!(kept.chunks(2).all(|pair| pair[0].name != pair[1].name), "they alternate");
    });
}

#[test]
fn the_snap_length_cuts_and_the_original_length_stays() {
    in_namespace(|| {
        veth("v0", "v1", "");
        let mut capture =
            Capture::open(&CaptureOptions { snap_length: 60, ..options(&["v1"], None) }).unwrap();
        let sent = frame(&[0x81, 0, 0, 5], 7001, &"x".repeat(100));
        send_frame("v0", &sent);
        let kept = take_until(&mut capture, b"xx", 1);
        assert_eq!(kept[0].data, sent[..60]);
        assert_eq!(kept[0].original_length as usize, sent.len());
    });
}

#[test]
fn what_cannot_be_opened_says_why() {
    in_namespace(|| {
        ip("link add d0 type veth peer name d1");
        let error = |names: &[&str], filter| Capture::open(&options(names, filter)).unwrap_err();
        assert!(matches!(error(&["nope"], None), Error::UnknownInterface { .. }));
        assert_eq!(error(&["d0"], None).to_string(), "cannot record on d0: it is down");
        let wrong = error(&["lo"], Some("tcp prot 80")).to_string();
        assert!(wrong.starts_with("cannot use the filter \"tcp prot 80\": "), "{wrong}");
    });
}

#[test]
fn interfaces_and_addresses_are_those_of_this_namespace() {
    in_namespace(|| {
        veth("v0", "v1", "");
        ip("addr add 10.1.2.3/24 dev v0");
        ip("link set v0 alias uplink");
        let all = interfaces();
        assert_eq!(all.len(), 3, "{all:#?}");
        let v0 = all.iter().find(|details| details.name == "v0").unwrap();
        assert_eq!(v0.description.as_deref(), Some("uplink"));
        assert_eq!(v0.mac, Some([2, 0, 0, 0, 0, 1]));
        assert!(v0.is_up && !v0.is_loopback && v0.mtu == 1500);
        assert_eq!(v0.addresses, ["10.1.2.3".parse::<std::net::IpAddr>().unwrap()]);
        let mut capture = Capture::open(&CaptureOptions::default()).unwrap();
        let addresses = capture.local_addresses().unwrap();
        assert_eq!(
            addresses,
            ["127.0.0.1", "10.1.2.3"].map(|text| text.parse::<std::net::IpAddr>().unwrap())
        );
    });
}
