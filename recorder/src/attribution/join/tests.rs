use std::net::{IpAddr, Ipv4Addr};

use super::super::event::{Cookie, Handover, Happening, NetNs, ProcessId, SocketNews, User};
use super::*;
use crate::model::Endpoint;

mod sightings;

const NOBODY: Answer = Answer::None(Reason::NoSocket);
const LOST: Answer = Answer::None(Reason::EventsLost);
const AMBIGUOUS: Answer = Answer::None(Reason::Ambiguous);
const LATE: Answer = Answer::None(Reason::TooLate);

/// Microseconds after a start that is long after boot.
fn us(us: u64) -> MonoTime {
    MonoTime::from_ns(1_000_000_000_000 + us * 1000)
}

fn ms(ms: u64) -> MonoTime {
    us(ms * 1000)
}

fn end(host: u8, port: u16) -> Endpoint {
    Endpoint::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, host)), port)
}

fn tcp(own_port: u16, port: u16) -> Flow {
    Flow { protocol: Protocol::TCP, local: end(1, own_port), remote: end(2, port) }
}

fn udp(own_port: u16, port: u16) -> Flow {
    Flow { protocol: Protocol::UDP, local: end(1, own_port), remote: end(2, port) }
}

/// As the socket itself has it: unconnected.
fn bound(flow: Flow) -> Flow {
    Flow { local: end(0, flow.local.port), remote: end(0, 0), ..flow }
}

/// A socket that is used by a process since some time.
#[derive(Clone, Copy)]
struct Socket {
    cookie: u64,
    flow: Flow,
    user: u64,
    tid: u32,
    since: MonoTime,
    existed: MonoTime,
    netns: u32,
    handover: Option<Handover>,
    /// Of a connection that came in, or of the SYN that a listening socket tells of.
    remote_isn: u32,
}

fn socket(cookie: u64, flow: Flow, user: u64, since: MonoTime) -> Socket {
    Socket { cookie, flow, user, tid: 1, since, existed: since, netns: 1, handover: None, remote_isn: 0 }
}

impl Socket {
    fn used_by(self, user: u64, since: MonoTime) -> Self {
        Self { user, since, ..self }
    }

    fn handed_over(self, former_received: MonoTime, born: Option<(MonoTime, u32)>) -> Self {
        let (began, parent_pid) = born.unzip();
        Self { handover: Some(Handover { former_received, began, executed: false, parent_pid }), ..self }
    }

    /// What took it over began with exec.
    fn by_exec(self) -> Self {
        Self { handover: self.handover.map(|handover| Handover { executed: true, ..handover }), ..self }
    }

    /// Its user did not wait for anything before.
    fn of_program(self, began: MonoTime) -> Self {
        let former_received = MonoTime::default();
        let handover = Handover { former_received, began: Some(began), executed: true, parent_pid: None };
        Self { handover: Some(handover), ..self }
    }

    fn with_isn(self, remote_isn: u32) -> Self {
        Self { remote_isn, ..self }
    }

    fn says(&self, happening: Happening, flow: Flow, at: MonoTime) -> SocketNews {
        let (process, since) = (ProcessId(self.user), self.since);
        let user = User { process, tid: self.tid, since, handover: self.handover };
        SocketNews {
            happening,
            at,
            cookie: Cookie(self.cookie),
            netns: NetNs(self.netns),
            flow,
            user: (self.user != 0).then_some(user),
            existed: self.existed,
            connects: false,
            drained: false,
            remote_isn: self.remote_isn,
            closed_by_other: false,
        }
    }

    fn has_flow(&self, at: MonoTime) -> SocketNews {
        self.says(Happening::HasFlow, self.flow, at)
    }

    fn is_used(&self, at: MonoTime) -> SocketNews {
        self.says(Happening::IsUsed, self.flow, at)
    }

    fn is_opened(&self, flow: Flow, at: MonoTime) -> SocketNews {
        self.says(Happening::IsOpened, flow, at)
    }

    fn is_closed(&self, at: MonoTime) -> SocketNews {
        self.says(Happening::IsClosed, self.flow, at)
    }
}

fn join(events: &[SocketNews]) -> Join {
    let mut join = Join::default();
    for event in events {
        join.event(event);
    }
    join
}

fn about(flow: Flow, at: MonoTime) -> Question {
    Question {
        flow,
        at,
        sent: true,
        opens: false,
        by_call: true,
        only_netns: None,
        home: None,
        waited: SLACK,
    }
}

fn sent(join: &Join, flow: Flow, at: MonoTime) -> Answer {
    join.ask(&about(flow, at))
}

fn received(join: &Join, flow: Flow, at: MonoTime) -> Answer {
    join.ask(&Question { sent: false, ..about(flow, at) })
}

fn syn_received(join: &Join, flow: Flow, at: MonoTime) -> Answer {
    join.ask(&Question { sent: false, opens: true, ..about(flow, at) })
}

fn owner(process: u64) -> Answer {
    Answer::Owner(ProcessId(process), 1, Found::Socket)
}

fn by_listener(process: u64) -> Answer {
    Answer::Owner(ProcessId(process), 0, Found::Listener)
}

// ---- TCP ----

