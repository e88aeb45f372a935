//! Servers of every kind: who accepts, who serves, who listens.

use recorder_tests::judge::Judged;
use recorder_tests::lab::Server;

use crate::plan::Plan;
use crate::scenario::Expected::{AllRight, But};
use crate::scenario::{Expected, Scenario, Take};
use crate::stage::{Place, Stage, at_each_place, finish};

/// The receiver may be missing; whoever sent it is named.
const HANDED_OVER: Expected =
    But { limits: "What comes in up to 50 ms before a process first receives", may_lack: lacks_an_end };

fn lacks_an_end(judged: &Judged) -> bool {
    judged.packet.comment.is_some() && !judged.names_both()
}

pub(crate) const ALL: [Scenario; 16] = [
    Scenario {
        name: "prefork",
        what: "a listener shared by four children that accept",
        expected: AllRight,
        play: |plan| crowd(plan, "prefork", &["tcp-server", "--prefork", "4"]),
    },
    Scenario {
        name: "prefork-null-address",
        what: "the same, not asking for the address of the peer",
        expected: AllRight,
        play: |plan| crowd(plan, "prefork-null-address", &["tcp-server", "--prefork", "4", "--null-address"]),
    },
    Scenario {
        name: "accept-in-thread",
        what: "one thread accepts, another one serves, the first one waits",
        expected: AllRight,
        play: |plan| crowd(plan, "accept-in-thread", &["tcp-server", "--threads"]),
    },
    Scenario {
        name: "reuseport-tcp",
        what: "four processes with a listening socket each on one port (SO_REUSEPORT)",
        expected: AllRight,
        play: |plan| {
            crowd(plan, "reuseport-tcp", &["tcp-reuseport-server", "--reuseport", "--processes", "4"])
        },
    },
    Scenario {
        name: "reuseport-udp",
        what: "four processes with a UDP socket each on one port (SO_REUSEPORT)",
        expected: AllRight,
        play: reuseport_udp,
    },
    Scenario {
        name: "forking",
        what: "a server that forks a child for each connection, which reads the request and answers",
        expected: But {
            // The server's own copy of the connection may be the last one.
            limits: "Where another process closes a socket last",
            may_lack: lacks_an_end,
        },
        play: forking,
    },
    Scenario {
        name: "inetd",
        what: "one program accepts, and starts another one with the connection as its standard input",
        expected: HANDED_OVER,
        play: |plan| inetd(plan, "inetd", &["tcp-client", "--until-eof"]),
    },
    Scenario {
        name: "inetd-waiting",
        what: "the same; the program waits in its receive call when the request comes",
        expected: But {
            limits: "accepted connection over which nothing was ever sent or received",
            may_lack: lacks_an_end,
        },
        play: |plan| inetd(plan, "inetd-waiting", &["tcp-client", "--until-eof", "--pause-ms", "40"]),
    },
    Scenario {
        name: "prefork-udp",
        what: "a UDP socket on which four children wait: whoever receives a datagram answers it",
        expected: HANDED_OVER,
        play: prefork_udp,
    },
    Scenario {
        name: "socket-activation",
        what: "a UDP socket that one program opens and another one, started with it, serves (systemd.socket)",
        expected: HANDED_OVER,
        play: socket_activation,
    },
    Scenario {
        name: "restart-tcp",
        what: "a server that ends, and is started again on the same port by another program",
        expected: AllRight,
        play: restart_tcp,
    },
    Scenario { name: "restart-udp", what: "the same over UDP", expected: AllRight, play: restart_udp },
    Scenario {
        name: "syn-before-accept",
        what: "connections that wait long to be accepted",
        expected: AllRight,
        play: syn_before_accept,
    },
    Scenario {
        name: "never-accepted",
        what: "connections that nobody accepts: the listener's, until it closes",
        expected: But {
            limits: "the reset that the kernel sends for it when its listener closes",
            may_lack: |judged| judged.packet.flags == "0x0014",
        },
        play: never_accepted,
    },
    Scenario {
        name: "udp-wildcard",
        what: "UDP servers on the wildcard address, one that replies and one that only receives",
        expected: AllRight,
        play: udp_wildcard,
    },
    Scenario {
        name: "dual-stack",
        what: "TCP and UDP servers on [::], with clients of both families",
        expected: AllRight,
        play: dual_stack,
    },
];

