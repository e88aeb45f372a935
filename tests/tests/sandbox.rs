//! What a running recorder may still do, as the kernel tells it of each thread; what it says where the kernel cannot hold it; and that
//! it records as before. The system calls themselves are tried in recorder/tests/sandbox.rs. Needs root; says so and passes without.

#![expect(clippy::expect_used, reason = "helpers of tests are test code too")]
#![expect(clippy::panic, reason = "a panic is how a test fails")]

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Stdio};

use recorder_tests::judge::judge;
use recorder_tests::lab::{Lab, machine_allows};
use recorder_tests::namespace::Namespace;
use recorder_tests::process::{Output, SIGTERM, SIGUSR1, must, run};
use recorder_tests::recorder::{Recording, binary, record, refused_call};
use recorder_tests::rooms::root;
use recorder_tests::rotation::files;
use recorder_tests::truth;
use recorder_tests::wait::wait_until;

const TOOLS: [&str; 4] = ["ip", "tshark", "capinfos", "zstd"];
const ALL_HOLDS: &str = "sandbox: no capabilities, no_new_privs, Landlock, seccomp\n";
/// A user id that nobody has here.
const SOMEBODY: u32 = 54_321;

fn lab() -> Lab {
    Lab::new(env!("CARGO_BIN_EXE_traffic"))
}

/// So many connections on loopback: eight packets or more each.
fn connect(lab: &Lab, namespace: &Namespace, count: usize) {
    let server = lab.server(namespace, "server", &["tcp-server", "--connections", &count.to_string()]);
    for _ in 0..count {
        must(&mut lab.command(namespace, "client", &["tcp-client", "127.0.0.1", &server.port]));
    }
    server.running.finish().assert_code(0);
}

/// What the kernel says of each thread: its id, and the lines of its status.
fn threads(pid: u32) -> Vec<(String, String)> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("the process is there").flatten();
    let status = |task: fs::DirEntry| {
        let text = fs::read_to_string(task.path().join("status")).ok()?;
        Some((task.file_name().to_string_lossy().into_owned(), text))
    };
    tasks.filter_map(status).collect()
}

fn value<'a>(status: &'a str, key: &str) -> &'a str {
    let value = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(":\t"));
    value.unwrap_or_else(|| panic!("no {key} in\n{status}"))
}

/// That no thread has anything left; how many there are.
fn assert_restricted(pid: u32) -> usize {
    let threads = threads(pid);
    for (thread, status) in &threads {
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(value(status, set), "0000000000000000", "{set} of thread {thread}\n{status}");
        }
        assert_eq!(value(status, "NoNewPrivs"), "1", "thread {thread}\n{status}");
        assert_eq!(value(status, "Seccomp"), "2", "thread {thread}\n{status}");
        assert_ne!(value(status, "Uid").split('\t').next(), Some("0"), "thread {thread}\n{status}");
    }
    threads.len()
}

fn section_comments(file: &Path) -> String {
    must(Command::new("capinfos").args(["-k"]).arg(file)).stdout
}

// --- a recording that has given up everything

#[test]
fn every_thread_has_given_up_everything_while_files_rotate_and_every_packet_has_its_name() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let (lab, namespace) = (lab(), Namespace::new("locked"));
    lab.open_to_all();
    let (file, done) = (lab.text("a.pcapng"), lab.text("done"));
    let after = lab.path("after");
    fs::write(&after, format!("#!/bin/sh\necho \"$1\" >>{done}\n")).expect("cannot write a script");
    fs::set_permissions(&after, fs::Permissions::from_mode(0o755)).expect("cannot change its mode");
    let after = lab.text("after");
    let mut command = record(
        &namespace,
        &["-i", "lo", "-b", "packets:20", "-w", &file, "-z", &after, "--sandbox", "strict"],
    );
    let recording = Recording::start(as_sudo(&mut command));
    let pid = recording.running().pid();
    assert_restricted(pid);
    connect(&lab, &namespace, 10);
    recording.running().signal(SIGUSR1);
    let made = || files(&lab.path("a.pcapng"));
    wait_until("several files are done", || format!("{:?}", made()), || made().len() >= 3);
    assert_restricted(pid);
    connect(&lab, &namespace, 10);
    let output = recording.stop_with(SIGTERM);
    output.assert_code(0);
    assert!(output.stderr.contains(ALL_HOLDS), "{output}");
    assert!(output.stderr.contains("; remembers "), "the numbers were asked for\n{output}");
    let files = files(&lab.path("a.pcapng"));
    let mut packets = 0;
    for (number, file) in &files {
        let judgement = judge(file, &truth::read(lab.log()));
        judgement.assert_all_right(0, &format!("file {number}"));
        packets += judgement.packets.len();
        assert_eq!(fs::metadata(file).expect("it is there").uid(), SOMEBODY, "the files are the user's");
    }
    assert!(packets >= 160, "{packets}\n{output}");
    assert!(section_comments(&files[0].1).contains(ALL_HOLDS.trim_end()), "{output}");
    let told = fs::read_to_string(done).expect("the program ran");
    assert_eq!(told.lines().count(), files.len(), "-z ran for each file\n{told}\n{output}");
}

