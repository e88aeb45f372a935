//! One kernel filter for interfaces of all link types, so that each is filtered as it would be by itself.
//!
//! A libpcap expression compiles to another program for each link type. The kernel takes one program per socket, and a
//! socket on all interfaces sees all link types. So the programs are joined behind a dispatch on the interface's
//! hardware type (an ancillary load, see linux/filter.h), and later interfaces are covered too.
//!
//! What cannot be done in the kernel is done here, on the packet as it is written, with the same result:
//! - cooked packets: their header does not exist in the kernel (libpcap's own rewriting cannot load all its fields);
//! - everything, where the kernel refuses the program as too long.

use libc::sock_filter;
use pcap::BpfProgram;

use super::super::expression;
use super::links::Link;
use crate::model::LinkType;

const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86dd;
/// linux/if_arp.h; libc has only some of them.
const ARPHRD_LOOPBACK: u16 = 772;
/// Links whose packets are bare IP where the protocol is IP, without a link header of their own.
const BARE_IP_HARDWARE: [u16; 6] = [
    0xfffe, // ARPHRD_NONE: tun, WireGuard
    519,    // ARPHRD_RAWIP: modems
    768,    // ARPHRD_TUNNEL
    769,    // ARPHRD_TUNNEL6
    776,    // ARPHRD_SIT
    512,    // ARPHRD_PPP
];
/// GRE is the same, but with many peers it shows its outer header as a link header.
const GRE_HARDWARE: [u16; 2] = [
    778, // ARPHRD_IPGRE
    823, // ARPHRD_IP6GRE
];

/// Room for link headers that are not part of the packet as it is written, so that the snap length is still met.
const LINK_HEADER_ROOM: u32 = 64;
/// All of a packet: what a filter in user space wants to see. No packet is longer than 512 KiB (BIG TCP).
const WHOLE: u32 = 1 << 19;

/// Packets that are written and filtered alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// With an Ethernet header, in the kernel as in the file.
    Ethernet,
    /// IP without a link header, in the kernel as in the file.
    BareIp,
    /// IP that may have something before it in the kernel that is not written.
    GreIp,
    /// Anything else: written with a cooked header.
    Cooked,
}

impl Class {
    const ALL: [Self; 4] = [Self::Ethernet, Self::BareIp, Self::GreIp, Self::Cooked];

    /// The class of a packet with this protocol, from an interface of this hardware type.
    #[inline]
    pub(super) fn of(hardware: u16, protocol: u16) -> Self {
        match hardware {
            libc::ARPHRD_ETHER | ARPHRD_LOOPBACK => Self::Ethernet,
            _ => Self::of_other(hardware, protocol),
        }
    }

    fn of_other(hardware: u16, protocol: u16) -> Self {
        let is_ip = protocol == ETH_P_IP || protocol == ETH_P_IPV6;
        match hardware {
            _ if !is_ip => Self::Cooked,
            _ if BARE_IP_HARDWARE.contains(&hardware) => Self::BareIp,
            _ if GRE_HARDWARE.contains(&hardware) => Self::GreIp,
            _ => Self::Cooked,
        }
    }

    /// The class of most packets of an interface of this hardware type.
    pub(super) fn main(hardware: u16) -> Self {
        Self::of(hardware, ETH_P_IP)
    }

    /// How its packets begin in the file.
    #[inline]
    pub(super) const fn link_type(self) -> LinkType {
        match self {
            Self::Ethernet => LinkType::ETHERNET,
            Self::BareIp | Self::GreIp => LinkType::RAW_IP,
            Self::Cooked => LinkType::LINUX_SLL2,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Ethernet => "Ethernet",
            Self::BareIp => "bare IP (tun)",
            Self::GreIp => "GRE",
            Self::Cooked => "cooked (neither Ethernet nor IP)",
        }
    }
}

/// A filter for packets of one link type.
enum Verdict {
    /// All pass.
    All,
    /// None pass: the expression has no meaning there.
    Nothing,
    /// Those pass that the kernel passes.
    Kernel(Vec<sock_filter>),
    /// The kernel passes all, and this decides.
    Here(BpfProgram),
}

/// The filters for all classes.
pub(super) struct Filter {
    /// In the order of [`Class::ALL`].
    verdicts: [Verdict; 4],
    snap_length: u32,
    /// What the user should know about it.
    pub(super) notes: Vec<String>,
}

