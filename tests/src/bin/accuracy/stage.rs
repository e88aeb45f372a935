//! Where scenarios are played: two network namespaces with a veth pair between them, of which the first is recorded, on all
//! its interfaces.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use recorder_tests::judge::judge;
use recorder_tests::lab::{Lab, Server};
use recorder_tests::namespace::{Namespace, connect};
use recorder_tests::process::{Output, Running, must};
use recorder_tests::recorder::{Recording, ask, record};
use recorder_tests::truth::{self, Truth};

use crate::plan::Plan;
use crate::scenario::Take;

/// After this long what is waited for will not come.
const DEADLINE: Duration = Duration::from_secs(60);

/// The namespaces, programs and files of one scenario.
pub(crate) struct Stage<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) lab: Lab,
    /// The one that is recorded.
    pub(crate) here: Namespace,
    pub(crate) there: Namespace,
    label: &'a str,
}

impl<'a> Stage<'a> {
    pub(crate) fn new(plan: &'a Plan, label: &'a str) -> Self {
        let traffic = std::env::current_exe().expect("this program has a path").with_file_name("traffic");
        assert!(traffic.is_file(), "{} is not there; build it first", traffic.display());
        let (here, there) = (Namespace::new("here"), Namespace::new("there"));
        connect(&here, &there, 1);
        Self { plan, lab: Lab::new(traffic), here, there, label }
    }

    /// Every way from a client to a server that is seen here: loopback, from here to there, from there to here.
    pub(crate) fn places(&self) -> Vec<Place<'_>> {
        let (here, there) = (&self.here, &self.there);
        let place = |clients, servers, client: &str, server: &str| Place {
            stage: self,
            clients,
            servers,
            client: client.parse().expect("an address"),
            server: server.parse().expect("an address"),
        };
        vec![
            place(here, here, "127.0.0.1", "127.0.0.1"),
            place(here, here, "::1", "::1"),
            place(here, there, "10.77.1.1", "10.77.1.2"),
            place(here, there, "fd77:1::1", "fd77:1::2"),
            place(there, here, "10.77.1.2", "10.77.1.1"),
            place(there, here, "fd77:1::2", "fd77:1::1"),
        ]
    }

    /// The ways over IPv4 only, for what is made by hand.
    pub(crate) fn places_v4(&self) -> Vec<Place<'_>> {
        self.places().into_iter().filter(|place| place.server.is_ipv4()).collect()
    }

    /// Starts recording here, on all interfaces, with further arguments.
    pub(crate) fn record(&self, arguments: &[&str]) -> InProgress<'_> {
        let file = self.file();
        let mode = self.plan.mode().name();
        let mut all =
            vec!["-i", "any", "--attribution", mode, "-w", file.to_str().expect("our paths are UTF-8")];
        all.extend(arguments);
        InProgress { stage: self, recording: Recording::start(&mut record(&self.here, &all)) }
    }

    /// The recording.
    pub(crate) fn file(&self) -> PathBuf {
        self.lab.path("recording.pcapng")
    }

    /// What the programs have said so far.
    pub(crate) fn truths(&self) -> Vec<Truth> {
        // Without programs that say something there is no log.
        if Path::new(&self.lab.log()).exists() { truth::read(self.lab.log()) } else { Vec::new() }
    }

    /// Judges the recording.
    pub(crate) fn judge(&self) -> Take {
        self.judge_by(&self.truths())
    }

    /// Judges the recording by what was said, and by what follows from it.
    pub(crate) fn judge_by(&self, truths: &[Truth]) -> Take {
        self.keep();
        Take { judgement: judge(&self.file(), truths), reasons: self.reasons(), ..Take::default() }
    }

    fn keep(&self) {
        let Some(folder) = &self.plan.keep else { return };
        fs::create_dir_all(folder).expect("cannot make the folder for what is kept");
        let name = format!("{}-{}", self.label, self.plan.mode().name());
        fs::copy(self.file(), folder.join(format!("{name}.pcapng"))).expect("cannot keep the recording");
        // There may be no truth.
        let _ = fs::copy(self.lab.log(), folder.join(format!("{name}.jsonl")));
    }

    /// What `recorder summary --json` tells of the recording.
    pub(crate) fn summary(&self) -> serde_json::Value {
        let file = self.file();
        let text = ask(&["summary", "--json", file.to_str().expect("our paths are UTF-8")]);
        serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("summary --json is not JSON: {error}\n{text}"))
    }

    fn reasons(&self) -> BTreeMap<String, u64> {
        let summary = self.summary();
        let reasons = summary["statistics"]["reasons"].as_object().cloned().unwrap_or_default();
        reasons.into_iter().filter_map(|(reason, count)| Some((reason, count.as_u64()?))).collect()
    }

    /// Waits until the recorder has written something more.
    pub(crate) fn wait_for_growth(&self, what: &str, from: u64) {
        wait_until(what, || self.size() > from);
    }

    /// How many bytes were written.
    pub(crate) fn size(&self) -> u64 {
        fs::metadata(self.file()).map_or(0, |data| data.len())
    }

    /// Lets the programs go on that wait for this file.
    pub(crate) fn open_gate(&self, name: &str) {
        fs::write(self.lab.path(name), "").expect("cannot open a gate");
    }
}

