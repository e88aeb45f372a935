//! From packets to owners: asks the join about both ends, and finds the reason where there is no answer.

use std::net::IpAddr;
use std::time::Duration;

use foldhash::{HashMap, HashSet};

use super::event::{Event, Holder, ProcessId, ProcessNews, Scan};
use super::fragments::Fragments;
use super::identities::Identities;
use super::join::{Answer, Join, Question};
use super::journal::Journal;
use super::memo::{Circumstances, Memo};
use super::news::{Moment, News, Origin};
use super::process::describe;
use super::translations::{Translated, Translations, Translator};
use crate::decode::{self, Decoded, FragmentInfo, IpPacket, Transport};
use crate::model::{
    Attribution, Direction, Endpoint, Flow, Found, LinkType, MonoTime, Owner, Packet, ProcessIndex,
    ProcessTable, Protocol, Reason, Renumbering,
};

/// What is known of a packet besides its bytes.
#[derive(Clone, Copy, Debug)]
struct Context {
    /// How its bytes begin.
    link_type: LinkType,
    /// Whether it was captured on the loopback interface, where both ends are on this host and in this namespace.
    is_loopback: bool,
    /// When it was captured, on the clock of the events.
    at: MonoTime,
    /// For how long after that all events are known.
    waited: Duration,
}

/// Names the processes at both ends of packets.
#[derive(Debug)]
pub struct Attributor {
    join: Join,
    processes: ProcessTable,
    known: HashMap<ProcessId, ProcessIndex>,
    identities: Identities,
    tracked: HashSet<ProcessIndex>,
    origin: Origin,
    /// Where the recording stands; none before the first packets.
    moment: Option<Moment>,
    /// As numbers, sorted: a search among few is quicker than a hash.
    local_addresses: Vec<u128>,
    fragments: Fragments,
    translations: Translations,
    memo: Memo,
    /// Grows whenever an answer may become another one.
    knowledge: u64,
    /// Nobody tells what happens; sockets are looked up now and then.
    is_blind: bool,
    /// What was learnt, if it is kept.
    journal: Option<Journal>,
    /// What was learnt from the last packet, if that is kept: to be told where the packet itself is not.
    from_packet: Vec<News>,
}

/// One end of a packet.
enum End {
    Owner(Owner, Found),
    None(Reason),
    /// The kernel is at this end, by what the packet is.
    Kernel,
}

impl End {
    const fn has_no_socket(&self) -> bool {
        matches!(self, Self::None(Reason::NoSocket))
    }
}

/// A packet's flow from its sender to its receiver, as the packet has it, and as it is on the other side of a translation
/// of addresses, if there is one.
struct Views {
    flow: Flow,
    translated: Option<Flow>,
    /// Until when the translation, or that there is none, is believed; none if nothing limits that.
    until: Option<MonoTime>,
}

impl Attributor {
    /// Starts with nothing known but this. Without a `translator` nothing is known of translated addresses but what is learnt.
    pub fn new(origin: Origin, translator: Option<Box<dyn Translator>>) -> Self {
        Self {
            join: Join::default(),
            processes: ProcessTable::default(),
            known: HashMap::default(),
            identities: Identities::default(),
            tracked: HashSet::default(),
            origin,
            moment: None,
            local_addresses: Vec::new(),
            fragments: Fragments::default(),
            translations: Translations::new(translator),
            memo: Memo::default(),
            // More than what the empty memo was made with.
            knowledge: 1,
            is_blind: false,
            journal: None,
            from_packet: Vec::new(),
        }
    }

    /// From now on all that is learnt is kept in a journal. To be called before anything is learnt.
    pub fn keep_journal(&mut self) {
        self.journal = Some(Journal::new(&self.origin));
    }

    /// What was learnt since it was last taken out; none if it is not kept.
    pub const fn journal_mut(&mut self) -> Option<&mut Journal> {
        self.journal.as_mut()
    }

    /// Learns something. There is no other way in but packets.
    pub fn learn(&mut self, news: News) {
        if let Some(journal) = &mut self.journal {
            journal.news(&news);
        }
        match news {
            News::Event(event) => self.event(event),
            News::SnapshotExpected => self.join.expect_snapshot(),
            News::Scan(scan) => self.scanned(scan),
            News::Lost { from, to } => {
                self.knowledge += 1;
                self.join.lost_between(from, to);
            }
            News::Addresses(addresses) => self.set_local_addresses(addresses),
            News::Forget(now) => {
                self.knowledge += 1;
                self.join.forget(now);
                self.translations.forget(now);
            }
            News::Moment(moment) => self.moment = Some(moment),
            News::Tracking(is_tracking) => {
                self.knowledge += 1;
                self.translations.learn_tracking(is_tracking);
            }
            News::Translation { flow, at, answer } => self.translations.learn(flow, at, answer),
            News::Opening { flow, at } => self.note_opening(flow, at),
            News::FirstFragment { flow, identification, at } => {
                self.fragments.learn_first(flow, identification, at);
            }
        }
    }

