//! The programs that the tests record. Each one says about itself what it did (see `truth`), and that is the ground
//! truth by which the recorder's names are judged.
//!
//! One binary, one job per sub-command; nothing but std and libc, so that it starts and ends in well under a
//! millisecond. It is copied under other names (`client`, `server`), since a name is part of what is judged.
#![expect(clippy::expect_used, reason = "a program that cannot make its traffic has nothing else to do")]
#![expect(clippy::panic, reason = "the same")]

mod loops;
mod options;
mod raw;
mod storm;
mod sys;
mod tcp;
mod truth;
mod udp;

use options::Options;

const USAGE: &str = "usage: traffic SUB-COMMAND [ARGS] [--log FILE]
  tcp-server [--listen ADDR:PORT] [--null-address] [--prefork N] [--requests N] [--wait-close] [--connections N]
  tcp-client ADDR PORT [--until-eof] [--forever] [--when FILE] [--until FILE]
      --when: connect, print the port, talk when FILE is there; --until: close when FILE is there
  tcp-refused ADDR PORT             connect to a closed port, and be refused
  daemon-client ADDR PORT           a client that has forked twice; the first process waits for it
  handover-client ADDR PORT         connect and talk, fork without exec, the child goes on talking
  udp-server [--listen ADDR:PORT] [--datagrams N]
  udp-client ADDR PORT [--connected] [--datagrams N] [--when FILE] [--until FILE]
  storm --count N --protocol tcp|udp --to ADDR:PORT --log FILE [--client PROGRAM]
  raw-udp --interface NAME --mac MAC --from IP:PORT --to IP:PORT [--count N]    frames that no socket of an IP stack sent
  connect-loop [--iterations N]     connect, accept, close on loopback; prints ns per iteration
  udp-loop [--iterations N]         send and receive 64 bytes on loopback; prints ns per iteration
  udp-send-loop [--iterations N]    send 64 bytes to a socket that nobody reads; prints ns per iteration";

fn main() {
    let mut arguments = std::env::args();
    let name = arguments.next().unwrap_or_default();
    let command = arguments.next().unwrap_or_default();
    let options = Options::new(arguments.collect());
    truth::set_name(&name);
    match command.as_str() {
        "tcp-server" => tcp::server(&options),
        "tcp-client" => tcp::client(&options),
        "tcp-refused" => tcp::refused(&options),
        "daemon-client" => tcp::daemon_client(&options),
        "handover-client" => tcp::handover_client(&options),
        "udp-server" => udp::server(&options),
        "udp-client" => udp::client(&options),
        "storm" => storm::storm(&options),
        "raw-udp" => raw::raw_udp(&options),
        "connect-loop" => loops::connect_loop(&options),
        "udp-loop" => loops::udp_loop(&options),
        "udp-send-loop" => loops::udp_send_loop(&options),
        _ => {
            eprintln!("{USAGE}");
            std::process::exit(2);
        }
    }
}
