//! What docs/wireshark has for people who look works in each Wireshark: fields, columns, buttons and colours.
//!
//! Wireshark runs as somebody who is not root: from 4.4 on it leaves Lua scripts alone when it is root.

#![expect(clippy::expect_used, reason = "helpers of tests are test code too")]

use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use recorder_tests::lab::{Lab, machine_allows};
use recorder_tests::namespace::Namespace;
use recorder_tests::process::{Output, must};
use recorder_tests::recorder::{Recording, ask, record};
use recorder_tests::rooms::root;
use recorder_tests::wireshark::{Wireshark, assert_no_complaint};
use serde_json::Value;

const TOOLS: [&str; 3] = ["ip", "tshark", "setpriv"];
/// Names that want to be something else, or that nobody can spell.
const NAMES: [&[u8]; 8] = [
    b"plain",
    b"curl[1] > sshd",
    b" spaces ",
    b"?",
    b"back\\slash\\x41",
    b"line\nfeed\ttab",
    b"not \xff utf-8",
    "größe \u{202e}日本語".as_bytes(),
];

/// A home with recorder.lua and the profile where the page says to put them, and files that its user may read.
struct Home {
    lab: Lab,
}

impl Home {
    fn new() -> Self {
        let lab = Lab::new(env!("CARGO_BIN_EXE_traffic"));
        lab.open_to_all();
        let docs = root().join("docs/wireshark");
        put(&docs.join("recorder.lua"), &lab.path(".local/lib/wireshark/plugins"));
        let profile = lab.path(".config/wireshark/profiles/recorder");
        for file in fs::read_dir(docs.join("profile")).expect("there is a profile").flatten() {
            put(&file.path(), &profile);
        }
        Self { lab }
    }

    /// `tshark ARGUMENTS`, of this Wireshark and this home. Any complaint is a failure.
    fn tshark(&self, wireshark: &Wireshark, arguments: &[&str]) -> Output {
        let mut command = wireshark.unprivileged("tshark");
        command.env("HOME", self.lab.path("")).env_remove("XDG_CONFIG_HOME").args(arguments);
        let output = must(&mut command);
        assert_no_complaint(&output);
        output
    }

    /// Our four fields of each packet. As JSON: the versions differ in how they escape text elsewhere.
    fn processes(&self, wireshark: &Wireshark, file: &str) -> Vec<Vec<String>> {
        const FIELDS: [&str; 4] = ["proc.name", "proc.pid", "proc.peer_name", "proc.peer_pid"];
        let mut arguments = vec!["-n", "-r", file, "-Y", "not frame.cb_pen", "-T", "json"];
        arguments.extend(FIELDS.iter().flat_map(|field| ["-e", field]));
        let output = self.tshark(wireshark, &arguments);
        let packets: Vec<Value> = serde_json::from_str(&output.stdout).expect("tshark writes JSON");
        let text = |packet: &Value, field: &str| {
            packet["_source"]["layers"][field][0].as_str().unwrap_or_default().to_owned()
        };
        packets.iter().map(|packet| FIELDS.iter().map(|field| text(packet, field)).collect()).collect()
    }

    /// A file of the repository, readable for this user.
    fn sample(&self) -> String {
        put(&root().join("samples/loopback.pcapng"), &self.lab.path(""));
        self.lab.text("loopback.pcapng")
    }

    /// A recording of a process of each of these names, with both ends of its packets on this host.
    fn recording(&self) -> String {
        let namespace = Namespace::new("names");
        let file = self.lab.text("names.pcapng");
        let recording = Recording::start(&mut record(&namespace, &["-i", "lo", "-w", &file]));
        let count = NAMES.len().to_string();
        let server = self.lab.server(&namespace, "server", &["udp-server", "--datagrams", &count]);
        for name in NAMES {
            let program = self.lab.program_named(Path::new(std::ffi::OsStr::from_bytes(name)));
            let mut client = namespace.command(program);
            must(client.args(["udp-client", "127.0.0.1", &server.port, "--log", &self.lab.log()]));
        }
        server.running.finish().assert_code(0);
        recording.stop().assert_code(0);
        readable(Path::new(&file));
        file
    }
}

fn put(file: &Path, folder: &Path) {
    fs::create_dir_all(folder).expect("cannot make a folder");
    let copy = folder.join(file.file_name().expect("a file has a name"));
    fs::copy(file, &copy).expect("cannot copy a file");
    readable(&copy);
}

fn readable(file: &Path) {
    fs::set_permissions(file, Permissions::from_mode(0o644)).expect("cannot change the mode of a file");
}

/// What `recorder show --json` says, in the words of recorder.lua: the sender if it is known, else the receiver, is the
/// process; the other one is its peer.
fn expected(file: &str) -> Vec<Vec<String>> {
    let text = |process: Option<&Value>| {
        let name = process.and_then(|process| process["name"].as_str()).unwrap_or_default();
        let pid = process.and_then(|process| process["pid"].as_u64()).map(|pid| pid.to_string());
        [name.to_owned(), pid.unwrap_or_default()]
    };
    let row = |line: &str| {
        let packet: Value = serde_json::from_str(line).expect("each line is an object");
        let mut known = [packet.get("sender"), packet.get("receiver")].into_iter().flatten();
        [text(known.next()), text(known.next())].concat()
    };
    ask(&["show", "--json", file]).lines().map(row).collect()
}

