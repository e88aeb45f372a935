//! From packets to owners: asks the join about both ends, and finds the reason where there is no answer.

use std::net::IpAddr;
use std::time::Duration;

use foldhash::{HashMap, HashSet};

use super::event::{Event, Holder, NetNs, ProcessId, ProcessNews, Scan};
use super::fragments::Fragments;
use super::identities::Identities;
use super::join::{Answer, Join, Question};
use super::linux::conntrack::{self, Conntrack};
use super::linux::process::ProcessDetails;
use super::memo::{Circumstances, Memo};
use crate::decode::{self, Decoded, IpPacket, Transport};
use crate::model::{
    Attribution, Direction, Endpoint, Flow, Found, LinkType, MonoTime, Owner, Packet, ProcessIndex,
    ProcessKey, ProcessTable, Protocol, Reason,
};

/// What is known of a packet besides its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Context {
    /// How its bytes begin.
    pub link_type: LinkType,
    /// Whether it was captured on the loopback interface, where both ends are on this host and in this namespace.
    pub is_loopback: bool,
    /// When it was captured, on the clock of the events.
    pub at: MonoTime,
    /// For how long after that all events are known.
    pub waited: Duration,
}

/// Names the processes at both ends of packets.
#[derive(Debug)]
pub struct Attributor {
    join: Join,
    processes: ProcessTable,
    known: HashMap<ProcessId, ProcessIndex>,
    identities: Identities,
    tracked: HashSet<ProcessIndex>,
    details: ProcessDetails,
    netns: NetNs,
    /// As numbers, sorted: a search among few is quicker than a hash.
    local_addresses: Vec<u128>,
    fragments: Fragments,
    conntrack: Conntrack,
    memo: Memo,
    /// Grows whenever an answer may become another one.
    knowledge: u64,
    /// Nobody tells what happens; sockets are looked up now and then.
    is_blind: bool,
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
}

impl Attributor {
    /// Starts with nothing known. `netns` is the namespace in which packets are captured.
    pub fn new(netns: NetNs, details: ProcessDetails) -> Self {
        Self {
            join: Join::default(),
            processes: ProcessTable::default(),
            known: HashMap::default(),
            identities: Identities::default(),
            tracked: HashSet::default(),
            details,
            netns,
            local_addresses: Vec::new(),
            fragments: Fragments::default(),
            conntrack: Conntrack::default(),
            memo: Memo::default(),
            // More than what the empty memo was made with.
            knowledge: 1,
            is_blind: false,
        }
    }

    /// Takes one event.
    pub fn event(&mut self, event: Event) {
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

    /// A scan for sockets from before the start is under way; see [`Join::expect_snapshot`].
    pub const fn expect_snapshot(&mut self) {
        self.join.expect_snapshot();
    }

    /// Takes what was seen in the kernel's tables; see [`Join::scanned`].
    pub fn scanned(&mut self, mut scan: Scan) {
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
        let key =
            ProcessKey { pid: news.pid, start_boottime_ns: news.start_boottime_ns, exec_id: news.exec_id };
        let index = match self.processes.find(&key) {
            Some(index) => index,
            None => self.processes.put(key, self.details.process(news)),
        };
        self.known.insert(news.id, index);
        if news.tracked {
            self.tracked.insert(index);
        }
    }

    /// Events between these times are not all known.
    pub fn lost_between(&mut self, from: MonoTime, to: MonoTime) {
        self.knowledge += 1;
        self.join.lost_between(from, to);
    }

    /// The addresses of this host, as far as they are known: they tell what merely passes through.
    pub fn set_local_addresses(&mut self, addresses: impl IntoIterator<Item = IpAddr>) {
        self.knowledge += 1;
        self.local_addresses =
            addresses.into_iter().map(|address| number(Endpoint::new(address, 0))).collect();
        self.local_addresses.sort_unstable();
    }

    /// Forgets what no packet at or after `now` can ask for.
    pub fn forget(&mut self, now: MonoTime) {
        self.knowledge += 1;
        self.join.forget(now);
        self.conntrack.forget(now);
    }

    /// How many flows and sockets are remembered.
    pub fn remembered(&self) -> (usize, usize) {
        self.join.size()
    }

    /// All processes that were announced.
    pub const fn processes(&self) -> &ProcessTable {
        &self.processes
    }

    /// Gives all processes that were announced away, at the end.
    pub fn into_processes(self) -> ProcessTable {
        self.processes
    }

    /// Whether a process of the recorded command, or a descendant of it, is at one of the ends.
    pub fn is_tracked(&self, attribution: &Attribution) -> bool {
        let Attribution::Known { sender, receiver, .. } = attribution else { return false };
        [sender, receiver].into_iter().flatten().any(|owner| self.tracked.contains(&owner.process))
    }

    /// Who sent and who received this packet. Packets come in the order of their times.
    #[inline]
    pub fn attribute(&mut self, packet: &Packet<'_>, context: &Context) -> Attribution {
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

    /// Until when the answer for these views of a flow stands, if nothing new is learnt.
    fn stands_until(&self, views: &Views, at: MonoTime) -> MonoTime {
        let flows = [Some(views.flow), views.translated];
        let until = flows.iter().flatten().map(|flow| self.join.stands_until(flow, at)).min().unwrap_or(at);
        if self.conntrack.is_in_use() { until.min(at.plus(conntrack::STANDS)) } else { until }
    }

    /// The answer, and the views of the flow that it is for.
    fn work_out(&mut self, packet: &Packet<'_>, context: &Context) -> (Attribution, Option<Views>) {
        let Decoded::Ip(mut ip) = decode::packet(context.link_type, packet.data) else {
            return (Attribution::Unknown(Reason::NotIp), None);
        };
        if let Some(fragment) = ip.fragment {
            self.fragments.complete(&mut ip, fragment, context.at);
        }
        if opens_connection(&ip) {
            self.note_opening(ip.flow, context.at);
        }
        let mut sender = self.end(&ip, ip.flow, context, true);
        let mut receiver = self.end(&ip, ip.flow, context, false);
        let mut translated = None;
        if sender.has_no_socket() || receiver.has_no_socket() {
            let now = context.at.plus(context.waited);
            translated = self.conntrack.translated(&ip.flow, context.at, now);
        }
        if let Some(flow) = translated {
            if opens_connection(&ip) {
                self.note_opening(flow, context.at);
            }
            if sender.has_no_socket() {
                sender = self.end(&ip, flow, context, true);
            }
            if receiver.has_no_socket() {
                receiver = self.end(&ip, flow, context, false);
            }
        }
        let attribution = self.combine(packet, &ip, context, &sender, &receiver);
        (attribution, Some(Views { flow: ip.flow, translated }))
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
            only_netns: context.is_loopback.then_some(self.netns),
            home: self
                .is_home(if sent { ip.flow.local } else { ip.flow.remote }, context)
                .then_some(self.netns),
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
