//! Packets in unusual pieces: fragments, super-frames, tags.

use recorder_tests::tshark::fields;

use crate::plan::Plan;
use crate::scenario::Expected::{self, AllRight};
use crate::scenario::{Scenario, Take};
use crate::stage::{Stage, finish};

pub(crate) const ALL: [Scenario; 3] = [
    Scenario {
        name: "fragments",
        what: "UDP datagrams of 6000 bytes in fragments; the later ones follow the first",
        expected: AllRight,
        play: fragments,
    },
    Scenario {
        name: "super-frames",
        what: "TCP in segments of up to 64 KB (GSO)",
        expected: AllRight,
        play: super_frames,
    },
    Scenario {
        name: "vlan-tagged",
        what: "frames with a tag of 802.1Q; the client sends them by hand, and receives through its UDP socket",
        expected: Expected::But {
            limits: "A datagram that a packet socket sends in the name of a UDP socket",
            may_lack: |judged| judged.senders.iter().any(|sender| sender.starts_with("tagged")),
        },
        play: vlan_tagged,
    },
];

fn fragments(plan: &Plan) -> Take {
    let times = plan.count(50, 10);
    let stage = Stage::new(plan, "fragments");
    stage.here.ip(&["link", "set", "dev", "lo", "mtu", "1500"]);
    let recording = stage.record(&[]);
    for place in stage.places() {
        let count = (2 * times).to_string();
        let server = place.server("server", &["udp-server", "--datagrams", &count]);
        for _ in 0..times {
            place.client("client", &server.port, &["udp-client", "--size", "6000"]);
            place.client("client", &server.port, &["udp-client", "--size", "6000", "--connected"]);
        }
        finish(server);
    }
    recording.stop();
    let later =
        fields(&stage.file(), "ip.frag_offset > 0 or ipv6.fraghdr.offset > 0", &["frame.number"]).len();
    let expected = 6 * 2 * times * 2 * 4;
    let mut take = stage.judge().at_least(expected / 4 * 5);
    take.must(later >= expected, || format!("{later} later fragments, expected at least {expected}"));
    take
}

fn super_frames(plan: &Plan) -> Take {
    let bytes = plan.count(50 << 20, 8 << 20).to_string();
    let stage = Stage::new(plan, "super-frames");
    // A transfer at full speed fills 64 MiB in a tenth of a second, while packets wait for the next look into /proc.
    let recording = stage.record(&["-B", "512MiB"]);
    for place in stage.places() {
        let server =
            place.server("server", &["tcp-server", "--connections", "1", "--requests", "0", "--wait-close"]);
        place.client("client", &server.port, &["tcp-bulk-client", "--bytes", &bytes]);
        finish(server);
    }
    let take = recording.end();
    let mut take = take.at_least(6 * 100);
    let longest = take.judgement.packets.iter().map(|judged| judged.packet.length).max().unwrap_or(0);
    take.must(longest > 9000, || format!("the longest frame has {longest} bytes"));
    take.note(format!("the longest frame has {longest} bytes"));
    take
}

fn vlan_tagged(plan: &Plan) -> Take {
    let times = plan.count(50, 10);
    let stage = Stage::new(plan, "vlan-tagged");
    let recording = stage.record(&[]);
    for place in stage.places_v4().iter().filter(|place| !place.is_loopback()) {
        let server = place.server("server", &["udp-server"]);
        let mac = place.servers.mac("eth1");
        let bind = place.bind(0);
        let arguments =
            ["tagged-client", "--interface", "eth1", "--mac", &mac, "--bind", &bind, "--datagrams", "2"];
        for _ in 0..times {
            place.client("tagged", &server.port, &arguments);
        }
    }
    recording.stop();
    let tagged = fields(&stage.file(), "vlan", &["frame.number"]).len();
    let expected = 2 * 2 * times;
    let mut take = stage.judge().at_least(2 * expected);
    take.must(tagged >= expected, || format!("{tagged} tagged frames, expected {expected}"));
    take
}
