//! Owners from a log of connections that somebody else wrote: who held this flow at this time?
//!
//! Pure: lines come in as [`Entry`], packets as their headers and times. The rules:
//! - a packet is of an entry if protocol and both endpoints are the same and its time is between the entry's two, both included;
//!   where the log's own times are late (`slack`), up to so much before and after;
//! - entries that name different processes for the same packet name none: `ambiguous`. An entry that has no process is one more
//!   candidate: who it was is not known;
//! - the end whose address and port is the entry's `local` is the process's. Both ends are asked;
//! - later IP fragments follow the first one.

use std::time::Duration;

use foldhash::HashMap;

use super::fragments::Fragments;
use crate::decode::Decoded;
use crate::model::{Attribution, Flow, Found, MonoTime, Owner, ProcessIndex, RealTime, Reason};

/// A stretch of time in which a process had a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Local is the end of the process.
    pub flow: Flow,
    /// The first moment.
    pub from: RealTime,
    /// The last moment.
    pub until: RealTime,
    /// How much earlier and later a packet may be, because the log does not know it better.
    pub slack: Duration,
    /// Who; `None` if the log does not know.
    pub process: Option<ProcessIndex>,
}

/// A log, once it has been read.
#[derive(Debug, Default)]
pub struct ConnectionLog {
    flows: HashMap<Flow, Vec<Span>>,
    fragments: Fragments,
}

/// An entry of a flow, its slack included.
#[derive(Clone, Copy, Debug)]
struct Span {
    from: u64,
    until: u64,
    /// The latest end of this one and all before it.
    latest: u64,
    process: Option<ProcessIndex>,
}

/// What is known of one end of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Nothing,
    /// An entry without a process.
    Nobody,
    One(ProcessIndex),
    Several,
}

impl ConnectionLog {
    /// A log with these entries, in any order.
    pub fn new(entries: impl IntoIterator<Item = Entry>) -> Self {
        let mut flows: HashMap<Flow, Vec<Span>> = HashMap::default();
        for Entry { flow, from, until, slack, process } in entries {
            let slack = slack.as_nanos() as u64;
            let (from, until) = (from.as_ns().saturating_sub(slack), until.as_ns().saturating_add(slack));
            flows.entry(flow).or_default().push(Span { from, until, latest: until, process });
        }
        for spans in flows.values_mut() {
            spans.sort_by_key(|span| span.from);
            let mut latest = 0;
            for span in spans {
                latest = span.until.max(latest);
                span.latest = latest;
            }
        }
        Self { flows, fragments: Fragments::default() }
    }

    /// Who the ends of a packet are. Packets are asked for in the order of the file.
    pub fn attribute(&mut self, decoded: &Decoded, time: RealTime) -> Attribution {
        let Decoded::Ip(mut packet) = *decoded else { return Attribution::Unknown(Reason::NotIp) };
        if let Some(fragment) = packet.fragment {
            // The packets' own time stands in for a clock.
            self.fragments.complete(&mut packet, fragment, MonoTime::from_ns(time.as_ns()));
        }
        let flow = packet.flow;
        let [sender, receiver] = [flow, flow.reversed()].map(|flow| self.answer(&flow, time.as_ns()));
        let owner = |answer| match answer {
            Answer::One(process) => Some(Owner { process, tid: 0 }),
            _ => None,
        };
        match (owner(sender), owner(receiver)) {
            (None, None) if [sender, receiver].contains(&Answer::Several) => {
                Attribution::Unknown(Reason::Ambiguous)
            }
            (None, None) => Attribution::Unknown(Reason::NotTold),
            (sender_owner, receiver_owner) => {
                let is_one_host = flow.local.address == flow.remote.address
                    || flow.local.ip().is_loopback() && flow.remote.ip().is_loopback();
                let both_local = is_one_host || sender != Answer::Nothing && receiver != Answer::Nothing;
                let (sender, receiver) = (sender_owner, receiver_owner);
                Attribution::Known { sender, receiver, both_local, found: Found::Log }
            }
        }
    }

