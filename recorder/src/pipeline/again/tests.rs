//! A recording is played without a machine: what the loop would tell the attribution is told, packets are written. Then the
//! file alone must give the same answers.

use super::*;
use crate::attribution::clock::ClockOffset;
use crate::attribution::event::{Cookie, Event, Happening, NetNs, ProcessId, ProcessNews, SocketNews, User};
use crate::attribution::news::{Moment, News, Origin};
use crate::attribution::translations::Translator;
use crate::model::{
    Direction, Endpoint, Flow, Interface, InterfaceCounts, LinkType, MonoTime, Packet, Protocol, RealTime,
    Reason, Reception,
};
use crate::pcapng::SectionInfo;

const HERE: NetNs = NetNs(5);
const MS: u64 = 1_000_000;
/// The packets' clock less that of the events.
const OFFSET_NS: u64 = 1_700_000_000_000_000_000;
const CLIENT: [u8; 4] = [10, 0, 0, 1];
const SERVER: [u8; 4] = [10, 0, 0, 2];

/// A recording on `lo` (interface 0) and `eth0` (interface 1).
struct Recording {
    attributor: Attributor,
    writer: Writer<Vec<u8>>,
    statistics: Statistics,
    /// What was answered, packet by packet.
    answers: Vec<Attribution>,
}

impl Recording {
    fn new(translator: Option<Box<dyn Translator>>) -> Self {
        let origin = Origin { netns: HERE, boot: RealTime::from_ns(OFFSET_NS) };
        let mut attributor = Attributor::new(origin, translator);
        attributor.keep_journal();
        let section = SectionInfo {
            hardware: Some("x86_64".into()),
            os: Some("Linux 6.18".into()),
            application: Some("recorder 0.1.0".into()),
            comments: vec!["a test".into()],
        };
        let mut writer = Writer::new(Vec::new(), Annotate::ALL, &section);
        for (name, link_type) in [("lo", LinkType::RAW_IP), ("eth0", LinkType::RAW_IP)] {
            let interface = Interface {
                name: name.into(),
                description: None,
                link_type,
                mac: None,
                snap_length: 262_144,
                filter: None,
            };
            writer.add_interface(&interface).unwrap();
        }
        attributor.journal_mut().unwrap().loopback(InterfaceId(0));
        let statistics = Statistics {
            start: RealTime::from_ns(OFFSET_NS),
            end: RealTime::from_ns(OFFSET_NS + 60_000 * MS),
            interfaces: vec![InterfaceCounts { dropped_by_kernel: Some(0), ..InterfaceCounts::default() }; 2],
            ..Statistics::default()
        };
        Self { attributor, writer, statistics, answers: Vec::new() }
    }

    fn tell(&mut self, news: News) {
        self.attributor.learn(news);
    }

    /// A packet on an interface at this time, asked for when it has waited long enough.
    fn packet(&mut self, interface: u32, at_ms: u64, data: &[u8]) -> Attribution {
        self.packet_that(interface, at_ms, data, true)
    }

    /// The same of a packet that is not selected.
    fn packet_left_out(&mut self, interface: u32, at_ms: u64, data: &[u8]) -> Attribution {
        self.packet_that(interface, at_ms, data, false)
    }

    fn packet_that(&mut self, interface: u32, at_ms: u64, data: &[u8], is_selected: bool) -> Attribution {
        let (at, now) = (MonoTime::from_ns(at_ms * MS), MonoTime::from_ns((at_ms + 60) * MS));
        let clock = ClockOffset::new((RealTime::from_ns(now.as_ns() + OFFSET_NS), now));
        self.tell(News::Moment(Moment { clock, known_until: now }));
        let packet = Packet {
            interface: InterfaceId(interface),
            time: RealTime::from_ns(at.as_ns() + OFFSET_NS),
            direction: Direction::Outbound,
            reception: Reception::Unknown,
            original_length: data.len() as u32,
            data,
        };
        let attribution = self.attributor.attribute(&packet, LinkType::RAW_IP, interface == 0);
        if !is_selected {
            self.statistics.not_selected.count(&attribution);
            self.attributor.left_out();
            return attribution;
        }
        self.store();
        self.writer.packet(&packet, &attribution, self.attributor.processes()).unwrap();
        self.statistics.attribution.count(&attribution);
        self.statistics.interfaces[interface as usize].written += 1;
        self.statistics.interfaces[interface as usize].received += 1;
        self.answers.push(attribution);
        attribution
    }

