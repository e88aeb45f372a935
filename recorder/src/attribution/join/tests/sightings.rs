//! What is seen in the kernel's tables: once, while the kernel side tells the rest; or again and again, and nothing else.

use std::net::Ipv6Addr;

use super::super::super::event::{Holder, Reach, Scan, Sighting};
use super::*;

const ANY: Reach = Reach { v4: true, v6: true, one_device: false };
const V4: Reach = Reach { v6: false, ..ANY };

fn seen(cookie: u64, flow: Flow, holder: Holder) -> Sighting {
    Sighting { cookie: Cookie(cookie), netns: NetNs(1), flow, reach: V4, holder }
}

fn held_by(process: u64) -> Holder {
    Holder::One(ProcessId(process))
}

/// Takes a millisecond.
fn scan(found: Found, at_ms: u64, sockets: &[Sighting]) -> Scan {
    Scan { began: ms(at_ms), ended: ms(at_ms + 1), found, processes: Vec::new(), sockets: sockets.to_vec() }
}

/// A recording that begins with these sockets there.
fn after_snapshot(sockets: &[Sighting]) -> Join {
    let mut join = Join::default();
    join.expect_snapshot();
    join.scanned(&scan(Found::Snapshot, 1, sockets));
    join
}

/// Nobody tells anything but these scans, one every 20 ms.
fn after_scans(scans: &[&[Sighting]]) -> Join {
    let mut join = Join::default();
    for (number, sockets) in (1..).zip(scans) {
        join.scanned(&scan(Found::Procfs, number * 20, sockets));
    }
    join
}

fn snapshot_of(process: u64) -> Answer {
    Answer::Owner(ProcessId(process), 0, Found::Snapshot)
}

fn procfs_of(process: u64) -> Answer {
    Answer::Owner(ProcessId(process), 0, Found::Procfs)
}

/// A datagram to an address of the recorder's own network namespace.
fn to_home(join: &Join, flow: Flow, at: MonoTime) -> Answer {
    join.ask(&Question { sent: false, home: Some(NetNs(1)), ..about(flow, at) })
}

fn wildcard(port: u16) -> Flow {
    let any = |port| Endpoint::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port);
    Flow { protocol: Protocol::UDP, local: any(port), remote: any(0) }
}

fn specific(port: u16) -> Flow {
    Flow { local: end(1, port), ..wildcard(port) }
}

// ---- A snapshot: connections ----

#[test]
fn an_old_connection_is_its_one_holders_from_the_snapshot_on() {
    let flow = tcp(40_000, 80);
    let join = after_snapshot(&[seen(1, flow, held_by(7))]);
    assert_eq!(sent(&join, flow, ms(5)), snapshot_of(7));
    assert_eq!(received(&join, flow, ms(60_000)), snapshot_of(7));
}

#[test]
fn an_old_connection_is_anothers_from_its_use_on() {
    let flow = tcp(40_000, 80);
    let mut join = after_snapshot(&[seen(1, flow, held_by(7))]);
    join.event(&Socket { existed: MonoTime::default(), ..socket(1, flow, 8, ms(100)) }.is_used(ms(100)));
    assert_eq!(sent(&join, flow, ms(98)), snapshot_of(7));
    assert_eq!(
        sent(&join, flow, us(99_900)),
        AMBIGUOUS,
        "it may have been sent by the call that is told when it returns"
    );
    assert_eq!(sent(&join, flow, ms(101)), owner(8));
}

#[test]
fn an_old_connection_with_several_holders_is_nobodys_until_one_of_them_uses_it() {
    let flow = tcp(40_000, 80);
    let mut join = after_snapshot(&[seen(1, flow, Holder::Unclear)]);
    assert_eq!(received(&join, flow, ms(50)), AMBIGUOUS);
    join.event(&Socket { existed: MonoTime::default(), ..socket(1, flow, 8, ms(100)) }.is_used(ms(100)));
    assert_eq!(received(&join, flow, ms(50)), AMBIGUOUS);
    assert_eq!(received(&join, flow, us(99_990)), owner(8), "it is told when its call returns");
    assert_eq!(received(&join, flow, ms(200)), owner(8));
}