    /// Who had this flow, as its own end sees it.
    fn answer(&self, flow: &Flow, time: u64) -> Answer {
        let Some(spans) = self.flows.get(flow) else { return Answer::Nothing };
        let begun = spans.partition_point(|span| span.from <= time);
        let mut answer = Answer::Nothing;
        for span in spans[..begun].iter().rev().take_while(|span| span.latest >= time) {
            if span.until < time {
                continue;
            }
            let this = span.process.map_or(Answer::Nobody, Answer::One);
            answer = match answer {
                Answer::Nothing => this,
                same if same == this => same,
                _ => return Answer::Several,
            };
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::{FragmentInfo, IpPacket, Span, Transport};
    use crate::model::{Endpoint, Protocol};

    fn flow(local: u8, local_port: u16, remote: u8, remote_port: u16) -> Flow {
        let end = |last, port| Endpoint::new([10, 0, 0, last].into(), port);
        Flow { protocol: Protocol::TCP, local: end(local, local_port), remote: end(remote, remote_port) }
    }

    fn entry(flow: Flow, from: u64, until: u64, process: Option<u32>) -> Entry {
        let [from, until] = [from, until].map(RealTime::from_ns);
        Entry { flow, from, until, slack: Duration::ZERO, process: process.map(ProcessIndex) }
    }

    fn ip(flow: Flow, fragment: Option<FragmentInfo>) -> Decoded {
        let transport = Transport::Other;
        Decoded::Ip(IpPacket {
            flow,
            transport,
            fragment,
            ip_length: 100,
            truncated: false,
            span: Span::default(),
        })
    }

    /// Sender and receiver, by number; or the reason.
    fn owners(log: &mut ConnectionLog, flow: Flow, time: u64) -> Result<(Option<u32>, Option<u32>), Reason> {
        match log.attribute(&ip(flow, None), RealTime::from_ns(time)) {
            Attribution::Known { sender, receiver, .. } => {
                let number = |owner: Option<Owner>| owner.map(|owner| owner.process.0);
                Ok((number(sender), number(receiver)))
            }
            Attribution::Unknown(reason) => Err(reason),
        }
    }

    #[test]
    fn a_process_is_named_at_its_end_and_within_its_time_only() {
        let there = flow(1, 40000, 2, 443);
        let mut log = ConnectionLog::new([entry(there, 100, 200, Some(7))]);
        for (flow, time, expected) in [
            (there, 100, Ok((Some(7), None))),
            (there, 200, Ok((Some(7), None))),
            (there.reversed(), 150, Ok((None, Some(7)))),
            (there, 99, Err(Reason::NotTold)),
            (there, 201, Err(Reason::NotTold)),
            (flow(1, 40001, 2, 443), 150, Err(Reason::NotTold)),
            (flow(1, 40000, 3, 443), 150, Err(Reason::NotTold)),
            (Flow { protocol: Protocol::UDP, ..there }, 150, Err(Reason::NotTold)),
        ] {
            assert_eq!(owners(&mut log, flow, time), expected, "{flow} at {time}");
        }
        let arp = log.attribute(&Decoded::NotIp(Some(0x0806)), RealTime::from_ns(150));
        assert_eq!(arp, Attribution::Unknown(Reason::NotIp));
    }

    #[test]
    fn a_reused_port_is_its_users_each_in_his_time_and_nobodys_where_they_overlap() {
        let there = flow(1, 40000, 2, 443);
        let entries = [entry(there, 100, 200, Some(7)), entry(there, 150, 300, Some(8))];
        for entries in [entries, [entries[1], entries[0]]] {
            let mut log = ConnectionLog::new(entries);
            assert_eq!(owners(&mut log, there, 149), Ok((Some(7), None)));
            assert_eq!(owners(&mut log, there, 150), Err(Reason::Ambiguous));
            assert_eq!(owners(&mut log, there, 200), Err(Reason::Ambiguous));
            assert_eq!(owners(&mut log, there, 201), Ok((Some(8), None)));
        }
        let twice = [entry(there, 100, 200, Some(7)), entry(there, 150, 300, Some(7))];
        assert_eq!(owners(&mut ConnectionLog::new(twice), there, 170), Ok((Some(7), None)));
        let unknown = [entry(there, 100, 200, Some(7)), entry(there, 150, 300, None)];
        assert_eq!(owners(&mut ConnectionLog::new(unknown), there, 170), Err(Reason::Ambiguous));
        assert_eq!(owners(&mut ConnectionLog::new(unknown), there, 250), Err(Reason::NotTold));
    }

    #[test]
    fn a_long_entry_is_found_behind_many_short_ones() {
        let there = flow(1, 40000, 2, 443);
        let short = (0..1000).map(|number| entry(there, 10 + number, 10 + number, Some(1)));
        let mut log = ConnectionLog::new(short.chain([entry(there, 5, 5000, Some(1))]));
        assert_eq!(owners(&mut log, there, 4000), Ok((Some(1), None)));
        assert_eq!(owners(&mut log, there, 5001), Err(Reason::NotTold));
    }

    #[test]
    fn both_ends_of_a_connection_within_the_host_are_named() {
        let there = flow(1, 40000, 2, 443);
        let both = [entry(there, 0, 9, Some(7)), entry(there.reversed(), 0, 9, Some(8))];
        assert_eq!(owners(&mut ConnectionLog::new(both), there, 5), Ok((Some(7), Some(8))));
        let own = flow(1, 40000, 1, 443);
        let mut log = ConnectionLog::new([entry(own, 0, 9, Some(7))]);
        let attribution = log.attribute(&ip(own, None), RealTime::from_ns(5));
        assert!(matches!(attribution, Attribution::Known { both_local: true, .. }), "{attribution:?}");
    }

    #[test]
    fn slack_makes_an_entry_longer_and_neighbours_ambiguous() {
        let there = flow(1, 40000, 2, 443);
        let slack = Duration::from_nanos(10);
        let entries = [entry(there, 100, 200, Some(7)), entry(there, 215, 300, Some(8))];
        let mut log = ConnectionLog::new(entries.map(|entry| Entry { slack, ..entry }));
        assert_eq!(owners(&mut log, there, 90), Ok((Some(7), None)));
        assert_eq!(owners(&mut log, there, 204), Ok((Some(7), None)));
        assert_eq!(owners(&mut log, there, 207), Err(Reason::Ambiguous));
        assert_eq!(owners(&mut log, there, 211), Ok((Some(8), None)));
    }

    #[test]
    fn a_later_fragment_has_the_owner_of_the_first() {
        let there = flow(1, 40000, 2, 443);
        let mut log = ConnectionLog::new([entry(there, 0, 9, Some(7))]);
        let fragment = |offset| Some(FragmentInfo { identification: 5, offset, more: true });
        let later = flow(1, 0, 2, 0);
        let unknown = log.attribute(&ip(later, fragment(1480)), RealTime::from_ns(1));
        assert_eq!(unknown, Attribution::Unknown(Reason::NotTold));
        log.attribute(&ip(there, fragment(0)), RealTime::from_ns(2));
        let known = log.attribute(&ip(later, fragment(1480)), RealTime::from_ns(3));
        assert!(matches!(known, Attribution::Known { sender: Some(_), .. }), "{known:?}");
    }
}
