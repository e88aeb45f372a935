//! Clients that live a few milliseconds: fork, exec, connect, send, receive, exit.

use recorder_tests::process::must;

use crate::plan::Plan;
use crate::scenario::Expected::AllRight;
use crate::scenario::{Scenario, Take};
use crate::stage::{Place, Stage, finish};

pub(crate) const ALL: [Scenario; 4] = [
    Scenario {
        name: "short-tcp",
        what: "10 000 TCP clients, each a process of its own that lives under 5 ms, over loopback and veth, IPv4 and IPv6",
        expected: AllRight,
        play: |plan| short_lives(plan, "short-tcp", "tcp", &[], 8),
    },
    Scenario {
        name: "short-udp",
        what: "the same over UDP, unconnected",
        expected: AllRight,
        play: |plan| short_lives(plan, "short-udp", "udp", &[], 2),
    },
    Scenario {
        name: "short-udp-connected",
        what: "the same over connected UDP",
        expected: AllRight,
        play: |plan| short_lives(plan, "short-udp-connected", "udp", &["--connected"], 2),
    },
    Scenario {
        name: "dns-like",
        what: "one-shot exchanges as resolvers have them: two questions and two answers over one connected socket, port 53",
        expected: AllRight,
        play: dns_like,
    },
];

fn short_lives(plan: &Plan, label: &str, protocol: &str, client: &[&str], packets_each: usize) -> Take {
    let stage = Stage::new(plan, label);
    let recording = stage.record(&[]);
    let mut lives = Lives::default();
    let places = stage.places();
    let each = plan.count(10_000, 600) / places.len();
    for place in &places {
        let count = each.to_string();
        let server = match protocol {
            "tcp" => place.server("server", &["tcp-server", "--connections", &count]),
            _ => place.server("server", &["udp-server", "--datagrams", &count]),
        };
        lives.add(&storm(place, protocol, &server.port, &count, client));
        finish(server);
    }
    let mut take = recording.end().at_least(each * places.len() * packets_each);
    take.note(lives.told());
    take
}

fn dns_like(plan: &Plan) -> Take {
    let stage = Stage::new(plan, "dns-like");
    let recording = stage.record(&[]);
    let each = plan.count(1000, 100);
    let (count, questions) = (each.to_string(), (2 * each).to_string());
    for place in stage.places() {
        let listen = place.listen(53);
        let server = ["udp-server", "--datagrams", &questions, "--listen", &listen];
        let server = stage.lab.server(place.servers, "named", &server);
        storm(&place, "udp", "53", &count, &["--connected", "--datagrams", "2"]);
        finish(server);
    }
    recording.end().at_least(each * 6 * 4)
}

/// Runs clients one after the other; gives what the storm says about how long they lived.
fn storm(place: &Place<'_>, protocol: &str, port: &str, count: &str, client: &[&str]) -> String {
    let lab = &place.stage.lab;
    let (program, to) = (lab.program("client"), place.listen(port.parse().expect("a port")));
    let log = lab.log();
    let mut command = place.clients.command(lab.program("storm"));
    command.args(["storm", "--count", count, "--protocol", protocol, "--to", &to, "--client", &program]);
    command.args(["--log", &log, "--"]).args(client);
    must(&mut command).stdout
}

/// How long the clients lived, from fork to reaping.
#[derive(Default)]
struct Lives {
    clients: u64,
    short: u64,
    medians: Vec<u64>,
}

impl Lives {
    fn add(&mut self, said: &str) {
        let value: serde_json::Value = serde_json::from_str(said.trim()).expect("the storm says JSON");
        let number = |key: &str| value[key].as_u64().expect("a number");
        self.clients += number("clients");
        self.short += number("under_5_ms");
        self.medians.push(number("median_ns"));
    }

    fn told(&self) -> String {
        let Self { clients, short, medians } = self;
        let longest = medians.iter().max().copied().unwrap_or(0) as f64 / 1e6;
        format!(
            "{short} of {clients} clients lived under 5 ms, half of them under {longest:.1} ms everywhere"
        )
    }
}
