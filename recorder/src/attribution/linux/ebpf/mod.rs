//! The kernel side, seen from user space: loads it, reads its events, tells what of it works here.

mod cgroup;
mod hooks;
mod offsets;
pub(crate) mod sys;

use std::io;
use std::os::fd::AsFd;

use aya::maps::{HashMap, Map, MapData, MapError, RingBuf};
use aya::{Btf, Ebpf, EbpfLoader};
use recorder_shared::{
    KIND_CLOSE, KIND_FLOW, KIND_LISTEN, KIND_USE, Offsets, PROCESS_ARGUMENTS_CUT, PROCESS_CGROUP_CUT,
    PROCESS_TRACKED, ProcessEvent, ProcessEventWithArguments, SOCKET_CLOSED_BY_OTHER, SOCKET_CONNECTS,
    SOCKET_DRAINED, SOCKET_USER_EXECUTED, SocketEvent, address_to_bytes,
};

use self::sys::{Control, Wire};
use crate::attribution::event::{
    Cookie, Event, Handover, Happening, NetNs, ProcessId, ProcessNews, SocketNews, User,
};
use crate::model::{CommandLine, Endpoint, Flow, MonoTime, Protocol};

pub use hooks::{Hook, Need, Report, State};
pub use offsets::OffsetsError;

/// The compiled kernel side, aligned as the ELF reader needs it.
static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/ebpf/recorder-ebpf.o"));

/// The usual size of the ring for events, in bytes: some 170 000 of them.
pub const DEFAULT_EVENT_BYTES: u32 = 16 << 20;

/// Why the kernel side cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EbpfError {
    /// Field offsets are not to be had.
    #[error(transparent)]
    Offsets(#[from] OffsetsError),
    /// There is no cgroup2 tree to attach to.
    #[error("cannot open the cgroup2 tree: {0}")]
    Cgroup(#[source] io::Error),
    /// The object, its maps or its types were refused.
    #[error("cannot load the eBPF object: {0}")]
    Load(String),
    /// A program without which nothing works was refused.
    #[error("the kernel refuses the eBPF program {hook}: {why}")]
    Base {
        /// The hook.
        hook: &'static str,
        /// What the kernel said.
        why: String,
    },
}

impl EbpfError {
    /// What to do about it.
    pub fn remedy(&self) -> &'static str {
        // Of the errors that come through the package there is only the text.
        let says = |errno: &str| {
            let (Self::Load(why) | Self::Base { why, .. }) = self else { return false };
            why.contains(&format!("(os error {errno})"))
        };
        match self {
            _ if says("24") => "raise the limit of open files (ulimit -n): sixty are enough",
            _ if says("12") => {
                "ask for a smaller ring with --event-buffer-size, or raise the limit of memory (ulimit -v)"
            }
            Self::Offsets(_) => {
                "use a kernel with CONFIG_DEBUG_INFO_BTF=y, as all large distributions build it"
            }
            Self::Cgroup(_) => {
                "mount the cgroup2 tree, or run as root so that it can be opened without mounting"
            }
            Self::Load(_) | Self::Base { .. } => {
                "run with sudo, or give the binary CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN; a container's seccomp profile \
                 has to allow bpf(2)"
            }
        }
    }
}

impl From<MapError> for EbpfError {
    fn from(error: MapError) -> Self {
        Self::Load(chain(&error))
    }
}

/// An error with all its causes on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        cause = error.source();
    }
    text
}

/// What is wanted of the kernel side besides owners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// To know a recorded command's descendants.
    pub descendants: bool,
    /// The arguments of processes.
    pub arguments: bool,
    /// The size of the ring for events, rounded up to pages in a power of two.
    pub event_bytes: u32,
}

/// The loaded kernel side. Dropping it detaches every program; so does the end of this process, however it ends.
pub struct KernelSide {
    // Owns the programs and their links; never read again.
    _ebpf: Ebpf,
    events: RingBuf<MapData>,
    control: Control,
    epoch: u64,
    tracked: HashMap<MapData, u32, u64>,
    reports: Vec<Report>,
}

impl KernelSide {
    /// Loads and attaches the programs.
    ///
    /// # Errors
    /// If a base program cannot be attached, or the one that follows descendants where they are asked for. What is refused of the others is told by [`Self::reports`].
    pub fn attach(wanted: Wanted) -> Result<Self, EbpfError> {
        let kernel_side = Self::attach_what_works(wanted)?;
        for Report { hook, state } in &kernel_side.reports {
            if let (Need::Base | Need::Descendants, State::Refused(why)) = (hook.need, state) {
                return Err(EbpfError::Base { hook: hook.hook, why: why.clone() });
            }
        }
        Ok(kernel_side)
    }