    fn store(&mut self) {
        let journal = self.attributor.journal_mut().unwrap();
        self.writer.kept_events(journal::VERSION, journal.bytes()).unwrap();
        journal.clear();
    }

    fn finish(mut self) -> Vec<u8> {
        self.store();
        self.writer.finish(&self.statistics, self.attributor.processes()).unwrap()
    }
}

fn again(file: &[u8]) -> AttributedAgain<Vec<u8>> {
    Again::new(Reader::new(file).unwrap()).unwrap().write(Vec::new(), None).unwrap()
}

/// The file is found again to the byte.
fn assert_the_same(file: &[u8]) {
    let again = again(file);
    assert!(again.failure.is_none(), "{:?}", again.failure);
    assert_eq!(again.changed, 0, "packets have other owners");
    assert!(again.out == file, "the same owners, and another file");
}

fn why_not(file: &[u8]) -> AgainError {
    match Again::new(Reader::new(file).unwrap()) {
        Ok(again) => again.write(Vec::new(), None).unwrap().failure.expect("a failure"),
        Err(error) => error,
    }
}

fn end(address: [u8; 4], port: u16) -> Endpoint {
    Endpoint::new(address.into(), port)
}

fn flow(protocol: Protocol, ports: [u16; 2]) -> Flow {
    Flow { protocol, local: end(CLIENT, ports[0]), remote: end(SERVER, ports[1]) }
}

fn process(id: u64, name: &str) -> News {
    News::Event(Event::Process(ProcessNews {
        id: ProcessId(id),
        pid: id as u32,
        start_boottime_ns: 1000 + id,
        exec_id: 0,
        parent_pid: 1,
        uid: 0,
        cgroup: b"/system.slice/test.service".to_vec(),
        older_cgroups: Vec::new(),
        comm: name.into(),
        path: format!("/usr/bin/{name}").into(),
        arguments: None,
        tracked: false,
    }))
}

fn uses(id: u64, at_ms: u64, flow: Flow) -> News {
    let at = MonoTime::from_ns(at_ms * MS);
    News::Event(Event::Socket(SocketNews {
        happening: Happening::IsUsed,
        at,
        cookie: Cookie(id),
        netns: HERE,
        flow,
        user: Some(User { process: ProcessId(id), tid: 0, since: at, handover: None }),
        existed: MonoTime::default(),
        remote_isn: 0,
        connects: false,
        drained: false,
        closed_by_other: false,
    }))
}

fn ip(protocol: u8, fragment: [u8; 4], [source, destination]: [[u8; 4]; 2], payload: &[u8]) -> Vec<u8> {
    let length = (20 + payload.len() as u16).to_be_bytes();
    let [a, b, c, d] = fragment;
    let mut packet = vec![0x45, 0, length[0], length[1], a, b, c, d, 64, protocol, 0, 0];
    packet.extend_from_slice(&source);
    packet.extend_from_slice(&destination);
    packet.extend_from_slice(payload);
    packet
}

fn udp(ports: [u16; 2], fragment: [u8; 4]) -> Vec<u8> {
    let mut payload: Vec<u8> = ports.iter().flat_map(|port| port.to_be_bytes()).collect();
    payload.extend_from_slice(&[0, 12, 0, 0, 1, 2, 3, 4]);
    ip(17, fragment, [CLIENT, SERVER], &payload)
}

const SYN: u8 = 2;
const ACK: u8 = 16;

fn tcp(ports: [u16; 2], flags: u8) -> Vec<u8> {
    let mut payload: Vec<u8> = ports.iter().flat_map(|port| port.to_be_bytes()).collect();
    payload.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 1, 0, 0, 0, 0, 0]);
    ip(6, [0; 4], [CLIENT, SERVER], &payload)
}

fn is_known(attribution: Attribution) -> bool {
    matches!(attribution, Attribution::Known { .. })
}

