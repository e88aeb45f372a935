//! What the attribution was told, as bytes, so that it can be told again: docs/FORMAT.md has the layout, byte for byte.
//!
//! Each kind of value has one place here that says how it is written and read. Fields are taken apart by name, so that one that is
//! added to a value and forgotten here does not compile; then [`VERSION`] changes. Numbers that are mostly small, and
//! times, have seven bits a byte (LEB128); all others are little-endian. Files come from strangers: what is wrong with the
//! bytes ends reading, and a count is believed only as far as there are bytes.

use std::net::IpAddr;

use super::clock::ClockOffset;
use super::event::{
    Cookie, Event, Handover, Happening, Holder, NetNs, OlderCgroup, ProcessId, ProcessNews, Reach, Scan,
    Sighting, SocketNews, User,
};
use super::news::{Moment, News, Origin};
use crate::model::{CommandLine, Endpoint, Flow, Found, InterfaceId, MonoTime, Protocol, RealTime};

/// The version of the layout.
pub const VERSION: u16 = 2;

/// One entry of a journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// The first one: what the attribution begins with.
    Began(Origin),
    /// The interface with this number in the file is the loopback interface.
    Loopback(InterfaceId),
    /// What the attribution was told.
    News(News),
}

/// The entries that were added since it was last emptied, as bytes.
#[derive(Debug, Default)]
pub struct Journal {
    bytes: Vec<u8>,
}

/// The first bytes of entries.
mod kind {
    pub(super) const BEGAN: u8 = 0;
    pub(super) const LOOPBACK: u8 = 1;
    pub(super) const SOCKET: u8 = 2;
    pub(super) const PROCESS: u8 = 3;
    pub(super) const SNAPSHOT_EXPECTED: u8 = 4;
    pub(super) const SCAN: u8 = 5;
    pub(super) const LOST: u8 = 6;
    pub(super) const ADDRESSES: u8 = 7;
    pub(super) const FORGET: u8 = 8;
    pub(super) const MOMENT: u8 = 9;
    pub(super) const TRACKING: u8 = 10;
    pub(super) const TRANSLATION: u8 = 11;
    pub(super) const OPENING: u8 = 12;
    pub(super) const FIRST_FRAGMENT: u8 = 13;
}

impl Journal {
    /// Begins with what the attribution begins with.
    pub(super) fn new(origin: &Origin) -> Self {
        let mut journal = Self::default();
        journal.bytes.push(kind::BEGAN);
        origin.put(&mut journal.bytes);
        journal
    }

    /// Says that the interface with this number in the file is the loopback interface.
    pub fn loopback(&mut self, interface: InterfaceId) {
        self.bytes.push(kind::LOOPBACK);
        interface.0.put(&mut self.bytes);
    }

    /// Adds what the attribution is told.
    pub(super) fn news(&mut self, news: &News) {
        news.put(&mut self.bytes);
    }

    /// The entries, for [`entries`].
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Begins anew, when the entries have been stored.
    pub fn clear(&mut self) {
        self.bytes.clear();
    }
}

/// The entries in the bytes of a journal, in their order; ends with `None` at the first one that makes no sense.
pub fn entries(mut bytes: &[u8]) -> impl Iterator<Item = Option<Entry>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let entry = Entry::take(&mut bytes);
        if entry.is_none() {
            bytes = &[];
        }
        Some(entry)
    })
}

/// How a value is written and read.
trait Coded: Sized {
    /// Adds its bytes.
    fn put(&self, to: &mut Vec<u8>);

    /// Takes its bytes away; none if they make no sense.
    fn take(from: &mut &[u8]) -> Option<Self>;
}

/// A value that is its fields, one after the other.
macro_rules! fields {
    ($($kind:ident { $($field:ident),+ })+) => { $(
        impl Coded for $kind {
            fn put(&self, to: &mut Vec<u8>) {
                let Self { $($field),+ } = self;
                $($field.put(to);)+
            }

            fn take(from: &mut &[u8]) -> Option<Self> {
                $(let $field = Coded::take(from)?;)+
                Some(Self { $($field),+ })
            }
        }
    )+ };
}

/// A value that is a number of a fixed size, little-endian.
macro_rules! fixed {
    ($($kind:ident($number:ident))+) => { $(
        impl Coded for $kind {
            fn put(&self, to: &mut Vec<u8>) {
                to.extend_from_slice(&self.0.to_le_bytes());
            }

            fn take(from: &mut &[u8]) -> Option<Self> {
                take_array(from).map($number::from_le_bytes).map(Self)
            }
        }
    )+ };
}