#[test]
fn a_client_is_named_from_its_syn_to_its_last_ack() {
    let flow = tcp(40_000, 80);
    let client = socket(1, flow, 7, ms(0));
    let join = join(&[client.has_flow(ms(1)), client.is_closed(ms(20))]);
    let syn = Question { opens: true, ..about(flow, us(1001)) };
    assert_eq!(join.ask(&syn), owner(7));
    assert_eq!(received(&join, flow, ms(10)), owner(7));
    assert_eq!(sent(&join, flow, us(20_100)), owner(7), "FIN");
    assert_eq!(sent(&join, flow, ms(60_000)), owner(7), "an ACK out of TIME_WAIT");
    assert_eq!(sent(&join, flow, ms(140_100)), NOBODY);
    assert_eq!(sent(&join, flow.reversed(), ms(10)), NOBODY, "the other end is another socket");
}

fn listener(user: u64) -> Socket {
    socket(100, bound(tcp(80, 0)), user, ms(0))
}

fn accepted(cookie: u64, flow: Flow, user: u64, since: MonoTime) -> Socket {
    Socket { existed: MonoTime::default(), ..socket(cookie, flow, user, since) }
}

#[test]
fn an_accepted_connection_belongs_to_the_process_that_accepted_it_from_its_syn_on() {
    let flow = tcp(80, 40_000);
    let join = join(&[listener(7).is_opened(flow, us(1010)), accepted(2, flow, 8, ms(30)).is_used(ms(30))]);
    assert_eq!(syn_received(&join, flow, ms(1)), owner(8));
    assert_eq!(sent(&join, flow, us(1020)), owner(8));
    assert_eq!(received(&join, flow, ms(40)), owner(8));
}

#[test]
fn a_connection_that_nobody_accepts_is_the_listeners_if_only_one_process_used_it() {
    let flow = tcp(80, 40_000);
    let join = join(&[listener(7).is_opened(flow, us(1010))]);
    assert_eq!(syn_received(&join, flow, ms(1)), by_listener(7));
    assert_eq!(sent(&join, flow, ms(2)), by_listener(7));
}

#[test]
fn a_connection_that_nobody_accepts_is_ambiguous_if_several_processes_used_the_listener() {
    let flow = tcp(80, 40_000);
    let join = join(&[listener(7).is_opened(flow, ms(1)), listener(8).used_by(8, ms(2)).is_used(ms(2))]);
    assert_eq!(received(&join, flow, ms(3)), AMBIGUOUS);
}

#[test]
fn nobody_is_named_for_a_connection_that_may_yet_be_accepted() {
    let flow = tcp(80, 40_000);
    let join = join(&[listener(7).is_opened(flow, ms(1))]);
    let early = Question { waited: Duration::from_millis(49), ..about(flow, ms(2)) };
    assert_eq!(join.ask(&early), LATE);
}

#[test]
fn successive_clients_with_one_flow_each_have_their_own_packets() {
    let flow = tcp(40_000, 80);
    let (first, second) = (socket(1, flow, 7, ms(0)), socket(2, flow, 8, ms(300)));
    let join = join(&[first.has_flow(ms(1)), first.is_closed(ms(200)), second.has_flow(ms(301))]);
    assert_eq!(sent(&join, flow, ms(100)), owner(7));
    assert_eq!(sent(&join, flow, ms(250)), owner(7));
    assert_eq!(sent(&join, flow, ms(301)), owner(8));
    assert_eq!(received(&join, flow, ms(302)), owner(8));
}

#[test]
fn a_syn_that_reaches_the_tap_before_its_event_is_not_the_older_connections() {
    let flow = tcp(80, 40_000);
    let (first, second) = (accepted(1, flow, 7, ms(2)), accepted(2, flow, 8, ms(310)).with_isn(2));
    for is_closed in [true, false] {
        let mut join = join(&[listener(7).is_opened(flow, ms(1)), first.is_used(ms(2))]);
        if is_closed {
            join.event(&first.is_closed(ms(200)));
        }
        join.event(&listener(7).with_isn(2).is_opened(flow, us(300_020)));
        join.event(&second.is_used(ms(310)));
        assert_eq!(syn_received(&join, flow, ms(300)), owner(8), "closed: {is_closed}");
        assert_eq!(received(&join, flow, us(300_500)), owner(8));
        assert_eq!(received(&join, flow, ms(150)), owner(7));
    }
}

#[test]
fn a_connection_that_was_accepted_without_a_word_is_known_from_its_close() {
    let flow = tcp(40_000, 80);
    let listener = socket(1, bound(flow.reversed()), 5, ms(0));
    let accepted = socket(2, flow.reversed(), 9, ms(20));
    let join = join(&[listener.is_opened(flow.reversed(), ms(10)), accepted.is_closed(ms(20))]);
    assert_eq!(syn_received(&join, flow.reversed(), ms(10)), owner(9));
}

#[test]
fn the_close_of_a_connection_that_was_reset_is_not_the_accept_of_the_next_one() {
    let flow = tcp(80, 40_000);
    let old = accepted(2, flow, 9, ms(20)).with_isn(1);
    let join = join(&[listener(5).with_isn(2).is_opened(flow, ms(10)), old.is_closed(ms(20))]);
    assert_eq!(syn_received(&join, flow, ms(10)), AMBIGUOUS, "the old one may have refused it");
}

#[test]
fn a_client_whose_connect_was_lost_is_not_named_after_the_one_that_closes_it() {
    let flow = tcp(40_000, 80);
    let unknown = socket(1, flow, 0, ms(10));
    let closer = unknown.used_by(8, ms(500));
    let mut join = join(&[unknown.has_flow(ms(10))]);
    join.lost_between(ms(5), ms(15));
    join.event(&closer.is_closed(ms(500)));
    assert_eq!(sent(&join, flow, ms(400)), LOST);
    assert_eq!(sent(&join, flow, ms(501)), owner(8));
}