#[test]
fn a_command_is_recorded_into_a_compressed_ring_by_threads_that_can_do_nothing_else() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let (lab, namespace) = (lab(), Namespace::new("locked-command"));
    lab.open_to_all();
    let (file, go, log) = (lab.text("a.pcapng.zst"), lab.text("go"), lab.log());
    let server = lab.server(&namespace, "server", &["tcp-server", "--connections", "30"]);
    let client = lab.program("client");
    let story = format!(
        "i=0; while [ $i -lt 30 ]; do {client} tcp-client 127.0.0.1 {} --log {log}.own; i=$((i+1)); done; id -u; \
         while [ ! -e {go} ]; do sleep 0.05; done; exit 7",
        server.port
    );
    let limits = ["-i", "lo", "-b", "packets:20", "-b", "files:2", "-w", &file];
    let mut command = record(&namespace, &[&limits[..], &["--", "sh", "-c", &story]].concat());
    let recording = Recording::start(as_sudo(&mut command));
    let user = recording.running().wait_for_stdout("the user", |line| line.parse::<u32>().is_ok());
    assert_eq!(user, SOMEBODY.to_string(), "the command runs as the user");
    let count = assert_restricted(recording.running().pid());
    assert!(count >= 2, "{count} threads: some compress");
    fs::write(go, "").expect("cannot write the signal to go");
    let output = recording.finish();
    output.assert_code(1);
    assert!(output.stderr.contains("the command ended with exit status 7"), "{output}");
    assert!(output.stderr.contains(ALL_HOLDS), "{output}");
    assert!(output.stderr.contains(" (100.0 %)\n"), "every packet has its name\n{output}");
    server.running.finish().assert_code(0);
    let kept = files(&lab.path("a.pcapng.zst"));
    assert_eq!(kept.len(), 2, "{kept:?}\n{output}");
    for (_, file) in kept {
        must(Command::new("zstd").args(["-t", "-q"]).arg(file));
    }
}

/// As sudo(8) starts it for somebody.
fn as_sudo(command: &mut Command) -> &mut Command {
    let id = SOMEBODY.to_string();
    command.env("SUDO_UID", &id).env("SUDO_GID", &id).env("SUDO_USER", "somebody")
}

#[test]
fn a_command_that_cannot_be_started_leaves_no_file() {
    if !machine_allows(&["ip"]) {
        return;
    }
    let (lab, namespace) = (lab(), Namespace::new("locked-nothing"));
    let output =
        run(&mut record(&namespace, &["-i", "lo", "-w", &lab.text("a.pcapng"), "--", "/no/such/program"]));
    output.assert_code(2);
    assert!(output.stderr.contains("cannot run /no/such/program"), "{output}");
    assert!(!lab.path("a.pcapng").exists(), "{output}");
}

#[test]
fn a_folder_that_only_root_may_write_to_costs_a_capability_which_is_told() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let (lab, namespace) = (lab(), Namespace::new("folder"));
    let ring = ["-i", "lo", "-b", "packets:10", "-w", &lab.text("a.pcapng")];
    let mut strict = record(&namespace, &[&ring[..], &["--sandbox", "strict"]].concat());
    let refused = run(as_sudo(&mut strict));
    refused.assert_code(2);
    assert!(refused.stderr.contains("CAP_CHOWN"), "{refused}");
    let mut command = record(&namespace, &ring);
    let recording = Recording::start(as_sudo(&mut command));
    connect(&lab, &namespace, 3);
    let output = recording.stop();
    output.assert_code(0);
    assert!(output.stderr.contains("CAP_CHOWN kept: files are given to the user"), "{output}");
    let files = files(&lab.path("a.pcapng"));
    assert!(files.len() >= 3, "{files:?}\n{output}");
    for (_, file) in files {
        assert_eq!(fs::metadata(file).expect("it is there").uid(), SOMEBODY, "{output}");
    }
}