#[test]
fn the_use_that_is_told_first_says_nothing_of_the_time_before_unless_its_process_is_the_one_holder() {
    let flow = tcp(40_000, 80);
    for (user, before) in [(7, snapshot_of(7)), (8, AMBIGUOUS)] {
        let used = Socket { existed: MonoTime::default(), ..socket(1, flow, user, ms(10)) };
        let mut join = join(&[used.is_used(ms(10))]);
        join.scanned(&scan(Found::Snapshot, 1, &[seen(1, flow, held_by(7))]));
        assert_eq!(sent(&join, flow, ms(5)), before);
        assert_eq!(sent(&join, flow, ms(11)), owner(user));
    }
}

#[test]
fn a_socket_that_was_closed_since_it_was_seen_is_not_there() {
    let flow = tcp(40_000, 80);
    let (old, new) = (socket(1, flow, 7, ms(2)), socket(2, flow, 8, ms(3)));
    let mut join = join(&[old.is_closed(ms(2)), new.has_flow(ms(3))]);
    join.scanned(&scan(Found::Snapshot, 1, &[seen(1, flow, held_by(7))]));
    assert_eq!(sent(&join, flow, ms(4)), owner(8));
}

#[test]
fn an_old_connection_that_ended_and_began_anew_while_the_scan_went_on_is_the_new_ones() {
    let flow = tcp(40_000, 80);
    let new = socket(2, flow, 8, us(1500));
    let mut join = join(&[new.has_flow(us(1500))]);
    join.scanned(&scan(Found::Snapshot, 1, &[seen(1, flow, held_by(7))]));
    join.event(&socket(1, flow, 7, us(1400)).is_closed(us(1400)));
    assert_eq!(sent(&join, flow, ms(4)), owner(8));
}

#[test]
fn until_the_snapshot_is_there_any_flow_may_be_an_older_sockets() {
    let flow = tcp(40_000, 80);
    let mut join = Join::default();
    join.expect_snapshot();
    join.event(&socket(1, flow, 7, us(500)).has_flow(us(500)));
    assert_eq!(sent(&join, flow, us(600)), AMBIGUOUS);
    assert_eq!(sent(&join, flow, ms(5)), AMBIGUOUS);
    join.scanned(&scan(Found::Snapshot, 1, &[]));
    assert_eq!(sent(&join, flow, us(600)), AMBIGUOUS);
    assert_eq!(sent(&join, flow, ms(5)), owner(7));
}

#[test]
fn a_connection_that_nobody_accepts_is_an_old_listeners_if_one_process_holds_that() {
    let (flow, listening) = (tcp(80, 40_000), bound(tcp(80, 0)));
    for (holder, answer) in [(held_by(7), by_listener(7)), (Holder::Unclear, AMBIGUOUS)] {
        let mut join = after_snapshot(&[seen(100, listening, holder)]);
        let listener = Socket { user: 0, existed: MonoTime::default(), ..listener(0) };
        join.event(&listener.is_opened(flow, ms(10)));
        assert_eq!(syn_received(&join, flow, ms(10)), answer);
    }
}

#[test]
fn a_connection_whose_syn_was_told_and_that_is_seen_waiting_is_one() {
    let flow = tcp(80, 40_000);
    let mut join = join(&[listener(7).is_opened(flow, us(500))]);
    join.scanned(&scan(Found::Snapshot, 1, &[seen(2, flow, Holder::Unclear)]));
    join.event(&socket(2, flow, 8, ms(10)).is_used(ms(10)));
    assert_eq!(received(&join, flow, ms(5)), owner(8));
    assert_eq!(join.flows[&flow].len(), 1);
}

// ---- A snapshot: sockets without a remote end ----

