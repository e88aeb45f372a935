//! What is known of a process that has long gone when its packet is written: path, arguments, cgroup, container, unit.
//! Needs root; says so and passes without.

#![expect(clippy::expect_used, clippy::panic, reason = "helpers of tests are test code too")]

use std::fs;
use std::path::Path;

use recorder_tests::cgroup::Cgroup;
use recorder_tests::lab::{Lab, Server, machine_allows, say};
use recorder_tests::namespace::Namespace;
use recorder_tests::process::{Output, SIGCONT, SIGSTOP, must};
use recorder_tests::recorder::{Recording, ask, record};
use serde_json::{Value, json};

const TOOLS: [&str; 1] = ["ip"];
const CONTAINER: &str = "5e9f0c1d2b3a49586776859493a2b1c0dfeeedfc0b1a29384756657483920a1b";

/// A recording on loopback in a namespace of its own.
struct Scene {
    lab: Lab,
    namespace: Namespace,
    recording: Recording,
}

impl Scene {
    fn new(label: &str, options: &[&str]) -> Self {
        Self::after(label, options, |_, _| ()).0
    }

    /// Plays what is there before the recording.
    fn after<T>(label: &str, options: &[&str], play: impl FnOnce(&Lab, &Namespace) -> T) -> (Self, T) {
        let (lab, namespace) = (Lab::new(env!("CARGO_BIN_EXE_traffic")), Namespace::new(label));
        let before = play(&lab, &namespace);
        let file = lab.text("lo.pcapng");
        let arguments = [&["-i", "lo", "-w", &file], options].concat();
        let recording = Recording::start(&mut record(&namespace, &arguments));
        (Self { lab, namespace, recording }, before)
    }

    fn server(&self, datagrams: u32) -> Server {
        udp_server(&self.lab, &self.namespace, datagrams)
    }

    /// Runs a client of the server to its end: one datagram, one answer. Gives its arguments, its own name first.
    fn client(&self, server: &Server, more: &[&str]) -> Vec<String> {
        let (program, arguments) = self.client_arguments(server, more);
        must(self.namespace.command(&program).args(&arguments[1..]));
        arguments
    }

    fn client_arguments(&self, server: &Server, more: &[&str]) -> (String, Vec<String>) {
        let (program, log) = (self.lab.program("client"), self.lab.log());
        let own = [&program, "udp-client", "127.0.0.1", &server.port, "--log", &log];
        (program.clone(), own.iter().chain(more).map(|&text| text.to_owned()).collect())
    }

    /// Ends the recording.
    fn end(self) -> Recorded {
        let output = self.recording.stop();
        output.assert_code(0);
        Recorded { lab: self.lab, output }
    }
}

fn udp_server(lab: &Lab, namespace: &Namespace, datagrams: u32) -> Server {
    lab.server(namespace, "server", &["udp-server", "--datagrams", &datagrams.to_string()])
}

/// A recording that has ended.
struct Recorded {
    lab: Lab,
    output: Output,
}

impl Recorded {
    fn file(&self) -> String {
        self.lab.text("lo.pcapng")
    }

    /// What `show --json` says of senders with this name: one entry for each process.
    fn senders(&self, name: &str) -> Vec<Value> {
        let shown = ask(&["show", "--json", &self.file()]);
        let packets = shown.lines().map(|line| serde_json::from_str::<Value>(line).expect("a line is JSON"));
        let mut senders: Vec<Value> = packets
            .map(|mut packet| packet["sender"].take())
            .filter(|sender| sender["name"] == name)
            .collect();
        senders.dedup();
        assert!(!senders.is_empty(), "{name} has sent nothing\n{shown}\n{}", self.output);
        senders
    }

    fn sender(&self, name: &str) -> Value {
        let mut senders = self.senders(name);
        assert_eq!(senders.len(), 1, "{senders:#?}");
        senders.remove(0)
    }

    /// How often the file has these bytes.
    fn count(&self, bytes: &str) -> usize {
        let file = fs::read(self.file()).expect("there is a recording");
        file.windows(bytes.len()).filter(|window| *window == bytes.as_bytes()).count()
    }

    /// The group with this value under this key, in `summary --by`.
    fn group(&self, by: &str, list: &str, key: &str, value: &Value) -> Value {
        let text = ask(&["summary", "--json", "--by", by, &self.file()]);
        let summary: Value = serde_json::from_str(&text).expect("summary --json is JSON");
        let groups = summary[list].as_array().unwrap_or_else(|| panic!("no {list}\n{text}"));
        let found: Vec<&Value> = groups.iter().filter(|group| group[key] == *value).collect();
        assert_eq!(found.len(), 1, "{key} = {value}\n{text}");
        found[0].clone()
    }
}

// --- gone with its cgroup