impl std::fmt::Debug for Filter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Filter").field("notes", &self.notes).finish_non_exhaustive()
    }
}

impl Filter {
    /// Lets everything through.
    pub(super) fn all(snap_length: u32) -> Self {
        Self { verdicts: Class::ALL.map(|_| Verdict::All), snap_length, notes: Vec::new() }
    }

    /// Compiles `expression` for the interfaces `links`, on which the recording begins. It must have a meaning for each
    /// class in `needed`, or for Ethernet or IP if there are none. The error is libpcap's message.
    pub(super) fn compile(
        expression: &str,
        links: &[&Link],
        needed: &[Class],
        snap_length: u32,
    ) -> Result<Self, String> {
        let compiled = Class::ALL.map(|class| match class {
            Class::Ethernet | Class::BareIp => compile_socket_program(expression, class, links),
            Class::GreIp | Class::Cooked => compile_dead(expression, class).map(Verdict::Here),
        });
        Self::from_compiled(compiled, needed, snap_length)
    }

    /// The same filter, all of it in user space: for when the kernel refuses the program.
    pub(super) fn compile_here(expression: &str, needed: &[Class], snap_length: u32) -> Result<Self, String> {
        let compiled = Class::ALL.map(|class| compile_dead(expression, class).map(Verdict::Here));
        let mut filter = Self::from_compiled(compiled, needed, snap_length)?;
        filter
            .notes
            .push("the filter is too long for the kernel: recorder applies it itself, at more cost".into());
        Ok(filter)
    }

    fn from_compiled(
        compiled: [Result<Verdict, String>; 4],
        needed: &[Class],
        snap_length: u32,
    ) -> Result<Self, String> {
        let error = |class: &Class| compiled[*class as usize].as_ref().err();
        let failed = match needed {
            [] => error(&Class::BareIp).and(error(&Class::Ethernet)),
            classes => classes.iter().find_map(error),
        };
        if let Some(message) = failed {
            return Err(message.clone());
        }
        let mut filter = Self::all(snap_length);
        for (class, compiled) in Class::ALL.into_iter().zip(compiled) {
            filter.verdicts[class as usize] = filter.or_nothing(compiled, class);
        }
        Ok(filter)
    }

    /// A program that says "rejects all packets" just does that; any other complaint is worth a word.
    fn or_nothing(&mut self, verdict: Result<Verdict, String>, class: Class) -> Verdict {
        verdict.unwrap_or_else(|message| {
            if !message.contains("rejects all packets") {
                self.notes.push(format!("the filter passes nothing on {} links: {message}", class.name()));
            }
            Verdict::Nothing
        })
    }

    /// Whether packets of this class have to be asked for with [`Self::passes`].
    #[inline]
    pub(super) fn decides_here(&self, class: Class) -> bool {
        matches!(self.verdicts[class as usize], Verdict::Here(_))
    }

    /// Whether this packet, in its final form, passes the part of the filter that is not in the kernel.
    pub(super) fn passes(&self, class: Class, bytes: &[u8]) -> bool {
        match &self.verdicts[class as usize] {
            Verdict::Here(program) => program.filter(bytes),
            Verdict::All | Verdict::Nothing | Verdict::Kernel(_) => true,
        }
    }

    /// The program for the kernel.
    pub(super) fn program(&self) -> Vec<sock_filter> {
        let mut code = Assembler::default();
        // Each loopback packet passes the tap twice, going out and coming in. The one that comes in is kept, as libpcap does.
        code.load(libc::SKF_AD_HATYPE);
        code.jump_if(ARPHRD_LOOPBACK.into(), Label::Loopback);
        code.jump_if(libc::ARPHRD_ETHER.into(), Label::ToEthernet);
        for hardware in BARE_IP_HARDWARE {
            code.jump_if(hardware.into(), Label::MaybeBareIp);
        }
        for hardware in GRE_HARDWARE {
            code.jump_if(hardware.into(), Label::MaybeGreIp);
        }
        code.jump(Label::Class(Class::Cooked));
        code.place(Label::Loopback);
        code.load(libc::SKF_AD_PKTTYPE);
        code.jump_if(libc::PACKET_OUTGOING.into(), Label::Drop);
        // A conditional jump reaches 255 instructions far, `ja` everywhere.
        code.place(Label::ToEthernet);
        code.jump(Label::Class(Class::Ethernet));
        code.place(Label::MaybeBareIp);
        code.jump_if_ip(Label::ToBareIp);
        code.place(Label::ToBareIp);
        code.jump(Label::Class(Class::BareIp));
        code.place(Label::MaybeGreIp);
        code.jump_if_ip(Label::ToGreIp);
        code.place(Label::ToGreIp);
        code.jump(Label::Class(Class::GreIp));
        code.place(Label::Drop);
        code.answer(0);
        for class in Class::ALL {
            let room = if class == Class::Ethernet { 0 } else { LINK_HEADER_ROOM };
            code.place(Label::Class(class));
            code.verdict(&self.verdicts[class as usize], self.snap_length.saturating_add(room));
        }
        code.finish()
    }
}

