//! Sockets that existed before the recording began.

use recorder_tests::lab::Server;
use recorder_tests::process::{Running, SIGCONT, SIGSTOP};

use crate::plan::Plan;
use crate::scenario::Expected::AllRight;
use crate::scenario::{Scenario, Take};
use crate::stage::{Place, Stage};

pub(crate) const ALL: [Scenario; 3] = [
    Scenario {
        name: "before-talking",
        what: "TCP and UDP sockets that talked before the start, and go on after it",
        expected: AllRight,
        play: |plan| before(plan, "before-talking", false),
    },
    Scenario {
        name: "before-idle",
        what: "the same; the server sleeps when the first packets after the start come, and does not read them for long",
        expected: AllRight,
        play: |plan| before(plan, "before-idle", true),
    },
    Scenario {
        name: "before-listening",
        what: "listeners and UDP servers from before the start, with clients from after it",
        expected: AllRight,
        play: before_listening,
    },
];

struct Pair {
    client: Running,
    server: Server,
}

/// Two exchanges: one before the start, one after it.
fn before(plan: &Plan, label: &str, server_sleeps: bool) -> Take {
    let stage = Stage::new(plan, label);
    let gate = stage.lab.text("go-on");
    let pairs: Vec<Pair> = stage.places().iter().flat_map(|place| pairs_at(place, &gate)).collect();
    if server_sleeps {
        pairs.iter().for_each(|pair| pair.server.running.signal(SIGSTOP));
    }
    let recording = stage.record(&[]);
    let size = stage.size();
    stage.open_gate("go-on");
    if server_sleeps {
        stage.wait_for_growth("what the clients sent", size);
        pairs.iter().for_each(|pair| pair.server.running.signal(SIGCONT));
    }
    for pair in pairs {
        pair.client.finish().assert_code(0);
        pair.server.running.finish().assert_code(0);
    }
    recording.end().at_least(6 * (5 + 2 + 2))
}

fn pairs_at(place: &Place<'_>, gate: &str) -> [Pair; 3] {
    let talk = ["--gate", gate, "--tell-ready"];
    let tcp = ["tcp-server", "--connections", "1", "--requests", "2", "--wait-close"];
    let start = |name: &str, server: &[&str], client: &[&str]| {
        let server = place.server(name, server);
        let client = place.start_client("client", &server.port, &[client, &talk].concat());
        client.wait_for_stdout("that it has talked", |line| line == "ready");
        Pair { client, server }
    };
    [
        start("server-tcp", &tcp, &["tcp-client", "--requests", "2"]),
        start("server-udp", &["udp-server", "--datagrams", "2"], &["udp-client", "--datagrams", "2"]),
        start(
            "server-udp",
            &["udp-server", "--datagrams", "2"],
            &["udp-client", "--datagrams", "2", "--connected"],
        ),
    ]
}

fn before_listening(plan: &Plan) -> Take {
    let stage = Stage::new(plan, "before-listening");
    let places = stage.places();
    let servers: Vec<[Server; 3]> = places
        .iter()
        .map(|place| {
            [
                place.server("server-tcp", &["tcp-server"]),
                place.server("server-udp", &["udp-server"]),
                place.server("server-silent", &["udp-server", "--silent"]),
            ]
        })
        .collect();
    let recording = stage.record(&[]);
    for (place, [tcp, udp, silent]) in places.iter().zip(&servers) {
        for _ in 0..5 {
            place.client("client", &tcp.port, &["tcp-client", "--until-eof"]);
            place.client("client", &udp.port, &["udp-client"]);
            place.client("client", &silent.port, &["udp-client", "--silent"]);
        }
    }
    recording.end().at_least(6 * 5 * (8 + 2 + 1))
}