#[test]
fn a_reset_for_a_closed_port_has_no_sender() {
    let client = socket(1, tcp(40_000, 80), 7, ms(0));
    let mut join = join(&[client.has_flow(ms(1))]);
    join.note_opening(client.flow, ms(1));
    assert_eq!(sent(&join, client.flow.reversed(), us(1050)), NOBODY);
    assert_eq!(received(&join, client.flow, us(1050)), owner(7));
}

#[test]
fn a_reset_for_a_closed_port_is_not_an_older_connections_that_lingers() {
    let flow = tcp(80, 40_000);
    let old = socket(1, flow, 7, ms(2));
    let mut join = join(&[listener(7).is_opened(flow, ms(1)), old.is_used(ms(2)), old.is_closed(ms(100))]);
    assert_eq!(sent(&join, flow, ms(200)), owner(7), "its last ACK");
    join.note_opening(flow.reversed(), ms(300));
    assert_eq!(syn_received(&join, flow, ms(300)), NOBODY);
    assert_eq!(sent(&join, flow, us(300_040)), NOBODY);
    assert_eq!(sent(&join, flow, ms(299)), owner(7), "what was before stays");
    join.note_opening(flow.reversed(), ms(1300));
    assert_eq!(sent(&join, flow, ms(400)), NOBODY, "the first SYN counts");
}

#[test]
fn the_syn_of_a_connection_does_not_end_it() {
    let flow = tcp(40_000, 80);
    let client = socket(1, flow, 7, ms(0));
    let mut join = join(&[client.has_flow(ms(1))]);
    join.note_opening(flow, us(1001));
    join.event(&client.is_closed(ms(20)));
    assert_eq!(sent(&join, flow, ms(21)), owner(7));
}

/// Two connections with one flow, and the sockets that two processes accept them as. The first one was reset while it
/// waited.
fn reset_in_the_queue(flow: Flow) -> [SocketNews; 4] {
    let (first, second) =
        (accepted(2, flow, 8, ms(10)).with_isn(1), accepted(3, flow, 9, ms(20)).with_isn(2));
    [
        listener(7).with_isn(1).is_opened(flow, ms(1)),
        listener(7).with_isn(2).is_opened(flow, ms(3)),
        first.is_used(ms(10)),
        second.is_used(ms(20)),
    ]
}

#[test]
fn connections_of_one_flow_are_told_apart_by_their_sequence_numbers() {
    let flow = tcp(80, 40_000);
    let [opened, reopened, first, second] = reset_in_the_queue(flow);
    let mut join = join(&[opened, reopened]);
    assert_eq!(received(&join, flow, ms(4)), AMBIGUOUS, "the second SYN may have been refused");
    join.event(&second);
    assert_eq!(received(&join, flow, ms(4)), owner(9));
    assert_eq!(received(&join, flow, ms(2)), by_listener(7));
    join.event(&first);
    assert_eq!(received(&join, flow, ms(2)), owner(8));
    assert_eq!(received(&join, flow, ms(4)), owner(9));
}

#[test]
fn without_a_sequence_number_only_the_one_connection_that_waits_can_have_been_accepted() {
    let flow = tcp(80, 40_000);
    let [opened, reopened, ..] = reset_in_the_queue(flow);
    let of_mptcp = accepted(2, flow, 8, ms(10)).is_used(ms(10));
    assert_eq!(received(&join(&[opened, of_mptcp]), flow, ms(5)), owner(8));
    let join = join(&[opened, reopened, of_mptcp]);
    for at in [5, 15] {
        assert_eq!(received(&join, flow, ms(at)), AMBIGUOUS);
    }
}

#[test]
fn a_syn_after_the_accept_of_the_connection_before_is_a_new_one() {
    let flow = tcp(80, 40_000);
    let first = accepted(2, flow, 8, ms(2)).with_isn(1);
    let join = join(&[
        listener(7).with_isn(1).is_opened(flow, ms(1)),
        first.is_used(ms(2)),
        listener(7).with_isn(2).is_opened(flow, ms(5)),
    ]);
    assert_eq!(received(&join, flow, ms(3)), owner(8));
    assert_eq!(received(&join, flow, ms(6)), by_listener(7));
}

#[test]
fn an_accept_of_a_connection_whose_syn_was_not_told_is_not_that_of_another_one() {
    let flow = tcp(80, 40_000);
    let [_, reopened, first, second] = reset_in_the_queue(flow);
    let mut join = join(&[reopened, first]);
    assert_eq!(received(&join, flow, ms(2)), owner(8), "it is older than the other one, whose SYN was told");
    assert_eq!(received(&join, flow, ms(4)), AMBIGUOUS);
    join.event(&second);
    assert_eq!(received(&join, flow, ms(4)), owner(9));
}

#[test]
fn a_repeated_syn_is_of_the_same_connection() {
    let flow = tcp(80, 40_000);
    let join = join(&[
        listener(7).is_opened(flow, ms(1)),
        listener(7).is_opened(flow, ms(1001)),
        socket(2, flow, 8, ms(1010)).is_used(ms(1010)),
    ]);
    assert_eq!(syn_received(&join, flow, ms(1)), owner(8));
    assert_eq!(received(&join, flow, ms(1005)), owner(8));
}