/// Compiles for a class whose packets begin in the kernel where they begin in the file.
///
/// So do Ethernet's, and those of devices without a link header (tun, WireGuard, point-to-point tunnels): the tap puts
/// the link header back only where the device makes one (dev_has_header in tpacket_rcv, net/packet/af_packet.c).
fn compile_socket_program(expression: &str, class: Class, links: &[&Link]) -> Result<Verdict, String> {
    if !wants_live(expression) {
        return compile_dead(expression, class)
            .and_then(|program| instructions(&program).map(Verdict::Kernel));
    }
    // Taken out by the kernel, a VLAN tag is not where a program for files looks for it; for a live handle libpcap loads
    // it from where the kernel keeps it. The direction, too, is known to live programs only.
    let live = links
        .iter()
        .filter(|link| link.is_up() && Class::main(link.hardware) == class)
        .find_map(|link| compile_live(expression, class, &link.name));
    match live {
        Some(result) => result.and_then(|program| instructions(&program).map(Verdict::Kernel)),
        // No such interface yet. Here the tag is back in its place, so the program for files gives the same result.
        None => compile_dead(expression, class).map(Verdict::Here),
    }
}

/// Whether libpcap makes another program of it for a live capture than for a file.
fn wants_live(expression: &str) -> bool {
    expression
        .split(|letter: char| !letter.is_alphanumeric())
        .any(|word| matches!(word, "vlan" | "inbound" | "outbound" | "ifindex"))
}

fn compile_dead(expression: &str, class: Class) -> Result<BpfProgram, String> {
    expression::compile_dead(expression, class.link_type())
}

/// None if the interface cannot be opened, or has another link type than expected.
fn compile_live(expression: &str, class: Class, name: &str) -> Option<Result<BpfProgram, String>> {
    const LITTLE: i32 = 256 << 10;
    let inactive = pcap::Capture::from_device(name).ok()?;
    let handle = inactive.promisc(false).snaplen(96).buffer_size(LITTLE).open().ok()?;
    (handle.get_datalink() == expression::dlt(class.link_type()))
        .then(|| expression::compile(&handle, expression))
}

/// The instructions of a program. The package shows them only as text ("40 0 0 12"): code, jt, jf, k.
fn instructions(program: &BpfProgram) -> Result<Vec<sock_filter>, String> {
    program.get_instructions().iter().map(|instruction| read_instruction(&instruction.to_string())).collect()
}

fn read_instruction(text: &str) -> Result<sock_filter, String> {
    let mut numbers = text.split(' ').map(str::parse::<u32>);
    let mut next = || numbers.next().and_then(Result::ok);
    let (Some(code), Some(jt), Some(jf), Some(k)) = (next(), next(), next(), next()) else {
        return Err(format!("libpcap gave an instruction that cannot be read: {text}"));
    };
    Ok(sock_filter { code: code as u16, jt: jt as u8, jf: jf as u8, k })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Label {
    Loopback,
    ToEthernet,
    MaybeBareIp,
    ToBareIp,
    MaybeGreIp,
    ToGreIp,
    Drop,
    Class(Class),
}

/// Puts a program together; all jumps go forward, as the kernel demands.
#[derive(Default)]
struct Assembler {
    code: Vec<sock_filter>,
    jumps: Vec<(usize, Label)>,
    places: Vec<(Label, usize)>,
}

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const LOAD_NUMBER: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_IMM) as u16;
const JUMP: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
const JUMP_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

impl Assembler {
    fn push(&mut self, code: u16, k: u32) {
        self.code.push(sock_filter { code, jt: 0, jf: 0, k });
    }