/// Two programs that talk at the same time; one of them ends, and its socket with it.
fn two_programs() -> Recording {
    let mut recording = Recording::new(None);
    recording.tell(News::Addresses(vec![CLIENT.into()]));
    for (id, port) in [(7, 5000), (8, 6000)] {
        recording.tell(process(id, if id == 7 { "seven" } else { "eight" }));
        recording.tell(uses(id, 100, flow(Protocol::UDP, [port, 53])));
    }
    for at_ms in 101..120 {
        assert!(is_known(recording.packet(1, at_ms, &udp([5000, 53], [0; 4]))));
        assert!(is_known(recording.packet(0, at_ms, &udp([6000, 53], [0; 4]))));
        assert!(!is_known(recording.packet(1, at_ms, &udp([7000, 53], [0; 4]))));
    }
    recording.tell(News::Forget(MonoTime::from_ns(70 * MS)));
    recording.tell(News::Lost { from: MonoTime::from_ns(200 * MS), to: MonoTime::from_ns(210 * MS) });
    assert_eq!(recording.packet(1, 220, &udp([5000, 53], [0; 4])), Attribution::Unknown(Reason::EventsLost));
    recording
}

#[test]
fn a_file_with_its_events_gives_the_same_file_again() {
    let file = two_programs().finish();
    assert_the_same(&file);
}

#[test]
fn what_is_annotated_in_another_way_has_the_same_owners() {
    let file = two_programs().finish();
    let plain = Again::new(Reader::new(file.as_slice()).unwrap()).unwrap();
    let plain = plain.write(Vec::new(), Some(Annotate::NONE)).unwrap().out;
    assert!(plain.len() < file.len());
    // And back: it says by itself that it has no annotation.
    assert!(again(&plain).out == plain);
    let back = Again::new(Reader::new(plain.as_slice()).unwrap()).unwrap();
    let back = back.write(Vec::new(), Some(Annotate::ALL)).unwrap();
    assert!(back.out == file);
    assert_eq!(back.changed, back.attributed, "the plain one named nobody");
}

#[test]
fn a_packet_that_was_left_out_has_its_say_about_others() {
    let mut recording = Recording::new(None);
    recording.tell(process(7, "seven"));
    recording.tell(uses(7, 100, flow(Protocol::UDP, [5000, 53])));
    // Only the first fragment shows the ports.
    let (more, last) = ([0, 9, 0x20, 0], [0, 9, 0, 2]);
    assert!(is_known(recording.packet_left_out(1, 101, &udp([5000, 53], more))));
    assert!(is_known(recording.packet(1, 101, &ip(17, last, [CLIENT, SERVER], &[0; 8]))));
    // A connection is closed; the SYN of another one, which is left out, takes its flow away.
    recording.tell(uses(7, 200, flow(Protocol::TCP, [5000, 80])));
    assert!(is_known(recording.packet(1, 201, &tcp([5000, 80], ACK))));
    let News::Event(Event::Socket(used)) = uses(7, 210, flow(Protocol::TCP, [5000, 80])) else {
        panic!("an event of a socket")
    };
    let closed = SocketNews { happening: Happening::IsClosed, user: None, ..used };
    recording.tell(News::Event(Event::Socket(closed)));
    assert!(is_known(recording.packet(1, 220, &tcp([5000, 80], ACK))), "its last acknowledgement");
    recording.packet_left_out(1, 230, &tcp([5000, 80], SYN));
    assert!(!is_known(recording.packet(1, 240, &tcp([5000, 80], ACK))), "of the other one");
    assert_the_same(&recording.finish());
}

/// Masquerades: whoever sends from port 61000 is port 5000 behind it, as long as it is asked.
#[derive(Debug)]
struct Masquerade;

impl Translator for Masquerade {
    fn is_tracking(&mut self) -> bool {
        true
    }

    fn translate(&mut self, flow: &Flow) -> Option<Flow> {
        (flow.local.port == 61000).then(|| Flow { local: end(CLIENT, 5000), ..*flow })
    }
}

