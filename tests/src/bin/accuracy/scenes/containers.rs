//! Processes in other network namespaces, with cgroups and pid namespaces of their own, behind a bridge, behind address
//! translation; and with the same addresses as others.

use std::fs;
use std::path::PathBuf;

use recorder_tests::judge::Judged;
use recorder_tests::namespace::{Namespace, connect};
use recorder_tests::process::{Output, Running, must};
use recorder_tests::truth::Truth;

use crate::plan::{Mode, Plan};
use crate::scenario::Expected::{AllRight, But};
use crate::scenario::{Scenario, Take};
use crate::stage::{Stage, finish};

pub(crate) const ALL: [Scenario; 3] = [
    Scenario {
        name: "containers",
        what: "containers (network, pid, cgroup of their own) that talk over a bridge: seen on both veth pairs and the bridge",
        expected: AllRight,
        play: containers,
    },
    Scenario {
        name: "masquerade",
        what: "a container that talks to the outside through address translation (nftables): seen inside and outside",
        expected: AllRight,
        play: masquerade,
    },
    Scenario {
        name: "same-addresses",
        what: "two pairs of containers with the same addresses and ports at the same time; one pair is recorded",
        expected: But {
            limits: "Where containers use the same addresses and ports, differing owners are `ambiguous`",
            may_lack: |judged| judged.packet.comment.is_none() || !judged.names_both(),
        },
        play: same_addresses,
    },
];

/// A cgroup of our own; gone when dropped.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new(name: &str) -> Self {
        let path = cgroup2().join(format!("recorder-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).expect("cannot make a cgroup");
        Self(path)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Empty by now, unless a panic is on its way.
        let _ = fs::remove_dir(&self.0);
    }
}

/// Where cgroup2 is mounted (proc_pid_mountinfo(5): the mount point is the fifth word, the type stands behind a dash).
fn cgroup2() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("cannot read mountinfo");
    let line = mounts.lines().find(|line| line.contains(" - cgroup2 ")).expect("cgroup2 is not mounted");
    line.split(' ').nth(4).expect("a mount point").into()
}

/// A container: where its programs run.
struct Container<'a> {
    stage: &'a Stage<'a>,
    namespace: Namespace,
    cgroup: Cgroup,
}

impl<'a> Container<'a> {
    /// A container with a veth pair to the bridge, the addresses 10.77.9.N and fd77:9::N, and a way out.
    fn on_bridge(stage: &'a Stage<'a>, number: u8) -> Self {
        let namespace = Namespace::new(&format!("container-{number}"));
        let port = format!("port{number}");
        stage.here.ip(&[
            "link",
            "add",
            &port,
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            namespace.name(),
        ]);
        stage.here.ip(&["link", "set", "dev", &port, "addrgenmode", "none"]);
        stage.here.ip(&["link", "set", "dev", &port, "master", "bridge0", "up"]);
        namespace.ip(&["link", "set", "dev", "eth0", "addrgenmode", "none"]);
        namespace.ip(&["address", "add", &format!("10.77.9.{number}/24"), "dev", "eth0"]);
        namespace.ip(&["address", "add", &format!("fd77:9::{number}/64"), "dev", "eth0", "nodad"]);
        namespace.ip(&["link", "set", "dev", "eth0", "up"]);
        namespace.ip(&["route", "add", "default", "via", "10.77.9.254"]);
        Self { stage, namespace, cgroup: Cgroup::new(&number.to_string()) }
    }

    /// Starts a program in all of the container's namespaces and its cgroup.
    fn start(&self, name: &str, arguments: &[&str]) -> Running {
        let procs = self.cgroup.0.join("cgroup.procs");
        let script = "echo $$ > \"$1\" && shift && exec unshare --pid --fork --kill-child \"$@\"";
        let (program, log) = (self.stage.lab.program(name), self.stage.lab.log());
        let mut command = self.namespace.command("sh");
        command.args(["-c", script, "sh"]).arg(procs).arg(program).args(arguments).args(["--log", &log]);
        Running::start(&mut command)
    }

    fn run(&self, name: &str, arguments: &[&str]) -> Output {
        let output = self.start(name, arguments).finish();
        output.assert_code(0);
        output
    }

    /// Starts a server, and gives it with its port.
    fn server(&self, name: &str, arguments: &[&str]) -> (Running, String) {
        let running = self.start(name, arguments);
        let port = running.wait_for_stdout("a port", |line| line.parse::<u16>().is_ok());
        (running, port)
    }
}

fn bridge(stage: &Stage<'_>) {
    stage.here.ip(&["link", "add", "bridge0", "type", "bridge"]);
    stage.here.ip(&["link", "set", "dev", "bridge0", "addrgenmode", "none"]);
    stage.here.ip(&["address", "add", "10.77.9.254/24", "dev", "bridge0"]);
    stage.here.ip(&["link", "set", "dev", "bridge0", "up"]);
}