    /// Loads what the kernel knows about the packet beside its bytes.
    fn load(&mut self, what: i32) {
        self.push(LOAD, (libc::SKF_AD_OFF + what) as u32);
    }

    fn jump_if(&mut self, value: u32, to: Label) {
        self.jumps.push((self.code.len(), to));
        self.push(JUMP_EQUAL, value);
    }

    /// Packets that are not IP go to the cooked ones.
    fn jump_if_ip(&mut self, to: Label) {
        self.load(libc::SKF_AD_PROTOCOL);
        self.jump_if(ETH_P_IP.into(), to);
        self.jump_if(ETH_P_IPV6.into(), to);
        self.jump(Label::Class(Class::Cooked));
    }

    fn jump(&mut self, to: Label) {
        self.jumps.push((self.code.len(), to));
        self.push(JUMP, 0);
    }

    fn answer(&mut self, bytes: u32) {
        self.push(RETURN, bytes);
    }

    fn place(&mut self, label: Label) {
        self.places.push((label, self.code.len()));
    }

    fn verdict(&mut self, verdict: &Verdict, keep: u32) {
        match verdict {
            Verdict::All => self.answer(keep),
            Verdict::Nothing => self.answer(0),
            Verdict::Here(_) => self.answer(WHOLE),
            Verdict::Kernel(program) => {
                // Programs begin with an empty accumulator; the dispatch has used it.
                self.push(LOAD_NUMBER, 0);
                // libpcap's programs accept by answering its own snap length; ours counts.
                self.code.extend(program.iter().map(|&instruction| match instruction {
                    sock_filter { code: RETURN, k: 1.., .. } => sock_filter { k: keep, ..instruction },
                    other => other,
                }));
            }
        }
    }

    fn finish(mut self) -> Vec<sock_filter> {
        for (from, label) in self.jumps {
            let to = self.places.iter().find(|(place, _)| *place == label).map_or(0, |&(_, at)| at);
            let distance = to - from - 1;
            match &mut self.code[from] {
                instruction if instruction.code == JUMP => instruction.k = distance as u32,
                instruction => instruction.jt = distance as u8,
            }
        }
        self.code
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a packet is to the kernel, beside its bytes.
    struct Seen<'a> {
        hardware: u16,
        protocol: u16,
        packet_type: u8,
        bytes: &'a [u8],
    }

