//! Recordings from `samples/`, through the real binary: what it prints of them is what it printed when they were made. What
//! others see in them is in `readers`.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use recorder_tests::recorder::binary;
use recorder_tests::rooms::root;
use recorder_tests::tshark::fields;

fn sample() -> PathBuf {
    root().join("samples/loopback.pcapng")
}

/// What the recorder prints of the sample, in UTC.
fn printed(command: &str) -> String {
    printed_of(command, &sample(), &[])
}

fn printed_of(command: &str, file: &Path, options: &[&str]) -> String {
    let output =
        Command::new(binary()).arg(command).arg(file).args(options).env("TZ", "UTC").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success(),
        "{command}: {}\n{text}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

/// Whether there is a tshark; says so if not. In CI there is.
fn has_tshark() -> bool {
    let has = Command::new("tshark").arg("--version").output().is_ok();
    if !has {
        assert!(std::env::var_os("CI").is_none(), "tshark is missing");
        println!("skipped: no tshark here");
    }
    has
}

fn golden(command: &str) -> String {
    let path = root().join(format!("samples/loopback.pcapng.{command}.txt"));
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn show_prints_of_a_sample_what_it_always_printed() {
    let (got, expected) = (printed("show"), golden("show"));
    assert_eq!(got, expected, "\n--- got\n{got}\n--- expected\n{expected}");
}

#[test]
fn summary_prints_of_a_sample_what_it_always_printed() {
    let (got, expected) = (printed("summary"), golden("summary"));
    assert_eq!(got, expected, "\n--- got\n{got}\n--- expected\n{expected}");
}

#[test]
fn an_expression_and_its_opposite_divide_what_is_printed() {
    let golden = golden("show");
    for (expression, marks) in [
        ("name=lookup", &["lookup["][..]),
        ("name~web-*", &["web-"]),
        ("pid=14054 or pid=14053", &["[14054]", "[14053]"]),
    ] {
        let (chosen, others): (Vec<&str>, Vec<&str>) =
            golden.lines().partition(|line| marks.iter().any(|mark| line.contains(mark)));
        assert!(!chosen.is_empty());
        let print = |expression: &str| printed_of("show", &sample(), &["--process", expression]);
        assert_eq!(print(expression).lines().collect::<Vec<_>>(), chosen, "{expression}");
        assert_eq!(print(&format!("not ({expression})")).lines().collect::<Vec<_>>(), others, "{expression}");
    }
    let objects = printed_of("show", &sample(), &["--json", "--name", "web-client"]);
    assert!(objects.starts_with("{\"frame\":3,"), "frame numbers are those of the file: {objects}");
}

#[test]
fn a_copy_shows_the_kept_packets_as_the_original_does() {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy.pcapng");
    let golden = golden("show");
    for (options, keeps) in [
        (&["--name", "lookup"][..], (|line| line.contains("lookup[")) as fn(&&str) -> bool),
        (&["-f", "tcp port 8080"], |line| line.contains(" TCP ")),
        (&["-f", "greater 100", "--name", "web-server"], |line| line.contains("[P.]")),
        (&[], |_| true),
    ] {
        let output = filter(&sample(), &copy, options);
        let kept: Vec<&str> = golden.lines().filter(keeps).collect();
        let left_out = golden.lines().count() - kept.len();
        let told = format!("{} packets in {}, {left_out} left out\n", kept.len(), copy.display());
        assert_eq!(String::from_utf8_lossy(&output.stderr), told);
        assert_eq!(printed_of("show", &copy, &[]).lines().collect::<Vec<_>>(), kept, "{options:?}");
        let summary = printed_of("summary", &copy, &[]);
        assert_eq!(
            summary.contains(&format!("left out of this copy: {left_out} packets")),
            left_out > 0,
            "{summary}"
        );
        if has_tshark() {
            let theirs = fields(&copy, "ip", &["frame.comment"]).concat();
            let ours: Vec<&str> = kept.iter().filter_map(|line| line.split("  ").nth(1)).collect();
            assert_eq!(theirs, ours);
        }
    }
}

/// `recorder filter FILE -w COPY --force OPTIONS`, which succeeds.
fn filter(file: &Path, copy: &Path, options: &[&str]) -> Output {
    let mut command = Command::new(binary());
    command.arg("filter").arg(file).arg("-w").arg(copy).arg("--force").args(options);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    output
}

#[test]
fn a_copy_goes_through_pipes_as_through_files() {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy.pcapng");
    filter(&sample(), &copy, &["--name", "lookup"]);
    let mut command = Command::new(binary());
    command.args(["filter", "-", "-w", "-", "--name", "lookup"]).stdin(fs::File::open(sample()).unwrap());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(output.stdout, fs::read(&copy).unwrap());
    let compressed = folder.path().join("copy.pcapng.zst");
    filter(&sample(), &compressed, &["--name", "lookup"]);
    assert!(fs::read(&compressed).unwrap().starts_with(&[0x28, 0xb5, 0x2f, 0xfd]), "a zstd frame");
    assert_eq!(printed_of("show", &compressed, &[]), printed_of("show", &copy, &[]));
}

#[test]
fn of_a_cut_recording_everything_before_the_cut_is_copied() {
    let folder = tempfile::tempdir().unwrap();
    let [cut, copy] = ["cut.pcapng", "copy.pcapng"].map(|name| folder.path().join(name));
    let bytes = fs::read(sample()).unwrap();
    fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
    let show = |file: &Path| Command::new(binary()).arg("show").arg(file).env("TZ", "UTC").output().unwrap();
    let expected = show(&cut);
    let output = Command::new(binary()).arg("filter").arg(&cut).arg("-w").arg(&copy).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("the file ends inside the block"), "{output:?}");
    let shown = show(&copy);
    assert!(shown.status.success(), "the copy is a whole file: {shown:?}");
    assert!(!shown.stdout.is_empty());
    assert_eq!(shown.stdout, expected.stdout);
}

#[test]
fn a_file_that_another_program_saved_is_filtered_by_what_it_tells_at_its_end() {
    if !has_tshark() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let [saved, copy] = ["saved.pcapng", "copy.pcapng"].map(|name| folder.path().join(name));
    assert!(Command::new("editcap").arg(sample()).arg(&saved).status().unwrap().success());
    let options = ["--process", "user=root and exe~*/lookup"];
    filter(&saved, &copy, &options);
    let kept = printed_of("show", &copy, &[]);
    assert_eq!(kept, printed_of("show", &sample(), &["--name", "lookup"]));
    let mut command = Command::new(binary());
    let piped =
        command.args(["show", "-"]).args(options).stdin(fs::File::open(&saved).unwrap()).env("TZ", "UTC");
    let piped = piped.output().unwrap();
    if String::from_utf8_lossy(&piped.stdout) != kept {
        assert_eq!(
            piped.status.code(),
            Some(1),
            "what cannot be read twice is wrong, and not told: {piped:?}"
        );
    }
}

#[test]
fn nothing_is_created_for_a_filter_that_makes_no_sense() {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy.pcapng");
    for (options, word) in [
        (["-f", "tcp prt 80"], "cannot use the filter \"tcp prt 80\": "),
        (["--process", "name=a or"], "a comparison is missing\n  name=a or\n           ^ expected"),
        (["--pid", "x"], "`x` is no process id"),
    ] {
        let output = Command::new(binary())
            .arg("filter")
            .arg(sample())
            .arg("-w")
            .arg(&copy)
            .args(options)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(stderr.contains(word), "{word:?} is missing in\n{stderr}");
        assert!(!copy.exists());
    }
    fs::copy(sample(), &copy).unwrap();
    let output =
        Command::new(binary()).arg("filter").arg(&copy).arg("-w").arg(&copy).arg("--force").output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("it is the file that is read"), "{output:?}");
    assert_eq!(fs::read(&copy).unwrap(), fs::read(sample()).unwrap());
}
