//! Capturing on Linux: AF_PACKET sockets with TPACKET_V3 rings.
//!
//! `-i any` is one socket on all interfaces, so that one that appears later is captured from its first packet on. Each
//! interface asked for by name has a socket and a ring of its own; the packets of several rings are merged by time.
//!
//! `sys` and `mapping` are the only files with `unsafe`.

mod addresses;
mod filter;
mod frame;
mod interfaces;
mod known;
mod links;
mod mapping;
mod ring;
mod sys;
mod transmit;

use std::io;
use std::net::IpAddr;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use self::addresses::Addresses;
use self::filter::{Class, Filter};
use self::frame::Frame;
use self::known::Known;
use self::links::{Change, Link, Links};
use self::ring::{Refusal, Ring, RingOptions};
use super::{
    Arrival, CaptureCounts, CaptureOptions, Error, Event, InterfaceOrigin, Packets, Selection, Woken,
};
use crate::model::{
    Direction, Interface, InterfaceCounts, InterfaceId, MonoTime, Packet, RealTime, Reception,
};

pub use interfaces::interfaces;
pub use transmit::{Transmitter, wake_in_time};
#[cfg(fuzzing)]
pub use {frame::packets_in, links::link_changes_in};

/// After this time the kernel has handed over every packet that it had: the block timer runs for 10 ms, notices an open
/// block at its second expiry, and both are rounded up to the tick, which is 10 ms where HZ is 100.
pub const SETTLING: Duration = Duration::from_millis(40);

/// A running capture.
#[derive(Debug)]
pub struct Capture {
    sources: Vec<Source>,
    links: Links,
    addresses: Addresses,
    known: Known,
    filter: Filter,
    snap_length: u32,
    delivered: u64,
    events: Vec<Event>,
    notes: Vec<String>,
    entries: Vec<libc::pollfd>,
}

/// A ring and what it is bound to.
#[derive(Debug)]
struct Source {
    ring: Ring,
    /// The interface that was asked for by name; none for all.
    named: Option<Named>,
    /// Packets that the kernel let through and our part of the filter did not.
    rejected: u64,
}

#[derive(Debug)]
struct Named {
    name: String,
    ifindex: u32,
    state: State,
    id: InterfaceId,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Up,
    Down,
    Gone,
}

/// A packet that was taken out of a ring, without its borrow.
struct Taken {
    source: usize,
    interface: InterfaceId,
    time: RealTime,
    direction: Direction,
    reception: Reception,
    original_length: u32,
    bytes: Range<usize>,
}

/// What to open one ring on.
struct Target {
    /// The interface; none for all of them.
    link: Option<Link>,
}

impl Target {
    fn name(&self) -> &str {
        self.link.as_ref().map_or("any", |link| &link.name)
    }
}

impl Capture {
    /// Opens everything. From its return on each packet that passes the filter is given out or counted.
    ///
    /// Needs CAP_NET_RAW. An interface that is named twice is recorded once.
    pub fn open(options: &CaptureOptions) -> Result<Self, Error> {
        let links = Links::open().map_err(Error::List)?;
        let targets = targets(&options.interfaces, &links)?;
        let (filter, rings) = open_filtered(options, &links, &targets)?;
        let mut notes = filter.notes.clone();
        if options.promiscuous && options.interfaces == Selection::Any {
            notes.push("promiscuous mode has no effect on any: name the interfaces".into());
        }
        let mut known = Known::new(options.snap_length, options.filter.clone());
        let sources =
            rings.into_iter().zip(targets).map(|(ring, target)| source(ring, target, &mut known)).collect();
        Ok(Self {
            sources,
            links,
            addresses: Addresses::open().map_err(Error::List)?,
            known,
            filter,
            snap_length: options.snap_length,
            delivered: 0,
            events: Vec::new(),
            notes,
            entries: Vec::new(),
        })
    }

    /// The interfaces of the packets given out so far, in order of appearance; named ones from the start. Grows only.
    pub fn interfaces(&self) -> &[Interface] {
        self.known.interfaces()
    }

    /// What the interfaces are to this machine, in the same order.
    pub fn origins(&self) -> &[InterfaceOrigin] {
        self.known.origins()
    }

    /// All addresses of this network namespace.
    pub fn local_addresses(&mut self) -> io::Result<Vec<IpAddr>> {
        Ok(self.addresses.list()?.into_iter().map(|(_, address)| address).collect())
    }

    /// The packet sockets.
    pub fn sockets(&self) -> Vec<RawFd> {
        self.sources.iter().map(|source| source.ring.fd().as_raw_fd()).collect()
    }

