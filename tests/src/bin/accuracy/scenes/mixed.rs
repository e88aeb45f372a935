//! A workload that nobody has seen before: programs of all kinds at the same time, chosen by a seed.

use recorder_tests::lab::Server;
use recorder_tests::process::Running;

use crate::plan::Plan;
use crate::scenario::Expected::AllRight;
use crate::scenario::{Scenario, Take};
use crate::stage::{Place, Stage};

pub(crate) const ALL: [Scenario; 1] = [Scenario {
    name: "mixed",
    what: "a workload that is different each time: clients and servers of all kinds at the same time",
    expected: AllRight,
    play: mixed,
}];

/// How many clients run at the same time.
const AT_ONCE: usize = 8;

/// Marsaglia's xorshift64: the same seed plays the same.
struct Dice(u64);

impl Dice {
    fn roll<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        &choices[(self.0 % choices.len() as u64) as usize]
    }
}

const TCP_SERVERS: [(&str, &[&str]); 4] = [
    ("prefork", &["tcp-server", "--prefork", "3"]),
    ("threads", &["tcp-server", "--threads"]),
    ("group", &["tcp-reuseport-server", "--reuseport", "--processes", "3"]),
    ("plain-null", &["tcp-server", "--null-address"]),
];
const UDP_SERVERS: [(&str, &[&str]); 2] =
    [("udp", &["udp-server"]), ("udp-group", &["udp-reuseport-server", "--reuseport", "--processes", "3"])];
const TCP_CLIENTS: [(&str, &[&str]); 5] = [
    ("plain", &["tcp-client"]),
    ("patient", &["tcp-client", "--until-eof"]),
    ("slow", &["tcp-client", "--pause-ms", "7"]),
    ("in a thread", &["tcp-client", "--in-thread"]),
    ("reset", &["tcp-client", "--reset"]),
];
const UDP_CLIENTS: [(&str, &[&str]); 4] = [
    ("dig", &["udp-client", "--connected"]),
    ("chatty", &["udp-client", "--datagrams", "5"]),
    ("large", &["udp-client", "--size", "4000"]),
    ("once", &["udp-client"]),
];

struct Choice<'a> {
    place: Place<'a>,
    server: Server,
    clients: &'static [(&'static str, &'static [&'static str])],
}

fn mixed(plan: &Plan) -> Take {
    let stage = Stage::new(plan, "mixed");
    let mut dice = Dice(plan.seed.max(1));
    for namespace in [&stage.here, &stage.there] {
        namespace.set("net/ipv4/ping_group_range", "0 2147483647");
    }
    let recording = stage.record(&[]);
    let mut choices = Vec::new();
    for place in stage.places() {
        for _ in 0..2 {
            let (name, arguments) = dice.roll(&TCP_SERVERS);
            choices.push(Choice { place, server: place.server(name, arguments), clients: &TCP_CLIENTS });
        }
        let (name, arguments) = dice.roll(&UDP_SERVERS);
        choices.push(Choice { place, server: place.server(name, arguments), clients: &UDP_CLIENTS });
    }
    let clients = plan.count(3000, 300);
    let mut running: Vec<Running> = Vec::new();
    for _ in 0..clients {
        if running.len() == AT_ONCE {
            running.remove(0).finish().assert_code(0);
        }
        running.push(start_one(&mut dice, &choices));
    }
    running.into_iter().for_each(|client| {
        client.finish().assert_code(0);
    });
    let mut take = recording.end().at_least(clients * 2);
    take.note(format!("{clients} clients, seed {}", plan.seed));
    take
}

fn start_one(dice: &mut Dice, choices: &[Choice<'_>]) -> Running {
    let choice = dice.roll(choices);
    if *dice.roll(&[true, false, false, false, false]) {
        let address = choice.place.server.to_string();
        let arguments = ["ping", &address, "--count", "2"];
        return Running::start(&mut choice.place.stage.lab.command(
            choice.place.clients,
            "pinger",
            &arguments,
        ));
    }
    let (name, arguments) = dice.roll(choice.clients);
    choice.place.start_client(name, &choice.server.port, arguments)
}
