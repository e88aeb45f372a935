//! Wireshark captures through the recorder, each version of it: from the list of interfaces to packets with names.
//!
//! tshark does what Wireshark does: it asks the extcap, starts it, and has dumpcap read the pipe.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use recorder_tests::blocks::{self, Kind};
use recorder_tests::lab::{Lab, Server, machine_allows};
use recorder_tests::namespace::Namespace;
use recorder_tests::process::{Output, Running, SIGINT, SIGTERM, must, run};
use recorder_tests::recorder::binary;
use recorder_tests::tshark;
use recorder_tests::wireshark::Wireshark;

const TOOLS: [&str; 3] = ["ip", "tshark", "mkfifo"];
/// Where Wireshark looks for this user: from 4.2 on, and before.
const FOLDERS: [&str; 2] = [".local/lib/wireshark/extcap", ".config/wireshark/extcap"];

/// A user at home in the lab's folder, and a transfer that runs.
struct Home {
    lab: Lab,
    namespace: Namespace,
    server: Server,
    client: Running,
}

impl Home {
    fn new(label: &str) -> Self {
        let (lab, namespace) = (Lab::new(env!("CARGO_BIN_EXE_traffic")), Namespace::new(label));
        let server = lab.server(&namespace, "server", &["tcp-server"]);
        let arguments = ["tcp-client", "127.0.0.1", &server.port, "--until-eof", "--forever"];
        let client = Running::start(&mut lab.command(&namespace, "client", &arguments));
        Self { lab, namespace, server, client }
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = self.namespace.command(program);
        command.env("HOME", self.lab.path("")).env_remove("XDG_CONFIG_HOME");
        command
    }

    /// `recorder ARGUMENTS`
    fn recorder(&self, arguments: &[&str]) -> Output {
        run(self.command(binary()).args(arguments))
    }

    /// `tshark ARGUMENTS`, of this Wireshark.
    fn tshark(&self, wireshark: &Wireshark, arguments: &[&str]) -> Output {
        run(self.command(wireshark.command("tshark").get_program()).arg("-n").args(arguments))
    }

    /// The comments of the first packets that tshark captures with these arguments.
    fn comments(&self, wireshark: &Wireshark, packets: &str, arguments: &[&str]) -> Vec<String> {
        let fields = ["-c", packets, "-T", "fields", "-e", "frame.comment"];
        let output = self.tshark(wireshark, &[arguments, &fields].concat());
        output.assert_code(0);
        assert!(!output.stderr.contains("Error"), "tshark complains\n{output}");
        output.stdout.lines().map(str::to_owned).collect()
    }

    fn server_to_client(&self) -> String {
        format!("server[{}] > client[{}]", self.server.pid(), self.client.pid())
    }

    fn client_to_server(&self) -> String {
        format!("client[{}] > server[{}]", self.client.pid(), self.server.pid())
    }

    /// A capture by the extcap itself, into a pipe that `reader` reads.
    fn capture(&self, reader: &[&str]) -> (Running, Running, PathBuf) {
        let pipe = self.lab.text("pipe");
        let _ = fs::remove_file(&pipe);
        must(Command::new("mkfifo").arg(&pipe));
        let script = format!("{} <{pipe}", reader.join(" "));
        let reader = Running::start(self.command("sh").args(["-c", &script]));
        let arguments = ["--capture", "--extcap-interface", "recorder-lo", "--fifo", &pipe];
        let recorder = Running::start(self.command(binary()).args(arguments));
        (recorder, reader, self.lab.path("copy.pcapng"))
    }
}

