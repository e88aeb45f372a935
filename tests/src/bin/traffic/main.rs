//! The programs that the tests record. Each one says about itself what it did (see `truth`), and that is the ground
//! truth by which the recorder's names are judged.
//!
//! One binary, one job per sub-command; nothing but std, libc and socket2, so that it starts and ends in well under a
//! millisecond. It is copied under other names (`client`, `server`), since a name is part of what is judged.
#![expect(clippy::expect_used, reason = "a program that cannot make its traffic has nothing else to do")]
#![expect(clippy::panic, reason = "the same")]

mod loops;
mod options;
mod ping;
mod raw;
mod storm;
mod sys;
mod tcp;
mod truth;
mod turns;
mod udp;

use options::Options;

const USAGE: &str = "usage: traffic SUB-COMMAND [ARGS] [--log FILE]
  tcp-server [--listen ADDR:PORT] [--null-address] [--prefork N] [--threads] [--inetd PROGRAM] [--forking] [--mptcp]
             [--dual-stack] [--requests N] [--wait-close] [--connections N] [--accept-gate FILE]
  tcp-reuseport-server --listen ADDR:PORT --reuseport --processes N     one listening socket for each process
  inetd-program --local ADDR:PORT --peer ADDR:PORT                      serves the connection that is standard input
  tcp-client ADDR PORT [--until-eof] [--forever] [--connections N] [--bind ADDR:PORT] [--reset] [--mptcp] [--in-thread]
             [--requests N [--gate FILE] [--tell-ready]] [--pause-ms N] [--when FILE] [--until FILE] [--mute [--close-gate FILE]]
       --when: connect, print the port, talk when FILE is there; --until: close when FILE is there
  tcp-bulk-client ADDR PORT [--bytes N]
  tcp-refused ADDR PORT             connect to a closed port, and be refused
  daemon-client ADDR PORT           a client that has forked twice; the first process waits for it
  handover-client ADDR PORT         connect and talk, fork without exec, the child goes on talking
  turns-client ADDR PORT --how fork|pass|exec --protocol tcp|udp [--connected] [--turns N] --heir PROGRAM
  udp-server [--listen ADDR:PORT] [--datagrams N] [--silent] [--udplite] [--dual-stack]
  udp-reuseport-server --listen ADDR:PORT --reuseport --processes N
  udp-prefork-server --listen ADDR:PORT --processes N      one socket, on which all of them wait
  udp-activator --listen ADDR:PORT --heir PROGRAM --datagrams N --log FILE     starts a program with a bound socket
  udp-client ADDR PORT [--connected] [--datagrams N [--gate FILE] [--tell-ready]] [--bind ADDR:PORT] [--size BYTES] [--silent]
             [--udplite] [--when FILE] [--until FILE]
  ping ADDR [--raw --id N] [--count N]
  raw-socket-udp ADDR PORT --bind ADDR:PORT [--datagrams N]     UDP through a raw socket
  raw-udp --interface NAME --mac MAC --from IP:PORT --to IP:PORT [--count N]    frames that no socket of an IP stack sent
  raw-arp --interface NAME --own-mac MAC --from IP --to IP [--count N]
  tagged-client ADDR PORT --interface NAME --mac MAC --bind ADDR:PORT [--datagrams N]
  storm --count N --protocol tcp|udp --to ADDR:PORT --log FILE [--client PROGRAM] [-- ARGS OF THE CLIENT]
  same-pid-storm --count N --to ADDR:PORT --log FILE --clients PROGRAM,PROGRAM [--pid N]
  flow-storm --interface NAME --mac MAC --tcp-to ADDR:PORT --udp-to ADDR:PORT [--flows N] [--rate N]
  socket-storm --tcp-to ADDR:PORT --udp-to ADDR:PORT [--seconds N]
  sink --listen ADDR:PORT           accepts and takes, for the storms
  fork-storm --count N
  hold --processes N --sockets N --to ADDR:PORT --gate FILE
  slow-copy --to FILE --gate FILE   standard input to a file, once there is the gate
  connect-loop [--iterations N]     connect, accept, close on loopback; prints ns per iteration
  udp-loop [--iterations N]         send and receive 64 bytes on loopback; prints ns per iteration
  udp-send-loop [--iterations N]    send 64 bytes to a socket that nobody reads; prints ns per iteration";

fn main() {
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_default();
    let mut arguments = arguments.map(|argument| argument.to_string_lossy().into_owned());
    let command = arguments.next().unwrap_or_default();
    let options = Options::new(arguments.collect());
    truth::set_name(&name);
    let Some(job) = job(&command) else {
        eprintln!("{USAGE}");
        std::process::exit(2);
    };
    job(&options);
}

fn job(command: &str) -> Option<fn(&Options)> {
    Some(match command {
        "tcp-server" => tcp::server,
        "tcp-reuseport-server" => tcp::reuseport_server,
        "inetd-program" => tcp::inetd_program,
        "tcp-client" => tcp::client,
        "tcp-bulk-client" => tcp::bulk_client,
        "tcp-refused" => tcp::refused,
        "daemon-client" => tcp::daemon_client,
        "handover-client" => tcp::handover_client,
        "turns-client" => turns::turns_client,
        "heir-of-passed" => turns::heir_of_passed,
        "heir-of-stdin" => turns::heir_of_stdin,
        "udp-server" => udp::server,
        "udp-reuseport-server" => udp::reuseport_server,
        "udp-prefork-server" => udp::prefork_server,
        "udp-activator" => udp::activator,
        "activated" => udp::activated,
        "udp-client" => udp::client,
        "ping" => ping::ping,
        "raw-socket-udp" => ping::raw_socket_udp,
        "raw-udp" => raw::raw_udp,
        "raw-arp" => raw::raw_arp,
        "tagged-client" => raw::tagged_client,
        "storm" => storm::storm,
        "same-pid-storm" => storm::same_pid_storm,
        "flow-storm" => raw::flow_storm,
        "socket-storm" => storm::socket_storm,
        "sink" => storm::sink,
        "fork-storm" => storm::fork_storm,
        "hold" => storm::hold,
        "slow-copy" => storm::slow_copy,
        "connect-loop" => loops::connect_loop,
        "udp-loop" => loops::udp_loop,
        "udp-send-loop" => loops::udp_send_loop,
        _ => return None,
    })
}
