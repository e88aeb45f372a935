//! What a process calls itself, where its program lies, what its arguments are and which cgroup it is in: they stay what they are,
//! and forge nothing. Not another annotation, not a line or a key of JSON, not an escape of a terminal, not an element of a page, and
//! not the path of a file. Real processes, recorded; then all that tells of them is read. Needs root; says so and passes without.

#![expect(clippy::expect_used, clippy::panic, reason = "helpers of tests are test code too")]

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use recorder_tests::cgroup::Cgroup;
use recorder_tests::lab::{Lab, Server, machine_allows};
use recorder_tests::namespace::Namespace;
use recorder_tests::process::{Output, Running, must, run};
use recorder_tests::recorder::{Recording, ask, binary, record};
use recorder_tests::rooms::root;
use recorder_tests::tshark;
use serde_json::Value;

const TOOLS: [&str; 3] = ["ip", "tshark", "bash"];

/// Names of programs, and how docs/FORMAT.md has them spelled. A name of more than 15 bytes is the whole of the file's.
const PROGRAMS: [(&[u8], &str); 13] = [
    (b"curl[1] > sshd[2]", r"curl\x5b1\x5d \x3e sshd\x5b2\x5d"),
    (b"a[1]\nb[2]", r"a\x5b1\x5d\x0ab\x5b2\x5d"),
    (b"\x1b]0;owned\x07", r"\x1b\x5d0;owned\x07"),
    (b"\x1b[2J\r\x08", r"\x1b\x5b2J\x0d\x08"),
    // U+009B, which some terminals take for ESC [, and a character that turns the rest of the line round.
    (b"\xc2\x9b31m\xe2\x80\xaegpj", r"\xc2\x9b31m\xe2\x80\xaegpj"),
    (b"\xff\xfe[", r"\xff\xfe\x5b"),
    (b"\"},{\"pid\":1", "\"},{\"pid\":1"),
    (b"\\\",\\u0022pid\\u0022:1", r#"\x5c",\x5cu0022pid\x5cu0022:1"#),
    (b"<img src=x onerror=alert(1)>", r"<img src=x onerror=alert(1)\x3e"),
    // As the comments of etl2pcapng, RustNet and Apple's tcpdump begin.
    (b"PID=1 TID=1", "PID=1 TID=1"),
    (b"rustnet process=sshd pid=1 ppid=1", "rustnet process=sshd pid=1 ppid=1"),
    (b"proc sshd:1, in, x", "proc sshd:1, in, x"),
    (b"sshd[1] (effective)", r"sshd\x5b1\x5d (effective)"),
];

/// Names that a process gives itself, which may have a slash.
const OWN: [(&[u8], &str); 5] = [
    (b"../../etc/pw", "../../etc/pw"),
    (b"</script>", r"</script\x3e"),
    (b"/etc/shadow\\x41", r"/etc/shadow\x5cx41"),
    (b"?", r"\x3f"),
    (b" ", r"\x20"),
];

/// Arguments that would be something else where they were not spelled, and how they are.
const ARGUMENTS: [(&str, &str); 5] = [
    ("\n[{\"pid\":1}]\n", r#"\x0a[{"pid":1}]\x0a"#),
    ("\u{1b}[31m\u{9b}31m\u{202e}", r"\x1b[31m\xc2\x9b31m\xe2\x80\xae"),
    ("</script><script>alert(1)</script>", "</script><script>alert(1)</script>"),
    ("\",\"name\":\"sshd", "\",\"name\":\"sshd"),
    ("$(touch /tmp/owned)", "$(touch /tmp/owned)"),
];

/// A folder in the path of the programs, and how it is spelled; the slash in it makes two.
const FOLDER: &str = "<b>\u{1b}[31m\n</script><img src=x>\u{202e}\"";
const FOLDER_SPELLED: &str = r#"/<b>\x1b[31m\x0a</script><img src=x>\xe2\x80\xae"/"#;

/// A recording on loopback, and who sent in it: how docs/FORMAT.md has each spelled, by process id.
struct Scene {
    lab: Lab,
    server: u32,
    senders: BTreeMap<u32, &'static str>,
    report: Output,
}

impl Scene {
    fn new(
        label: &str,
        options: &[&str],
        play: impl FnOnce(&Lab, &Namespace, &Server) -> BTreeMap<u32, &'static str>,
    ) -> Self {
        let (lab, namespace) = (Lab::new(env!("CARGO_BIN_EXE_traffic")), Namespace::new(label));
        let file = lab.text("story.pcapng");
        let arguments = [&["-i", "lo", "-w", &file, "--json"], options].concat();
        let recording = Recording::start(&mut record(&namespace, &arguments));
        let server = lab.server(&namespace, "server", &["udp-server", "--silent", "--datagrams", "1000"]);
        let senders = play(&lab, &namespace, &server);
        let report = recording.stop();
        report.assert_code(0);
        Self { server: server.pid(), lab, senders, report }
    }

    fn file(&self) -> PathBuf {
        self.lab.path("story.pcapng")
    }

    fn ask(&self, arguments: &[&str]) -> String {
        let file = self.lab.text("story.pcapng");
        ask(&[&arguments[..1], &[&file], &arguments[1..]].concat())
    }

    /// The annotation of each sender's datagram.
    fn lines(&self) -> BTreeSet<String> {
        self.senders.iter().map(|(pid, name)| format!("{name}[{pid}] > server[{}]", self.server)).collect()
    }
}

/// Programs of these names, in a hostile folder and with hostile arguments; then processes that name themselves.
fn everybody(lab: &Lab, namespace: &Namespace, server: &Server) -> BTreeMap<u32, &'static str> {
    fs::create_dir_all(lab.path(FOLDER)).expect("a folder");
    let mut senders = BTreeMap::new();
    for (name, spelled) in PROGRAMS {
        let program = lab.program_named(Path::new(FOLDER).join(OsStr::from_bytes(name)));
        let mut command = namespace.command(&program);
        command
            .args(["udp-client", "127.0.0.1", &server.port, "--silent", "--log", &lab.log()])
            .args(ARGUMENTS.map(|(argument, _)| argument));
        senders.insert(pid_of(&mut command), spelled);
    }
    for (name, spelled) in OWN {
        let mut command = namespace.command("bash");
        command.args(["-c", "printf %s \"$1\" >/proc/$$/comm; printf hello >/dev/udp/127.0.0.1/$2", "bash"]);
        command.arg(OsStr::from_bytes(name)).arg(&server.port);
        senders.insert(pid_of(&mut command), spelled);
    }
    senders
}

/// Runs it to its end.
fn pid_of(command: &mut Command) -> u32 {
    let running = Running::start(command);
    let pid = running.pid();
    running.finish().assert_code(0);
    pid
}

/// No character of it can steer a terminal, or change how others are seen.
fn assert_is_tame(text: &str) {
    let hides =
        |letter: char| letter != '\n' && letter.is_control() || ('\u{200b}'..='\u{202e}').contains(&letter);
    assert!(!text.contains(hides), "{text:?}");
}

fn json(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

#[test]
fn no_name_forges_an_annotation_or_a_line_of_show() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let scene = Scene::new("names", &[], everybody);
    let expected = scene.lines();

    let comments = tshark::fields(&scene.file(), "udp", &["frame.comment"]);
    assert_eq!(comments.len(), expected.len(), "{comments:#?}");
    let comments: BTreeSet<String> = comments.into_iter().map(|row| row[0].replace("\\\\", "\\")).collect();
    assert_eq!(comments, expected, "as tshark reads them");

    let shown = scene.ask(&["show"]);
    assert_is_tame(&shown);
    assert_eq!(shown.lines().count(), expected.len(), "{shown}");
    let ends = |line: &str| expected.iter().find(|end| line.ends_with(&format!(" {end}"))).cloned();
    let seen: BTreeSet<String> =
        shown.lines().map(|line| ends(line).unwrap_or_else(|| panic!("{line}"))).collect();
    assert_eq!(seen, expected, "as show prints them");
    assert_names_survive_every_form(&scene, &expected);
}

/// With one form of annotation each, and with comments alone, the same processes are read.
fn assert_names_survive_every_form(scene: &Scene, expected: &BTreeSet<String>) {
    for form in ["comment", "darwin", "comment,ids", "custom,comment"] {
        let copy = scene.lab.text(format!("{form}.pcapng"));
        scene.ask(&["annotate", "-w", &copy, "--annotate", form]);
        let shown = ask(&["show", &copy]);
        for line in shown.lines() {
            let is_one = |end: &String| {
                let one_end = end.split(" > ").next().unwrap_or_default();
                line.ends_with(&format!(" {end}"))
                    || form == "darwin" && line.ends_with(&format!(" {one_end}"))
            };
            assert!(expected.iter().any(is_one), "--annotate {form}: {line}");
        }
    }
}

#[test]
fn no_name_path_or_argument_forges_json() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let scene = Scene::new("json", &["--with-cmdline"], everybody);
    let shown = scene.ask(&["show", "--json"]);
    assert_is_tame(&shown);
    let packets = json(&shown);
    assert_eq!(packets.len(), scene.senders.len(), "{shown}");
    for packet in &packets {
        let sender = &packet["sender"];
        let pid = sender["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("a pid");
        assert_eq!(sender["name"].as_str(), scene.senders.get(&pid).copied(), "{packet:#}");
        assert_eq!(packet["receiver"]["name"], "server", "{packet:#}");
        let path = sender["path"].as_str().expect("a path");
        let arguments: Vec<&str> =
            sender["cmdline"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        if PROGRAMS.iter().any(|(_, spelled)| sender["name"] == *spelled) {
            assert!(path.contains(FOLDER_SPELLED), "{packet:#}");
            assert!(arguments.ends_with(&ARGUMENTS.map(|(_, spelled)| spelled)), "{packet:#}");
        }
    }
    let summary = scene.ask(&["summary", "--json"]);
    assert_is_tame(&summary);
    let processes = json(&summary).remove(0)["processes"].take();
    let named: BTreeMap<u64, String> = processes
        .as_array()
        .expect("processes")
        .iter()
        .map(|row| (row["pid"].as_u64().expect("a pid"), row["name"].as_str().expect("a name").to_owned()))
        .collect();
    assert_eq!(named.len(), scene.senders.len() + 1, "{summary}");
    assert!(
        scene.senders.iter().all(|(pid, name)| named.get(&u64::from(*pid)).is_some_and(|seen| seen == name))
    );
    // The final report, which is the last line.
    assert_is_tame(&scene.report.stderr);
    json(scene.report.stderr.lines().last().expect("a report"));
}

#[test]
fn no_name_forges_a_row_of_the_table_an_element_of_the_page_or_a_file() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let scene = Scene::new("table", &[], everybody);
    let table = scene.ask(&["summary"]);
    assert_is_tame(&table);
    for (pid, name) in &scene.senders {
        let rows = table.lines().filter(|line| line.starts_with(&format!("{name}[{pid}] "))).count();
        assert_eq!(rows, 1, "{name}[{pid}]\n{table}");
    }
    assert_page_has_no_other_elements(&scene);
    assert_files_are_named_plainly(&scene);
}

/// The page has the elements of a page about a recording of ours, and no other; what is new is in the numbers.
fn assert_page_has_no_other_elements(scene: &Scene) {
    let page = scene.lab.text("page.html");
    scene.ask(&["summary", "--html", &page]);
    let page = fs::read_to_string(page).expect("a page");
    let usual = scene.lab.text("usual.html");
    let sample = root().join("samples/loopback.pcapng");
    must(Command::new(binary()).arg("summary").arg(sample).args(["--html", &usual]));
    let usual = fs::read_to_string(usual).expect("a page");
    let elements = |page: &str| page.matches('<').count();
    assert_eq!(elements(&page), elements(&usual), "a < that comes from a name");
    assert!(!page.contains('\u{1b}') && !page.contains('\u{202e}') && !page.contains('\u{9b}'));
}

fn assert_files_are_named_plainly(scene: &Scene) {
    let folder = scene.lab.path("parts");
    fs::create_dir(&folder).expect("a folder");
    let all = || fs::read_dir(scene.lab.path("")).expect("a folder").count();
    let before = all();
    let out = folder.join("part.pcapng");
    let text = out.to_str().expect("our paths are UTF-8");
    let printed = scene.ask(&["filter", "--split-by", "process", "-w", text]);
    assert_is_tame(&printed);
    assert_eq!(all(), before, "a file outside of its folder");
    let files: Vec<PathBuf> =
        fs::read_dir(&folder).expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
    assert_eq!(files.len(), scene.senders.len() + 1, "{files:#?}");
    for file in files {
        let name = file.file_name().and_then(OsStr::to_str).expect("a plain name").to_owned();
        assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)), "{name}");
        assert!(
            printed.lines().any(|line| line == file.to_string_lossy()),
            "{name} is not printed\n{printed}"
        );
        let pid = name.trim_end_matches(".pcapng").rsplit('-').next().unwrap_or_default().to_owned();
        let shown = ask(&["show", file.to_str().expect("a plain name")]);
        assert!(shown.lines().all(|line| line.contains(&format!("[{pid}]"))), "{name}\n{shown}");
    }
}

