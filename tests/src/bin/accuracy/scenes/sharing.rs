//! One socket and several processes: each packet belongs to the one that was using the socket then.

use crate::plan::Plan;
use crate::scenario::Expected::AllRight;
use crate::scenario::{Scenario, Take};
use crate::stage::{at_each_place, finish};

pub(crate) const ALL: [Scenario; 3] = [
    Scenario {
        name: "shared-by-fork",
        what: "parent and child, forked without exec, use one socket by turns: TCP, UDP connected and not",
        expected: AllRight,
        play: |plan| by(plan, "shared-by-fork", "fork"),
    },
    Scenario {
        name: "shared-by-passing",
        what: "a socket that is passed to another program (SCM_RIGHTS)",
        expected: AllRight,
        play: |plan| by(plan, "shared-by-passing", "pass"),
    },
    Scenario {
        name: "shared-by-exec",
        what: "a socket that becomes the standard input of a program that is executed",
        expected: AllRight,
        play: |plan| by(plan, "shared-by-exec", "exec"),
    },
];

fn by(plan: &Plan, label: &str, how: &str) -> Take {
    let times = plan.count(50, 8);
    let turns = if how == "fork" { 5 } else { 1 };
    let turns_text = turns.to_string();
    let take = at_each_place(plan, label, |place| {
        let heir = place.stage.lab.program("heir");
        let common = ["turns-client", "--how", how, "--turns", &turns_text, "--heir", &heir, "--protocol"];
        let count = times.to_string();
        let tcp = ["tcp-server", "--connections", &count, "--requests", "1000", "--wait-close"];
        let tcp = place.server("server-tcp", &tcp);
        let udp = place.server("server-udp", &["udp-server"]);
        for _ in 0..times {
            place.client("client", &tcp.port, &[&common[..], &["tcp"]].concat());
            place.client("client", &udp.port, &[&common[..], &["udp"]].concat());
            place.client("client", &udp.port, &[&common[..], &["udp", "--connected"]].concat());
        }
        finish(tcp);
    });
    // Both processes ask, the child once more than the parent.
    let asked = 2 * turns;
    take.at_least(6 * times * (7 + 2 * asked + 2 * 2 * asked))
}