#[test]
fn wireshark_lists_what_can_be_recorded_until_the_extcap_is_removed() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let home = Home::new("extcap-list");
    home.namespace.ip(&["link", "add", "up0", "type", "veth", "peer", "name", "down0"]);
    home.namespace.ip(&["link", "set", "up0", "up"]);
    home.recorder(&["extcap", "install"]).assert_code(0);
    for (version, wireshark) in Wireshark::all() {
        let listed = home.tshark(wireshark, &["-D"]);
        for name in ["any", "lo", "up0"] {
            let line = format!("recorder-{name} ({name} with processes)");
            assert!(
                listed.stdout.lines().any(|listed| listed.ends_with(&line)),
                "{version}: {line}\n{listed}"
            );
        }
        assert!(!listed.stdout.contains("recorder-down0"), "{version}: it is down\n{listed}");
    }
    home.recorder(&["extcap", "uninstall"]).assert_code(0);
    for folder in FOLDERS {
        let left = fs::read_dir(home.lab.path(folder)).expect("the folder was made").count();
        assert_eq!(left, 0, "something is left in {folder}");
    }
    for (version, wireshark) in Wireshark::all() {
        let listed = home.tshark(wireshark, &["-D"]);
        assert!(!listed.stdout.contains("recorder-"), "{version}\n{listed}");
    }
}

#[test]
fn a_live_capture_names_the_processes_of_a_running_transfer() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let home = Home::new("extcap-live");
    home.recorder(&["extcap", "install"]).assert_code(0);
    let both = [home.client_to_server(), home.server_to_client()];
    for (version, wireshark) in Wireshark::all() {
        for interface in ["recorder-any", "recorder-lo"] {
            let comments = home.comments(wireshark, "20", &["-i", interface]);
            assert_eq!(comments.len(), 20, "{version} {interface}: {comments:#?}");
            assert!(comments.iter().all(|line| both.contains(line)), "{version} {interface}: {comments:#?}");
        }
        let filter = format!("tcp src port {}", home.server.port);
        let comments = home.comments(wireshark, "20", &["-i", "recorder-any", "-f", &filter]);
        assert_eq!(comments, vec![home.server_to_client(); 20], "{version}: {filter}");
    }
}

#[test]
fn dumpcap_passes_on_the_process_blocks_too() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let home = Home::new("extcap-file");
    home.recorder(&["extcap", "install"]).assert_code(0);
    for (version, wireshark) in Wireshark::all() {
        let file = home.lab.path(format!("{version}.pcapng"));
        let name = home.lab.text(format!("{version}.pcapng"));
        home.tshark(wireshark, &["-i", "recorder-lo", "-c", "50", "-w", &name]).assert_code(0);
        let processes = blocks::read(&file).iter().filter(|block| matches!(block, Kind::Process(..))).count();
        assert_eq!(processes, 2, "{version}: the client's and the server's");
        let comments = tshark::fields(&file, "tcp", &["frame.comment"]).concat();
        assert_eq!(comments.len(), 50, "{version}");
        if wireshark.knows_field("frame.darwin.process_info.pname") {
            let names = wireshark.fields(&file, "tcp", &["frame.darwin.process_info.pname"]).concat();
            assert!(names.iter().all(|name| name == "client" || name == "server"), "{version}: {names:?}");
        }
    }
}

#[test]
fn a_wrong_filter_is_an_error_and_what_libpcap_says_is_shown() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let home = Home::new("extcap-filter");
    home.recorder(&["extcap", "install"]).assert_code(0);
    for (version, wireshark) in Wireshark::all() {
        let output = home.tshark(wireshark, &["-i", "recorder-lo", "-f", "tcp prot 80", "-c", "1"]);
        assert!(!output.status.success(), "{version}: a wrong filter was taken\n{output}");
        assert!(output.stderr.contains("syntax error"), "{version}: not shown\n{output}");
    }
    // What Wireshark asks while the filter is typed: nothing is said of one that is right.
    let check = |filter: &str| {
        let output =
            home.recorder(&["--extcap-capture-filter", filter, "--extcap-interface", "recorder-any"]);
        output.assert_code(0);
        output.stdout
    };
    assert_eq!(check("tcp port 80 and not host 10.0.0.1"), "");
    assert_eq!(check(""), "");
    assert!(check("tcp prot 80").contains("syntax error"));
}

