//! How a TCP connection began and ended, and which of its segments were sent again.

use serde::Serialize;

use crate::decode::Segment;
use crate::model::{InterfaceId, RealTime};

/// Without a measured round trip a segment that comes later than this is no straggler but sent again. As Wireshark has it.
const REORDERING_NS: u64 = 3_000_000;
/// A segment that was asked for by duplicate acknowledgements comes so soon after the last of them. As Wireshark has it.
const FAST_RETRANSMISSION_NS: u64 = 20_000_000;

/// How a connection began, as far as the capture shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Start {
    /// Its SYN is there, or the answer to it.
    Syn,
    /// It was open before.
    AlreadyOpen,
}

/// How a connection ended, as far as the capture shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum End {
    /// Both ends have sent a FIN.
    Fin,
    /// One end has sent a FIN.
    HalfClosed,
    /// It was reset.
    Reset,
    /// A SYN was answered by a reset.
    Refused,
    /// A SYN was not answered.
    Unanswered,
    /// Not at all.
    Open,
}

/// What is followed of one direction. Sequence numbers wrap, so "later" means by less than half their range.
#[derive(Clone, Copy, Debug, Default)]
struct Way {
    /// Where it was first seen. A packet that passes several interfaces is several times in the capture; looked at on one of them only,
    /// none is taken for one that was sent again.
    interface: Option<InterfaceId>,
    /// The number of its SYN.
    initial: Option<u32>,
    /// The number behind the last byte sent so far, and when that was.
    next: Option<u32>,
    next_at: RealTime,
    /// What was acknowledged last, when, how often again, and with which window.
    acknowledged: Option<u32>,
    acknowledged_at: RealTime,
    repeated: u32,
    window: u16,
    has_ended: bool,
}

/// One TCP connection. Directions are numbered 0 and 1.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tcp {
    ways: [Way; 2],
    pub(super) start: Start,
    is_reset: bool,
    syn_at: Option<RealTime>,
    /// From the SYN to the acknowledgement of its answer.
    round_trip_ns: Option<u64>,
}

impl Tcp {
    /// A connection of which this is the first segment.
    pub(super) fn beginning(segment: &Segment<'_>) -> Self {
        let start = if segment.flags.syn() { Start::Syn } else { Start::AlreadyOpen };
        Self { ways: [Way::default(); 2], start, is_reset: false, syn_at: None, round_trip_ns: None }
    }

    /// Whether the segment opens another connection of the same flow: a SYN, and not this one's.
    pub(super) fn is_over_with(&self, way: usize, segment: &Segment<'_>) -> bool {
        if !segment.flags.syn() || segment.flags.ack() {
            return false;
        }
        let (sender, receiver) = (&self.ways[way], &self.ways[1 - way]);
        match sender.initial {
            Some(initial) => initial != segment.sequence,
            // Both ends may open at the same time.
            None => receiver.initial.is_none() || sender.next.is_some(),
        }
    }

    /// Takes in the next segment, sent in direction `way`. Tells whether it was sent before.
    pub(super) fn take(&mut self, way: usize, segment: &Segment<'_>, at: RealTime, on: InterfaceId) -> bool {
        if *self.ways[way].interface.get_or_insert(on) != on {
            return false;
        }
        if segment.flags.rst() {
            self.is_reset |= !self.are_both_closed();
            return false;
        }
        let is_again = self.is_again(way, segment, at);
        self.measure_round_trip(way, segment, at);
        self.advance(way, segment, at);
        self.acknowledge(way, segment, at);
        is_again
    }

