//! Echo requests, raw sockets, packet sockets.

use recorder_tests::process::{Running, must};

use crate::plan::Plan;
use crate::scenario::Expected::AllRight;
use crate::scenario::{Scenario, Take};
use crate::stage::{Place, Stage, at_each_place, finish};

pub(crate) const ALL: [Scenario; 4] = [
    Scenario {
        name: "ping",
        what: "ICMP and ICMPv6 echo through ping sockets",
        expected: AllRight,
        play: |plan| pings(plan, "ping", false),
    },
    Scenario {
        name: "ping-raw",
        what: "the same through raw sockets, two at the same time",
        expected: AllRight,
        play: |plan| pings(plan, "ping-raw", true),
    },
    Scenario {
        name: "raw-socket-udp",
        what: "UDP sent through a raw socket",
        expected: AllRight,
        play: raw_socket_udp,
    },
    Scenario {
        name: "packet-sockets",
        what: "UDP and ARP sent through packet sockets (AF_PACKET), which have no owner, between the datagrams of a client",
        expected: AllRight,
        play: packet_sockets,
    },
];

/// The port that no socket has.
const HAND_MADE: u16 = 68;

fn pings(plan: &Plan, label: &str, raw: bool) -> Take {
    let times = plan.count(50, 5);
    let stage = Stage::new(plan, label);
    for namespace in [&stage.here, &stage.there] {
        namespace.set("net/ipv4/ping_group_range", "0 2147483647");
    }
    let recording = stage.record(&[]);
    for place in stage.places() {
        for number in 0..times {
            let (one, other) = (10_000 + 2 * number, 10_001 + 2 * number);
            let pinger = start_pinger(&place, "pinger", raw, one);
            start_pinger(&place, "another", raw, other).finish().assert_code(0);
            pinger.finish().assert_code(0);
        }
    }
    recording.end().at_least(6 * times * 2 * 6)
}

fn start_pinger(place: &Place<'_>, name: &str, raw: bool, id: usize) -> Running {
    let (address, id) = (place.server.to_string(), id.to_string());
    let mut arguments = vec!["ping", &address, "--count", "3"];
    if raw {
        arguments.extend(["--raw", "--id", &id]);
    }
    Running::start(&mut place.stage.lab.command(place.clients, name, &arguments))
}

fn raw_socket_udp(plan: &Plan) -> Take {
    let times = plan.count(50, 10);
    let take = at_each_place(plan, "raw-socket-udp", |place| {
        let count = times.to_string();
        let server = place.server("server", &["udp-server", "--silent", "--datagrams", &count]);
        for number in 0..times {
            let bind = place.bind(30_000 + number as u16);
            place.client("sender", &server.port, &["raw-socket-udp", "--bind", &bind]);
        }
        finish(server);
    });
    take.at_least(6 * times)
}

/// As a DHCP client does: frames made by hand, from a port that no socket is bound to.
fn packet_sockets(plan: &Plan) -> Take {
    let stage = Stage::new(plan, "packet-sockets");
    let recording = stage.record(&[]);
    let places = stage.places_v4();
    for place in places.iter().filter(|place| !place.is_loopback()) {
        let server = place.server("server", &["udp-server"]);
        let (from, to) = (place.bind(HAND_MADE), place.listen(server.port.parse().expect("a port")));
        let (mac, own_mac) = (place.servers.mac("eth1"), place.clients.mac("eth1"));
        let (client, asked) = (place.client.to_string(), place.server.to_string());
        for _ in 0..plan.count(50, 10) {
            place.client("client", &server.port, &["udp-client"]);
            let mut udp = place.clients.command(stage.lab.program("dhclient"));
            must(udp.args(["raw-udp", "--interface", "eth1", "--mac", &mac, "--from", &from, "--to", &to]));
            let mut arp = place.clients.command(stage.lab.program("arping"));
            must(arp.args([
                "raw-arp",
                "--interface",
                "eth1",
                "--own-mac",
                &own_mac,
                "--from",
                &client,
                "--to",
                &asked,
            ]));
        }
    }
    let mut take = recording.end().at_least(2 * 3 * plan.count(50, 10));
    let not_ip = take.reasons.get("not IP").copied().unwrap_or(0);
    take.must(not_ip >= 20, || {
        format!("{not_ip} packets that are not IP, expected ARP requests and replies")
    });
    take
}