#[test]
fn a_datagram_is_for_the_old_socket_that_alone_has_the_port() {
    let flow = udp(53, 50_000);
    for local in [wildcard(53), specific(53)] {
        let join = after_snapshot(&[seen(1, local, held_by(7)), seen(2, wildcard(54), held_by(8))]);
        assert_eq!(to_home(&join, flow, ms(5)), snapshot_of(7));
        assert_eq!(sent(&join, flow.reversed(), ms(5)), NOBODY, "the other end");
        assert_eq!(sent(&join, flow, ms(5)), NOBODY, "what it sends is told");
    }
}

#[test]
fn a_socket_without_an_address_gets_only_what_is_for_an_address_of_its_namespace() {
    let flow = udp(53, 50_000);
    let join = after_snapshot(&[seen(1, wildcard(53), held_by(7))]);
    assert_eq!(received(&join, flow, ms(5)), NOBODY, "another host's, forwarded");
    let elsewhere = Sighting { netns: NetNs(2), ..seen(1, wildcard(53), held_by(7)) };
    assert_eq!(to_home(&after_snapshot(&[elsewhere]), flow, ms(5)), NOBODY);
}

#[test]
fn a_port_that_old_sockets_of_two_processes_share_is_ambiguous_and_of_one_process_is_its() {
    let flow = udp(53, 50_000);
    for (holder, answer) in [
        (held_by(8), AMBIGUOUS),
        (held_by(7), snapshot_of(7)),
        (Holder::Unclear, AMBIGUOUS),
        (Holder::Nobody, AMBIGUOUS),
    ] {
        let join = after_snapshot(&[seen(1, wildcard(53), held_by(7)), seen(2, wildcard(53), holder)]);
        assert_eq!(to_home(&join, flow, ms(5)), answer, "{holder:?}");
    }
}

#[test]
fn a_port_of_the_kernel_itself_is_nobodys() {
    let join = after_snapshot(&[seen(1, wildcard(4789), Holder::Nobody)]);
    assert_eq!(to_home(&join, udp(4789, 50_000), ms(5)), NOBODY);
}

#[test]
fn the_very_address_comes_before_any() {
    let join = after_snapshot(&[seen(1, wildcard(53), held_by(7)), seen(2, specific(53), held_by(8))]);
    assert_eq!(to_home(&join, udp(53, 50_000), ms(5)), snapshot_of(8));
    let other = Flow { local: end(2, 53), remote: end(3, 1), ..wildcard(53) };
    assert_eq!(to_home(&join, other, ms(5)), snapshot_of(7));
}

#[test]
fn a_newcomer_that_shares_the_port_is_known_by_the_flows_that_it_gets() {
    let (its, old) = (udp(53, 50_000), udp(53, 50_001));
    let mut join = after_snapshot(&[seen(1, wildcard(53), held_by(7))]);
    let newcomer = socket(2, its, 8, ms(10));
    join.event(&newcomer.has_flow(ms(20)));
    assert_eq!(to_home(&join, its, us(19_990)), owner(8), "the tap is before the event");
    assert_eq!(to_home(&join, its, ms(25)), owner(8));
    assert_eq!(to_home(&join, old, ms(25)), snapshot_of(7));
    join.event(&unbound_close(&newcomer, ms(30)));
    assert_eq!(to_home(&join, its, ms(40)), snapshot_of(7), "the old one is left");
}

#[test]
fn a_port_is_free_when_its_old_owner_has_closed_it() {
    let flow = udp(53, 50_000);
    let mut join = after_snapshot(&[seen(1, wildcard(53), held_by(7))]);
    join.event(&socket(1, wildcard(53), 7, ms(10)).is_closed(ms(10)));
    assert_eq!(to_home(&join, flow, ms(9)), snapshot_of(7));
    assert_eq!(to_home(&join, flow, ms(11)), NOBODY);
    join.event(&socket(2, flow, 8, ms(12)).has_flow(ms(20)));
    assert_eq!(to_home(&join, flow, ms(20)), owner(8));
    assert_eq!(to_home(&join, udp(53, 50_001), ms(21)), NOBODY, "the new one would have told");
    join.forget(ms(3000));
    assert_eq!(join.bound.size(), 0);
}