    /// What the user should know: where a filter has no meaning, or is costly.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// What happened to the named interfaces since the last call.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// Whether all interfaces that were asked for are gone for good. Packets may still be in the rings.
    pub fn all_gone(&self) -> bool {
        let is_gone = |source: &Source| source.named.as_ref().is_some_and(|named| named.state == State::Gone);
        self.sources.iter().all(is_gone)
    }

    /// The oldest packet, if it is due. `due` is told the time of a packet and gives its place, on a clock that nobody sets; none if it
    /// is not due yet.
    ///
    /// The packet borrows its ring: the kernel gets the block back at a later call, when all its packets are taken. So
    /// a packet that is not asked for waits in the ring, and nothing overtakes it.
    ///
    /// Packets of one ring come in the kernel's order. Those of several rings come in the order of their places as long as
    /// none is due before [`SETTLING`] has passed since it was captured: until then a ring may have an older packet in the block
    /// that the kernel is still filling.
    #[inline]
    pub fn next_due(&mut self, due: impl Fn(RealTime) -> Option<MonoTime>) -> Option<Arrival<'_>> {
        let taken = loop {
            let source = self.earliest(&due)?;
            if let Some(taken) = self.take(source) {
                break taken;
            }
        };
        let Taken { source, interface, time, direction, reception, original_length, bytes } = taken;
        let data = self.sources.get_mut(source)?.ring.bytes(bytes)?;
        let packet = Packet { interface, time, direction, reception, original_length, data };
        Some(Arrival { packet, interfaces: self.known.interfaces(), origins: self.known.origins() })
    }

    /// The earliest time of a packet that can be taken.
    pub fn next_time(&mut self) -> Option<RealTime> {
        self.sources.iter_mut().filter_map(|source| source.ring.head()).min()
    }

    /// The source whose first packet is the oldest of those that are due.
    #[inline]
    fn earliest(&mut self, due: impl Fn(RealTime) -> Option<MonoTime>) -> Option<usize> {
        let mut earliest: Option<(usize, MonoTime)> = None;
        for (index, source) in self.sources.iter_mut().enumerate() {
            if let Some(place) = source.ring.head().and_then(&due)
                && earliest.is_none_or(|(_, first)| place < first)
            {
                earliest = Some((index, place));
            }
        }
        earliest.map(|(index, _)| index)
    }

    /// Takes the first packet of a ring; none if it does not pass the filter, or is damaged.
    #[inline]
    fn take(&mut self, index: usize) -> Option<Taken> {
        let source = self.sources.get_mut(index)?;
        let frame = source.ring.frame()?;
        let class = Class::of(frame.hardware, frame.protocol);
        let mut shape = source.ring.take(&frame, class.link_type())?;
        if self.filter.decides_here(class) {
            let bytes = source.ring.bytes(shape.bytes.clone())?;
            if !self.filter.passes(class, bytes) {
                source.rejected += 1;
                return None;
            }
        }
        shape = shape.cut(self.snap_length);
        let interface = self.interface(&frame, class);
        self.known.count(interface);
        self.delivered += 1;
        Some(Taken {
            source: index,
            interface,
            time: frame.time,
            direction: frame.direction(),
            reception: frame.reception(),
            original_length: shape.original,
            bytes: shape.bytes,
        })
    }

    #[inline]
    fn interface(&mut self, frame: &Frame, class: Class) -> InterfaceId {
        match self.known.find(frame.ifindex, class.link_type(), frame.time) {
            Some(id) => id,
            None => self.new_interface(frame, class),
        }
    }

    #[cold]
    fn new_interface(&mut self, frame: &Frame, class: Class) -> InterfaceId {
        // Its name may be in a message that has not been read yet. A failure shows at the next wait.
        let _ = self.follow_links();
        self.known.add(frame.ifindex, class.link_type(), self.links.get(frame.ifindex))
    }

    /// Waits until a block of packets is ready, one of `others` is, a signal comes in, or the time is up.
    ///
    /// A ring that holds packets back does not end the wait: they are there already. Choose `timeout` by
    /// [`Self::next_time`] and [`Self::fill`] then.
    pub fn wait(&mut self, timeout: Duration, others: &[BorrowedFd<'_>]) -> io::Result<Woken> {
        self.entries.clear();
        for source in &self.sources {
            // The kernel calls a ring readable while its last full block has not been given back; polled for that while
            // packets wait on purpose, this would be a busy loop. Errors are reported in any case.
            let events = if source.ring.is_holding() { 0 } else { libc::POLLIN };
            self.entries.push(sys::poll_entry(source.ring.fd(), events));
        }
        self.entries.push(sys::poll_entry(self.links.fd(), libc::POLLIN));
        self.entries.extend(others.iter().map(|fd| sys::poll_entry(*fd, libc::POLLIN)));
        match sys::poll(&mut self.entries, timeout) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                return Ok(Woken { interrupted: true, ..Woken::default() });
            }
            Err(error) => return Err(error),
        }
        self.woken()
    }

    fn woken(&mut self) -> io::Result<Woken> {
        let mut woken = Woken::default();
        let rings = self.sources.len();
        for (entry, source) in self.entries.iter().zip(&self.sources) {
            woken.packets |= entry.revents & libc::POLLIN != 0;
            if entry.revents & libc::POLLERR != 0 {
                source.ring.clear_error();
            }
        }
        woken.others = self.entries.iter().skip(rings + 1).any(|entry| entry.revents != 0);
        if self.entries.get(rings).is_some_and(|entry| entry.revents != 0) {
            self.follow_links()?;
        }
        Ok(woken)
    }

    /// Learns what has become of the interfaces.
    fn follow_links(&mut self) -> io::Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = RealTime::from_ns(now.as_nanos() as u64);
        for change in self.links.changes()? {
            match change {
                Change::Now(link) => {
                    self.known.rename(link.index, &link.name, now);
                    self.set_state(link.index, if link.is_up() { State::Up } else { State::Down });
                }
                Change::Gone(ifindex) => {
                    self.known.end(ifindex, now);
                    self.set_state(ifindex, State::Gone);
                }
            }
        }
        Ok(())
    }

    fn set_state(&mut self, ifindex: u32, state: State) {
        let named = self.sources.iter_mut().filter_map(|source| source.named.as_mut());
        for named in named.filter(|named| named.ifindex == ifindex) {
            // Gone is for good: the socket is bound to the device, and another that gets its number is not that device.
            if named.state == state || named.state == State::Gone {
                continue;
            }
            named.state = state;
            let name = named.name.clone();
            self.events.push(match state {
                State::Up => Event::InterfaceUp { name },
                State::Down => Event::InterfaceDown { name },
                State::Gone => Event::InterfaceGone { name },
            });
        }
    }

    /// How much of the fullest ring holds packets that were not taken, between 0 and 1. Costs a few loads.
    pub fn fill(&self) -> f32 {
        let fill = |source: &Source| {
            let (held, blocks) = source.ring.blocks_held();
            held as f32 / blocks as f32
        };
        self.sources.iter().map(fill).fold(0.0, f32::max)
    }

    /// Lets nothing further in. What is in the rings can be taken, and has all been handed over after [`SETTLING`];
    /// then [`CaptureCounts::waiting`] goes to 0 as [`Self::next_due`] takes it.
    pub fn stop(&mut self) -> io::Result<()> {
        self.sources.iter().try_for_each(|source| source.ring.stop())
    }

    /// Counts everything since the beginning. Call it every minute at least: the kernel counts in 32 bits.
    pub fn counts(&mut self) -> io::Result<CaptureCounts> {
        for source in &mut self.sources {
            source.ring.update_totals()?;
        }
        let sum = |value: fn(&Source) -> u64| self.sources.iter().map(value).sum::<u64>();
        let received = sum(Source::received);
        let (dropped, damaged) = (sum(|source| source.ring.dropped()), sum(|source| source.ring.damaged()));
        Ok(CaptureCounts {
            interfaces: self.interface_counts(),
            received,
            delivered: self.delivered,
            dropped_by_kernel: dropped,
            damaged,
            waiting: received.saturating_sub(self.delivered + dropped + damaged),
        })
    }

    /// What was given out, and of a named interface what its ring lost: what still waits is received when it is given out. With `any`
    /// nobody knows whose the lost ones were.
    fn interface_counts(&self) -> Vec<InterfaceCounts> {
        let count = |&received: &u64| InterfaceCounts { received, ..InterfaceCounts::default() };
        let mut counts: Vec<_> = self.known.delivered().iter().map(count).collect();
        for source in &self.sources {
            if let Some(Named { id, .. }) = source.named
                && let Some(count) = counts.get_mut(id.0 as usize)
            {
                count.received += source.ring.dropped() + source.ring.damaged();
                count.dropped_by_kernel = Some(source.ring.dropped());
            }
        }
        counts
    }
}

