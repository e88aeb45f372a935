//! What is done with the package, and what must come of it.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use recorder_tests::judge::judge;
use recorder_tests::lab::{Lab, say};
use recorder_tests::namespace::Namespace;
use recorder_tests::process::{Running, must, run};
use recorder_tests::recorder::Recording;
use recorder_tests::truth;
use recorder_tests::tshark::fields;

use crate::system::System;

/// A user in the group, and one outside.
const MEMBER: &str = "member";
const STRANGER: &str = "stranger";
const BINARY: &str = "/usr/bin/recorder";

pub(crate) fn tell(root: &Path) {
    let system = System::mount(root);
    for user in [MEMBER, STRANGER] {
        system.must(&["useradd", "--create-home", user]);
    }
    let before = system.files();

    say("package: installing");
    system.must(&["apt-get", "-q", "install", "-y", "--no-install-recommends", "/recorder.deb"]);
    system.must(&["usermod", "--append", "--groups", "recorder", MEMBER]);
    the_binary_is_the_groups(&system);
    what_belongs_to_it_is_there(&system);
    only_members_run_it(&system);
    doctor_finds_that_it_works(&system);
    a_member_records_everybody(&system);
    a_member_records_a_command(&system);
    a_member_reads_only_his_own(&system);
    installing_it_again_keeps_all_of_that(&system);

    say("package: removing");
    system.must(&["apt-get", "-q", "purge", "-y", "recorder"]);
    system.must(&["apt-get", "-q", "autoremove", "--purge", "-y"]);
    nothing_is_left(&system, &before);
}

fn the_binary_is_the_groups(system: &System) {
    let metadata = fs::metadata(system.path(BINARY)).expect("there is a binary");
    let group = system.must(&["getent", "group", "recorder"]);
    let id = group.split(':').nth(2).and_then(|id| id.parse::<u32>().ok());
    assert_eq!((metadata.uid(), Some(metadata.gid())), (0, id), "the owner is root:recorder: {group}");
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o750, "only root and the group run it");
    let capabilities = system.must(&["getcap", BINARY]);
    say(&format!("package: {}", capabilities.trim()));
    assert!(capabilities.contains("cap_net_raw") && capabilities.contains("cap_bpf"), "{capabilities}");
    assert!(
        !capabilities.contains("cap_sys_admin"),
        "what is as good as root is not given away: {capabilities}"
    );
}

fn what_belongs_to_it_is_there(system: &System) {
    for file in [
        "/usr/share/man/man1/recorder.1.gz",
        "/usr/share/man/man1/recorder-record.1.gz",
        "/usr/share/bash-completion/completions/recorder",
        "/usr/share/zsh/vendor-completions/_recorder",
        "/usr/share/fish/vendor_completions.d/recorder.fish",
        "/usr/share/doc/recorder/copyright",
        "/usr/share/doc/recorder/LICENSE-APACHE",
        "/usr/share/doc/recorder/INSTALL.md",
        "/usr/share/doc/recorder/examples/recorder.service",
    ] {
        assert!(
            system.path(file).is_file(),
            "{file} is not there: {}",
            system.must(&["dpkg", "-L", "recorder"])
        );
    }
}

fn only_members_run_it(system: &System) {
    let namespace = Namespace::new("package");
    must(&mut system.command(&namespace, MEMBER, &[BINARY, "--version"]));
    let output = run(&mut system.command(&namespace, STRANGER, &[BINARY, "--version"]));
    assert!(!output.status.success() && output.stderr.contains("Permission denied"), "{output}");
}

fn doctor_finds_that_it_works(system: &System) {
    let output = run(&mut system.command(&Namespace::new("package"), MEMBER, &[BINARY, "doctor"]));
    say(&output.stdout);
    output.assert_code(0);
}