    /// Runs a program as the kernel does, as far as these tests need it.
    fn run(program: &[sock_filter], packet: &Seen<'_>) -> u32 {
        let (mut a, mut x, mut at) = (0u32, 0u32, 0usize);
        loop {
            let sock_filter { code, jt, jf, k } = program[at];
            at += 1;
            let branch = |taken: bool| usize::from(if taken { jt } else { jf });
            let load = |from: u32, size: usize| {
                let bytes = packet.bytes.get(from as usize..from as usize + size);
                bytes.map(|bytes| bytes.iter().fold(0, |sum, &byte| sum << 8 | u32::from(byte)))
            };
            match code {
                LOAD_NUMBER => a = k,
                LOAD if k as i32 >= libc::SKF_AD_OFF && (k as i32) < 0 => {
                    a = match k as i32 - libc::SKF_AD_OFF {
                        libc::SKF_AD_HATYPE => packet.hardware.into(),
                        libc::SKF_AD_PROTOCOL => packet.protocol.into(),
                        libc::SKF_AD_PKTTYPE => packet.packet_type.into(),
                        other => panic!("ancillary {other}"),
                    }
                }
                // ld, ldh, ldb [k]; ldh, ldb [x + k]; ldxb 4*([k]&0xf)
                0x20 | 0x28 | 0x30 => match load(k, [4, 2, 1][usize::from(code >> 3 & 3)]) {
                    Some(value) => a = value,
                    None => return 0,
                },
                0x48 | 0x50 => match load(x + k, [4, 2, 1][usize::from(code >> 3 & 3)]) {
                    Some(value) => a = value,
                    None => return 0,
                },
                0xb1 => match load(k, 1) {
                    Some(value) => x = 4 * (value & 0xf),
                    None => return 0,
                },
                JUMP => at += k as usize,
                JUMP_EQUAL => at += branch(a == k),
                0x45 => at += branch(a & k != 0),
                0x54 => a &= k,
                RETURN => return k,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    fn udp_to_port_53() -> Vec<u8> {
        let mut ip = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        ip.extend([0x10, 0, 0, 53, 0, 8, 0, 0]);
        ip
    }

    fn on_ethernet(ip: &[u8]) -> Vec<u8> {
        [[0; 12].as_slice(), &[8, 0], ip].concat()
    }

    fn answers(filter: &Filter, ip: &[u8]) -> [u32; 4] {
        let program = filter.program();
        let ethernet = on_ethernet(ip);
        let see = |hardware, packet_type, bytes| {
            run(&program, &Seen { hardware, protocol: 0x0800, packet_type, bytes })
        };
        [
            see(libc::ARPHRD_ETHER, libc::PACKET_OUTGOING, &ethernet),
            see(ARPHRD_LOOPBACK, libc::PACKET_HOST, &ethernet),
            see(ARPHRD_LOOPBACK, libc::PACKET_OUTGOING, &ethernet),
            see(0xfffe, libc::PACKET_OUTGOING, ip),
        ]
    }

    #[test]
    fn without_an_expression_only_the_second_view_of_loopback_is_dropped() {
        let filter = Filter::all(96);
        assert_eq!(answers(&filter, &udp_to_port_53()), [96, 96, 0, 96 + LINK_HEADER_ROOM]);
    }

    #[test]
    fn each_link_type_gets_its_own_program() {
        let filter = Filter::compile("udp port 53", &[], &[], 96).unwrap();
        assert_eq!(answers(&filter, &udp_to_port_53()), [96, 96, 0, 96 + LINK_HEADER_ROOM]);
        let filter = Filter::compile("udp port 54", &[], &[], 96).unwrap();
        assert_eq!(answers(&filter, &udp_to_port_53()), [0; 4]);
    }

    #[test]
    fn what_is_not_ip_on_a_tun_device_is_cooked_and_decided_here() {
        let filter = Filter::compile("udp port 53", &[], &[], 96).unwrap();
        assert_eq!(Class::of(0xfffe, 0x88cc), Class::Cooked);
        let seen = Seen { hardware: 0xfffe, protocol: 0x88cc, packet_type: 0, bytes: &[0; 60] };
        assert_eq!(run(&filter.program(), &seen), WHOLE);
        assert!(filter.decides_here(Class::Cooked));
        let header = [8, 0, 0, 0, 0, 0, 0, 9, 0, 1, 0, 6, 0, 0, 0, 0, 0, 0, 0, 0];
        assert!(filter.passes(Class::Cooked, &[header.as_slice(), &udp_to_port_53()].concat()));
        assert!(!filter.passes(Class::Cooked, &[header.as_slice(), &[0; 40]].concat()));
    }

    #[test]
    fn an_expression_without_meaning_for_a_link_type_passes_nothing_there_and_says_so() {
        let filter = Filter::compile("ether host 00:00:00:00:00:00", &[], &[], 96).unwrap();
        assert_eq!(answers(&filter, &udp_to_port_53()), [96, 96, 0, 0]);
        assert!(filter.notes[0].contains("bare IP (tun)"), "{:?}", filter.notes);
        assert!(Filter::compile("ether host 00:00:00:00:00:00", &[], &[Class::BareIp], 96).is_err());

        let filter = Filter::compile("arp", &[], &[], 96).unwrap();
        assert_eq!(answers(&filter, &udp_to_port_53()), [0; 4]);
        assert_eq!(filter.notes, [""; 0], "no tun device has ARP, and nobody expects it");
    }

    #[test]
    fn a_wrong_expression_gives_the_words_of_libpcap() {
        let error = Filter::compile("tcp prot 80", &[], &[], 96).unwrap_err();
        assert!(error.contains("syntax error"), "{error}");
    }

    #[test]
    fn in_user_space_the_filter_decides_the_same() {
        let filter = Filter::compile_here("udp port 53", &[], 96).unwrap();
        assert_eq!(answers(&filter, &udp_to_port_53()), [WHOLE, WHOLE, 0, WHOLE]);
        let ethernet = on_ethernet(&udp_to_port_53());
        assert!(filter.passes(Class::Ethernet, &ethernet));
        assert!(!filter.passes(Class::Ethernet, &ethernet[..20]));
        assert!(filter.passes(Class::BareIp, &udp_to_port_53()));
    }
}