/// Waits for a condition; panics if it does not come.
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < end, "did not come: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A recording that runs.
pub(crate) struct InProgress<'a> {
    stage: &'a Stage<'a>,
    recording: Recording,
}

impl InProgress<'_> {
    pub(crate) const fn running(&self) -> &Running {
        self.recording.running()
    }

    /// Ends it, which must go well, and judges it.
    pub(crate) fn end(self) -> Take {
        let stage = self.stage;
        self.stop();
        stage.judge()
    }

    /// Ends it, which must go well.
    pub(crate) fn stop(self) {
        self.recording.stop().assert_code(0);
    }

    /// Ends it, however it went.
    pub(crate) fn stop_somehow(self) -> Output {
        self.recording.stop()
    }
}

/// A way from a client to a server.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) stage: &'a Stage<'a>,
    pub(crate) clients: &'a Namespace,
    pub(crate) servers: &'a Namespace,
    /// The client's address.
    pub(crate) client: IpAddr,
    /// The server's address.
    pub(crate) server: IpAddr,
}

impl Place<'_> {
    /// The server's address with a port, as an argument; 0 for any.
    pub(crate) fn listen(&self, port: u16) -> String {
        SocketAddr::new(self.server, port).to_string()
    }

    /// The client's address with a port, as an argument.
    pub(crate) fn bind(&self, port: u16) -> String {
        SocketAddr::new(self.client, port).to_string()
    }

    /// Whether the packets pass loopback.
    pub(crate) fn is_loopback(&self) -> bool {
        self.server.is_loopback()
    }

    /// Starts a server on the server's address.
    pub(crate) fn server(&self, name: &str, arguments: &[&str]) -> Server {
        let listen = self.listen(0);
        let all: Vec<&str> = arguments.iter().copied().chain(["--listen", &listen]).collect();
        self.stage.lab.server(self.servers, name, &all)
    }

    /// Runs a client of this server to its end: the first argument is its job, the others come behind address and port.
    pub(crate) fn client(&self, name: &str, port: &str, arguments: &[&str]) -> Output {
        must(&mut self.client_command(name, port, arguments))
    }

    /// Starts a client.
    pub(crate) fn start_client(&self, name: &str, port: &str, arguments: &[&str]) -> Running {
        Running::start(&mut self.client_command(name, port, arguments))
    }

    fn client_command(&self, name: &str, port: &str, arguments: &[&str]) -> std::process::Command {
        let address = self.server.to_string();
        let (job, further) = arguments.split_first().expect("a client has a job");
        let all: Vec<&str> =
            [*job, address.as_str(), port].into_iter().chain(further.iter().copied()).collect();
        self.stage.lab.command(self.clients, name, &all)
    }
}

/// Waits for a server that ends by itself.
pub(crate) fn finish(server: Server) {
    server.running.finish().assert_code(0);
}

/// Records while every way from a client to a server is played, one after the other.
pub(crate) fn at_each_place(plan: &Plan, label: &str, play: impl Fn(&Place<'_>)) -> Take {
    let stage = Stage::new(plan, label);
    let recording = stage.record(&[]);
    stage.places().iter().for_each(play);
    recording.end()
}