#[test]
fn an_old_socket_of_another_namespace_with_the_same_address_makes_it_ambiguous() {
    let flow = udp(53, 50_000);
    let there = Sighting { netns: NetNs(2), ..seen(2, specific(53), held_by(8)) };
    let join = after_snapshot(&[seen(1, specific(53), held_by(7)), there]);
    assert_eq!(to_home(&join, flow, ms(5)), AMBIGUOUS);
    let here =
        Question { sent: false, only_netns: Some(NetNs(1)), home: Some(NetNs(1)), ..about(flow, ms(5)) };
    assert_eq!(join.ask(&here), snapshot_of(7));
}

#[test]
fn a_flow_that_is_told_in_another_namespace_may_be_the_old_sockets_here() {
    let flow = udp(53, 50_000);
    let mut join = after_snapshot(&[seen(1, specific(53), held_by(7))]);
    join.event(&Socket { netns: 2, ..socket(2, flow, 8, ms(10)) }.has_flow(ms(20)));
    assert_eq!(to_home(&join, flow, ms(25)), AMBIGUOUS);
}

#[test]
fn an_ipv6_socket_takes_ipv4_only_if_it_is_of_both() {
    let six = |port| Endpoint::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port);
    let local = Flow { local: six(53), remote: six(0), ..wildcard(53) };
    for (reach, answer) in [
        (ANY, snapshot_of(7)),
        (Reach { v4: false, ..ANY }, NOBODY),
        (Reach { one_device: true, ..ANY }, AMBIGUOUS),
    ] {
        let join = after_snapshot(&[Sighting { reach, ..seen(1, local, held_by(7)) }]);
        assert_eq!(to_home(&join, udp(53, 50_000), ms(5)), answer, "{reach:?}");
    }
}

#[test]
fn an_old_socket_that_connects_takes_nothing_from_others_any_more() {
    let mut join = after_snapshot(&[seen(1, wildcard(53), held_by(7))]);
    let connected = Socket { existed: MonoTime::default(), ..socket(1, udp(53, 50_000), 7, ms(10)) };
    join.event(&connected.is_used(ms(10)));
    assert_eq!(to_home(&join, udp(53, 50_001), ms(9)), snapshot_of(7));
    assert_eq!(to_home(&join, udp(53, 50_001), ms(11)), NOBODY);
    assert_eq!(to_home(&join, udp(53, 50_000), ms(11)), owner(7));
}

#[test]
fn after_a_loss_an_old_port_may_be_anothers() {
    let mut join = after_snapshot(&[seen(1, wildcard(53), held_by(7))]);
    join.lost_between(ms(10), ms(20));
    assert_eq!(to_home(&join, udp(53, 50_000), ms(5)), snapshot_of(7));
    assert_eq!(to_home(&join, udp(53, 50_000), ms(5000)), LOST);
}

// ---- Scans, and nothing else ----

#[test]
fn a_flow_is_its_holders_between_two_sightings_and_at_no_other_time() {
    let flow = tcp(40_000, 80);
    let here: &[Sighting] = &[seen(1, flow, held_by(7))];
    let join = after_scans(&[&[], here, here, &[]]);
    assert_eq!(sent(&join, flow, ms(30)), LOST, "before the first one");
    assert_eq!(sent(&join, flow, us(40_500)), LOST, "while it was made");
    assert_eq!(sent(&join, flow, ms(42)), procfs_of(7));
    assert_eq!(received(&join, flow, ms(58)), procfs_of(7));
    assert_eq!(sent(&join, flow, ms(62)), LOST, "after the last one");
    assert_eq!(sent(&join, flow, ms(85)), LOST);
}

#[test]
fn a_packet_waits_for_the_scan_after_it() {
    let flow = tcp(40_000, 80);
    let here: &[Sighting] = &[seen(1, flow, held_by(7))];
    let early = Question { waited: Duration::ZERO, ..about(flow, ms(50)) };
    assert_eq!(after_scans(&[here, here]).ask(&early), LATE);
    let waited = Question { waited: Duration::from_millis(10), ..early };
    assert_eq!(after_scans(&[here, here, here]).ask(&waited), procfs_of(7));
}