#[test]
fn a_reset_that_takes_the_port_from_a_socket_does_not_invent_a_flow() {
    let flow = tcp(40_000, 80);
    let client = socket(1, flow, 7, ms(0));
    let portless = Flow { local: end(1, 0), ..flow };
    let mut join = join(&[client.has_flow(ms(1)), client.says(Happening::IsClosed, portless, ms(5))]);
    assert_eq!(join.size(), (1, 1));
    assert_eq!(sent(&join, flow, ms(6)), owner(7));
    join.forget(ms(130_000));
    assert_eq!(join.size(), (0, 0));
}

// ---- UDP ----

fn server(cookie: u64, user: u64, since: MonoTime) -> Socket {
    socket(cookie, udp(53, 50_000), user, since)
}

fn unbound_close(socket: &Socket, at: MonoTime) -> SocketNews {
    socket.says(Happening::IsClosed, bound(socket.flow), at)
}

#[test]
fn a_server_restarted_on_its_port_leaves_a_gap_without_owner() {
    let (old, new) = (server(1, 7, ms(0)), server(2, 8, ms(200)));
    let join = join(&[old.has_flow(ms(1)), unbound_close(&old, ms(100)), new.has_flow(us(210_005))]);
    let flow = old.flow;
    assert_eq!(received(&join, flow, ms(50)), owner(7));
    assert_eq!(received(&join, flow, ms(150)), NOBODY);
    assert_eq!(received(&join, flow, ms(210)), owner(8), "the tap is before the event");
    assert_eq!(sent(&join, flow, ms(2101)), owner(8));
}

#[test]
fn a_handshake_is_not_of_the_program_that_was_executed_after_it_though_that_one_sends_or_closes_at_once() {
    let flow = tcp(40_000, 80);
    let first = socket(1, flow, 7, ms(1));
    let next = first.used_by(8, ms(5)).of_program(ms(3));
    for last in [next.is_used(ms(5)), next.is_closed(ms(5))] {
        let join = join(&[first.is_used(ms(1)), first.has_flow(ms(1)), last]);
        assert_eq!(received(&join, flow, ms(2)), owner(7), "the answer to its SYN");
        assert_eq!(received(&join, flow, ms(4)), AMBIGUOUS, "the next one may have waited for it");
        assert_eq!(received(&join, flow, ms(6)), owner(8));
    }
}

#[test]
fn what_was_sent_before_the_close_and_waited_in_a_queue_is_still_named() {
    let old = server(1, 7, ms(0));
    let join = join(&[old.has_flow(ms(1)), unbound_close(&old, ms(100))]);
    assert_eq!(sent(&join, old.flow, ms(101)), owner(7));
    assert_eq!(received(&join, old.flow, ms(101)), NOBODY);
    assert_eq!(sent(&join, old.flow, ms(2101)), NOBODY);
}

#[test]
fn just_after_a_restart_a_reply_may_be_either_servers() {
    let (old, new) = (server(1, 7, ms(0)), server(2, 8, ms(101)));
    let join = join(&[old.has_flow(ms(1)), unbound_close(&old, ms(100)), new.has_flow(ms(102))]);
    assert_eq!(sent(&join, old.flow, ms(103)), AMBIGUOUS);
    assert_eq!(received(&join, old.flow, ms(103)), owner(8));
}

#[test]
fn after_a_close_with_nothing_under_way_a_reply_is_the_new_servers() {
    let (old, new) = (server(1, 7, ms(0)), server(2, 8, ms(101)));
    let close = SocketNews { drained: true, ..unbound_close(&old, ms(100)) };
    let join = join(&[old.has_flow(ms(1)), close, new.has_flow(ms(102))]);
    assert_eq!(sent(&join, old.flow, ms(99)), owner(7));
    assert_eq!(sent(&join, old.flow, ms(103)), owner(8));
}

#[test]
fn a_packet_before_the_socket_existed_has_no_owner() {
    let new = server(1, 7, us(10_000));
    let join = join(&[new.has_flow(us(10_030))]);
    assert_eq!(received(&join, new.flow, us(9_990)), NOBODY);
    assert_eq!(received(&join, new.flow, us(10_020)), owner(7));
}

#[test]
fn a_packet_that_waits_between_the_tap_and_the_hook_behind_it_is_the_sockets_that_got_it() {
    let flow = udp(53, 50_000);
    let join_udp = join(&[server(1, 7, ms(100)).has_flow(ms(140))]);
    assert_eq!(received(&join_udp, flow, ms(120)), owner(7));
    assert_eq!(sent(&join_udp, flow, ms(120)), NOBODY, "what is sent passes the hook before the tap");
    assert_eq!(received(&join_udp, flow, ms(99)), NOBODY, "the socket was not there");
    let hasty = Question { sent: false, waited: ms(40).since(ms(0)), ..about(flow, ms(120)) };
    assert_eq!(join_udp.ask(&hasty), LATE);

    let flow = tcp(80, 40_000);
    let accepted = Socket { existed: MonoTime::default(), ..socket(2, flow, 8, ms(141)) };
    let join_tcp = join(&[listener(7).is_opened(flow, ms(140)), accepted.is_used(ms(141))]);
    assert_eq!(syn_received(&join_tcp, flow, ms(120)), owner(8));
    assert_eq!(sent(&join_tcp, flow, ms(120)), NOBODY, "nobody answers a SYN that has not arrived");
    assert_eq!(syn_received(&join_tcp, flow, ms(80)), NOBODY, "another SYN, long before");
}