    /// The rules of Wireshark's `tcp.analysis.retransmission`, which includes its fast and spurious ones.
    fn is_again(&self, way: usize, segment: &Segment<'_>, at: RealTime) -> bool {
        let (sender, receiver) = (&self.ways[way], &self.ways[1 - way]);
        let flags = segment.flags;
        let is_long = segment.length > 0;
        let Some(next) = sender.next else { return false };
        if !is_long && !flags.syn() && !flags.fin() {
            return false;
        }
        let just_before = segment.sequence.wrapping_add(1) == next;
        if segment.length <= 1 && just_before && !flags.syn() && !flags.fin() {
            // A keep-alive.
            return false;
        }
        let end = segment.sequence.wrapping_add(segment.length);
        if is_long && receiver.acknowledged.is_some_and(|acknowledged| !is_before(acknowledged, end)) {
            return true;
        }
        // One byte may have gone ahead to see whether the window is still closed.
        if !is_before(segment.sequence, next) || segment.length > 1 && just_before {
            return false;
        }
        let was_asked_for = receiver.repeated >= 2 && receiver.acknowledged == Some(segment.sequence);
        if was_asked_for && at.since(receiver.acknowledged_at).as_nanos() < u128::from(FAST_RETRANSMISSION_NS)
        {
            return true;
        }
        let reordering = u128::from(self.round_trip_ns.unwrap_or(REORDERING_NS));
        let is_straggler = at.since(sender.next_at).as_nanos() < reordering && end != next;
        !is_straggler
    }

    fn measure_round_trip(&mut self, way: usize, segment: &Segment<'_>, at: RealTime) {
        let flags = segment.flags;
        if flags.syn() && !flags.ack() {
            self.syn_at = Some(at);
        } else if !flags.syn()
            && flags.ack()
            && self.round_trip_ns.is_none()
            && self.ways[1 - way]
                .initial
                .is_some_and(|initial| initial.wrapping_add(1) == segment.acknowledged)
        {
            self.round_trip_ns = self.syn_at.map(|syn| at.since(syn).as_nanos() as u64);
        }
    }

    fn advance(&mut self, way: usize, segment: &Segment<'_>, at: RealTime) {
        let window = self.ways[1 - way].window;
        let has_window = self.ways[1 - way].acknowledged.is_some();
        let sender = &mut self.ways[way];
        let flags = segment.flags;
        if flags.syn() {
            sender.initial.get_or_insert(segment.sequence);
        }
        sender.has_ended |= flags.fin();
        let is_probe =
            segment.length == 1 && sender.next == Some(segment.sequence) && has_window && window == 0;
        let counted = segment.length + u32::from(flags.syn()) + u32::from(flags.fin());
        let end = segment.sequence.wrapping_add(counted);
        if !is_probe && sender.next.is_none_or(|next| is_before(next, end)) {
            (sender.next, sender.next_at) = (Some(end), at);
        }
    }

    fn acknowledge(&mut self, way: usize, segment: &Segment<'_>, at: RealTime) {
        let (sender, flags) = (&mut self.ways[way], segment.flags);
        if !flags.ack() {
            return;
        }
        let is_the_same = sender.acknowledged == Some(segment.acknowledged);
        let says_nothing_new = segment.length == 0
            && segment.window == sender.window
            && sender.next == Some(segment.sequence)
            && !flags.syn()
            && !flags.fin();
        match (is_the_same, says_nothing_new) {
            (false, _) => sender.repeated = 0,
            (true, true) => sender.repeated += 1,
            (true, false) => {}
        }
        sender.acknowledged = Some(segment.acknowledged);
        sender.acknowledged_at = at;
        sender.window = segment.window;
    }

    const fn are_both_closed(&self) -> bool {
        self.ways[0].has_ended && self.ways[1].has_ended
    }

    /// How it ended.
    pub(super) fn end(&self) -> End {
        let has_sent = |way: &&Way| way.next.is_some();
        match (
            self.ways.iter().filter(has_sent).count(),
            self.ways.iter().filter(|way| way.has_ended).count(),
        ) {
            (_, 2) => End::Fin,
            (1, _) if self.is_reset && self.start == Start::Syn && self.never_went_on() => End::Refused,
            _ if self.is_reset => End::Reset,
            (1, 0) if self.start == Start::Syn && self.never_went_on() => End::Unanswered,
            (_, 1) => End::HalfClosed,
            _ => End::Open,
        }
    }