#[test]
fn translated_addresses_are_known_without_asking() {
    let mut recording = Recording::new(Some(Box::new(Masquerade)));
    recording.tell(process(7, "seven"));
    recording.tell(uses(7, 100, flow(Protocol::UDP, [5000, 53])));
    for at_ms in [101, 102, 500, 1050, 1102, 1150, 2500, 2501] {
        assert!(is_known(recording.packet(1, at_ms, &udp([61000, 53], [0; 4]))), "{at_ms}");
        assert!(!is_known(recording.packet(1, at_ms, &udp([62000, 53], [0; 4]))), "{at_ms}");
        recording.tell(News::Forget(MonoTime::from_ns(at_ms * MS)));
    }
    assert_the_same(&recording.finish());
}

#[test]
fn a_file_without_events_says_so() {
    let section = SectionInfo::default();
    let file = Writer::new(Vec::new(), Annotate::ALL, &section);
    let file = file.finish(&Statistics::default(), &ProcessTable::default()).unwrap();
    assert!(matches!(why_not(&file), AgainError::NoEvents));
}

#[test]
fn two_recordings_in_one_file_are_not_mixed() {
    let first = two_programs().finish();
    let both = [first.as_slice(), &first].concat();
    let again = again(&both);
    let at = first.len() as u64;
    assert!(matches!(again.failure, Some(AgainError::AnotherSection { offset }) if offset >= at));
    assert_eq!(again.packets, 58, "those of the first one");
}

#[test]
fn events_of_another_version_are_not_guessed_at() {
    let mut file = two_programs().finish();
    let magic = file.windows(8).position(|bytes| bytes == b"rec-evts").expect("a block of events");
    file[magic + 8] = journal::VERSION as u8 + 1;
    assert!(matches!(why_not(&file), AgainError::Version(version) if version == journal::VERSION + 1));
}

#[test]
fn the_loopback_interface_is_told_once_and_is_in_the_file() {
    for interface in [0, 2] {
        let mut recording = two_programs();
        recording.attributor.journal_mut().unwrap().loopback(InterfaceId(interface));
        let why = why_not(&recording.finish());
        assert!(matches!(why, AgainError::Damaged { .. }), "{interface}: {why:?}");
    }
}

#[test]
fn texts_about_processes_are_bounded_and_those_told_again_do_not_count() {
    let mut recording = Recording::new(None);
    // Name and path.
    let name = "n".repeat(500);
    for id in 0..10 {
        recording.tell(process(7, &name));
        recording.tell(process(id, &name));
        recording.packet(1, 100 + id, &udp([5000, 53], [0; 4]));
    }
    let file = recording.finish();
    let within = |most_text_bytes| {
        let mut again = Again::new(Reader::new(file.as_slice()).unwrap()).unwrap();
        again.most_text_bytes = most_text_bytes;
        again.write(Vec::new(), None).unwrap()
    };
    let all = within(11 * 1100);
    assert!(all.failure.is_none(), "{:?}", all.failure);
    let some = within(5 * 1100);
    assert!(matches!(some.failure, Some(AgainError::TooMuchText { .. })), "{:?}", some.failure);
    assert!(some.packets > 1 && some.packets < 10, "{} packets before them", some.packets);
}

#[test]
fn a_file_that_is_cut_gives_what_came_before() {
    let file = two_programs().finish();
    for cut in (0..file.len()).step_by(97) {
        let Ok(reader) = Reader::new(&file[..cut]) else { continue };
        let Ok(again) = Again::new(reader) else { continue };
        let again = again.write(Vec::new(), None).unwrap();
        assert!(
            again.changed == 0 && file.starts_with(&again.out[..again.out.len().min(200)]),
            "cut at {cut}"
        );
    }
}

#[test]
fn wrong_bytes_do_no_harm() {
    let file = two_programs().finish();
    let mut whole = 0;
    // Another bit at each place, so that none is always spared.
    for place in (0..file.len()).step_by(13) {
        for wrong in [0x00, 1 << (place % 8), 0xff] {
            let mut bytes = file.clone();
            bytes[place] ^= wrong;
            let Ok(reader) = Reader::new(bytes.as_slice()) else { continue };
            let Ok(again) = Again::new(reader) else { continue };
            whole += usize::from(again.write(Vec::new(), None).unwrap().failure.is_none());
        }
    }
    assert!(whole > 0, "unharmed bytes are read");
}
