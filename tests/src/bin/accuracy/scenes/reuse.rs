//! The same again: flows, ports, process ids.

use recorder_tests::process::must;

use crate::plan::Plan;
use crate::scenario::Expected::AllRight;
use crate::scenario::{Scenario, Take};
use crate::stage::{Stage, at_each_place, finish};

pub(crate) const ALL: [Scenario; 4] = [
    Scenario {
        name: "same-tuple-tcp",
        what: "the same addresses and ports, used by one process after the other within a second, closed by FIN",
        expected: AllRight,
        play: |plan| same_tuple_tcp(plan, "same-tuple-tcp", &["tcp-client", "--until-eof"]),
    },
    Scenario {
        name: "same-tuple-reset",
        what: "the same, closed by a reset",
        expected: AllRight,
        play: |plan| same_tuple_tcp(plan, "same-tuple-reset", &["tcp-client", "--reset"]),
    },
    Scenario { name: "same-tuple-udp", what: "the same over UDP", expected: AllRight, play: same_tuple_udp },
    Scenario {
        name: "same-pid",
        what: "clients that all have one process id, one after the other, of two programs by turns",
        expected: AllRight,
        play: same_pid,
    },
];

const NAMES: [&str; 3] = ["client-a", "client-b", "client-c"];
const PORT: u16 = 20_000;

fn same_tuple_tcp(plan: &Plan, label: &str, client: &[&str]) -> Take {
    let times = plan.count(100, 15);
    let take = at_each_place(plan, label, |place| {
        let server = place.server("server", &["tcp-server", "--prefork", "3"]);
        let bind = place.bind(PORT);
        for number in 0..times {
            let arguments = [client, &["--bind", &bind]].concat();
            place.client(NAMES[number % 3], &server.port, &arguments);
        }
    });
    take.at_least(6 * times * 7)
}

fn same_tuple_udp(plan: &Plan) -> Take {
    let times = plan.count(100, 15);
    let take = at_each_place(plan, "same-tuple-udp", |place| {
        let server = place.server("server", &["udp-server"]);
        let bind = place.bind(PORT);
        for number in 0..times {
            let connected: &[&str] = if number % 2 == 0 { &["--connected"] } else { &[] };
            let arguments = [&["udp-client", "--datagrams", "2", "--bind", &bind], connected].concat();
            place.client(NAMES[number % 3], &server.port, &arguments);
        }
    });
    take.at_least(6 * times * 4)
}

fn same_pid(plan: &Plan) -> Take {
    let stage = Stage::new(plan, "same-pid");
    let recording = stage.record(&[]);
    let times = plan.count(300, 40);
    let clients = [stage.lab.program("one"), stage.lab.program("other")].join(",");
    let mut reused = 0;
    for place in stage.places() {
        let count = times.to_string();
        let server = place.server("server", &["tcp-server", "--connections", &count]);
        let to = place.listen(server.port.parse().expect("a port"));
        let job = ["same-pid-storm", "--count", &count, "--clients", &clients, "--to", &to];
        let said = must(&mut stage.lab.command(place.clients, "storm", &job)).stdout;
        let said: serde_json::Value = serde_json::from_str(said.trim()).expect("the storm says JSON");
        reused += said["with_that_pid"].as_u64().expect("a number");
        finish(server);
    }
    let mut take = recording.end().at_least(6 * times * 8);
    let clients = 6 * times;
    take.must(reused as usize * 2 > clients, || {
        format!("only {reused} of {clients} clients had the same pid")
    });
    take.note(format!("{reused} of {clients} clients had the process id of the one before"));
    take
}