/// Many clients for one server that does not end by itself.
fn crowd(plan: &Plan, label: &str, server: &[&str]) -> Take {
    let clients = plan.count(200, 30);
    let take = at_each_place(plan, label, |place| {
        let server = place.server("server", server);
        for _ in 0..clients {
            place.client("client", &server.port, &["tcp-client", "--until-eof"]);
        }
    });
    take.at_least(6 * clients * 8)
}

fn reuseport_udp(plan: &Plan) -> Take {
    let clients = plan.count(200, 30);
    let take = at_each_place(plan, "reuseport-udp", |place| {
        let server = place.server("server", &["udp-reuseport-server", "--reuseport", "--processes", "4"]);
        for number in 0..clients {
            let connected: &[&str] = if number % 2 == 0 { &["--connected"] } else { &[] };
            let arguments = [&["udp-client", "--datagrams", "3"], connected].concat();
            place.client("client", &server.port, &arguments);
        }
    });
    take.at_least(6 * clients * 6)
}

fn prefork_udp(plan: &Plan) -> Take {
    let clients = plan.count(200, 30);
    let take = at_each_place(plan, "prefork-udp", |place| {
        let server = place.server("server", &["udp-prefork-server", "--processes", "4"]);
        for number in 0..clients {
            let connected: &[&str] = if number % 2 == 0 { &["--connected"] } else { &[] };
            place.client("client", &server.port, &[&["udp-client", "--datagrams", "3"], connected].concat());
        }
    });
    take.at_least(6 * clients * 6)
}

fn socket_activation(plan: &Plan) -> Take {
    let clients = plan.count(100, 20);
    let take = at_each_place(plan, "socket-activation", |place| {
        let (heir, count) = (place.stage.lab.program("service"), clients.to_string());
        let server = place.server("systemd", &["udp-activator", "--heir", &heir, "--datagrams", &count]);
        for _ in 0..clients {
            place.client("client", &server.port, &["udp-client"]);
        }
        finish(server);
    });
    take.at_least(6 * clients * 2)
}

fn forking(plan: &Plan) -> Take {
    let clients = plan.count(200, 30);
    let take = at_each_place(plan, "forking", |place| {
        let count = clients.to_string();
        let server = place.server("server", &["tcp-server", "--connections", &count, "--forking"]);
        for number in 0..clients {
            // Half of the requests come when the child is there.
            let pause = if number % 2 == 0 { "0" } else { "1" };
            place.client("client", &server.port, &["tcp-client", "--until-eof", "--pause-ms", pause]);
        }
        finish(server);
    });
    take.at_least(6 * clients * 8)
}

fn inetd(plan: &Plan, label: &str, client: &[&str]) -> Take {
    let clients = plan.count(100, 20);
    let take = at_each_place(plan, label, |place| {
        let program = place.stage.lab.program("inetd-program");
        let count = clients.to_string();
        let server = place.server("inetd", &["tcp-server", "--connections", &count, "--inetd", &program]);
        for _ in 0..clients {
            place.client("client", &server.port, client);
        }
        finish(server);
    });
    take.at_least(6 * clients * 8)
}

const NAMES: [&str; 3] = ["server-a", "server-b", "server-c"];

fn restart_tcp(plan: &Plan) -> Take {
    let restarts = plan.count(60, 9);
    let take = at_each_place(plan, "restart-tcp", |place| {
        for number in 0..restarts {
            let server = at_fixed_port(place, NAMES[number % 3], &["tcp-server", "--connections", "2"]);
            for _ in 0..2 {
                place.client("client", &server.port, &["tcp-client", "--until-eof"]);
            }
            finish(server);
        }
    });
    take.at_least(6 * restarts * 16)
}

