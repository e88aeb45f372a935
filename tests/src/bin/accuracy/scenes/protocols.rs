//! Transport protocols besides TCP and UDP.

use crate::plan::Plan;
use crate::scenario::Expected::AllRight;
use crate::scenario::{Scenario, Take};
use crate::stage::{at_each_place, finish};

pub(crate) const ALL: [Scenario; 2] = [
    Scenario { name: "mptcp", what: "MPTCP on both sides", expected: AllRight, play: mptcp },
    Scenario { name: "udplite", what: "UDP-Lite", expected: AllRight, play: udplite },
];

fn mptcp(plan: &Plan) -> Take {
    let times = plan.count(50, 10);
    let take = at_each_place(plan, "mptcp", |place| {
        let count = times.to_string();
        let server = place.server("server", &["tcp-server", "--mptcp", "--connections", &count]);
        for _ in 0..times {
            place.client("client", &server.port, &["tcp-client", "--mptcp"]);
        }
        finish(server);
    });
    take.at_least(6 * times * 8)
}

fn udplite(plan: &Plan) -> Take {
    let times = plan.count(50, 10);
    let take = at_each_place(plan, "udplite", |place| {
        let count = (2 * times).to_string();
        let server = place.server("server", &["udp-server", "--udplite", "--datagrams", &count]);
        for _ in 0..times {
            place.client("client", &server.port, &["udp-client", "--udplite"]);
            place.client("client", &server.port, &["udp-client", "--udplite", "--connected"]);
        }
        finish(server);
    });
    take.at_least(6 * times * 4)
}
