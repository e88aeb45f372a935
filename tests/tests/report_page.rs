//! The page of `recorder summary --html`, in a browser: what a person does with it, and what a capture cannot do to it.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use recorder::model::{Owner, Process};
use recorder_tests::browser::{Browser, CHROMIUM};
use recorder_tests::capture::{Capture, dns_answer, flags, tcp, udp};
use recorder_tests::lab::{machine_has, say};
use recorder_tests::process::{Output, must, run};
use recorder_tests::recorder::binary;
use recorder_tests::rooms::root;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

const HERE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const RESOLVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 53), 53);
const WEB: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 80);
const MILLISECOND: u64 = 1_000_000;

/// Names that a process or a name server may choose, and that must stay what they are: text.
const HOSTILE: [&str; 5] = [
    "<script>alert(1)</script>",
    "\"><img src=x onerror=alert(2)>",
    "'; alert(3); //",
    "line\u{2028}separator\u{2029}",
    "</script><!--<script>alert(4)",
];

fn here(port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(HERE, port)
}

fn process(pid: u32, name: &str) -> Process {
    Process { path: Some(format!("/opt/{name}").into()), uid: Some(0), ..Process::new(pid, name) }
}

/// A connection of a process to a server that is asked for once and answers with so many kilobytes.
fn fetch(capture: &mut Capture, owner: Owner, port: u16, server: SocketAddrV4, at: u64, kilobytes: u64) {
    let (us, me) = (here(port), Some(owner));
    let mut send = |sender, receiver, number: u64, data: Vec<u8>| {
        capture.packet(sender, receiver, at + number * MILLISECOND, &data);
    };
    send(me, None, 0, tcp(us, server, flags::SYN, [100, 0], 0));
    send(None, me, 1, tcp(server, us, flags::SYN | flags::ACK, [500, 101], 0));
    send(me, None, 2, tcp(us, server, flags::ACK, [101, 501], 80));
    for number in 0..kilobytes {
        let sequence = 501 + 1000 * number as u32;
        send(None, me, 3 + number, tcp(server, us, flags::ACK, [sequence, 181], 1000));
    }
    let end = 501 + 1000 * kilobytes as u32;
    send(me, None, 4 + kilobytes, tcp(us, server, flags::FIN, [181, end], 0));
    send(None, me, 5 + kilobytes, tcp(server, us, flags::FIN, [end, 182], 0));
}

/// curl fetches from a server whose name was asked for, wget from another one; and the hostile ones talk, too.
fn capture(path: &Path) {
    let mut capture = Capture::new(path);
    let curl = capture.process(process(4242, "curl"));
    let wget = capture.process(process(4343, "wget"));
    for (owner, name, last) in [(curl, &b"example"[..], 80), (wget, b"test", 81)] {
        let address = Ipv4Addr::new(192, 0, 2, last);
        let answer = dns_answer(&[b"www", name, b"org"], address);
        capture.packet(None, Some(owner), 0, &udp(RESOLVER, here(3000), &answer));
        fetch(
            &mut capture,
            owner,
            4000,
            SocketAddrV4::new(address, 443),
            10 * MILLISECOND,
            10 * u64::from(last),
        );
    }
    for (number, name) in HOSTILE.iter().enumerate() {
        let (port, text) = (5000 + number as u16, Some((*name).to_owned()));
        let hostile = Process { unit: text.clone(), container: text, ..process(6000 + number as u32, name) };
        let owner = capture.process(hostile);
        let peer = Ipv4Addr::new(198, 51, 100, number as u8);
        let answer = dns_answer(&[name.as_bytes(), b"example", b"net"], peer);
        capture.packet(None, Some(owner), 0, &udp(RESOLVER, here(port), &answer));
        capture.packet(
            Some(owner),
            None,
            MILLISECOND,
            &udp(here(port), SocketAddrV4::new(peer, 9), b"discard"),
        );
    }
    capture.packet(None, None, MILLISECOND, &udp(RESOLVER, here(1), b"nobody's"));
    capture.finish();
}

/// A folder with a capture, and the page of it.
struct Scene {
    folder: TempDir,
}

impl Scene {
    fn new(make: impl Fn(&Path)) -> Self {
        let scene = Self { folder: TempDir::with_prefix("recorder-test-").expect("a temporary folder") };
        make(&scene.capture());
        scene
    }

    fn capture(&self) -> PathBuf {
        self.folder.path().join("story.pcapng")
    }

    fn page(&self) -> PathBuf {
        self.folder.path().join("report.html")
    }

    fn summary(&self, options: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.arg("summary").arg(self.capture()).arg("--html").arg(self.page()).args(options);
        command
    }

    fn make_page(&self) -> Output {
        must(&mut self.summary(&[]))
    }

    fn url(&self) -> String {
        format!("file://{}", self.page().display())
    }
}