    /// As [`Self::attach`], but goes on without base programs: to tell what works.
    pub fn attach_what_works(wanted: Wanted) -> Result<Self, EbpfError> {
        let types = offsets::KernelTypes::read()?;
        let offsets = Wire(types.offsets()?);
        let root = cgroup::open_root().map_err(EbpfError::Cgroup)?;
        let btf = Btf::from_sys_fs().map_err(|error| EbpfError::Load(chain(&error)))?;
        let site = hooks::Site {
            cgroup: root.as_fd(),
            btf: &btf,
            tracing_helpers: true,
            accept_parameters: types.parameter_count("inet_csk_accept"),
            follow_descendants: wanted.descendants,
        };
        // They came with 5.11 and 5.12; where they are missing, the slower way is taken.
        let with_helpers = Self::load(&offsets, wanted, &site)?;
        if with_helpers.works() {
            return Ok(with_helpers);
        }
        drop(with_helpers);
        Self::load(&offsets, wanted, &hooks::Site { tracing_helpers: false, ..site })
    }

    fn load(offsets: &Wire<Offsets>, wanted: Wanted, site: &hooks::Site<'_>) -> Result<Self, EbpfError> {
        let (tracing_helpers, with_arguments) =
            (u32::from(site.tracing_helpers), u32::from(wanted.arguments));
        let mut loader = EbpfLoader::new();
        loader
            .btf(Some(site.btf))
            .override_global("OFFSETS", offsets, true)
            .override_global("TRACING_HELPERS", &tracing_helpers, true)
            .override_global("WITH_ARGUMENTS", &with_arguments, true)
            .map_max_entries("EVENTS", wanted.event_bytes);
        if site.tracing_helpers {
            loader.map_max_entries("SOCKETS_BY_COOKIE", 1);
        }
        let mut ebpf = loader.load(OBJECT).map_err(|error| EbpfError::Load(chain(&error)))?;
        // Open until the programs that refer to it are loaded.
        let control_map = map(&mut ebpf, "CONTROL")?;
        let control = control(&control_map)?;
        let epoch = 1;
        control.set_epoch(epoch);
        let events = RingBuf::try_from(map(&mut ebpf, "EVENTS")?)?;
        let tracked = HashMap::try_from(map(&mut ebpf, "TRACKED")?)?;
        let reports = hooks::attach_all(&mut ebpf, site);
        Ok(Self { _ebpf: ebpf, events, control, epoch, tracked, reports })
    }

    fn works(&self) -> bool {
        self.reports.iter().all(|report| report.hook.need != Need::Base || report.state == State::Active)
    }

    /// What became of each program.
    pub fn reports(&self) -> &[Report] {
        &self.reports
    }

    /// Takes all events out of the ring, in the order in which they happened or nearly so.
    pub fn drain(&mut self, mut deliver: impl FnMut(Event)) {
        while let Some(bytes) = self.events.next() {
            if let Some(event) = parse(&bytes) {
                deliver(event);
            }
        }
    }

    /// How many events the ring could not take, since the start.
    pub fn lost(&self) -> u64 {
        self.control.lost()
    }

    /// Has every socket and process announced anew when it is next used, which mends what a loss left unknown.
    pub fn announce_anew(&mut self) {
        self.epoch += 1;
        self.control.set_epoch(self.epoch);
    }

    /// From now on, whatever this process forks is tracked with all descendants.
    pub fn track_children_of(&mut self, pid: u32) -> Result<(), EbpfError> {
        Ok(self.tracked.insert(pid, 0, 0)?)
    }
}

fn control(map: &Map) -> Result<Control, EbpfError> {
    let Map::Array(data) = map else { return Err(EbpfError::Load("CONTROL is no array".to_owned())) };
    let mapped = Control::map(data.fd().as_fd());
    mapped.map_err(|error| EbpfError::Load(format!("cannot map the array CONTROL: {error}")))
}

fn map(ebpf: &mut Ebpf, name: &str) -> Result<Map, EbpfError> {
    ebpf.take_map(name).ok_or_else(|| EbpfError::Load(format!("the object has no map {name}")))
}

/// One event, for the fuzz target `kernel`.
#[cfg(fuzzing)]
#[doc(hidden)]
pub fn event(bytes: &[u8]) -> Option<Event> {
    parse(bytes)
}

fn parse(bytes: &[u8]) -> Option<Event> {
    if let Some(event) = sys::socket_event(bytes) {
        return socket_news(&event).map(Event::Socket);
    }
    let with_arguments = || {
        let event = sys::process_event_with_arguments(bytes)?;
        Some(ProcessNews { arguments: arguments(&event), ..process_news(&event.process) })
    };
    let news = sys::process_event(bytes).map(|event| process_news(&event)).or_else(with_arguments);
    news.map(Event::Process)
}

