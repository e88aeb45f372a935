//! What one scan of all sockets and their processes costs, beside the `listeners` crate, which does the same for listening
//! sockets of one network namespace; in turns, in one run.

use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use recorder::attribution::linux::procfs::Scanner;
use recorder::model::Found;
use recorder_tests::process::Running;

use crate::report;

const SOCKETS: [usize; 3] = [100, 1_000, 10_000];
/// One process has so many of them at most, as a busy server has; the rest are other processes'.
const SOCKETS_PER_PROCESS: usize = 500;

/// One number of sockets.
struct Row {
    sockets: usize,
    processes: usize,
    seen: usize,
    ours_ms: Vec<f64>,
    theirs_ms: Vec<f64>,
}

/// `bench lookup`, and `bench hold N`, the program that has the sockets.
pub(crate) fn main(arguments: Vec<String>) {
    if let [first, count] = &arguments[..]
        && first == "hold"
    {
        return hold(count.parse().expect("hold N"));
    }
    let rounds = if arguments.iter().any(|argument| argument == "--quick") { 3 } else { 21 };
    let rows: Vec<Row> = SOCKETS.into_iter().map(|sockets| measure(sockets, rounds)).collect();
    let text = text(&rows, rounds);
    println!("{text}");
    let file = arguments.iter().position(|argument| argument == "--write");
    if let Some(path) = file.and_then(|at| arguments.get(at + 1)) {
        recorder_tests::document::replace(path, "make bench-procfs", &text);
    }
}

/// Has connected pairs of sockets open until it is killed.
fn hold(count: usize) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("cannot listen");
    let to = listener.local_addr().expect("a listener has an address");
    let pairs: Vec<_> = (0..count / 2)
        .map(|_| {
            let client = TcpStream::connect(to).expect("cannot connect");
            (client, listener.accept().expect("cannot accept"))
        })
        .collect();
    println!("ready");
    loop {
        std::thread::park();
        std::hint::black_box(&pairs);
    }
}

fn measure(sockets: usize, rounds: usize) -> Row {
    let own = std::env::current_exe().expect("a program has a path");
    let processes = sockets.div_ceil(SOCKETS_PER_PROCESS);
    let per_process = (sockets / processes).to_string();
    let holders: Vec<Running> = (0..processes)
        .map(|_| {
            let holder = Running::start(Command::new(&own).args(["lookup", "hold", &per_process]));
            holder.wait_for_stdout("ready", |line| line == "ready");
            holder
        })
        .collect();
    let mut scanner = Scanner::default();
    let mut row = Row { sockets, processes, seen: 0, ours_ms: Vec::new(), theirs_ms: Vec::new() };
    for _ in 0..rounds {
        let (scan, time) = timed(|| scanner.scan(Found::Procfs).expect("our scan fails"));
        row.seen = scan.sockets.len();
        row.ours_ms.push(ms(time));
        let (_, time) = timed(|| listeners::get_all().expect("their scan fails"));
        row.theirs_ms.push(ms(time));
    }
    drop(holders);
    assert!(row.seen >= sockets, "{} sockets are there, {} were seen", sockets, row.seen);
    row
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let began = Instant::now();
    let result = work();
    (result, began.elapsed())
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn text(rows: &[Row], rounds: usize) -> String {
    let mut text = String::from(
        "| sockets | processes | one scan | `listeners::get_all` | ratio |\n|---:|---:|---:|---:|---:|\n",
    );
    for Row { sockets, processes, seen: _, ours_ms, theirs_ms } in rows {
        let (ours, theirs) = (report::median(ours_ms.clone()), report::median(theirs_ms.clone()));
        text.push_str(&format!(
            "| {sockets} | {processes} | {ours:.1} ms | {theirs:.1} ms | {:.2} |\n",
            ours / theirs
        ));
    }
    text + &format!(
        "\nMedians of {rounds} turns, one after the other in one run; connected TCP sockets on loopback.\n"
    )
}