#[test]
fn the_page_names_the_hashes_of_its_only_script_and_its_only_style() {
    let path = root().join("recorder/src/cli/summary/report.html");
    let page = fs::read_to_string(&path).expect("the template");
    let between = |begin: &str, end: &str| {
        let mut parts = page.split(begin).skip(1);
        let part =
            parts.next().and_then(|rest| rest.split(end).next()).unwrap_or_else(|| panic!("no {begin}"));
        assert!(parts.next().is_none(), "a second {begin}");
        part
    };
    for (kind, text) in
        [("style", between("<style>", "</style>")), ("script", between("<script>", "</script>"))]
    {
        let hash = BASE64_STANDARD.encode(Sha256::digest(text.as_bytes()));
        let line = format!("{kind}-src 'sha256-{hash}'");
        assert!(page.contains(&line), "{}: the {kind} was changed; it needs {line}", path.display());
    }
}

#[test]
fn who_clicks_a_process_sees_its_peers_and_finds_them_by_name() {
    if !machine_has(&[CHROMIUM]) {
        return;
    }
    let scene = Scene::new(capture);
    scene.make_page();
    let mut browser = Browser::start(1400, 1200);
    browser.open(&scene.url());
    assert_eq!(browser.text("h1"), "story.pcapng");
    assert!(browser.text("#detail").contains("Choose a process"), "{}", browser.evidence());

    browser.click("#rows tr", "curl[4242]");
    let detail = browser.text("#detail");
    for word in ["/opt/curl", "www.example.org", "192.0.2.80", "10.0.0.53", "1 closed"] {
        assert!(detail.contains(word), "{word} is missing\n{}", browser.evidence());
    }
    assert!(!detail.contains("www.test.org"), "that is somebody else's\n{}", browser.evidence());
    assert!(browser.text("#chart-title").contains("curl[4242]"), "{}", browser.evidence());

    browser.click("#search", "");
    browser.type_over("test.org");
    let rows = browser.texts("#rows tr");
    assert!(rows.len() == 1 && rows[0].contains("wget[4343]"), "{rows:?}\n{}", browser.evidence());
    browser.click("#rows tr", "wget[4343]");
    assert!(browser.text("#peers").contains("www.test.org"), "{}", browser.evidence());
    assert!(!browser.text("#peers").contains("10.0.0.53"), "only what was searched\n{}", browser.evidence());

    browser.click("#search", "");
    browser.type_over("no such thing");
    assert_eq!(browser.texts("#rows tr"), [] as [&str; 0]);
    browser.type_over("");
    assert_eq!(browser.texts("#rows tr").len(), 2 + HOSTILE.len(), "{}", browser.evidence());

    assert_eq!(browser.complaints(), [] as [&str; 0]);
    browser.open(&format!("{}#curl%5B4242%5D", scene.url()));
    assert_eq!(browser.text("#detail h2"), "curl[4242]", "a link names who is chosen");
    assert_eq!(browser.complaints(), [] as [&str; 0]);
}

#[test]
fn nothing_in_a_capture_becomes_more_than_text_and_the_page_asks_for_nothing_else() {
    if !machine_has(&[CHROMIUM]) {
        return;
    }
    let scene = Scene::new(capture);
    scene.make_page();
    let mut browser = Browser::start(1400, 1200);
    browser.open(&scene.url());
    for way in ["process", "name", "user", "unit", "container"] {
        browser.value(&format!(
            "(() => {{ const by = document.getElementById('by'); by.value = '{way}'; by.dispatchEvent(new Event('change')); }})()"
        ));
        for row in 0..browser.texts("#rows tr").len() {
            browser.click(&format!("#rows tr:nth-child({})", row + 1), "");
        }
    }
    for (number, name) in HOSTILE.iter().enumerate() {
        let first: String = name.chars().take(4).collect();
        browser.click("#search", "");
        browser.type_over(&first);
        let container = browser.texts("#rows tr").concat();
        assert!(container.contains(&first), "{name:?}\n{}", browser.evidence());
        browser.type_over(&format!("198.51.100.{number}"));
        assert_eq!(browser.texts("#rows tr").len(), 1, "{}", browser.evidence());
    }
    assert_eq!(browser.value("document.scripts.length"), 2, "the data, and the script");
    assert_eq!(browser.value("document.images.length"), 0);
    assert!(!browser.has_dialog(), "a script ran\n{}", browser.evidence());
    assert_eq!(browser.complaints(), [] as [&str; 0]);
    assert_eq!(browser.requests(), [scene.url()], "a page that needs nothing but itself");

    // That it would be noticed: what the page forbids is a complaint.
    browser.value("document.body.insertAdjacentHTML('beforeend', '<img src=\"https://192.0.2.1/\" onerror=\"alert(1)\">')");
    assert!(browser.complaints().concat().contains("Content Security Policy"), "{}", browser.evidence());
    assert!(!browser.has_dialog());
}