/// A value that is one of a few, in one byte.
macro_rules! one_of {
    ($($kind:ident { $($value:ident = $byte:literal),+ })+) => { $(
        impl Coded for $kind {
            fn put(&self, to: &mut Vec<u8>) {
                to.push(match self { $(Self::$value => $byte),+ });
            }

            fn take(from: &mut &[u8]) -> Option<Self> {
                match u8::take(from)? {
                    $($byte => Some(Self::$value),)+
                    _ => None,
                }
            }
        }
    )+ };
}

fields! {
    Origin { netns, boot }
    Moment { clock, known_until }
    ClockOffset { offset_ns, before_step, measured }
    SocketNews {
        happening, at, cookie, netns, flow, user, existed, remote_isn, connects, drained, closed_by_other
    }
    User { process, tid, since, handover }
    Handover { former_received, began, executed, parent_pid }
    ProcessNews {
        id, pid, start_boottime_ns, exec_id, parent_pid, uid, cgroup, older_cgroups, comm, path, arguments,
        tracked
    }
    OlderCgroup { is_systemd, path }
    CommandLine { bytes, is_cut }
    Scan { began, ended, found, processes, sockets }
    Sighting { cookie, netns, flow, reach, holder }
    Reach { v4, v6, one_device }
}

fixed! { NetNs(u32) ProcessId(u64) Protocol(u8) }

one_of! {
    Happening { HasFlow = 1, IsOpened = 2, IsUsed = 3, IsClosed = 4 }
}

impl Entry {
    fn take(from: &mut &[u8]) -> Option<Self> {
        let mut after = from.get(1..)?;
        let entry = match *from.first()? {
            kind::BEGAN => Self::Began(Coded::take(&mut after)?),
            kind::LOOPBACK => Self::Loopback(InterfaceId(Coded::take(&mut after)?)),
            _ => return News::take(from).map(Self::News),
        };
        *from = after;
        Some(entry)
    }
}

impl Coded for News {
    fn put(&self, to: &mut Vec<u8>) {
        match self {
            Self::Event(Event::Socket(news)) => put_kind(kind::SOCKET, news, to),
            Self::Event(Event::Process(news)) => put_kind(kind::PROCESS, news, to),
            Self::SnapshotExpected => to.push(kind::SNAPSHOT_EXPECTED),
            Self::Scan(scan) => put_kind(kind::SCAN, scan, to),
            Self::Lost { from, to: end } => put_kind(kind::LOST, &(*from, *end), to),
            Self::Addresses(addresses) => put_kind(kind::ADDRESSES, addresses, to),
            Self::Forget(now) => put_kind(kind::FORGET, now, to),
            Self::Moment(moment) => put_kind(kind::MOMENT, moment, to),
            Self::Tracking(is_tracking) => put_kind(kind::TRACKING, is_tracking, to),
            Self::Translation { flow, at, answer } => {
                put_kind(kind::TRANSLATION, &(*flow, (*at, *answer)), to);
            }
            Self::Opening { flow, at } => put_kind(kind::OPENING, &(*flow, *at), to),
            Self::FirstFragment { flow, identification, at } => {
                put_kind(kind::FIRST_FRAGMENT, &(*flow, (*identification, *at)), to);
            }
        }
    }

    fn take(from: &mut &[u8]) -> Option<Self> {
        Some(match u8::take(from)? {
            kind::SOCKET => Self::Event(Event::Socket(Coded::take(from)?)),
            kind::PROCESS => Self::Event(Event::Process(Coded::take(from)?)),
            kind::SNAPSHOT_EXPECTED => Self::SnapshotExpected,
            kind::SCAN => Self::Scan(Coded::take(from)?),
            kind::LOST => {
                let (from, to) = Coded::take(from)?;
                Self::Lost { from, to }
            }
            kind::ADDRESSES => Self::Addresses(Coded::take(from)?),
            kind::FORGET => Self::Forget(Coded::take(from)?),
            kind::MOMENT => Self::Moment(Coded::take(from)?),
            kind::TRACKING => Self::Tracking(Coded::take(from)?),
            kind::TRANSLATION => {
                let (flow, (at, answer)) = Coded::take(from)?;
                Self::Translation { flow, at, answer }
            }
            kind::OPENING => {
                let (flow, at) = Coded::take(from)?;
                Self::Opening { flow, at }
            }
            kind::FIRST_FRAGMENT => {
                let (flow, (identification, at)) = Coded::take(from)?;
                Self::FirstFragment { flow, identification, at }
            }
            _ => return None,
        })
    }
}

