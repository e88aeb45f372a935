//! The kernel side, seen from user space: loads it, reads its events, tells what of it works here.

mod cgroup;
mod hooks;
mod offsets;
pub(crate) mod sys;

use std::io;

use aya::maps::{Array, HashMap, MapData, MapError, RingBuf};
use aya::{Btf, Ebpf, EbpfLoader};
use recorder_shared::{
    CONTROL_EPOCH, CONTROL_LOST, KIND_CLOSE, KIND_FLOW, KIND_LISTEN, KIND_USE, Offsets, PROCESS_TRACKED,
    ProcessEvent, SOCKET_DEAD, SOCKET_DRAINED, SocketEvent, address_to_bytes,
};

use self::sys::Wire;
use crate::attribution::event::{Cookie, Event, Happening, NetNs, ProcessId, ProcessNews, SocketNews, User};
use crate::model::{Endpoint, Flow, MonoTime, Protocol};

pub use hooks::{Hook, Need, Report, State};
pub use offsets::OffsetsError;

/// The compiled kernel side, aligned as the ELF reader needs it.
static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/ebpf/recorder-ebpf.o"));

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
    pub const fn remedy(&self) -> &'static str {
        match self {
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

/// The loaded kernel side. Dropping it detaches every program; so does the end of this process, however it ends.
pub struct KernelSide {
    // Owns the programs and their links; never read again.
    _ebpf: Ebpf,
    events: RingBuf<MapData>,
    control: Array<MapData, u64>,
    epoch: u64,
    tracked: HashMap<MapData, u32, u64>,
    reports: Vec<Report>,
}

impl KernelSide {
    /// Loads and attaches the programs; `follow_descendants` adds what a recorded command needs.
    ///
    /// # Errors
    /// If a base program cannot be attached, or the one that follows descendants where they are asked for. What is refused of the others is told by [`Self::reports`].
    pub fn attach(follow_descendants: bool) -> Result<Self, EbpfError> {
        let kernel_side = Self::attach_what_works(follow_descendants)?;
        for Report { hook, state } in &kernel_side.reports {
            if let (Need::Base | Need::Descendants, State::Refused(why)) = (hook.need, state) {
                return Err(EbpfError::Base { hook: hook.hook, why: why.clone() });
            }
        }
        Ok(kernel_side)
    }

    /// As [`Self::attach`], but goes on without base programs: to tell what works.
    pub fn attach_what_works(follow_descendants: bool) -> Result<Self, EbpfError> {
        let types = offsets::KernelTypes::read()?;
        let offsets = Wire(types.offsets()?);
        let root = cgroup::open_root().map_err(EbpfError::Cgroup)?;
        let btf = Btf::from_sys_fs().map_err(|error| EbpfError::Load(chain(&error)))?;
        let site = hooks::Site {
            cgroup: std::os::fd::AsFd::as_fd(&root),
            btf: &btf,
            accept_parameters: types.parameter_count("inet_csk_accept"),
            follow_descendants,
        };
        // `bpf_get_current_task_btf` came with 5.11; where it is missing, the slower way is taken.
        let with_helper = Self::load(&offsets, 1, &site)?;
        if with_helper.works() { Ok(with_helper) } else { Self::load(&offsets, 0, &site) }
    }

    fn load(offsets: &Wire<Offsets>, task_btf: u32, site: &hooks::Site<'_>) -> Result<Self, EbpfError> {
        let mut ebpf = EbpfLoader::new()
            .btf(Some(site.btf))
            .override_global("OFFSETS", offsets, true)
            .override_global("TASK_BTF", &task_btf, true)
            .load(OBJECT)
            .map_err(|error| EbpfError::Load(chain(&error)))?;
        let mut control: Array<_, u64> = Array::try_from(map(&mut ebpf, "CONTROL")?)?;
        let epoch = 1;
        control.set(CONTROL_EPOCH, epoch, 0)?;
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
    pub fn lost(&self) -> Result<u64, EbpfError> {
        Ok(self.control.get(&CONTROL_LOST, 0)?)
    }

    /// Has every socket and process announced anew when it is next used, which mends what a loss left unknown.
    pub fn announce_anew(&mut self) -> Result<(), EbpfError> {
        self.epoch += 1;
        self.control.set(CONTROL_EPOCH, self.epoch, 0)?;
        Ok(())
    }

    /// From now until [`Self::stop_tracking_children`], whatever this process forks is tracked with all descendants.
    pub fn track_children(&mut self) -> Result<(), EbpfError> {
        Ok(self.tracked.insert(std::process::id(), 0, 0)?)
    }

    /// Ends [`Self::track_children`]; what was forked stays tracked.
    pub fn stop_tracking_children(&mut self) -> Result<(), EbpfError> {
        Ok(self.tracked.remove(&std::process::id())?)
    }
}

fn map(ebpf: &mut Ebpf, name: &str) -> Result<aya::maps::Map, EbpfError> {
    ebpf.take_map(name).ok_or_else(|| EbpfError::Load(format!("the object has no map {name}")))
}

fn parse(bytes: &[u8]) -> Option<Event> {
    match sys::socket_event(bytes) {
        Some(event) => socket_news(&event).map(Event::Socket),
        None => sys::process_event(bytes).map(|event| Event::Process(process_news(&event))),
    }
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
    let user =
        User { process: ProcessId(event.process), tid: event.tid, since: MonoTime::from_ns(event.since_ns) };
    Some(SocketNews {
        happening,
        at: MonoTime::from_ns(event.at_ns),
        cookie: Cookie(event.cookie),
        netns: NetNs(event.netns),
        flow: Flow { protocol: Protocol(event.protocol), local, remote },
        user: (event.process != 0).then_some(user),
        existed: MonoTime::from_ns(event.existed_ns),
        drained: event.flags & SOCKET_DRAINED != 0,
        dead: event.flags & SOCKET_DEAD != 0,
    })
}

fn process_news(event: &ProcessEvent) -> ProcessNews {
    let comm_length = event.comm.iter().position(|&byte| byte == 0).unwrap_or(event.comm.len());
    let path = event.path.get(..usize::from(event.path_length)).unwrap_or_default();
    ProcessNews {
        id: ProcessId(event.process),
        pid: event.tgid,
        start_boottime_ns: event.start_boottime_ns,
        exec_id: event.exec_id,
        parent_pid: event.parent_tgid,
        uid: event.uid,
        cgroup_id: event.cgroup_id,
        comm: event.comm.get(..comm_length).unwrap_or_default().to_vec(),
        path: path_from_components(path),
        tracked: event.flags & PROCESS_TRACKED != 0,
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_put_together_from_its_end() {
        assert_eq!(path_from_components(b"curl\0bin\0usr\0"), b"/usr/bin/curl");
        assert_eq!(path_from_components(b""), b"");
    }

    #[test]
    fn bytes_of_an_odd_size_are_no_event() {
        assert_eq!(parse(&[1; 17]), None);
        assert_eq!(parse(&[]), None);
    }
}