#[test]
fn what_is_chosen_in_the_dialog_is_what_is_recorded() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let home = Home::new("extcap-dialog");
    home.recorder(&["extcap", "install"]).assert_code(0);
    for (version, wireshark) in Wireshark::all() {
        let chosen = |preference: &str| format!("extcap.recorder_lo.{preference}");
        let (snaplen, attribution) = (chosen("snaplen:60"), chosen("attribution:none"));
        let choices = ["-i", "recorder-lo", "-o", &snaplen, "-o", &attribution];
        let fields = ["-c", "20", "-T", "fields", "-e", "frame.cap_len", "-e", "frame.comment"];
        let output = home.tshark(wireshark, &[&choices[..], &fields].concat());
        output.assert_code(0);
        let rows: Vec<&str> = output.stdout.lines().map(str::trim_end).collect();
        assert_eq!(rows, vec!["60"; 20], "{version}: 60 bytes of each packet, and no process\n{output}");
    }
}

#[test]
fn only_the_chosen_processes_are_captured() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let home = Home::new("extcap-process");
    home.recorder(&["extcap", "install"]).assert_code(0);
    let arguments = ["tcp-client", "127.0.0.1", &home.server.port, "--until-eof", "--forever"];
    let other = Running::start(&mut home.lab.command(&home.namespace, "other", &arguments));
    let (server, other) = (format!("server[{}]", home.server.pid()), format!("other[{}]", other.pid()));
    let both = [format!("{other} > {server}"), format!("{server} > {other}")];
    for (version, wireshark) in Wireshark::all() {
        let choice = ["-i", "recorder-any", "-o", "extcap.recorder_any.process:name=other and not pid=1"];
        let comments = home.comments(wireshark, "20", &choice);
        assert!(comments.iter().all(|line| both.contains(line)), "{version}: {comments:#?}");
    }
}

#[test]
fn a_capture_that_is_told_to_stop_ends_its_file_and_says_nothing() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let home = Home::new("extcap-stop");
    let copy = home.lab.text("copy.pcapng");
    for signal in [SIGTERM, SIGINT] {
        let (recorder, reader, file) = home.capture(&["tee", &copy]);
        reader.wait_for_more_stdout(50);
        recorder.signal(signal);
        let output = recorder.finish();
        output.assert_code(0);
        assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("", ""), "{output}");
        reader.finish().assert_code(0);
        blocks::assert_consistent(&file);
        assert!(blocks::read(&file).contains(&Kind::Statistics), "the counters are missing");
        tshark::assert_others_read(&file);
    }
}

#[test]
fn a_capture_ends_when_nobody_reads_the_pipe_any_more() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let home = Home::new("extcap-closed");
    let (recorder, reader, _) = home.capture(&["head", "-c", "5000"]);
    reader.finish().assert_code(0);
    let output = recorder.finish();
    output.assert_code(0);
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("", ""), "{output}");
}

#[test]
fn what_keeps_a_capture_from_beginning_is_said_on_standard_error() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let home = Home::new("extcap-error");
    home.recorder(&["extcap", "install"]).assert_code(0);
    for (version, wireshark) in Wireshark::all() {
        let arguments = ["-i", "recorder-lo", "-o", "extcap.recorder_lo.process:name curl", "-c", "1"];
        let output = home.tshark(wireshark, &arguments);
        assert!(!output.status.success(), "{version}\n{output}");
        assert!(
            output.stderr.contains("invalid value 'name curl' for '--process <EXPR>'"),
            "{version}: what is wrong is not shown\n{output}"
        );
    }
    let arguments = ["--capture", "--extcap-interface", "recorder-gone0", "--fifo", &home.lab.text("pipe")];
    let output = home.recorder(&arguments);
    output.assert_code(2);
    assert!(output.stderr.contains("cannot record on gone0: no such interface"), "{output}");
}