fn put_kind(kind: u8, value: &impl Coded, to: &mut Vec<u8>) {
    to.push(kind);
    value.put(to);
}

/// What a scan is for; the other ways in which an owner can be found are not of a scan.
impl Coded for Found {
    fn put(&self, to: &mut Vec<u8>) {
        to.push(if *self == Self::Snapshot { 1 } else { 3 });
    }

    fn take(from: &mut &[u8]) -> Option<Self> {
        match u8::take(from)? {
            1 => Some(Self::Snapshot),
            3 => Some(Self::Procfs),
            _ => None,
        }
    }
}

impl Coded for Holder {
    fn put(&self, to: &mut Vec<u8>) {
        match self {
            Self::Nobody => to.push(0),
            Self::One(process) => put_kind(1, process, to),
            Self::Unclear => to.push(2),
        }
    }

    fn take(from: &mut &[u8]) -> Option<Self> {
        match u8::take(from)? {
            0 => Some(Self::Nobody),
            1 => Coded::take(from).map(Self::One),
            2 => Some(Self::Unclear),
            _ => None,
        }
    }
}

impl Coded for Flow {
    fn put(&self, to: &mut Vec<u8>) {
        let Self { protocol, local, remote } = self;
        protocol.put(to);
        local.put(to);
        remote.put(to);
    }

    fn take(from: &mut &[u8]) -> Option<Self> {
        let protocol = Coded::take(from)?;
        let local = Coded::take(from)?;
        Some(Self { protocol, local, remote: Coded::take(from)? })
    }
}

impl Coded for Endpoint {
    fn put(&self, to: &mut Vec<u8>) {
        self.ip().put(to);
        to.extend_from_slice(&self.port.to_le_bytes());
    }

    fn take(from: &mut &[u8]) -> Option<Self> {
        let ip = IpAddr::take(from)?;
        Some(Self::new(ip, u16::from_le_bytes(take_array(from)?)))
    }
}

impl Coded for IpAddr {
    fn put(&self, to: &mut Vec<u8>) {
        match self {
            Self::V4(v4) => {
                to.push(4);
                to.extend_from_slice(&v4.octets());
            }
            Self::V6(v6) => {
                to.push(6);
                to.extend_from_slice(&v6.octets());
            }
        }
    }

    fn take(from: &mut &[u8]) -> Option<Self> {
        match u8::take(from)? {
            4 => Some(take_array::<4>(from)?.into()),
            6 => Some(take_array::<16>(from)?.into()),
            _ => None,
        }
    }
}

impl<A: Coded, B: Coded> Coded for (A, B) {
    fn put(&self, to: &mut Vec<u8>) {
        self.0.put(to);
        self.1.put(to);
    }

    fn take(from: &mut &[u8]) -> Option<Self> {
        let first = Coded::take(from)?;
        Some((first, Coded::take(from)?))
    }
}

impl<T: Coded> Coded for Option<T> {
    fn put(&self, to: &mut Vec<u8>) {
        self.is_some().put(to);
        if let Some(value) = self {
            value.put(to);
        }
    }

    fn take(from: &mut &[u8]) -> Option<Self> {
        if bool::take(from)? { T::take(from).map(Some) } else { Some(None) }
    }
}

impl<T: Coded> Coded for Vec<T> {
    fn put(&self, to: &mut Vec<u8>) {
        (self.len() as u64).put(to);
        self.iter().for_each(|value| value.put(to));
    }

    fn take(from: &mut &[u8]) -> Option<Self> {
        // Each value has a byte at least, so a count that is wrong ends where the bytes do.
        let count = u64::take(from)?;
        (0..count).map(|_| T::take(from)).collect()
    }
}

impl Coded for String {
    fn put(&self, to: &mut Vec<u8>) {
        (self.len() as u64).put(to);
        to.extend_from_slice(self.as_bytes());
    }

    fn take(from: &mut &[u8]) -> Option<Self> {
        Self::from_utf8(Vec::take(from)?).ok()
    }
}

impl Coded for bool {
    fn put(&self, to: &mut Vec<u8>) {
        to.push(u8::from(*self));
    }

    fn take(from: &mut &[u8]) -> Option<Self> {
        match u8::take(from)? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }
}

impl Coded for u8 {
    fn put(&self, to: &mut Vec<u8>) {
        to.push(*self);
    }

    fn take(from: &mut &[u8]) -> Option<Self> {
        take_array(from).map(|[byte]| byte)
    }
}