#[test]
fn a_process_of_a_millisecond_whose_cgroup_is_gone_too_is_known_whole() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let scene = Scene::new("exec", &["--with-cmdline"]);
    let server = scene.server(1);
    let cgroup = Cgroup::new(&format!("docker-{CONTAINER}.scope/my\\x2dweb.service"));
    let path = cgroup.path().to_owned();
    let (program, arguments) = scene.client_arguments(&server, &["two words", "a\nb\\", ""]);

    // While the recorder is stopped the client begins and ends, and its cgroup is removed.
    scene.recording.running().signal(SIGSTOP);
    must(cgroup.command(&scene.namespace, &program).args(&arguments[1..]));
    cgroup.remove();
    scene.recording.running().signal(SIGCONT);
    server.running.finish().assert_code(0);
    let recorded = scene.end();

    let client = recorded.sender("client");
    assert_eq!(client["path"], json!(program), "{client:#}");
    assert_eq!(client["cgroup"], json!(path), "{client:#}");
    assert_eq!(client["container"], json!(CONTAINER), "{client:#}");
    assert_eq!(client["unit"], json!("my\\x2dweb.service"), "{client:#}");
    let mut spelled = arguments;
    let count = spelled.len();
    spelled[count - 2] = "a\\x0ab\\x5c".into();
    assert_eq!(client["cmdline"], json!(spelled), "{client:#}");
    assert_eq!(client["cmdline_cut"], Value::Null, "{client:#}");
    assert_in_both_records(&recorded, &path);
    assert_summed_up(&recorded, &client);
}

/// The process block and the Process Information block hold the same JSON.
fn assert_in_both_records(recorded: &Recorded, path: &str) {
    let in_json = |text: &str| serde_json::to_string(text).expect("a text is JSON");
    let details = [
        format!("\"cgroup\":{}", in_json(path)),
        format!("\"container\":\"{CONTAINER}\""),
        format!("\"unit\":{}", in_json("my\\x2dweb.service")),
        format!("\"cmdline\":[{}", in_json(&recorded.lab.program("client"))),
    ];
    for detail in details {
        assert_eq!(recorded.count(&detail), 2, "{detail}");
    }
}

/// The client's datagram and its answer are found under each key.
fn assert_summed_up(recorded: &Recorded, client: &Value) {
    let (name, container, unit, root) = (json!("client"), json!(CONTAINER), &client["unit"], json!("root"));
    for (by, list, key, value) in [
        ("pid", "processes", "pid", &client["pid"]),
        ("name", "groups", "name", &name),
        ("container", "groups", "container", &container),
        ("unit", "groups", "unit", unit),
    ] {
        let group = recorded.group(by, list, key, value);
        assert_eq!(group["sent"]["packets"], 1, "{group:#}");
        assert_eq!(group["received"]["packets"], 1, "{group:#}");
        assert_eq!(group["total"]["packets"], 2, "{group:#}");
    }
    // The server is root's too.
    let group = recorded.group("user", "groups", "user", &root);
    assert_eq!(
        (&group["uid"], &group["processes"], &group["total"]["packets"]),
        (&json!(0), &json!(2), &json!(2))
    );

    for (by, label) in
        [("container", CONTAINER), ("unit", "my\\x2dweb.service"), ("user", "root"), ("name", "client")]
    {
        let table = ask(&["summary", "--by", by, &recorded.file()]);
        assert!(table.lines().any(|line| line.starts_with(&format!("{label} "))), "{by}\n{table}");
    }
}

#[test]
fn of_containers_and_units_within_each_other_the_innermost_is_told() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let scene = Scene::new("inner", &[]);
    let server = scene.server(1);
    let outer = CONTAINER.replace('5', "6");
    let cgroup = Cgroup::new(&format!("web.service/docker-{outer}.scope/docker/{CONTAINER}/init"));
    let (program, arguments) = scene.client_arguments(&server, &[]);
    must(cgroup.command(&scene.namespace, &program).args(&arguments[1..]));
    cgroup.remove();
    server.running.finish().assert_code(0);

    let client = scene.end().sender("client");
    assert_eq!(client["container"], json!(CONTAINER), "{client:#}");
    assert_eq!(client["unit"], json!(format!("docker-{outer}.scope")), "{client:#}");
}

#[test]
fn a_cgroup_deeper_than_the_kernel_side_looks_lacks_its_beginning_and_shows_that() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let scene = Scene::new("deep", &[]);
    let server = scene.server(1);
    let inner: Vec<String> = (1..=20).map(|depth| format!("depth-{depth}")).collect();
    let cgroup = Cgroup::new(&inner.join("/"));
    let path = cgroup.path().to_owned();
    let (program, arguments) = scene.client_arguments(&server, &[]);
    must(cgroup.command(&scene.namespace, &program).args(&arguments[1..]));
    cgroup.remove();
    server.running.finish().assert_code(0);

    let client = scene.end().sender("client");
    let told = client["cgroup"].as_str().unwrap_or_else(|| panic!("no cgroup: {client:#}"));
    assert!(!told.starts_with('/') && path.ends_with(&format!("/{told}")), "{told} of {path}");
}