    /// Whether there was nothing but SYNs that answer none.
    fn never_went_on(&self) -> bool {
        let only_opens = |way: &Way| way.initial.map(|initial| initial.wrapping_add(1)) == way.next;
        self.ways.iter().all(|way| only_opens(way) && way.acknowledged.is_none())
    }
}

/// Whether one sequence number comes before another one.
const fn is_before(one: u32, other: u32) -> bool {
    (one.wrapping_sub(other) as i32) < 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::TcpFlags;

    const SYN: u8 = 0x02;
    const RST: u8 = 0x04;
    const ACK: u8 = 0x10;
    const FIN: u8 = 0x11;

    /// What one end sends: direction, flags, sequence number, length, acknowledged, milliseconds.
    type Sent = (usize, u8, u32, u32, u32, u64);

    fn segment(&(_, flags, sequence, length, acknowledged, _): &Sent) -> Segment<'static> {
        Segment { sequence, acknowledged, window: 100, flags: TcpFlags(flags), length, payload: &[] }
    }

    /// Which of them were sent again, and how the connection began and ended.
    fn story(all: &[Sent]) -> (Vec<usize>, Start, End) {
        let mut tcp = Tcp::beginning(&segment(&all[0]));
        let mut again = Vec::new();
        for (number, sent) in all.iter().enumerate() {
            assert!(number == 0 || !tcp.is_over_with(sent.0, &segment(sent)), "{number}");
            if tcp.take(sent.0, &segment(sent), RealTime::from_ns(sent.5 * 1_000_000), InterfaceId(0)) {
                again.push(number);
            }
        }
        (again, tcp.start, tcp.end())
    }

    /// A handshake with a round trip of 10 ms.
    const OPENED: [Sent; 3] =
        [(0, SYN, 100, 0, 0, 0), (1, SYN | ACK, 500, 0, 101, 5), (0, ACK, 101, 0, 501, 10)];

    fn after_opening(more: &[Sent]) -> (Vec<usize>, Start, End) {
        story(&[&OPENED[..], more].concat())
    }

    #[test]
    fn a_connection_is_opened_used_and_closed() {
        let more = [(0, ACK, 101, 50, 501, 20), (1, ACK, 501, 70, 151, 30), (0, FIN, 151, 0, 571, 40)];
        assert_eq!(after_opening(&more), (vec![], Start::Syn, End::HalfClosed));
        let closed = [&more[..], &[(1, FIN, 571, 0, 152, 50), (0, ACK, 152, 0, 572, 60)]].concat();
        assert_eq!(after_opening(&closed), (vec![], Start::Syn, End::Fin));
        assert_eq!(after_opening(&[&closed[..], &[(1, RST, 572, 0, 0, 70)]].concat()).2, End::Fin);
    }

    #[test]
    fn the_ends_that_are_none_of_the_good_ones() {
        assert_eq!(story(&OPENED[..1]), (vec![], Start::Syn, End::Unanswered));
        assert_eq!(story(&[OPENED[0], (1, RST | ACK, 0, 0, 101, 1)]), (vec![], Start::Syn, End::Refused));
        assert_eq!(after_opening(&[]), (vec![], Start::Syn, End::Open));
        assert_eq!(after_opening(&[(1, RST, 501, 0, 101, 20)]), (vec![], Start::Syn, End::Reset));
        assert_eq!(story(&[(0, ACK, 101, 5, 501, 0)]), (vec![], Start::AlreadyOpen, End::Open));
        assert_eq!(story(&OPENED[1..2]), (vec![], Start::Syn, End::Open), "the SYN was not captured");
    }

    #[test]
    fn what_was_lost_is_sent_again_after_a_while() {
        let more = [(0, ACK, 101, 50, 501, 20), (0, ACK, 101, 50, 501, 220), (0, ACK, 101, 50, 501, 620)];
        assert_eq!(after_opening(&more).0, [4, 5]);
        let syn_again = [OPENED[0], (0, SYN, 100, 0, 0, 1000), OPENED[1]];
        assert_eq!(story(&syn_again).0, [1]);
        let fin_again = [(0, FIN, 101, 0, 501, 20), (0, FIN, 101, 0, 501, 300)];
        assert_eq!(after_opening(&fin_again).0, [4]);
    }

    #[test]
    fn what_two_acknowledgements_ask_for_again_is_sent_again_at_once() {
        let more = [
            (0, ACK, 101, 50, 501, 20),
            (0, ACK, 151, 50, 501, 20),
            (0, ACK, 201, 50, 501, 20),
            (1, ACK, 501, 0, 101, 21),
            (1, ACK, 501, 0, 101, 22),
            (0, ACK, 101, 50, 501, 23),
        ];
        assert_eq!(after_opening(&more).0, [8]);
    }

    #[test]
    fn what_was_acknowledged_already_was_sent_before() {
        let more = [(0, ACK, 101, 50, 501, 20), (1, ACK, 501, 0, 151, 21), (0, ACK, 101, 50, 501, 22)];
        assert_eq!(after_opening(&more).0, [5]);
    }

    #[test]
    fn a_segment_that_another_overtook_was_not_sent_again() {
        let more = [(0, ACK, 151, 50, 501, 20), (0, ACK, 101, 50, 501, 21), (0, ACK, 201, 50, 501, 22)];
        assert_eq!(after_opening(&more).0, [] as [usize; 0]);
    }

    #[test]
    fn a_keep_alive_and_a_probe_of_a_closed_window_are_not_sent_again() {
        let more = [
            (0, ACK, 101, 50, 501, 20),
            (1, ACK, 501, 0, 151, 21),
            (0, ACK, 150, 0, 501, 5000),
            (0, ACK, 150, 1, 501, 9000),
        ];
        assert_eq!(after_opening(&more).0, [] as [usize; 0]);
    }

    #[test]
    fn numbers_that_wrap_go_on() {
        let near_the_end = u32::MAX - 9;
        let all = [
            (0, ACK, near_the_end, 10, 1, 0),
            (0, ACK, 0, 10, 1, 100),
            (1, ACK, 1, 0, 10, 110),
            (0, ACK, 10, 10, 1, 200),
            (0, ACK, near_the_end, 10, 1, 300),
        ];
        assert_eq!(story(&all).0, [4]);
    }

    #[test]
    fn the_same_packet_on_another_interface_was_not_sent_again() {
        let mut tcp = Tcp::beginning(&segment(&OPENED[0]));
        for sent in OPENED.iter().chain(&[(0, ACK, 101, 50, 501, 20)]) {
            for interface in 0..3 {
                let at = RealTime::from_ns(sent.5 * 1_000_000 + u64::from(interface) * 20_000_000);
                assert!(!tcp.take(sent.0, &segment(sent), at, InterfaceId(interface)));
            }
        }
    }

    #[test]
    fn a_new_syn_is_another_connection_and_a_repeated_one_is_not() {
        let mut tcp = Tcp::beginning(&segment(&OPENED[0]));
        tcp.take(0, &segment(&OPENED[0]), RealTime::from_ns(0), InterfaceId(0));
        assert!(!tcp.is_over_with(1, &segment(&(1, SYN, 900, 0, 0, 0))), "both open at the same time");
        for sent in &OPENED {
            tcp.take(sent.0, &segment(sent), RealTime::from_ns(0), InterfaceId(0));
        }
        assert!(!tcp.is_over_with(0, &segment(&OPENED[0])));
        assert!(tcp.is_over_with(0, &segment(&(0, SYN, 101, 0, 0, 0))));
        assert!(tcp.is_over_with(1, &segment(&(1, SYN, 900, 0, 0, 0))), "the other way round");
        assert!(!tcp.is_over_with(1, &segment(&OPENED[1])));
    }
}