#[test]
fn no_cgroup_forges_a_container_or_a_unit_that_steers_a_terminal() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let cgroup = Cgroup::new("lxc.payload.a\u{1b}[31m\u{9b}m\"b/c\u{202e}<b>.service");
    let scene = Scene::new("cgroup", &[], |lab, namespace, server| {
        let program = lab.program("client");
        let mut command = cgroup.command(namespace, &program);
        command.args(["udp-client", "127.0.0.1", &server.port, "--silent", "--log", &lab.log()]);
        BTreeMap::from([(pid_of(&mut command), "client")])
    });
    let shown = scene.ask(&["show", "--json"]);
    assert_is_tame(&shown);
    let packet = json(&shown).remove(0);
    assert_eq!(packet["sender"]["container"], "a\u{1b}[31m\u{9b}m\"b", "{packet:#}");
    assert_eq!(packet["sender"]["unit"], "c\u{202e}<b>.service", "{packet:#}");
    for by in ["container", "unit"] {
        for arguments in [&["summary", "--by", by][..], &["summary", "--json", "--by", by]] {
            let told = scene.ask(arguments);
            assert_is_tame(&told);
            assert!(told.contains("[31m") || by == "unit" && told.contains("<b>.service"), "{told}");
        }
    }
    let out = scene.lab.text("by.pcapng");
    assert_is_tame(&scene.ask(&["filter", "--split-by", "container", "-w", &out]));
    assert!(scene.lab.path("by_a__31m_m_b.pcapng").is_file(), "letters, digits, dots, and _ for all else");
}