#[test]
fn a_packet_that_waits_behind_the_tap_may_be_any_of_those_who_are_heard_of_meanwhile() {
    let flow = udp(53, 50_000);
    let (one, other) = (server(1, 7, ms(100)), server(2, 8, ms(100)));
    let join = join(&[one.has_flow(ms(140)), other.has_flow(ms(150))]);
    assert_eq!(received(&join, flow, ms(120)), AMBIGUOUS);
}

#[test]
fn a_packet_long_before_the_first_of_a_flow_was_not_the_sockets() {
    let new = server(1, 7, ms(0));
    let join = join(&[new.has_flow(ms(80))]);
    assert_eq!(received(&join, new.flow, ms(20)), NOBODY, "the socket would have told");
}

#[test]
fn a_flow_shared_by_two_processes_sockets_is_ambiguous_and_by_two_of_one_process_is_its() {
    for (other, answer) in [(8, AMBIGUOUS), (7, owner(7))] {
        let join = join(&[server(1, 7, ms(0)).has_flow(ms(1)), server(2, other, ms(0)).has_flow(ms(2))]);
        assert_eq!(received(&join, udp(53, 50_000), ms(3)), answer);
    }
}

#[test]
fn a_multicast_packet_that_several_processes_receive_is_ambiguous_but_its_sender_is_not() {
    let group = Flow { local: end(224, 5353), ..udp(5353, 5353) };
    let sender = socket(3, group.reversed(), 9, ms(0));
    let join = join(&[
        socket(1, group, 7, ms(0)).has_flow(ms(1)),
        socket(2, group, 8, ms(0)).has_flow(ms(1)),
        sender.has_flow(ms(1)),
    ]);
    assert_eq!(received(&join, group, ms(2)), AMBIGUOUS);
    assert_eq!(sent(&join, group.reversed(), ms(2)), owner(9));
}

#[test]
fn one_flow_in_two_namespaces_is_ambiguous_unless_the_namespace_is_known() {
    let here = server(1, 7, ms(0));
    let there = Socket { netns: 2, ..server(2, 8, ms(0)) };
    let join = join(&[here.has_flow(ms(1)), there.has_flow(ms(1))]);
    assert_eq!(sent(&join, here.flow, ms(2)), AMBIGUOUS);
    for (netns, process) in [(1, 7), (2, 8)] {
        let question = Question { only_netns: Some(NetNs(netns)), ..about(here.flow, ms(2)) };
        assert_eq!(join.ask(&question), owner(process));
    }
}

// ---- Who uses a socket ----

#[test]
fn a_socket_handed_over_belongs_to_each_process_in_its_time() {
    let shared = socket(1, udp(50_000, 53), 7, ms(0));
    let join = join(&[shared.has_flow(ms(1)), shared.used_by(8, ms(10)).is_used(ms(11))]);
    assert_eq!(sent(&join, shared.flow, us(9_999)), owner(7));
    assert_eq!(sent(&join, shared.flow, ms(10)), owner(8), "the packet left before the call returned");
    assert_eq!(sent(&join, shared.flow, ms(100)), owner(8));
}

const PARENT: u32 = 70;

/// The word for a process with this id.
fn process(pid: u32) -> u64 {
    u64::from(pid) << 32
}

#[test]
fn a_process_that_waited_in_its_receive_is_the_receiver_of_what_woke_it() {
    let flow = tcp(22, 40_000);
    let parent = socket(1, flow, process(PARENT), ms(100));
    // Forked 10 ms after the accept, and back from its receive 40 ms after it.
    let child = parent.used_by(8, us(140_050)).handed_over(MonoTime::default(), Some((ms(110), PARENT)));
    let opened = listener(process(PARENT)).is_opened(flow, ms(99));
    let join = |child: Socket| join(&[opened, parent.is_used(ms(100)), child.is_used(us(140_050))]);
    let program = join(child.by_exec());
    for hardly_begun in [ms(112), ms(129)] {
        assert_eq!(received(&program, flow, hardly_begun), AMBIGUOUS, "a program may be being linked yet");
    }
    assert_eq!(received(&program, flow, ms(131)), owner(8));
    let join = join(child);
    for request in [us(110_021), ms(140)] {
        assert_eq!(received(&join, flow, request), owner(8), "forked with it, and the one who reads it");
    }
    let acknowledged = Question { by_call: false, ..about(flow, ms(140)) };
    assert_eq!(join.ask(&acknowledged), owner(8), "its acknowledgement");
    assert_eq!(
        sent(&join, flow, ms(140)),
        owner(process(PARENT)),
        "whoever sends is heard of before its packet"
    );
    assert_eq!(received(&join, flow, ms(101)), owner(process(PARENT)), "the child is not born");
    assert_eq!(received(&join, flow, ms(110)), AMBIGUOUS, "as it is forked");
    assert_eq!(received(&join, flow, ms(99)), owner(process(PARENT)), "the handshake before the accept");
    let hasty = Question { sent: false, waited: Duration::from_millis(4), ..about(flow, ms(140)) };
    assert_eq!(join.ask(&hasty), LATE);
}