// --- a kernel that cannot hold it

#[test]
fn where_a_layer_is_refused_auto_says_so_and_records_as_before_and_strict_records_nothing() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let layers = [("Landlock", libc::SYS_landlock_create_ruleset), ("seccomp", libc::SYS_seccomp)];
    for ((layer, call), error) in
        layers.into_iter().flat_map(|layer| [(layer, libc::ENOSYS), (layer, libc::EPERM)])
    {
        let (lab, namespace) = (lab(), Namespace::new("refused-layer"));
        let file = lab.text("a.pcapng");
        let arguments = ["record", "-i", "lo", "-w", &file];
        let strict = [&arguments[..], &["--sandbox", "strict"]].concat();
        let output = run(&mut refused_call(&namespace, &strict, call, error));
        output.assert_code(2);
        assert!(
            output.stderr.starts_with("recorder: cannot restrict the recorder as --sandbox strict asks for"),
            "{output}"
        );
        assert!(
            output.stderr.contains(&format!("not {layer}: ")) && output.stderr.contains("--sandbox auto"),
            "{output}"
        );
        assert!(!lab.path("a.pcapng").exists(), "nothing usable was done, so there is no file\n{output}");

        let recording = Recording::start(&mut refused_call(&namespace, &arguments, call, error));
        connect(&lab, &namespace, 3);
        let output = recording.stop();
        output.assert_code(0);
        let missing = format!("; not {layer}: ");
        let said = output.stderr.matches(&missing).count();
        assert_eq!(said, 2, "at the beginning and in the end\n{output}");
        assert!(output.stderr.contains("owners by eBPF"), "{output}");
        judge(&lab.path("a.pcapng"), &truth::read(lab.log()))
            .assert_all_right(24, &format!("without {layer}"));
        assert!(section_comments(&lab.path("a.pcapng")).contains(&missing), "and in the file\n{output}");
        let doctor = run(&mut refused_call(&namespace, &["doctor"], call, error));
        assert!(doctor.stdout.contains(&missing), "{doctor}");
    }
}

#[test]
fn owners_from_proc_take_capabilities_which_is_told_and_strict_refuses() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let (lab, namespace) = (lab(), Namespace::new("locked-procfs"));
    let arguments = ["-i", "lo", "-w", &lab.text("a.pcapng"), "--attribution", "procfs"];
    let output = run(&mut record(&namespace, &[&arguments[..], &["--sandbox", "strict"]].concat()));
    output.assert_code(2);
    assert!(
        output.stderr.contains("CAP_SYS_PTRACE") && output.stderr.contains("record with eBPF"),
        "{output}"
    );
    let recording = Recording::start(&mut record(&namespace, &arguments));
    for (thread, status) in threads(recording.running().pid()) {
        // SYS_PTRACE, SYS_ADMIN and DAC_READ_SEARCH: bits 19, 21 and 2.
        let permitted = u64::from_str_radix(value(&status, "CapPrm"), 16).expect("a number");
        assert_eq!(permitted & !(1 << 19 | 1 << 21 | 1 << 2), 0, "thread {thread}\n{status}");
        assert_eq!(value(&status, "Seccomp"), "2", "thread {thread}\n{status}");
    }
    connect(&lab, &namespace, 1);
    let output = recording.stop();
    output.assert_code(0);
    assert!(output.stderr.contains("CAP_SYS_PTRACE, CAP_SYS_ADMIN kept"), "{output}");
}

#[test]
fn off_leaves_everything_as_it_is_and_says_so() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let (lab, namespace) = (lab(), Namespace::new("unlocked"));
    let file = lab.text("a.pcapng");
    let recording = Recording::start(&mut record(&namespace, &["-i", "lo", "-w", &file, "--sandbox", "off"]));
    let threads = threads(recording.running().pid());
    assert!(threads.iter().all(|(_, status)| value(status, "Seccomp") == "0"), "{threads:?}");
    let output = recording.stop();
    output.assert_code(0);
    assert!(output.stderr.contains("sandbox: off, as asked for\n"), "{output}");
    assert!(section_comments(Path::new(&file)).contains("sandbox: off"), "{output}");
}

// --- what it takes to begin