fn socket_news(event: &SocketEvent) -> Option<SocketNews> {
    let happening = match event.kind {
        KIND_FLOW => Happening::HasFlow,
        KIND_LISTEN => Happening::IsOpened,
        KIND_USE => Happening::IsUsed,
        KIND_CLOSE => Happening::IsClosed,
        _ => return None,
    };
    let local = Endpoint { address: address_to_bytes(event.local), port: event.local_port };
    let remote = Endpoint { address: address_to_bytes(event.remote), port: event.remote_port };
    let user = User {
        process: ProcessId(event.process),
        tid: event.tid,
        since: MonoTime::from_ns(event.since_ns),
        handover: Some(Handover {
            former_received: MonoTime::from_ns(event.former_received_ns),
            began: (event.began_ns != 0).then(|| MonoTime::from_ns(event.began_ns)),
            executed: event.flags & SOCKET_USER_EXECUTED != 0,
            parent_pid: (event.parent_tgid != 0).then_some(event.parent_tgid),
        }),
    };
    Some(SocketNews {
        happening,
        at: MonoTime::from_ns(event.at_ns),
        cookie: Cookie(event.cookie),
        netns: NetNs(event.netns),
        flow: Flow { protocol: Protocol(event.protocol), local, remote },
        user: (event.process != 0).then_some(user),
        existed: MonoTime::from_ns(event.existed_ns),
        remote_isn: event.remote_isn,
        connects: event.flags & SOCKET_CONNECTS != 0,
        drained: event.flags & SOCKET_DRAINED != 0,
        closed_by_other: event.flags & SOCKET_CLOSED_BY_OTHER != 0,
    })
}

fn process_news(event: &ProcessEvent) -> ProcessNews {
    let comm_length = event.comm.iter().position(|&byte| byte == 0).unwrap_or(event.comm.len());
    let path = event.path.get(..usize::from(event.path_length)).unwrap_or_default();
    let cgroup = event.cgroup.get(..usize::from(event.cgroup_length)).unwrap_or_default();
    ProcessNews {
        id: ProcessId(event.process),
        pid: event.tgid,
        start_boottime_ns: event.start_boottime_ns,
        exec_id: event.exec_id,
        parent_pid: event.parent_tgid,
        uid: event.uid,
        cgroup: cgroup_path(cgroup, event.flags & PROCESS_CGROUP_CUT == 0),
        older_cgroups: Vec::new(),
        comm: event.comm.get(..comm_length).unwrap_or_default().to_vec(),
        path: path_from_components(path),
        arguments: None,
        tracked: event.flags & PROCESS_TRACKED != 0,
    }
}

fn arguments(event: &ProcessEventWithArguments) -> Option<CommandLine> {
    let ProcessEventWithArguments { process, arguments } = event;
    let bytes = arguments.get(..usize::from(process.arguments_length)).filter(|bytes| !bytes.is_empty())?;
    Some(CommandLine { bytes: bytes.to_vec(), is_cut: process.flags & PROCESS_ARGUMENTS_CUT != 0 })
}

/// The path whose components are given from the last to the first, each with a NUL behind it.
fn path_from_components(components: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(components.len() + 1);
    for component in components.split(|&byte| byte == 0).filter(|component| !component.is_empty()).rev() {
        path.push(b'/');
        path.extend_from_slice(component);
    }
    path
}

/// The path of a cgroup, given in the same way: `/` for the root, and without the first slash if the beginning is missing.
fn cgroup_path(components: &[u8], is_whole: bool) -> Vec<u8> {
    let path = path_from_components(components);
    match (path.strip_prefix(b"/"), is_whole) {
        (None, true) => b"/".to_vec(),
        (Some(rest), false) => rest.to_vec(),
        _ => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_put_together_from_its_end() {
        assert_eq!(path_from_components(b"curl\0bin\0usr\0"), b"/usr/bin/curl");
        assert_eq!(path_from_components(b""), b"");
    }

    #[test]
    fn the_path_of_a_cgroup_begins_at_the_root_or_says_that_it_does_not() {
        assert_eq!(cgroup_path(b"ssh.service\0system.slice\0", true), b"/system.slice/ssh.service");
        assert_eq!(cgroup_path(b"d\0c\0", false), b"c/d");
        assert_eq!(cgroup_path(b"", true), b"/");
        assert_eq!(cgroup_path(b"", false), b"");
    }

    #[test]
    fn bytes_of_an_odd_size_are_no_event() {
        assert_eq!(parse(&[1; 17]), None);
        assert_eq!(parse(&[]), None);
    }
}