#[test]
fn who_has_only_accepted_a_connection_may_have_done_so_for_another_one() {
    let flow = tcp(22, 40_000);
    let accepted = accepted(1, flow, 7, ms(2));
    let by_accept = SocketNews { connects: true, ..accepted.is_used(ms(2)) };
    let mut join = join(&[listener(7).is_opened(flow, ms(1)), by_accept]);
    assert_eq!(sent(&join, flow, us(1_010)), owner(7), "the handshake");
    assert_eq!(received(&join, flow, ms(10)), AMBIGUOUS, "nobody has read it for long");
    let hasty = Question { sent: false, waited: Duration::from_millis(4), ..about(flow, ms(10)) };
    assert_eq!(join.ask(&hasty), LATE);
    let later = accepted.used_by(8, ms(100)).handed_over(MonoTime::default(), None);
    let (read_by_itself, closed) = (accepted.is_used(ms(100)), accepted.is_closed(ms(100)));
    let by_other = SocketNews { closed_by_other: true, ..closed };
    for (touch, at_50, at_49) in [
        (read_by_itself, owner(7), AMBIGUOUS),
        (later.is_used(ms(100)), AMBIGUOUS, AMBIGUOUS),
        (closed, owner(7), AMBIGUOUS),
        (by_other, AMBIGUOUS, AMBIGUOUS),
    ] {
        join = self::join(&[listener(7).is_opened(flow, ms(1)), by_accept, touch]);
        assert_eq!(received(&join, flow, ms(50)), at_50, "{touch:?}");
        assert_eq!(received(&join, flow, ms(49)), at_49, "{touch:?}");
    }
}

#[test]
fn children_that_wait_on_their_parents_socket_take_from_its_queue_and_only_a_lone_one_is_known() {
    let flow = udp(53, 50_000);
    let parent = socket(1, flow, process(PARENT), ms(0));
    let child = |pid: u32, from, born| {
        parent.used_by(process(pid), from).handed_over(MonoTime::default(), Some((born, PARENT)))
    };
    let (one, other) = (child(71, us(50_050), ms(1)), child(72, us(80_050), ms(2)));
    let mut join = join(&[parent.has_flow(ms(40)), one.is_used(us(50_050))]);
    assert_eq!(received(&join, flow, ms(50)), owner(process(71)), "one child");
    join.event(&other.is_used(us(80_050)));
    assert_eq!(received(&join, flow, ms(80)), AMBIGUOUS, "either may have been waiting");
    assert_eq!(received(&join, flow, ms(90)), owner(process(72)), "nobody else has come since");
}

#[test]
fn the_end_of_a_connection_that_another_process_closes_than_its_user_is_ambiguous() {
    let flow = tcp(22, 40_000);
    let program = socket(1, flow, 8, ms(10));
    let closed = SocketNews { closed_by_other: true, ..program.is_closed(ms(50)) };
    let join = join(&[program.is_used(ms(10)), closed]);
    assert_eq!(received(&join, flow, ms(40)), owner(8));
    assert_eq!(join.ask(&Question { by_call: false, ..about(flow, us(50_010)) }), AMBIGUOUS, "FIN");
    assert_eq!(received(&join, flow, ms(60)), AMBIGUOUS);
}

#[test]
fn what_the_former_user_received_stays_its_own_and_what_comes_between_two_is_ambiguous() {
    let flow = tcp(40_000, 80);
    let one = socket(1, flow, 7, ms(0));
    let other = one.used_by(8, ms(30)).handed_over(ms(20), None);
    let join = join(&[one.is_used(ms(1)), other.is_used(ms(30))]);
    assert_eq!(received(&join, flow, us(19_990)), owner(7));
    assert_eq!(received(&join, flow, ms(25)), AMBIGUOUS);
    assert_eq!(received(&join, flow, ms(31)), owner(8));
}

#[test]
fn a_socket_that_several_threads_use_has_no_thread() {
    let flow = tcp(40_000, 80);
    let shared = socket(1, flow, 7, ms(0));
    let join = join(&[shared.has_flow(ms(1)), Socket { tid: 2, ..shared }.is_used(ms(2))]);
    assert_eq!(sent(&join, flow, ms(3)), Answer::Owner(ProcessId(7), 0, Found::Socket));
}

#[test]
fn events_in_the_wrong_order_tell_the_same() {
    let shared = socket(1, tcp(40_000, 80), 7, ms(0));
    let events = [
        shared.has_flow(ms(1)),
        shared.used_by(8, ms(10)).is_used(ms(10)),
        shared.used_by(7, ms(20)).is_used(ms(20)),
        shared.used_by(9, ms(30)).is_used(ms(30)),
    ];
    for order in [[0, 1, 2, 3], [1, 0, 2, 3], [0, 2, 1, 3], [0, 1, 3, 2], [1, 0, 3, 2]] {
        let join = join(&order.map(|place| events[place]));
        for (at, process) in [(5, 7), (15, 8), (25, 7), (35, 9)] {
            assert_eq!(sent(&join, shared.flow, ms(at)), owner(process), "{order:?} at {at}");
        }
    }
}

#[test]
fn late_news_of_a_second_turn_do_not_confirm_the_first_one() {
    let shared = socket(1, tcp(40_000, 80), 7, ms(0));
    let mut join = join(&[
        shared.has_flow(ms(1)),
        shared.used_by(8, ms(10)).is_used(ms(10)),
        shared.used_by(7, ms(20)).is_used(ms(20)),
        shared.used_by(9, ms(30)).is_used(ms(30)),
        shared.used_by(7, ms(20)).has_flow(ms(25)),
    ]);
    join.lost_between(ms(4), ms(6));
    assert_eq!(sent(&join, shared.flow, ms(7)), LOST);
}

// ---- Losses ----