    fn event(&mut self, event: Event) {
        self.knowledge += 1;
        match event {
            Event::Socket(mut news) => {
                if let Some(user) = &mut news.user {
                    user.process = self.identities.of(user.process);
                }
                self.join.event(&news);
            }
            Event::Process(news) => {
                if self.identities.announced(&news) {
                    self.learn_process(&news);
                } else if let Some(&index) = self.known.get(&self.identities.of(news.id))
                    && news.tracked
                {
                    self.tracked.insert(index);
                }
            }
        }
    }

    fn scanned(&mut self, mut scan: Scan) {
        self.knowledge += 1;
        self.is_blind |= scan.found == Found::Procfs;
        for news in &scan.processes {
            if self.identities.seen(news) {
                self.learn_process(news);
            }
        }
        for sighting in &mut scan.sockets {
            if let Holder::One(process) = &mut sighting.holder {
                *process = self.identities.of(*process);
            }
        }
        self.join.scanned(&scan);
    }

    fn learn_process(&mut self, news: &ProcessNews) {
        let index = match self.processes.find(&news.key()) {
            Some(index) => index,
            None => self.processes.put(news.key(), describe(news, self.origin.boot)),
        };
        self.known.insert(news.id, index);
        if news.tracked {
            self.tracked.insert(index);
        }
    }

    fn set_local_addresses(&mut self, addresses: Vec<IpAddr>) {
        self.knowledge += 1;
        self.local_addresses =
            addresses.into_iter().map(|address| number(Endpoint::new(address, 0))).collect();
        self.local_addresses.sort_unstable();
    }

    /// How many flows and sockets are remembered.
    pub fn remembered(&self) -> (usize, usize) {
        self.join.size()
    }

    /// Forgets processes that are over, unless one of their sockets is still remembered. All others have new indexes then.
    pub fn forget_processes(&mut self, is_over: impl Fn(ProcessIndex) -> bool) -> Renumbering {
        let users: HashSet<ProcessIndex> =
            self.join.users().filter_map(|user| self.known.get(&user).copied()).collect();
        let renumbering = self.processes.retain(|index| users.contains(&index) || !is_over(index));
        self.known.retain(|_, index| renumbering.renumber(index));
        self.known.shrink_to_fit();
        self.identities.retain(|id| self.known.contains_key(&id));
        self.tracked = self.tracked.iter().filter_map(|index| renumbering.of(*index)).collect();
        // The memo has indexes in it.
        self.knowledge += 1;
        renumbering
    }

    /// The processes that are remembered.
    pub const fn processes(&self) -> &ProcessTable {
        &self.processes
    }

    /// Gives the processes away, at the end.
    pub fn into_processes(self) -> ProcessTable {
        self.processes
    }

    /// Whether a process of the recorded command, or a descendant of it, is at one of the ends.
    pub fn is_tracked(&self, attribution: &Attribution) -> bool {
        let Attribution::Known { sender, receiver, .. } = attribution else { return false };
        [sender, receiver].into_iter().flatten().any(|owner| self.tracked.contains(&owner.process))
    }

    /// Who sent and who received this packet, of an interface with this link type. Packets come in the order of their times.
    #[inline]
    pub fn attribute(&mut self, packet: &Packet<'_>, link_type: LinkType, is_loopback: bool) -> Attribution {
        let context = &self.context(packet, link_type, is_loopback);
        self.from_packet.clear();
        let circumstances = Circumstances::new(self.knowledge, context.is_loopback, context.waited);
        let (Some(plain), Some(circumstances)) =
            (decode::plain(context.link_type, packet.data), circumstances)
        else {
            return self.work_out(packet, context).0;
        };
        if let Some(attribution) = self.memo.find(&plain, &circumstances, context.at) {
            return attribution;
        }
        let (attribution, views) = self.work_out(packet, context);
        if let Some(views) = views {
            let until = self.stands_until(&views, context.at);
            self.memo.put(plain, circumstances, (context.at, until), attribution);
        }
        attribution
    }

    /// The last packet is not in the file: what was learnt from it is kept in its place.
    pub fn left_out(&mut self) {
        if let Some(journal) = &mut self.journal {
            self.from_packet.iter().for_each(|news| journal.news(news));
        }
    }