fn restart_udp(plan: &Plan) -> Take {
    let restarts = plan.count(60, 9);
    let take = at_each_place(plan, "restart-udp", |place| {
        for number in 0..restarts {
            let server = at_fixed_port(place, NAMES[number % 3], &["udp-server", "--datagrams", "4"]);
            place.client("client", &server.port, &["udp-client", "--datagrams", "2"]);
            place.client("client", &server.port, &["udp-client", "--datagrams", "2", "--connected"]);
            finish(server);
        }
    });
    take.at_least(6 * restarts * 8)
}

fn at_fixed_port(place: &Place<'_>, name: &str, arguments: &[&str]) -> Server {
    let listen = place.listen(7000);
    let all = [arguments, &["--listen", &listen]].concat();
    place.stage.lab.server(place.servers, name, &all)
}

/// The recorder must have written what waits before anybody accepts, so that it cannot have seen who did.
fn syn_before_accept(plan: &Plan) -> Take {
    let stage = Stage::new(plan, "syn-before-accept");
    let recording = stage.record(&[]);
    for (number, place) in stage.places().iter().enumerate() {
        let gate = stage.lab.text(format!("accept-{number}"));
        let server = place.server("late", &["tcp-server", "--connections", "1", "--accept-gate", &gate]);
        let size = stage.size();
        let client = place.start_client("client", &server.port, &["tcp-client", "--until-eof"]);
        stage.wait_for_growth("the handshake of a connection that nobody has accepted", size);
        stage.open_gate(&format!("accept-{number}"));
        client.finish().assert_code(0);
        finish(server);
    }
    recording.end().at_least(6 * 8)
}

fn never_accepted(plan: &Plan) -> Take {
    let stage = Stage::new(plan, "never-accepted");
    let recording = stage.record(&[]);
    let never = stage.lab.text("never");
    for place in stage.places() {
        let server = place.server("deaf", &["tcp-server", "--accept-gate", &never]);
        let size = stage.size();
        for _ in 0..5 {
            place.client("client", &server.port, &["tcp-client", "--mute"]);
        }
        stage.wait_for_growth("the connections that nobody accepts", size);
        drop(server);
    }
    recording.end().at_least(6 * 5 * 4)
}

fn udp_wildcard(plan: &Plan) -> Take {
    let take = at_each_place(plan, "udp-wildcard", |place| {
        let any = if place.server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let three = |server: &Server, further: &[&str]| {
            let arguments = [&["udp-client", "--datagrams", "3"], further].concat();
            place.client("client", &server.port, &arguments);
        };
        let on_any = |name: &str, further: &[&str]| {
            let arguments = [&["udp-server", "--listen", any, "--datagrams", "9"], further].concat();
            place.stage.lab.server(place.servers, name, &arguments)
        };
        let replies = on_any("replies", &[]);
        three(&replies, &[]);
        three(&replies, &["--connected"]);
        three(&replies, &[]);
        finish(replies);
        let receives = on_any("receives", &["--silent"]);
        three(&receives, &["--silent"]);
        three(&receives, &["--silent", "--connected"]);
        three(&receives, &["--silent"]);
        finish(receives);
    });
    take.at_least(6 * (18 + 9))
}

fn dual_stack(plan: &Plan) -> Take {
    let take = at_each_place(plan, "dual-stack", |place| {
        let on_all = |name: &str, arguments: &[&str]| {
            let all = [arguments, &["--listen", "[::]:0", "--dual-stack"]].concat();
            place.stage.lab.server(place.servers, name, &all)
        };
        let tcp = on_all("server-tcp", &["tcp-server", "--connections", "5"]);
        let udp = on_all("server-udp", &["udp-server", "--datagrams", "10"]);
        for _ in 0..5 {
            place.client("client-tcp", &tcp.port, &["tcp-client"]);
            place.client("client-udp", &udp.port, &["udp-client"]);
            place.client("client-udp", &udp.port, &["udp-client", "--connected"]);
        }
        finish(tcp);
        finish(udp);
    });
    take.at_least(6 * (40 + 20))
}