#[test]
fn the_lua_script_gives_what_the_recorder_shows() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let home = Home::new();
    let (sample, names) = (home.sample(), home.recording());
    let spelled = expected(&names);
    assert_eq!(spelled.len(), 2 * NAMES.len(), "a datagram and its echo from each: {spelled:#?}");
    assert!(spelled.iter().any(|row| row[0] == r"curl\x5b1\x5d \x3e sshd"), "{spelled:#?}");
    for (version, wireshark) in Wireshark::all() {
        for file in [&sample, &names] {
            assert_eq!(home.processes(wireshark, file), expected(file), "{version} on {file}");
        }
        assert_same_as_wireshark(&home, wireshark, &names);
    }
}

/// proc is the process of Wireshark's own fields, where it has some.
fn assert_same_as_wireshark(home: &Home, wireshark: &Wireshark, file: &str) {
    if wireshark.knows_field("frame.darwin.process_info.pid") {
        let differs =
            "proc.pid != frame.darwin.process_info.pid or proc.name != frame.darwin.process_info.pname";
        let output = home.tshark(wireshark, &["-n", "-r", file, "-Y", differs]);
        assert_eq!(output.stdout, "", "not the same process");
    }
}

#[test]
fn the_lua_script_takes_nobody_elses_comment_for_a_process() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let home = Home::new();
    let commented = home.lab.text("commented.pcapng");
    let comments = [
        "see a[1]b",
        "curl[01]",
        "curl[4294967296]",
        "curl[-1]",
        "a[1] > b[2] > c[3]",
        "? > ?",
        " curl[1]",
        "?[1]",
        r"a\b[1]",
        "curl[1] > ",
        "[1]",
    ];
    // A pcap file has no comments.
    let plain = home.lab.text("plain.pcap");
    must(Command::new("editcap").args(["-r", "-F", "pcap", &home.sample(), &plain, "1-12"]));
    let mut command = Command::new("editcap");
    for (number, comment) in (1..).zip(comments) {
        command.args(["-a", &format!("{number}:{comment}")]);
    }
    must(command.args(["-a", "12:curl[4294967295]", &plain, &commented]));
    readable(Path::new(&commented));
    for (version, wireshark) in Wireshark::all() {
        let rows = home.processes(wireshark, &commented);
        let (last, others) = rows.split_last().expect("there are packets");
        assert_eq!(others.len(), comments.len());
        assert!(others.iter().all(|row| row.iter().all(String::is_empty)), "{version}: {others:#?}");
        assert_eq!(last[..2], ["curl", "4294967295"], "{version}");
    }
}

/// The name and the display filter of each line in a file of the profile, split at `separator`.
fn filters(file: &str, separator: &str, name: usize, filter: usize) -> Vec<(String, String)> {
    let path = root().join("docs/wireshark/profile").join(file);
    let text = fs::read_to_string(path).expect("the profile can be read");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let part = |line: &str, number: usize| {
        line.split(separator).nth(number).expect("a line has all parts").replace(r"\x22", "\"")
    };
    lines.map(|line| (part(line, name), part(line, filter))).collect()
}

#[test]
fn the_profile_fills_its_columns_and_nothing_in_it_is_refused() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let home = Home::new();
    let sample = home.sample();
    let expected = expected(&sample);
    for (version, wireshark) in Wireshark::all() {
        let shown = home
            .tshark(wireshark, &["-n", "-C", "recorder", "--color", "-r", &sample, "-Y", "frame.comment"]);
        let lines: Vec<&str> = shown.stdout.lines().collect();
        assert_eq!(lines.len(), expected.len(), "{version}\n{shown}");
        for (line, row) in lines.iter().zip(&expected) {
            let [name, pid, peer, peer_pid] = row.as_slice() else { panic!("{row:?}") };
            let columns = format!("{name}[{pid}] > {peer}[{peer_pid}] {pid} ");
            assert!(line.contains(&columns), "{version}: no {columns:?}\n{line}");
        }
        let count = |filter: &str| {
            home.tshark(wireshark, &["-n", "-r", &sample, "-Y", filter]).stdout.lines().count()
        };
        for (name, filter) in filters("dfilter_buttons", "\",\"", 1, 2) {
            // What is compared with the selected packet has none here.
            let most = if filter.contains("${") { 0 } else { usize::MAX };
            assert!(count(&filter) <= most, "{version}: {name}: {filter}");
        }
        let colours = filters("colorfilters", "@", 1, 2);
        let coloured: usize = colours
            .iter()
            .filter(|(name, _)| name.starts_with("process"))
            .map(|(_, filter)| count(filter))
            .sum();
        assert_eq!(coloured, expected.len(), "{version}: each packet with a process has one colour");
    }
}
