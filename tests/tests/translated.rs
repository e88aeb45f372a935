//! Connections whose addresses a router translates, on the side where no socket has those addresses. Needs root and
//! nftables; says so and passes without.

#![expect(clippy::expect_used, reason = "helpers of tests are test code too")]

use std::io::Write;
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use recorder_tests::judge::judge;
use recorder_tests::lab::{Lab, machine_allows};
use recorder_tests::namespace::{Namespace, connect};
use recorder_tests::process::must;
use recorder_tests::recorder::{Recording, record};
use recorder_tests::truth::{self, Truth};

const TOOLS: [&str; 3] = ["ip", "nft", "tshark"];
/// Addresses of the program inside, of the router's outer interface, of the program outside.
const FAMILIES: [(&str, [&str; 3]); 2] =
    [("ip", ["10.77.1.1", "10.77.2.1", "10.77.2.2"]), ("ip6", ["fd77:1::1", "fd77:2::1", "fd77:2::2"])];

fn address(text: &str, port: u16) -> SocketAddr {
    SocketAddr::new(text.parse().expect("an address"), port)
}

/// A program inside, a router that translates, a program outside; the recorder is on the router, at its outer interface.
struct Site {
    lab: Lab,
    inside: Namespace,
    router: Namespace,
    outside: Namespace,
}

impl Site {
    fn new(rules: &str) -> Self {
        let lab = Lab::new(env!("CARGO_BIN_EXE_traffic"));
        let site = Self {
            lab,
            inside: Namespace::new("inside"),
            router: Namespace::new("router"),
            outside: Namespace::new("outside"),
        };
        connect(&site.inside, &site.router, 1);
        connect(&site.router, &site.outside, 2);
        site.inside.ip(&["route", "add", "default", "via", "10.77.1.2"]);
        site.inside.ip(&["-6", "route", "add", "default", "via", "fd77:1::2"]);
        site.router.set("net/ipv4/ip_forward", "1");
        site.router.set("net/ipv6/conf/all/forwarding", "1");
        // For what it forwards a router asks from its link-local address who has the destination.
        site.router.ip(&["address", "add", "fe80::1/64", "dev", "eth1", "nodad"]);
        site.apply(rules);
        site
    }

    fn apply(&self, rules: &str) {
        let mut nft = self.router.command("nft");
        let mut child = nft.args(["-f", "-"]).stdin(Stdio::piped()).spawn().expect("nft can be started");
        child.stdin.take().expect("a pipe").write_all(rules.as_bytes()).expect("nft reads its rules");
        assert!(child.wait().expect("nft ends").success(), "nft does not take the rules {rules}");
    }

    /// Records at the outer interface while `play` runs, and judges by what the programs say, seen from outside.
    fn judge_outside(&self, play: impl FnOnce(), seen_outside: impl Fn(&mut Truth), at_least: usize) {
        let file = self.lab.path("outside.pcapng");
        let arguments = ["-i", "eth2", "-w", &self.lab.text("outside.pcapng")];
        let recording = Recording::start(&mut record(&self.router, &arguments));
        play();
        recording.stop().assert_code(0);
        let mut truths = truth::read(self.lab.log());
        truths.iter_mut().for_each(seen_outside);
        judge(&file, &truths).assert_all_right(at_least, "on the outer side of a translation");
    }
}

const MASQUERADE: &str = "\
table inet masquerading {
    chain out {
        type nat hook postrouting priority srcnat
        oifname eth2 masquerade
    }
}
";

#[test]
fn a_masqueraded_client_is_named_on_the_outer_interface() {
    if !machine_allows(&TOOLS) {
        return;
    }
    for (_, [_, router, outside]) in FAMILIES {
        for (server, client, count, packets) in [
            ("tcp-server", "tcp-client", "--connections", 24),
            ("udp-server", "udp-client", "--datagrams", 6),
        ] {
            let site = Site::new(MASQUERADE);
            let listen = address(outside, 0).to_string();
            let server = site.lab.server(&site.outside, "server", &[server, "--listen", &listen, count, "3"]);
            let talk = || {
                let arguments = [client, outside, &server.port];
                must(&mut site.lab.command(&site.inside, "client", &arguments));
            };
            let seen_outside = |truth: &mut Truth| {
                if truth.role == "client" {
                    truth.local = address(router, truth.local.port());
                }
            };
            site.judge_outside(|| (0..3).for_each(|_| talk()), seen_outside, packets);
            server.running.finish().assert_code(0);
        }
    }
}

/// Rules that send what comes from outside to this port on to a server.
fn forward(port: u16, family: &str, server: &str) -> String {
    format!(
        "\
table inet forwarding {{
    chain in {{
        type nat hook prerouting priority dstnat
        iifname eth2 tcp dport {port} dnat {family} to {server}
    }}
}}
"
    )
}

#[test]
fn a_server_behind_a_forwarded_port_is_named_on_the_outer_interface() {
    if !machine_allows(&TOOLS) {
        return;
    }
    for (family, [inside, router, _]) in FAMILIES {
        let site = Site::new(MASQUERADE);
        let listen = address(inside, 0).to_string();
        let serve = ["tcp-server", "--listen", &listen, "--connections", "3"];
        let server = site.lab.server(&site.inside, "server", &serve);
        let port = server.port.parse().expect("a port");
        site.apply(&forward(8080, family, &address(inside, port).to_string()));
        let talk = || must(&mut site.lab.command(&site.outside, "client", &["tcp-client", router, "8080"]));
        let seen_outside = |truth: &mut Truth| {
            if truth.role != "client" {
                truth.local = address(router, 8080);
            }
        };
        site.judge_outside(|| (0..3).for_each(|_| drop(talk())), seen_outside, 24);
        server.running.finish().assert_code(0);
    }
}

#[test]
fn the_host_that_nobody_recorded_on_tracks_no_more_connections_than_before() {
    if !machine_allows(&TOOLS) {
        return;
    }
    // Asking must not begin to track, nor load what tracks: we change nothing.
    let (lab, namespace) = (Lab::new(env!("CARGO_BIN_EXE_traffic")), Namespace::new("untracked"));
    let count = || {
        let path = "/proc/sys/net/netfilter/nf_conntrack_count";
        namespace.command("cat").arg(path).output().map(|output| output.stdout).unwrap_or_default()
    };
    let modules =
        || Command::new("cat").arg("/proc/modules").output().map(|output| output.stdout).unwrap_or_default();
    let before = (count(), modules());
    let recording = Recording::start(&mut record(&namespace, &["-i", "lo", "-w", &lab.text("u.pcapng")]));
    let server = lab.server(&namespace, "server", &["tcp-server", "--connections", "1"]);
    must(&mut lab.command(&namespace, "client", &["tcp-client", "127.0.0.1", &server.port]));
    server.running.finish().assert_code(0);
    recording.stop().assert_code(0);
    assert_eq!((count(), modules()), before, "the recorder began to track connections");
}