impl Source {
    /// Packets that passed the whole filter, dropped ones included.
    fn received(&self) -> u64 {
        self.ring.received().saturating_sub(self.rejected)
    }
}

/// What to open rings on, each interface once.
fn targets(selection: &Selection, links: &Links) -> Result<Vec<Target>, Error> {
    let Selection::Named(names) = selection else {
        return Ok(vec![Target { link: None }]);
    };
    let mut targets: Vec<Target> = Vec::new();
    for name in names {
        let Some(link) = links.named(name) else {
            return Err(Error::UnknownInterface { interface: name.clone() });
        };
        if !link.is_up() {
            return Err(Error::InterfaceDown { interface: name.clone() });
        }
        if targets.iter().all(|target| target.name() != name) {
            targets.push(Target { link: Some(link.clone()) });
        }
    }
    Ok(targets)
}

/// Whether the interfaces can be recorded with this filter, as far as that shows without a ring. Needs no privilege.
///
/// # Errors
/// If an interface is not there or not up, or libpcap refuses the filter.
pub fn check(options: &CaptureOptions) -> Result<(), Error> {
    let links = Links::open().map_err(Error::List)?;
    let targets = targets(&options.interfaces, &links)?;
    compile(options, &links, &targets).map(drop)
}

/// Opens the rings with the filter; a second time with all of it in user space where the kernel refuses.
fn open_filtered(
    options: &CaptureOptions,
    links: &Links,
    targets: &[Target],
) -> Result<(Filter, Vec<Ring>), Error> {
    let filter = compile(options, links, targets)?;
    match (open_rings(options, targets, &filter), &options.filter) {
        (Err((_, Refusal::Filter)), Some(expression)) => {
            let filter = Filter::compile_here(expression, &needed(targets), options.snap_length)
                .map_err(|message| wrong(expression, message))?;
            let rings = open_rings(options, targets, &filter).map_err(refused)?;
            Ok((filter, rings))
        }
        (rings, _) => Ok((filter, rings.map_err(refused)?)),
    }
}