    fn context(&self, packet: &Packet<'_>, link_type: LinkType, is_loopback: bool) -> Context {
        match &self.moment {
            Some(moment) => {
                let at = moment.clock.mono(packet.time);
                Context { link_type, is_loopback, at, waited: moment.known_until.since(at) }
            }
            // Nothing is known yet.
            None => Context { link_type, is_loopback, at: MonoTime::default(), waited: Duration::ZERO },
        }
    }

    /// Until when the answer for these views of a flow stands, if nothing new is learnt.
    fn stands_until(&self, views: &Views, at: MonoTime) -> MonoTime {
        let flows = [Some(views.flow), views.translated];
        let by_join = flows.iter().flatten().map(|flow| self.join.stands_until(flow, at)).min();
        by_join.into_iter().chain(views.until).min().unwrap_or(at)
    }

    /// The answer, and the views of the flow that it is for.
    fn work_out(&mut self, packet: &Packet<'_>, context: &Context) -> (Attribution, Option<Views>) {
        let Decoded::Ip(mut ip) = decode::packet(context.link_type, packet.data) else {
            return (Attribution::Unknown(Reason::NotIp), None);
        };
        if let Some(fragment) = ip.fragment {
            self.complete_fragment(&mut ip, fragment, context.at);
        }
        if opens_connection(&ip) {
            self.opens(ip.flow, context.at);
        }
        let mut sender = self.end(&ip, ip.flow, context, true);
        let mut receiver = self.end(&ip, ip.flow, context, false);
        let mut views = Views { flow: ip.flow, translated: None, until: None };
        if sender.has_no_socket() || receiver.has_no_socket() {
            (views.translated, views.until) = self.translated(ip.flow, context);
        }
        if let Some(flow) = views.translated {
            if opens_connection(&ip) {
                self.opens(flow, context.at);
            }
            if sender.has_no_socket() {
                sender = self.end(&ip, flow, context, true);
            }
            if receiver.has_no_socket() {
                receiver = self.end(&ip, flow, context, false);
            }
        }
        let attribution = self.combine(packet, &ip, context, &sender, &receiver);
        (attribution, Some(views))
    }

    fn complete_fragment(&mut self, ip: &mut IpPacket, fragment: FragmentInfo, at: MonoTime) {
        self.fragments.complete(ip, fragment, at);
        if self.journal.is_some() && fragment.offset == 0 {
            let identification = fragment.identification;
            self.from_packet.push(News::FirstFragment { flow: ip.flow, identification, at });
        }
    }

    fn translated(&mut self, flow: Flow, context: &Context) -> Translated {
        let now = context.at.plus(context.waited);
        if self.translations.look(context.at, now, self.journal.as_mut()) {
            self.knowledge += 1;
        }
        self.translations.translated(&flow, context.at, self.journal.as_mut())
    }

    /// The packet that is asked for opens a connection.
    fn opens(&mut self, flow: Flow, at: MonoTime) {
        if self.journal.is_some() {
            self.from_packet.push(News::Opening { flow, at });
        }
        self.note_opening(flow, at);
    }

    fn note_opening(&mut self, flow: Flow, at: MonoTime) {
        self.join.note_opening(flow, at);
        self.knowledge += 1;
    }

    /// Who was at this end of the flow, which the sender of the packet sees so.
    fn end(&self, ip: &IpPacket, flow: Flow, context: &Context, sent: bool) -> End {
        if kernel_is_at_this_end(ip, sent) {
            return End::Kernel;
        }
        let question = Question {
            flow: if sent { flow } else { flow.reversed() },
            at: context.at,
            sent,
            opens: opens_connection(ip),
            by_call: is_by_call(ip),
            only_netns: context.is_loopback.then_some(self.origin.netns),
            home: self
                .is_home(if sent { ip.flow.local } else { ip.flow.remote }, context)
                .then_some(self.origin.netns),
            waited: context.waited,
        };
        match self.join.ask(&question) {
            Answer::Owner(process, tid, found) => match self.known.get(&process) {
                Some(&process) => End::Owner(Owner { process, tid }, found),
                // Its announcement was lost; it is repeated in the next epoch.
                None => End::None(Reason::EventsLost),
            },
            Answer::None(Reason::EventsLost) if self.is_blind => End::None(Reason::NotSeen),
            Answer::None(reason) => End::None(reason),
        }
    }