#[test]
fn a_container_that_only_cgroups_of_version_1_name_is_found_while_the_process_is_there() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let Some(cgroup) = Cgroup::version_1(&format!("docker/{CONTAINER}")) else {
        say("skipped: there are no cgroups of version 1 here");
        return;
    };
    let scene = Scene::new("version-1", &[]);
    let (program, log) = (scene.lab.program("server"), scene.lab.log());
    let mut command = cgroup.command(&scene.namespace, &program);
    command.args(["udp-server", "--log", &log]);
    let running = recorder_tests::process::Running::start(&mut command);
    let port = running.wait_for_stdout("a port", |line| line.parse::<u16>().is_ok());
    let server = Server { port, running };
    scene.client(&server, &[]);
    let recorded = scene.end();
    drop(server);
    cgroup.remove();

    assert_eq!(recorded.sender("server")["container"], json!(CONTAINER));
    assert_eq!(recorded.sender("client").get("container"), None);
}

// --- arguments

#[test]
fn arguments_are_in_the_file_only_where_that_was_asked_for() {
    if !machine_allows(&TOOLS) {
        return;
    }
    const SECRET: &str = "password=correct-horse-battery-staple";
    for (options, is_there) in [(&[][..], false), (&["--with-cmdline"][..], true)] {
        let scene = Scene::new("secret", options);
        let server = scene.server(1);
        scene.client(&server, &[SECRET]);
        server.running.finish().assert_code(0);
        let recorded = scene.end();
        let client = recorded.sender("client");
        assert_eq!(client.get("cmdline").is_some(), is_there, "{options:?}: {client:#}");
        assert_eq!(recorded.count(SECRET) > 0, is_there, "{options:?}");
        // The commonest way in which a part of it could have got in.
        assert_eq!(recorded.count("horse") > 0, is_there, "{options:?}");
    }
}

#[test]
fn a_process_from_before_the_start_and_a_fork_without_exec_have_their_arguments() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let before = |lab: &Lab, namespace: &Namespace| {
        lab.server(namespace, "server", &["tcp-server", "--connections", "1"])
    };
    let (scene, server) = Scene::after("before", &["--with-cmdline"], before);
    let (program, log) = (scene.lab.program("client"), scene.lab.log());
    must(scene.namespace.command(&program).args(["daemon-client", "127.0.0.1", &server.port, "--log", &log]));
    server.running.finish().assert_code(0);
    let port = server.port;
    let recorded = scene.end();

    let expected = json!([program, "daemon-client", "127.0.0.1", port, "--log", log]);
    assert_eq!(recorded.sender("client")["cmdline"], expected);
    let expected = json!([recorded.lab.program("server"), "tcp-server", "--connections", "1", "--log", log]);
    assert_eq!(recorded.sender("server")["cmdline"], expected);
}

#[test]
fn two_programs_in_one_process_have_each_their_own_arguments() {
    if !machine_allows(&["ip", "bash"]) {
        return;
    }
    let scene = Scene::new("programs", &["--with-cmdline"]);
    let server = scene.server(2);
    let (program, arguments) = scene.client_arguments(&server, &[]);
    let script = "echo hello > /dev/udp/127.0.0.1/\"$0\" && exec \"$@\"";
    let mut command = scene.namespace.command("bash");
    must(command.args(["-c", script, &server.port, &program]).args(&arguments[1..]));
    server.running.finish().assert_code(0);
    let port = server.port;
    let recorded = scene.end();

    let (shell, client) = (recorded.sender("bash"), recorded.sender("client"));
    assert_eq!(shell["pid"], client["pid"], "{shell:#}\n{client:#}");
    assert_eq!(client["cmdline"], json!(arguments), "{client:#}");
    let mut of_shell = vec!["bash", "-c", "echo hello > /dev/udp/127.0.0.1/\"$0\" && exec \"$@\"", &port];
    of_shell.extend(arguments.iter().map(String::as_str));
    assert_eq!(shell["cmdline"], json!(of_shell), "{shell:#}");
    assert!(Path::new(shell["path"].as_str().unwrap_or("")).ends_with("bash"), "{shell:#}");
}

#[test]
fn arguments_that_are_too_long_are_cut_and_that_is_told() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let scene = Scene::new("long", &["--with-cmdline"]);
    let server = scene.server(2);
    let long = "x".repeat(10_000);
    let arguments = scene.client(&server, &[&long, "behind"]);
    // Exactly as many bytes as there is room for, the NUL behind each argument included.
    let used: usize = arguments[..arguments.len() - 2].iter().map(|argument| argument.len() + 1).sum();
    let fitting = "y".repeat(4096 - used - 1);
    scene.client(&server, &[&fitting]);
    server.running.finish().assert_code(0);
    let recorded = scene.end();

    let [cut, whole] = &recorded.senders("client")[..] else { panic!("two clients\n{}", recorded.output) };
    assert_eq!(cut["cmdline_cut"], json!(true));
    let kept = cut["cmdline"].as_array().expect("there are arguments");
    assert_eq!(kept.len(), arguments.len() - 1, "the last one is not there");
    assert_eq!(kept[kept.len() - 1], json!("x".repeat(4096 - used)), "a part of the long one is");
    assert_eq!(whole["cmdline_cut"], Value::Null);
    assert_eq!(whole["cmdline"][kept.len() - 1], json!(fitting));
}