#[test]
fn a_process_whose_name_is_no_text_is_found_in_proc_too() {
    if !machine_allows(&TOOLS) {
        return;
    }
    for (name, spelled) in [(&b"\xff\xfe["[..], r"\xff\xfe\x5b"), (b"a:b\nUid:\t7", r"a:b\x0aUid:\x097")] {
        let (lab, namespace) = (Lab::new(env!("CARGO_BIN_EXE_traffic")), Namespace::new("procfs"));
        let (file, talk, end) = (lab.text("lo.pcapng"), lab.path("talk"), lab.path("end"));
        let server = lab.server(&namespace, "server", &["udp-server", "--silent", "--datagrams", "9"]);
        let mut command = namespace.command(lab.program_named(OsStr::from_bytes(name)));
        command.args([
            "udp-client",
            "127.0.0.1",
            &server.port,
            "--silent",
            "--tell-ready",
            "--log",
            &lab.log(),
        ]);
        let client = Running::start(command.arg("--when").arg(&talk).arg("--until").arg(&end));
        client.wait_for_stdout("a port", |line| line.parse::<u16>().is_ok());
        // It has its socket all the time, so every scan sees it.
        let procfs = ["-i", "lo", "-w", &file, "--attribution", "procfs"];
        let recording = Recording::start(&mut record(&namespace, &procfs));
        fs::write(&talk, "").expect("a file");
        client.wait_for_stdout("that it has talked", |line| line == "ready");
        recording.stop().assert_code(0);
        fs::write(&end, "").expect("a file");
        let pid = client.pid();
        client.finish().assert_code(0);

        let packets = json(&ask(&["show", "--json", &file]));
        assert_eq!(packets.len(), 1, "{packets:#?}");
        let sender = &packets[0]["sender"];
        assert_eq!(
            (&sender["pid"], &sender["name"], &sender["uid"]),
            (&pid.into(), &spelled.into(), &0.into()),
            "{packets:#?}"
        );
    }
}

#[test]
fn a_hostile_file_steers_no_terminal_with_what_is_said_of_it() {
    let lab = Lab::new(env!("CARGO_BIN_EXE_traffic"));
    let log = lab.path("\u{1b}]0;owned\u{7}\u{9b}m.jsonl");
    let line =
        r#"{"protocol":"\u001b[31m","local":"10.0.0.1:1","remote":"10.0.0.2:2","from":1,"until":2,"pid":5}"#;
    fs::write(&log, line).expect("a log");
    let sample = root().join("samples/loopback.pcapng");
    let mut command = Command::new(binary());
    command.arg("annotate").arg(&sample).args(["-w", &lab.text("out.pcapng"), "--from-log"]).arg(&log);
    let output = run(&mut command);
    output.assert_code(2);
    assert_is_tame(&output.stderr);
    let output = run(Command::new(binary()).arg("show").arg(&log));
    output.assert_code(2);
    assert_is_tame(&output.stderr);
}