/// The rows of docs/INSTALL.md that say what a mode needs: its arguments, and the capabilities.
fn modes() -> Vec<(Vec<String>, Vec<String>)> {
    let words = |text: &str| text.trim_matches([' ', '`']).split(' ').map(str::to_owned).collect();
    let text = fs::read_to_string(root().join("docs/INSTALL.md")).expect("it is there");
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `record ")?.strip_suffix(" |"));
    rows.filter_map(|row| row.split_once(" | ")).map(|(mode, needs)| (words(mode), words(needs))).collect()
}

/// The number of a capability (include/uapi/linux/capability.h): setpriv may be older than its name.
fn number(capability: &str) -> u8 {
    let known = [("CAP_NET_ADMIN", 12), ("CAP_NET_RAW", 13), ("CAP_PERFMON", 38), ("CAP_BPF", 39)];
    let found = known.into_iter().find(|(name, _)| *name == capability);
    found.unwrap_or_else(|| panic!("{capability} has no number here")).1
}

/// Records for a moment, as an ordinary user with these capabilities.
fn record_with(namespace: &Namespace, lab: &Lab, mode: &[String], capabilities: &[String]) -> Output {
    let given =
        capabilities.iter().fold("-all".to_owned(), |all, name| format!("{all},+cap_{}", number(name)));
    let mut command = namespace.command("setpriv");
    command.args(["--reuid", "54321", "--regid", "54321", "--clear-groups"]);
    command.args([&format!("--inh-caps={given}"), &format!("--ambient-caps={given}")]);
    command.args([&lab.adopt(binary(), "recorder"), "record"]).args(mode);
    command.args(["-i", "lo", "-a", "duration:0.1", "--force", "-w", &lab.text("mode.pcapng")]);
    run(&mut command)
}

#[test]
fn each_mode_needs_exactly_the_capabilities_that_the_documentation_names() {
    if !machine_allows(&["ip", "setpriv"]) {
        return;
    }
    let (lab, namespace) = (lab(), Namespace::new("modes"));
    lab.open_to_all();
    let modes = modes();
    assert_eq!(modes.len(), 3, "{modes:?}");
    for (mode, needs) in modes {
        let output = record_with(&namespace, &lab, &mode, &needs);
        output.assert_code(0);
        assert!(output.stderr.contains("sandbox: no capabilities, "), "{output}");
        for missing in &needs {
            let others: Vec<_> = needs.iter().filter(|name| *name != missing).cloned().collect();
            let output = record_with(&namespace, &lab, &mode, &others);
            assert_eq!(output.status.code(), Some(2), "{mode:?} works without {missing}\n{output}");
        }
    }
}

// --- what reads files

#[test]
fn a_command_that_reads_a_file_has_given_up_everything_before_its_first_byte() {
    if !machine_allows(&["ip"]) {
        return;
    }
    let lab = lab();
    lab.open_to_all();
    let out = lab.text("out.pcapng");
    for arguments in
        [&["show", "-"][..], &["summary", "-"], &["filter", "-", "-w", &out], &["annotate", "-", "-w", &out]]
    {
        let mut command = Command::new(binary());
        as_sudo(command.args(arguments));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("cannot start the recorder");
        // It waits for the first byte, which does not come.
        let there = || threads(child.id());
        wait_until(
            &format!("{arguments:?} is restricted"),
            || format!("{:#?}", there()),
            || there().iter().all(|(_, status)| value(status, "Seccomp") == "2"),
        );
        assert_restricted(child.id());
        let mut input = child.stdin.take().expect("standard input is a pipe");
        input.write_all(b"no capture at all").expect("it reads");
        drop(input);
        let output = child.wait_with_output().expect("it ends");
        assert_eq!(output.status.code(), Some(2), "{arguments:?} {output:?}");
    }
}

#[test]
fn a_recording_of_somebody_else_is_read_by_root_as_before() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let (lab, namespace) = (lab(), Namespace::new("others"));
    let (file, copy) = (lab.text("a.pcapng"), lab.text("copy.pcapng.zst"));
    let recording = Recording::start(&mut record(&namespace, &["-i", "lo", "-w", &file]));
    connect(&lab, &namespace, 1);
    recording.stop().assert_code(0);
    chown(&file, Some(SOMEBODY), Some(SOMEBODY)).expect("cannot give the file away");
    let shown = |arguments: &[&str]| -> Output { must(Command::new(binary()).args(arguments)) };
    assert!(shown(&["show", &file]).stdout.contains("client["));
    assert!(shown(&["summary", &file, "--by", "user"]).stdout.contains("root"));
    assert!(shown(&["filter", &file, "--name", "client", "-w", &copy]).stderr.contains("packets"));
    assert!(shown(&["show", &copy]).stdout.contains("client["));
}
