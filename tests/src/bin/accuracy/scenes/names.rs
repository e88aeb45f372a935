//! Names that are hard to spell, and ids that are large.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;

use recorder_tests::lab::ODD_NAMES;
use recorder_tests::process::must;

use crate::plan::Plan;
use crate::scenario::Expected::AllRight;
use crate::scenario::{Scenario, Take};
use crate::stage::{Stage, at_each_place, finish};

pub(crate) const ALL: [Scenario; 3] = [
    Scenario {
        name: "thread-names",
        what: "threads with names of their own (Socket Thread): the process is named",
        expected: AllRight,
        play: thread_names,
    },
    Scenario {
        name: "odd-names",
        what: "names of 15, 16 and 40 characters, with spaces, brackets, newlines, backslashes, invalid UTF-8",
        expected: AllRight,
        play: odd_names,
    },
    Scenario { name: "large-pids", what: "process ids above 65 535", expected: AllRight, play: large_pids },
];

fn thread_names(plan: &Plan) -> Take {
    let take = at_each_place(plan, "thread-names", |place| {
        let server = place.server("server", &["tcp-server", "--threads", "--connections", "10"]);
        for _ in 0..10 {
            place.client("firefox", &server.port, &["tcp-client", "--in-thread", "--until-eof"]);
        }
        finish(server);
    });
    take.at_least(6 * 80)
}

fn odd_names(plan: &Plan) -> Take {
    let take = at_each_place(plan, "odd-names", |place| {
        let count = ODD_NAMES.len().to_string();
        let server = place.server("server", &["tcp-server", "--connections", &count]);
        for name in ODD_NAMES {
            let stage = place.stage;
            let program = stage.lab.program_named(OsStr::from_bytes(name));
            let mut command = place.clients.command(&program);
            let address = place.server.to_string();
            must(command.args(["tcp-client", &address, &server.port, "--log", &stage.lab.log()]));
        }
        finish(server);
    });
    take.at_least(6 * ODD_NAMES.len() * 8)
}

const PID_MAX: &str = "/proc/sys/kernel/pid_max";

/// The host's largest process id, raised for a while; put back when dropped. Ids that were given meanwhile stay good.
struct PidMax(String);

impl PidMax {
    fn raise(to: &str) -> Self {
        let old = fs::read_to_string(PID_MAX).expect("cannot read pid_max");
        fs::write(PID_MAX, to).expect("cannot raise pid_max");
        Self(old)
    }
}

impl Drop for PidMax {
    fn drop(&mut self) {
        // All that can be done here, also on the way out of a panic.
        let _ = fs::write(PID_MAX, &self.0);
    }
}

fn large_pids(plan: &Plan) -> Take {
    let stage = Stage::new(plan, "large-pids");
    let recording = stage.record(&[]);
    let pid_max = PidMax::raise("4194304");
    let client = stage.lab.program("client");
    for (number, place) in stage.places().iter().enumerate() {
        let server = place.server("server", &["tcp-server", "--connections", "3"]);
        for pid in [65_536, 100_000, 4_000_000] {
            let pid = (pid + number).to_string();
            let to = place.listen(server.port.parse().expect("a port"));
            let job = ["same-pid-storm", "--count", "1", "--pid", &pid, "--clients", &client, "--to", &to];
            must(&mut stage.lab.command(place.clients, "storm", &job));
        }
        finish(server);
    }
    drop(pid_max);
    let large = stage.truths().iter().filter(|truth| truth.pid > 65_535).count();
    let mut take = recording.end().at_least(6 * 3 * 8);
    take.must(large == 18, || format!("{large} clients had a large pid, expected 18"));
    take
}