fn containers(plan: &Plan) -> Take {
    let stage = Stage::new(plan, "containers");
    bridge(&stage);
    let (one, two) = (Container::on_bridge(&stage, 1), Container::on_bridge(&stage, 2));
    let recording = stage.record(&[]);
    let times = plan.count(30, 6);
    for (to, listen) in [("10.77.9.2", "10.77.9.2:0"), ("fd77:9::2", "[fd77:9::2]:0")] {
        let count = times.to_string();
        let (tcp, tcp_port) = two.server("web", &["tcp-server", "--listen", listen, "--connections", &count]);
        let (udp, udp_port) = two.server("named", &["udp-server", "--listen", listen, "--datagrams", &count]);
        for _ in 0..times {
            one.run("curl", &["tcp-client", to, &tcp_port]);
            one.run("dig", &["udp-client", to, &udp_port, "--connected"]);
        }
        tcp.finish().assert_code(0);
        udp.finish().assert_code(0);
    }
    // On the two ports of the bridge at least; what the host's end of the bridge does not forward it does not see.
    recording.end().at_least(2 * times * (8 + 2) * 2)
}

const OUTER: &str = "10.77.1.1";
const SERVER: &str = "10.77.1.2";

fn masquerade(plan: &Plan) -> Take {
    let stage = Stage::new(plan, "masquerade");
    bridge(&stage);
    stage.here.set("net/ipv4/ip_forward", "1");
    let rules = "table ip nat {\n chain out {\n type nat hook postrouting priority srcnat\n \
                 ip saddr 10.77.9.0/24 oifname \"eth1\" masquerade\n }\n }\n";
    must(stage.here.command("nft").arg(rules));
    let container = Container::on_bridge(&stage, 1);
    let recording = stage.record(&[]);
    let times = plan.count(50, 10);
    let count = times.to_string();
    let listen = format!("{SERVER}:0");
    let server = ["tcp-server", "--listen", &listen, "--connections", &count];
    let tcp = stage.lab.server(&stage.there, "web", &server);
    let server = ["udp-server", "--listen", &listen, "--datagrams", &count];
    let udp = stage.lab.server(&stage.there, "named", &server);
    for _ in 0..times {
        container.run("curl", &["tcp-client", SERVER, &tcp.port]);
        container.run("dig", &["udp-client", SERVER, &udp.port]);
    }
    finish(tcp);
    finish(udp);
    recording.stop();
    let truths = seen_from_both_sides(&stage.truths());
    let mut take = stage.judge_by(&truths).at_least(3 * times * (8 + 2));
    let outer: Vec<&Judged> = take.judgement.packets.iter().filter(|judged| is_outer(judged)).collect();
    let (count, named) = (outer.len(), outer.iter().filter(|judged| judged.packet.comment.is_some()).count());
    let inner = take.judgement.packets.len() - count;
    let unnamed_inside =
        take.judgement.packets.iter().filter(|judged| !is_outer(judged) && judged.packet.comment.is_none());
    let unnamed_inside = unnamed_inside.count();
    take.must(unnamed_inside == 0 || plan.mode() == Mode::Procfs, || {
        format!("{unnamed_inside} of {inner} packets inside have no owner at all")
    });
    take.note(format!("outside {named} of {count} packets name one end at least, inside all {inner}"));
    take
}

fn is_outer(judged: &Judged) -> bool {
    let ends = [judged.packet.source, judged.packet.destination].map(|end| end.ip().to_string());
    ends.iter().any(|end| end == OUTER)
}

/// What the client says of its inner address is true of the outer one too, by the port that the server saw; and what the
/// server says of the outer address is true of the inner one. Ports are kept by the translation where they are free, as
/// they are here.
fn seen_from_both_sides(truths: &[Truth]) -> Vec<Truth> {
    let mut all = truths.to_vec();
    let outer = OUTER.parse().expect("an address");
    for truth in truths {
        match truth.role.as_str() {
            "client" => {
                let mut outside = truth.clone();
                outside.local.set_ip(outer);
                all.push(outside);
            }
            "server" if truth.remote.is_some_and(|remote| remote.ip() == outer) => {
                let mut inside = truth.clone();
                let client =
                    truth.remote.map(|remote| (std::net::Ipv4Addr::new(10, 77, 9, 1), remote.port()).into());
                inside.remote = client;
                all.push(inside);
            }
            _ => {}
        }
    }
    all
}

/// The twins' server has another name; which of the two a packet belongs to only the namespace tells.
fn same_addresses(plan: &Plan) -> Take {
    let stage = Stage::new(plan, "same-addresses");
    let (twin_here, twin_there) = (Namespace::new("twin-here"), Namespace::new("twin-there"));
    connect(&twin_here, &twin_there, 1);
    let log = stage.lab.text("twins.jsonl");
    let recording = stage.record(&[]);
    let times = plan.count(60, 12);
    let count = times.to_string();
    let listen = format!("{SERVER}:7000");
    let server = ["tcp-server", "--listen", &listen, "--connections", &count];
    let ours = stage.lab.server(&stage.there, "server", &server);
    let mut twin = twin_there.command(stage.lab.program("twin-server"));
    let twin = Running::start(twin.args(server).args(["--log", &log]));
    twin.wait_for_stdout("a port", |line| line.parse::<u16>().is_ok());
    for number in 0..times {
        let bind = format!("{OUTER}:{}", 20_000 + number);
        let job = ["tcp-client", SERVER, "7000", "--until-eof", "--bind", &bind];
        let mut command = twin_here.command(stage.lab.program("twin-client"));
        let other = Running::start(command.args(job).args(["--log", &log]));
        must(&mut stage.lab.command(&stage.here, "client", &job));
        other.finish().assert_code(0);
    }
    finish(ours);
    twin.finish().assert_code(0);
    recording.end().at_least(times * 8)
}