#[test]
fn the_page_of_a_million_packets_is_small_and_works() {
    if !machine_has(&[CHROMIUM]) {
        return;
    }
    const PROCESSES: u64 = 1000;
    let scene = Scene::new(|path| {
        let mut capture = Capture::new(path);
        let owners: Vec<Owner> = (0..PROCESSES)
            .map(|number| capture.process(process(1000 + number as u32, &format!("worker-{number}"))))
            .collect();
        for number in 0..1_000_000 {
            let (process, turn) = (number % PROCESSES, number / PROCESSES);
            let peer = SocketAddrV4::new(
                Ipv4Addr::from(0xc000_0200 + (turn % 20) as u32 * 256 + (process % 250) as u32),
                443,
            );
            let us = here(10_000 + process as u16);
            let owner = Some(owners[process as usize]);
            let at = number * 60_000;
            match number / PROCESSES % 2 {
                0 => capture.packet(owner, None, at, &udp(us, peer, &[0; 40])),
                _ => capture.packet(None, owner, at, &udp(peer, us, &[0; 40])),
            }
        }
        capture.finish();
    });
    let start = Instant::now();
    scene.make_page();
    let (made_in, size) = (start.elapsed(), fs::metadata(scene.page()).expect("a page").len());
    let mut browser = Browser::start(1400, 1200);
    let start = Instant::now();
    browser.open(&scene.url());
    assert!(browser.text("#tiles").contains("1\u{202f}000\u{202f}000"), "{}", browser.evidence());
    let open_in = start.elapsed();
    browser.click("#search", "");
    browser.type_over("worker-777");
    let start = Instant::now();
    browser.click("#rows tr", "worker-777[1777]");
    assert!(browser.text("#detail").contains("Peers (20)"), "{}", browser.evidence());
    say(&format!(
        "a page of 1000000 packets, {PROCESSES} processes: {size} bytes, made in {made_in:.1?}, open in {open_in:.1?}, \
         a process chosen in {:.1?}",
        start.elapsed()
    ));
    assert_eq!(browser.complaints(), [] as [&str; 0]);
    assert!(size < 12 << 20, "{size} bytes");
}

#[test]
fn a_page_is_created_as_a_recording_is_and_replaces_nothing_unasked() {
    let scene = Scene::new(capture);
    let told = scene.make_page();
    assert!(told.stdout.is_empty() && told.stderr.contains("report.html: "), "{told}");
    let page = fs::read(scene.page()).expect("a page");
    assert_eq!(fs::metadata(scene.page()).expect("a page").permissions().mode() & 0o777, 0o600);
    let refused = run(&mut scene.summary(&[]));
    refused.assert_code(2);
    assert!(refused.stderr.contains("--force"), "{refused}");
    must(&mut scene.summary(&["--force"]));
    assert_eq!(fs::read(scene.page()).expect("a page"), page, "the same capture gives the same page");

    let capture = fs::read(scene.capture()).expect("a capture");
    let mut command = Command::new(binary());
    command.arg("summary").arg(scene.capture()).arg("--force").arg("--html").arg(scene.capture());
    run(&mut command).assert_code(2);
    assert_eq!(fs::read(scene.capture()).expect("a capture"), capture, "the capture is still there");

    let mut command = Command::new(binary());
    command.arg("summary").arg(scene.capture()).args(["--html", "-"]);
    assert_eq!(must(&mut command).stdout.as_bytes(), page);
    let mut command = Command::new(binary());
    command.arg("summary").arg(scene.capture()).args(["--html", "x.html", "--json"]);
    run(&mut command).assert_code(2);
}

#[test]
fn of_a_cut_capture_there_is_a_page_that_says_so() {
    let scene = Scene::new(|path| {
        capture(path);
        let bytes = fs::read(path).expect("a capture");
        fs::write(path, &bytes[..bytes.len() / 2]).expect("cannot cut");
    });
    let output = run(&mut scene.summary(&[]));
    output.assert_code(1);
    let page = fs::read_to_string(scene.page()).expect("a page");
    assert!(page.contains("The file could not be read to its end"), "{output}");
    assert!(page.trim_end().ends_with("</html>"), "the page is whole");
}

#[test]
fn a_name_server_gives_addresses_their_names_in_the_table_and_in_json() {
    let scene = Scene::new(capture);
    let summary = |options: &[&str]| {
        must(Command::new(binary()).arg("summary").arg(scene.capture()).args(options)).stdout
    };
    assert!(summary(&[]).contains("www.example.org, 10.0.0.53"), "{}", summary(&[]));
    let object: serde_json::Value =
        serde_json::from_str(&summary(&["--json", "--name", "curl"])).expect("JSON");
    let peer = &object["processes"][0]["peer_list"][0];
    assert_eq!(peer["address"], WEB.to_string());
    assert_eq!(peer["names"], serde_json::json!(["www.example.org"]));
    let text = summary(&["--by", "connection", "--name", "curl"]);
    assert!(text.contains("TCP 10.0.0.2:4000 > 192.0.2.80:443  curl[4242] > ?  closed"), "{text}");
    assert!(text.lines().any(|line| line.ends_with("  www.example.org")), "{text}");
}