fn compile(options: &CaptureOptions, links: &Links, targets: &[Target]) -> Result<Filter, Error> {
    let Some(expression) = &options.filter else { return Ok(Filter::all(options.snap_length)) };
    let named: Vec<&Link> = targets.iter().filter_map(|target| target.link.as_ref()).collect();
    let examples = if named.is_empty() { links.all() } else { named };
    Filter::compile(expression, &examples, &needed(targets), options.snap_length)
        .map_err(|message| wrong(expression, message))
}

/// The classes in which a filter must have a meaning: those of the interfaces that were asked for by name.
fn needed(targets: &[Target]) -> Vec<Class> {
    targets.iter().filter_map(|target| target.link.as_ref()).map(|link| Class::main(link.hardware)).collect()
}

fn wrong(expression: &str, message: String) -> Error {
    Error::Filter { expression: expression.to_owned(), message }
}

fn open_rings(
    options: &CaptureOptions,
    targets: &[Target],
    filter: &Filter,
) -> Result<Vec<Ring>, (String, Refusal)> {
    let program = filter.program();
    let open = |target: &Target| {
        let ring = Ring::open(&RingOptions {
            ifindex: target.link.as_ref().map_or(0, |link| link.index as i32),
            buffer_bytes: options.buffer_bytes,
            promiscuous: options.promiscuous,
            outgoing: !target.link.as_ref().is_some_and(Link::is_loopback),
            filter: &program,
        });
        ring.map_err(|refusal| (target.name().to_owned(), refusal))
    };
    targets.iter().map(open).collect()
}

fn refused((interface, refusal): (String, Refusal)) -> Error {
    match refusal {
        Refusal::Filter => {
            Error::Refused { interface, step: "filter", source: io::ErrorKind::InvalidInput.into() }
        }
        Refusal::Other(_, error) if error.raw_os_error() == Some(libc::ENODEV) => {
            Error::UnknownInterface { interface }
        }
        Refusal::Other(step, source) => Error::Refused { interface, step, source },
    }
}

/// A named interface is known from the start, with the link type of most of its packets.
fn source(ring: Ring, target: Target, known: &mut Known) -> Source {
    let named = target.link.map(|link| {
        let id = known.add(link.index, Class::main(link.hardware).link_type(), Some(&link));
        Named { name: link.name, ifindex: link.index, state: State::Up, id }
    });
    Source { ring, named, rejected: 0 }
}

impl Packets for Capture {
    /// By their own times. Where the clock is set back meanwhile, a packet from before is not given out until the deadline has reached its
    /// time again: the end of time is the deadline that does not wait.
    fn next(&mut self, deadline: RealTime) -> Option<Arrival<'_>> {
        self.next_due(|time| (time <= deadline).then(|| MonoTime::from_ns(time.as_ns())))
    }

    fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        Self::wait(self, timeout, &[]).map(|_| ())
    }

    fn is_over(&self) -> bool {
        self.all_gone()
    }
}