/// Found by the fuzz target `join`.
#[test]
fn an_accepted_connection_whose_syn_was_lost_may_be_dead_and_names_nobody_before_it_moves_data() {
    let flow = tcp(80, 40_000);
    let first = socket(2, flow, 8, ms(20)).with_isn(1);
    let accept = SocketNews { connects: true, ..first.is_used(ms(20)) };
    // Two SYNs were lost: that of a connection which was reset before anybody accepted it, and that of the next one.
    let mut join = join(&[]);
    join.lost_between(ms(5), ms(15));
    join.event(&accept);
    assert_eq!(received(&join, flow, ms(25)), LOST, "it may be of the second, which waits to be accepted");
    join.event(&first.is_used(ms(30)));
    assert_eq!(received(&join, flow, ms(35)), owner(8), "it lives");
    // Without a loss there was no SYN that is not known.
    let mut complete = self::join(&[]);
    complete.event(&accept);
    complete.event(&first.is_used(ms(300)));
    assert_eq!(received(&complete, flow, ms(295)), owner(8));
}

#[test]
fn after_a_loss_nothing_is_believed_until_it_is_confirmed() {
    let shared = socket(1, tcp(40_000, 80), 7, ms(0));
    let mut join = join(&[shared.has_flow(ms(1))]);
    join.lost_between(ms(10), ms(20));
    assert_eq!(sent(&join, shared.flow, ms(5)), owner(7), "before the loss");
    assert_eq!(sent(&join, shared.flow, ms(15)), LOST);
    assert_eq!(sent(&join, shared.flow, ms(30)), LOST);
    join.event(&shared.has_flow(ms(40)));
    assert_eq!(sent(&join, shared.flow, ms(30)), owner(7), "it was the user since before the packet");
    assert_eq!(sent(&join, shared.flow, ms(50)), owner(7));
}

#[test]
fn after_a_loss_another_user_is_believed_from_the_time_it_tells() {
    let shared = socket(1, tcp(40_000, 80), 7, ms(0));
    let mut join = join(&[shared.has_flow(ms(1))]);
    join.lost_between(ms(10), ms(20));
    join.event(&shared.used_by(8, ms(15)).has_flow(ms(40)));
    assert_eq!(sent(&join, shared.flow, ms(12)), LOST);
    assert_eq!(sent(&join, shared.flow, ms(16)), owner(8));
}

#[test]
fn a_lost_event_may_be_a_little_later_than_the_packet_that_it_explains() {
    let shared = socket(1, udp(50_000, 53), 7, ms(0));
    let mut join = join(&[shared.has_flow(ms(1))]);
    join.lost_between(ms(10), ms(20));
    assert_eq!(sent(&join, shared.flow, us(9_500)), LOST);
}

#[test]
fn the_first_user_that_is_known_does_not_speak_for_what_was_before_a_loss() {
    let shared = socket(1, udp(50_000, 53), 8, us(10_900));
    let mut join = join(&[Socket { existed: ms(0), ..shared }.has_flow(us(10_900))]);
    join.lost_between(ms(5), us(10_700));
    assert_eq!(sent(&join, shared.flow, us(10_600)), LOST);
    assert_eq!(sent(&join, shared.flow, ms(11)), owner(8));
}

#[test]
fn an_unknown_flow_near_a_loss_may_owe_that_to_the_loss() {
    let mut join = Join::default();
    join.lost_between(ms(1000), ms(1010));
    assert_eq!(sent(&join, udp(1, 2), ms(1500)), LOST);
    assert_eq!(sent(&join, udp(1, 2), ms(3000)), NOBODY);
}

#[test]
fn a_syn_after_a_lost_accept_is_not_taken_for_the_same_one() {
    let flow = tcp(80, 40_000);
    let mut join = join(&[listener(7).is_opened(flow, ms(1))]);
    join.lost_between(ms(5), ms(15));
    join.event(&listener(7).is_opened(flow, ms(2000)));
    join.event(&socket(2, flow, 9, ms(2005)).is_used(ms(2005)));
    assert_eq!(received(&join, flow, ms(1999)), LOST);
}

#[test]
fn an_accept_after_the_loss_of_a_syn_may_be_of_another_connection_of_the_flow() {
    let flow = tcp(80, 40_000);
    let old = socket(2, flow, 7, ms(2));
    let mut join = join(&[listener(7).is_opened(flow, ms(1)), old.is_used(ms(2)), old.is_closed(ms(3))]);
    join.lost_between(ms(10), ms(20));
    join.event(&listener(7).is_opened(flow, ms(30)));
    join.event(&socket(3, flow, 8, ms(35)).is_used(ms(35)));
    assert_eq!(received(&join, flow, ms(32)), LOST);
}

#[test]
fn a_rival_in_another_namespace_may_be_what_was_lost() {
    let here = server(1, 7, ms(0));
    let there = Socket { netns: 2, ..server(2, 8, ms(45)) };
    let mut join = join(&[here.has_flow(ms(1)), there.has_flow(ms(50))]);
    join.lost_between(ms(10), ms(20));
    join.event(&here.has_flow(ms(25)));
    assert_eq!(sent(&join, here.flow, ms(30)), LOST);
    let question = Question { only_netns: Some(NetNs(1)), ..about(here.flow, ms(30)) };
    assert_eq!(join.ask(&question), owner(7));
}

// ---- Waiting ----