/// Programs of another user: one with a connection from before the start, and some that come and go.
fn a_member_records_everybody(system: &System) {
    let (lab, namespace) = (lab(), Namespace::new("package"));
    let old_server = lab.server(&namespace, "old-server", &["tcp-server", "--connections", "1"]);
    let go = lab.text("go");
    let mut old = lab.command(&namespace, "old-client", &["tcp-client", "127.0.0.1", &old_server.port]);
    let old = Running::start(old.args(["--when", &go]));
    old.wait_for_stdout("a port", |line| line.parse::<u16>().is_ok());

    let file = format!("/home/{MEMBER}/everybody.pcapng");
    let arguments = [BINARY, "record", "-i", "lo", "-w", &file, "--attribution", "ebpf", "--json"];
    let recording = Recording::start(&mut system.command(&namespace, MEMBER, &arguments));
    fs::write(&go, "").expect("cannot write the signal to go");
    old.finish().assert_code(0);
    old_server.running.finish().assert_code(0);
    let server = lab.server(&namespace, "server", &["tcp-server", "--connections", "5"]);
    for _ in 0..5 {
        must(&mut lab.command(&namespace, "client", &["tcp-client", "127.0.0.1", &server.port]));
    }
    server.running.finish().assert_code(0);
    let output = recording.stop();
    output.assert_code(0);

    let recorded = system.path(&file);
    let judgement = judge(&recorded, &truth::read(lab.log()));
    judgement.assert_all_right(40, &format!("recorded by a member\n{output}"));
    let report: serde_json::Value = output
        .stderr
        .lines()
        .last()
        .and_then(|line| serde_json::from_str(line).ok())
        .unwrap_or_else(|| panic!("the last line is the report\n{output}"));
    assert!(report["found"]["by snapshot"].as_u64() > Some(0), "the old connection was looked up\n{output}");
    let comments = fields(&recorded, "tcp", &["frame.comment"]);
    assert!(
        comments.iter().flatten().any(|comment| comment.starts_with("client[")),
        "tshark shows the processes: {comments:?}"
    );
    let metadata = fs::metadata(&recorded).expect("there is a recording");
    let owner = system.must(&["stat", "--format", "%U:%G %a", &file]);
    assert_eq!(owner.trim(), format!("{MEMBER}:{MEMBER} 600"), "the recording is the member's");
    assert!(metadata.len() > 0);
}

fn a_member_records_a_command(system: &System) {
    let (lab, namespace) = (lab(), Namespace::new("package"));
    let server = lab.server(&namespace, "server", &["tcp-server", "--connections", "1"]);
    let file = format!("/home/{MEMBER}/command.pcapng");
    let connect = format!("exec 3<>/dev/tcp/127.0.0.1/{}; exec 3>&-", server.port);
    let script = format!("grep ^Cap /proc/self/status; id -un; {connect}");
    let arguments = [BINARY, "record", "-i", "lo", "-w", &file, "--", "bash", "-c", &script];
    let output = must(&mut system.command(&namespace, MEMBER, &arguments));
    drop(server);
    assert!(output.stdout.contains("CapEff:\t0000000000000000"), "it has none of our capabilities\n{output}");
    assert!(output.stdout.ends_with(&format!("{MEMBER}\n")), "it is the member's\n{output}");
    let comments =
        fields(&system.path(&file), "tcp.flags.syn == 1 && tcp.flags.ack == 0", &["frame.comment"]);
    let [first] = comments.as_slice() else { panic!("one connection: {comments:?}\n{output}") };
    assert!(first[0].starts_with("bash[") && first[0].contains(" > server["), "{first:?}\n{output}");
}

/// The capabilities that show other users' sockets show nothing else of them.
fn a_member_reads_only_his_own(system: &System) {
    let namespace = Namespace::new("package");
    let secret = "/root/secret.pcapng";
    let own = system.path(&format!("/home/{MEMBER}/command.pcapng"));
    fs::copy(&own, system.path(secret)).expect("cannot copy a recording");
    for arguments in [
        [BINARY, "show", secret].as_slice(),
        &[BINARY, "summary", secret],
        &[BINARY, "record", "-i", "lo", "-w", secret, "--force", "-a", "duration:1"],
        &[BINARY, "record", "-i", "lo", "-w", "/root/new.pcapng", "-a", "duration:1"],
    ] {
        let output = run(&mut system.command(&namespace, MEMBER, arguments));
        output.assert_code(2);
        assert!(output.stderr.contains("Permission denied"), "{output}");
    }
    fs::remove_file(system.path(secret)).expect("the recording is still there");
}

fn installing_it_again_keeps_all_of_that(system: &System) {
    system.must(&["apt-get", "-q", "install", "-y", "--reinstall", "/recorder.deb"]);
    the_binary_is_the_groups(system);
    only_members_run_it(system);
}

fn nothing_is_left(system: &System, before: &[String]) {
    let after = system.files();
    let left: Vec<_> = after.iter().filter(|file| !before.contains(file)).collect();
    let gone: Vec<_> = before.iter().filter(|file| !after.contains(file)).collect();
    assert!(left.is_empty() && gone.is_empty(), "left: {left:#?}\ngone: {gone:#?}");
    let groups = fs::read_to_string(system.path("/etc/group")).expect("there are groups");
    assert!(!groups.contains("recorder"), "the group is still there\n{groups}");
}

fn lab() -> Lab {
    let own = std::env::current_exe().expect("this program has a path");
    Lab::new(own.with_file_name("traffic"))
}