#[test]
fn a_socket_that_changed_hands_between_two_sightings_is_nobodys_in_between() {
    let flow = tcp(40_000, 80);
    let held = |process| [seen(1, flow, held_by(process))];
    let join = after_scans(&[&held(7), &held(7), &held(8), &held(8)]);
    assert_eq!(sent(&join, flow, ms(30)), procfs_of(7));
    assert_eq!(sent(&join, flow, ms(50)), LOST);
    assert_eq!(sent(&join, flow, ms(70)), procfs_of(8));
}

#[test]
fn a_socket_with_several_holders_is_ambiguous_between_two_sightings() {
    let flow = tcp(40_000, 80);
    let one: &[Sighting] = &[seen(1, flow, held_by(7))];
    let several: &[Sighting] = &[seen(1, flow, Holder::Unclear)];
    let join = after_scans(&[one, one, several, several, one, one]);
    assert_eq!(sent(&join, flow, ms(30)), procfs_of(7));
    assert_eq!(sent(&join, flow, ms(50)), LOST);
    assert_eq!(sent(&join, flow, ms(70)), AMBIGUOUS);
    assert_eq!(sent(&join, flow, ms(90)), LOST);
    assert_eq!(sent(&join, flow, ms(110)), procfs_of(7));
}

#[test]
fn another_socket_with_the_same_flow_leaves_a_gap() {
    let flow = tcp(40_000, 80);
    let (old, new) = ([seen(1, flow, held_by(7))], [seen(2, flow, held_by(8))]);
    let join = after_scans(&[&old, &old, &new, &new]);
    assert_eq!(sent(&join, flow, ms(30)), procfs_of(7));
    assert_eq!(sent(&join, flow, ms(50)), LOST);
    assert_eq!(sent(&join, flow, ms(70)), procfs_of(8));
}

#[test]
fn a_port_is_its_sockets_between_two_sightings_in_both_directions() {
    let here: &[Sighting] = &[seen(1, wildcard(53), held_by(7))];
    let join = after_scans(&[here, here, &[]]);
    let home = Question { home: Some(NetNs(1)), ..about(udp(53, 50_000), ms(30)) };
    assert_eq!(join.ask(&home), procfs_of(7));
    assert_eq!(join.ask(&Question { sent: false, ..home }), procfs_of(7));
    assert_eq!(join.ask(&Question { at: ms(50), ..home }), LOST);
}

#[test]
fn a_socket_that_came_or_went_in_between_may_have_had_the_port() {
    let (old, rival) = (seen(1, wildcard(53), held_by(7)), seen(2, wildcard(53), held_by(8)));
    let join = after_scans(&[&[old], &[old], &[old, rival], &[old], &[old]]);
    let at = |at| to_home(&join, udp(53, 50_000), ms(at));
    assert_eq!([at(50), at(70)], [LOST, LOST], "it came, it went");
    assert_eq!(at(90), procfs_of(7));
}

#[test]
fn a_connected_socket_shares_what_is_sent_with_one_that_has_its_port() {
    let flow = udp(53, 50_000);
    let both: &[Sighting] = &[seen(1, flow, held_by(7)), seen(2, wildcard(53), held_by(8))];
    let join = after_scans(&[both, both]);
    let home = Question { home: Some(NetNs(1)), ..about(flow, ms(30)) };
    assert_eq!(join.ask(&home), AMBIGUOUS);
}

#[test]
fn what_is_not_seen_any_more_is_forgotten() {
    let sockets: Vec<Sighting> =
        (1..1000).map(|port| seen(u64::from(port), tcp(port, 80), held_by(7))).collect();
    let mut join = after_scans(&[&sockets, &[seen(5000, wildcard(53), held_by(7))]]);
    for at in (60..10_000).step_by(20) {
        join.scanned(&scan(Found::Procfs, at, &[seen(1, tcp(1, 80), held_by(7))]));
        join.forget(ms(at));
    }
    assert_eq!(join.size(), (1, 1));
    assert_eq!(join.bound.size(), 0);
    assert_eq!(sent(&join, tcp(1, 80), ms(9_970)), procfs_of(7));
}