#[test]
fn no_name_is_given_before_the_hooks_behind_the_packet_can_have_run() {
    let client = socket(1, tcp(40_000, 80), 7, ms(0));
    let join = join(&[client.has_flow(ms(1))]);
    for (waited, answer) in [(0, LATE), (999, LATE), (1000, owner(7))] {
        let question = Question { waited: Duration::from_micros(waited), ..about(client.flow, ms(2)) };
        assert_eq!(join.ask(&question), answer, "{waited} µs");
    }
}

#[test]
fn an_unknown_receiver_may_become_known_while_the_question_waits() {
    let question = Question { sent: false, waited: Duration::from_millis(5), ..about(tcp(80, 1), ms(1)) };
    assert_eq!(Join::default().ask(&question), LATE);
    assert_eq!(Join::default().ask(&Question { sent: true, ..question }), NOBODY);
}

// ---- Memory ----

#[test]
fn connections_of_the_kernel_itself_are_forgotten_and_others_are_not() {
    let (kernels, programs) = (tcp(700, 2049), tcp(40_000, 80));
    let socket_of_kernel = socket(1, kernels, 0, ms(0));
    let client = socket(2, programs, 7, ms(0));
    let mut join = join(&[socket_of_kernel.has_flow(ms(1)), client.is_used(ms(1)), client.has_flow(ms(1))]);
    assert_eq!(join.size(), (2, 2));
    assert_eq!(sent(&join, kernels, ms(2)), NOBODY);
    join.forget(ms(60_000));
    assert_eq!(join.size(), (1, 1));
    assert_eq!(sent(&join, programs, ms(60_000)), owner(7));
}

#[test]
fn connections_that_nobody_accepts_are_forgotten() {
    let mut join = Join::default();
    for port in 1..=10_000 {
        join.event(&listener(7).is_opened(tcp(80, port), us(u64::from(port))));
    }
    assert_eq!(join.size(), (10_000, 1));
    join.forget(ms(10_020));
    assert_eq!(join.size(), (0, 1));
}

#[test]
fn closed_connections_are_forgotten_and_udp_sockets_do_not_wait_for_them() {
    let mut join = Join::default();
    for port in 1..=1000 {
        for (cookie, flow) in [(u64::from(port), tcp(port, 80)), (10_000 + u64::from(port), udp(port, 53))] {
            let client = socket(cookie, flow, 7, ms(0));
            join.event(&client.has_flow(ms(1)));
            join.event(&client.is_closed(ms(2)));
        }
    }
    assert_eq!(join.size(), (2000, 2000));
    join.forget(ms(2010));
    assert_eq!(join.size(), (1000, 1000));
    join.forget(ms(121_000));
    assert_eq!(join.size(), (0, 0));
}

#[test]
fn the_flows_of_a_server_are_forgotten_when_it_has_left_them_but_not_the_one_that_it_has() {
    let mut join = Join::default();
    for port in 1..=1000 {
        join.event(&socket(1, udp(53, port), 7, ms(0)).has_flow(ms(u64::from(port))));
    }
    join.forget(ms(1500));
    assert_eq!(join.size(), (1000, 1));
    join.forget(ms(60_000));
    assert_eq!(join.size(), (1, 1));
    assert_eq!(received(&join, udp(53, 1000), ms(60_000)), owner(7));
}

#[test]
fn a_flow_that_a_server_comes_back_to_is_kept() {
    let (first, second) = (socket(1, udp(53, 1), 7, ms(0)), socket(1, udp(53, 2), 7, ms(0)));
    let mut join = join(&[first.has_flow(ms(1)), second.has_flow(ms(2)), first.has_flow(ms(3))]);
    join.forget(ms(5000));
    assert_eq!(received(&join, first.flow, ms(5000)), owner(7));
    assert_eq!(join.size(), (1, 1));
}

#[test]
fn all_flows_of_a_closed_server_are_forgotten() {
    let mut join = Join::default();
    for port in 1..=1000 {
        join.event(&socket(1, udp(53, port), 7, ms(0)).has_flow(ms(1)));
    }
    join.event(&unbound_close(&server(1, 7, ms(0)), ms(2)));
    join.forget(ms(2010));
    assert_eq!(join.size(), (0, 0));
}

#[test]
fn sockets_whose_close_was_lost_are_forgotten() {
    let mut join = Join::default();
    for port in 1..=1000 {
        join.event(&socket(u64::from(port), tcp(port, 80), 7, ms(0)).has_flow(ms(1)));
    }
    join.lost_between(ms(2), ms(10));
    join.event(&socket(1000, tcp(1000, 80), 7, ms(0)).has_flow(ms(20)));
    join.forget(ms(2020));
    assert_eq!(join.size(), (1, 1));
    assert_eq!(sent(&join, tcp(1000, 80), ms(2020)), owner(7));
}

#[test]
fn the_turns_of_a_socket_that_is_handed_to_and_fro_are_forgotten() {
    let shared = socket(1, tcp(40_000, 80), 7, ms(0));
    let mut join = join(&[shared.has_flow(ms(1))]);
    for turn in 1..100_000 {
        join.event(&shared.used_by(7 + turn % 2, ms(turn)).is_used(ms(turn)));
    }
    assert!(join.sockets[&Cookie(1)].uses.len() < 8192);
    assert_eq!(sent(&join, shared.flow, ms(99_998)), owner(7));
    assert_eq!(sent(&join, shared.flow, ms(99_999)), owner(8));
    assert_eq!(sent(&join, shared.flow, ms(5)), NOBODY, "rather none than the first that is left");
}