    fn combine(
        &self,
        packet: &Packet<'_>,
        ip: &IpPacket,
        context: &Context,
        sender: &End,
        receiver: &End,
    ) -> Attribution {
        let both_here =
            || context.is_loopback || (self.is_local(ip.flow.local) && self.is_local(ip.flow.remote));
        let known =
            |sender, receiver, found| Attribution::Known { sender, receiver, both_local: both_here(), found };
        match (sender, receiver) {
            (End::Owner(sender, found), End::Owner(receiver, other)) => Attribution::Known {
                sender: Some(*sender),
                receiver: Some(*receiver),
                both_local: true,
                found: *found.max(other),
            },
            (End::Owner(sender, found), _) => known(Some(*sender), None, *found),
            (_, End::Owner(receiver, found)) => known(None, Some(*receiver), *found),
            (End::None(reason), End::None(other)) => {
                Attribution::Unknown(self.reason(packet, ip, *reason, *other))
            }
            (End::None(reason), End::Kernel) | (End::Kernel, End::None(reason)) => match reason {
                Reason::NoSocket | Reason::NotSeen if self.passes_through(ip) => {
                    Attribution::Unknown(Reason::Forwarded)
                }
                Reason::NoSocket | Reason::TooLate => Attribution::Unknown(Reason::Kernel),
                reason => Attribution::Unknown(*reason),
            },
            (End::Kernel, End::Kernel) => Attribution::Unknown(Reason::Kernel),
        }
    }

    /// Why neither end is known: the more telling of the two reasons, or what the packet itself says.
    fn reason(&self, packet: &Packet<'_>, ip: &IpPacket, sender: Reason, receiver: Reason) -> Reason {
        for telling in [Reason::Ambiguous, Reason::EventsLost] {
            if sender == telling || receiver == telling {
                return telling;
            }
        }
        if self.passes_through(ip) {
            return Reason::Forwarded;
        }
        // The answer to a packet that found no socket.
        let is_reset = matches!(ip.transport, Transport::Tcp { flags, .. } if flags.rst());
        if is_reset && packet.direction != Direction::Unknown {
            return Reason::Kernel;
        }
        if sender == Reason::TooLate || receiver == Reason::TooLate {
            Reason::TooLate
        } else if sender == Reason::NotSeen || receiver == Reason::NotSeen {
            Reason::NotSeen
        } else {
            Reason::NoSocket
        }
    }

    fn is_local(&self, end: Endpoint) -> bool {
        self.local_addresses.binary_search(&number(end)).is_ok()
    }

    /// Whether what is for this address is for this network namespace: not so for a group or all of a network.
    fn is_home(&self, end: Endpoint, context: &Context) -> bool {
        // All of 127.0.0.0/8 is ours, though only 127.0.0.1 is listed.
        self.is_local(end) || context.is_loopback && end.ip().is_loopback()
    }

    /// Neither address is ours, and neither means "whoever listens".
    fn passes_through(&self, ip: &IpPacket) -> bool {
        let (source, destination) = (ip.flow.local, ip.flow.remote);
        if self.local_addresses.is_empty() || self.is_local(source) || self.is_local(destination) {
            return false;
        }
        match destination.ip() {
            IpAddr::V4(v4) => !v4.is_multicast() && !v4.is_broadcast() && !v4.is_unspecified(),
            IpAddr::V6(v6) => !v6.is_multicast(),
        }
    }
}

/// An address as one number.
const fn number(end: Endpoint) -> u128 {
    u128::from_be_bytes(end.address)
}

/// Whether this is the first packet of a TCP connection: SYN without ACK.
fn opens_connection(ip: &IpPacket) -> bool {
    matches!(ip.transport, Transport::Tcp { flags, .. } if flags.syn() && !flags.ack())
}

/// Whether a send call of the sender makes such a packet. TCP packets without payload are made by the kernel, whoever uses
/// the socket.
fn is_by_call(ip: &IpPacket) -> bool {
    !matches!(ip.transport, Transport::Tcp { payload_length: 0, .. })
}

/// Whether the kernel itself makes or takes such packets at this end: echo requests are answered by the kernel, and
/// all ICMP besides echo (errors, neighbour discovery, group membership) is its own conversation.
fn kernel_is_at_this_end(ip: &IpPacket, sent: bool) -> bool {
    const ECHO_REQUEST: u8 = 8;
    const ECHO_REQUEST_V6: u8 = 128;
    const IGMP: Protocol = Protocol(2);
    match ip.transport {
        Transport::Icmp { kind, echo: true, .. } => (kind == ECHO_REQUEST || kind == ECHO_REQUEST_V6) != sent,
        // A raw socket may send such packets too; it cannot be told from the kernel by them, so it is not named.
        Transport::Icmp { echo: false, .. } => true,
        _ => ip.flow.protocol == IGMP,
    }
}