impl Coded for u32 {
    fn put(&self, to: &mut Vec<u8>) {
        u64::from(*self).put(to);
    }

    fn take(from: &mut &[u8]) -> Option<Self> {
        u64::take(from)?.try_into().ok()
    }
}

impl Coded for u64 {
    fn put(&self, to: &mut Vec<u8>) {
        let mut rest = *self;
        while rest >= 0x80 {
            to.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        to.push(rest as u8);
    }

    fn take(from: &mut &[u8]) -> Option<Self> {
        let mut number = 0;
        for shift in (0..Self::BITS).step_by(7) {
            let byte = u8::take(from)?;
            let bits = Self::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                return None;
            }
            number |= bits << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }
}

impl Coded for i64 {
    fn put(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(&self.to_le_bytes());
    }

    fn take(from: &mut &[u8]) -> Option<Self> {
        take_array(from).map(Self::from_le_bytes)
    }
}

impl Coded for Cookie {
    fn put(&self, to: &mut Vec<u8>) {
        self.0.put(to);
    }

    fn take(from: &mut &[u8]) -> Option<Self> {
        u64::take(from).map(Self)
    }
}

impl Coded for MonoTime {
    fn put(&self, to: &mut Vec<u8>) {
        self.as_ns().put(to);
    }

    fn take(from: &mut &[u8]) -> Option<Self> {
        u64::take(from).map(Self::from_ns)
    }
}

impl Coded for RealTime {
    fn put(&self, to: &mut Vec<u8>) {
        self.as_ns().put(to);
    }

    fn take(from: &mut &[u8]) -> Option<Self> {
        u64::take(from).map(Self::from_ns)
    }
}

fn take_array<const N: usize>(from: &mut &[u8]) -> Option<[u8; N]> {
    let (bytes, rest) = from.split_first_chunk()?;
    *from = rest;
    Some(*bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(text: [&str; 2]) -> Flow {
        let [local, remote] = text.map(|text| {
            let end: std::net::SocketAddr = text.parse().unwrap();
            Endpoint::new(end.ip(), end.port())
        });
        Flow { protocol: Protocol::UDP, local, remote }
    }

    fn at(ns: u64) -> MonoTime {
        MonoTime::from_ns(ns)
    }

    fn socket_news() -> SocketNews {
        let handover = Handover {
            former_received: at(0),
            began: Some(at(u64::MAX)),
            executed: true,
            parent_pid: Some(u32::MAX),
        };
        SocketNews {
            happening: Happening::IsUsed,
            at: at(123_456_789_012_345),
            cookie: Cookie(300),
            netns: NetNs(4_026_531_840),
            flow: flow(["192.0.2.1:5000", "198.51.100.7:53"]),
            user: Some(User {
                process: ProcessId(7 << 32 | 5),
                tid: 9,
                since: at(1),
                handover: Some(handover),
            }),
            existed: at(2),
            remote_isn: 0x0102_0304,
            connects: true,
            drained: false,
            closed_by_other: true,
        }
    }

    fn process_news() -> ProcessNews {
        ProcessNews {
            id: ProcessId(u64::MAX),
            pid: 4242,
            start_boottime_ns: 5,
            exec_id: 1,
            parent_pid: 1,
            uid: 1000,
            cgroup: b"/user.slice/\xff".to_vec(),
            older_cgroups: vec![OlderCgroup { is_systemd: true, path: "/system.slice/a.service".into() }],
            comm: b"curl".to_vec(),
            path: b"/usr/bin/curl".to_vec(),
            arguments: Some(CommandLine { bytes: b"curl\0-v\0".to_vec(), is_cut: true }),
            tracked: true,
        }
    }

    fn scan() -> Scan {
        let sighting = |holder| Sighting {
            cookie: Cookie(1),
            netns: NetNs(0),
            flow: flow(["[2001:db8::1]:1", "[::]:0"]),
            reach: Reach { v4: true, v6: false, one_device: true },
            holder,
        };
        Scan {
            began: at(1),
            ended: at(2),
            found: Found::Procfs,
            processes: vec![process_news()],
            sockets: [Holder::Nobody, Holder::One(ProcessId(1)), Holder::Unclear].map(sighting).to_vec(),
        }
    }

    /// Each kind of news, with values at both ends of what they can be.
    fn all_news() -> Vec<News> {
        let mut clock = ClockOffset::new((RealTime::from_ns(7), at(70_000_000_000)));
        clock.measure((RealTime::from_ns(90_000_000_000), at(80_000_000_000)));
        let both = flow(["[2001:db8::1]:65535", "[2001:db8::2]:0"]);
        vec![
            News::Event(Event::Socket(socket_news())),
            News::Event(Event::Socket(SocketNews { user: None, ..socket_news() })),
            News::Event(Event::Process(process_news())),
            News::SnapshotExpected,
            News::Scan(scan()),
            News::Lost { from: at(0), to: at(u64::MAX) },
            News::Addresses(vec![[127, 0, 0, 1].into(), [1; 16].into()]),
            News::Forget(at(128)),
            News::Moment(Moment { clock, known_until: at(127) }),
            News::Tracking(true),
            News::Translation { flow: both, at: at(1), answer: Some(both.reversed()) },
            News::Translation { flow: both, at: at(1), answer: None },
            News::Opening { flow: both, at: at(1) },
            News::FirstFragment { flow: both, identification: u32::MAX, at: at(1) },
        ]
    }

    fn journal() -> (Journal, Vec<Entry>) {
        let origin = Origin { netns: NetNs(5), boot: RealTime::from_ns(1_700_000_000_000_000_000) };
        let mut journal = Journal::new(&origin);
        journal.loopback(InterfaceId(300));
        all_news().iter().for_each(|news| journal.news(news));
        let mut entries = vec![Entry::Began(origin), Entry::Loopback(InterfaceId(300))];
        entries.extend(all_news().into_iter().map(Entry::News));
        (journal, entries)
    }

    #[test]
    fn what_is_told_is_read_back_as_it_was() {
        let (journal, told) = journal();
        let read: Vec<Entry> = entries(journal.bytes()).map(|entry| entry.expect("an entry")).collect();
        assert_eq!(read, told);
    }

    /// The layout of docs/FORMAT.md. Where this fails, files of before cannot be read any more: then [`VERSION`] changes.
    #[test]
    fn an_event_of_a_socket_has_these_bytes() {
        let mut bytes = Vec::new();
        News::Event(Event::Socket(socket_news())).put(&mut bytes);
        let expected: &[&[u8]] = &[
            &[2, 3],
            &[0xf9, 0xbe, 0xb7, 0xb0, 0x88, 0x89, 0x1c],
            &[0xac, 2],
            &[0, 0, 0, 0xf0],
            &[17, 4, 192, 0, 2, 1, 0x88, 0x13, 4, 198, 51, 100, 7, 53, 0],
            &[1, 5, 0, 0, 0, 7, 0, 0, 0, 9, 1],
            &[1, 0, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 1],
            &[1, 0xff, 0xff, 0xff, 0xff, 0x0f],
            &[2, 0x84, 0x86, 0x88, 8, 1, 0, 1],
        ];
        assert_eq!(bytes, expected.concat());
    }

    #[test]
    fn a_journal_that_is_cut_anywhere_ends_there() {
        let (journal, told) = journal();
        for end in 0..journal.bytes().len() {
            let read: Vec<_> = entries(&journal.bytes()[..end]).collect();
            let whole = read.iter().flatten().count();
            assert!(read.iter().flatten().eq(&told[..whole]), "cut at {end}");
            assert!(read.len() - whole <= 1, "cut at {end}: nothing is read behind what makes no sense");
        }
    }

    #[test]
    fn a_journal_with_wrong_bytes_is_read_without_harm() {
        let (journal, _) = journal();
        for place in 0..journal.bytes().len() {
            for wrong in [0, 1, 0x7f, 0x80, 0xff] {
                let mut bytes = journal.bytes().to_vec();
                bytes[place] = wrong;
                let told = entries(&bytes).take(1000).count();
                assert!(told <= bytes.len(), "each entry has a byte at least");
            }
        }
    }

    #[test]
    fn a_count_beyond_the_bytes_takes_no_memory() {
        let huge = [&[kind::ADDRESSES][..], &[0xff; 9], &[1]].concat();
        assert_eq!(entries(&huge).collect::<Vec<_>>(), [None]);
    }

    #[test]
    fn a_number_has_one_spelling_of_at_most_64_bits() {
        for number in [0, 1, 127, 128, 16_383, 16_384, u64::MAX] {
            let mut bytes = Vec::new();
            number.put(&mut bytes);
            assert_eq!(u64::take(&mut bytes.as_slice()), Some(number));
        }
        assert_eq!(u64::take(&mut [[0xff; 9].as_slice(), &[2]].concat().as_slice()), None, "65 bits");
        assert_eq!(u64::take(&mut [0x80; 11].as_slice()), None, "no end");
    }
}
