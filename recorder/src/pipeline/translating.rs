//! A helper that asks the kernel's connection tracking, which answers only who has CAP_NET_ADMIN: a process of its own that has this one
//! capability, and sees nothing of a packet but the addresses in question.

use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::path::PathBuf;
use std::time::Duration;

use super::helper::{Helper, wait_for};
use crate::attribution::linux::conntrack::Conntrack;
use crate::attribution::translations::Translator;
use crate::model::{Endpoint, Flow, Protocol};
use crate::sandbox::{self, Needs, Role};

/// What stands for a question or an answer: which kind it is, and a flow.
const MESSAGE_BYTES: usize = 1 + FLOW_BYTES;
/// Protocol, and twice an address and a port.
const FLOW_BYTES: usize = 1 + 2 * (16 + 2);

/// Is anything tracked? And the answer to both kinds of question: no.
const TRACKING: u8 = 0;
const NO: u8 = 0;
/// What is this flow on the other side of a translation? And the answer: yes, this one.
const FLOW: u8 = 1;
const YES: u8 = 1;

/// How long an answer is waited for. A process that takes longer is stopped, and packets do not wait for it.
const ANSWER_WITHIN: Duration = Duration::from_millis(100);

/// The recording's end of a process that asks connection tracking.
#[derive(Debug)]
pub(super) struct Translating {
    /// None when it is gone, or did not answer: translated addresses have no owner then.
    helper: Option<Helper>,
}

impl Translating {
    /// Forks the process.
    pub(super) fn fork() -> io::Result<Self> {
        let needs = Needs {
            read: vec![PathBuf::from("/proc")],
            keeps: Some(sandbox::ASKS_TRACKING),
            ..Needs::of(Role::Translate)
        };
        let helper = Helper::fork(move |requests, answers| {
            sandbox::restrict(&needs);
            serve(requests, answers, &mut Conntrack::default());
        })?;
        Ok(Self { helper: Some(helper) })
    }

    fn ask(&mut self, question: [u8; MESSAGE_BYTES]) -> Option<[u8; MESSAGE_BYTES]> {
        let helper = self.helper.as_mut()?;
        let answer = ask(helper, question);
        if answer.is_err() {
            // An answer that comes late would be taken for that to the next question.
            self.helper = None;
        }
        answer.ok()
    }
}

fn ask(helper: &mut Helper, question: [u8; MESSAGE_BYTES]) -> io::Result<[u8; MESSAGE_BYTES]> {
    helper.ask(&question)?;
    if !wait_for(&helper.answers, Some(ANSWER_WITHIN))? {
        return Err(io::ErrorKind::TimedOut.into());
    }
    let mut answer = [0; MESSAGE_BYTES];
    helper.answers.read_exact(&mut answer)?;
    Ok(answer)
}

impl Translator for Translating {
    fn is_tracking(&mut self) -> bool {
        self.ask(message(TRACKING, None)).is_some_and(|answer| answer[0] == YES)
    }

    fn translate(&mut self, flow: &Flow) -> Option<Flow> {
        let answer = self.ask(message(FLOW, Some(flow)))?;
        (answer[0] == YES).then(|| flow_in(&answer))
    }
}

/// What the process does: answers, until nobody asks any more.
fn serve(mut requests: PipeReader, mut answers: PipeWriter, translator: &mut dyn Translator) {
    let mut question = [0; MESSAGE_BYTES];
    while requests.read_exact(&mut question).is_ok() {
        let answer = match question[0] {
            FLOW => translator.translate(&flow_in(&question)).map(|flow| message(YES, Some(&flow))),
            _ => translator.is_tracking().then(|| message(YES, None)),
        };
        if answers.write_all(&answer.unwrap_or(message(NO, None))).is_err() {
            return;
        }
    }
}

fn message(kind: u8, flow: Option<&Flow>) -> [u8; MESSAGE_BYTES] {
    let mut message = [0; MESSAGE_BYTES];
    message[0] = kind;
    if let Some(Flow { protocol, local, remote }) = flow {
        message[1] = protocol.0;
        message[2..18].copy_from_slice(&local.address);
        message[18..20].copy_from_slice(&local.port.to_ne_bytes());
        message[20..36].copy_from_slice(&remote.address);
        message[36..38].copy_from_slice(&remote.port.to_ne_bytes());
    }
    message
}

fn flow_in(message: &[u8; MESSAGE_BYTES]) -> Flow {
    let end = |at: usize| {
        let mut address = [0; 16];
        address.copy_from_slice(&message[at..at + 16]);
        Endpoint { address, port: u16::from_ne_bytes([message[at + 16], message[at + 17]]) }
    };
    Flow { protocol: Protocol(message[1]), local: end(2), remote: end(20) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Turns a flow round, and tracks.
    #[derive(Debug)]
    struct Reverses;

    impl Translator for Reverses {
        fn is_tracking(&mut self) -> bool {
            true
        }

        fn translate(&mut self, flow: &Flow) -> Option<Flow> {
            (flow.local != flow.remote).then(|| flow.reversed())
        }
    }

    fn translating() -> Translating {
        let helper = Helper::fork(|requests, answers| serve(requests, answers, &mut Reverses));
        Translating { helper: Some(helper.unwrap()) }
    }

    #[test]
    fn a_question_gets_its_answer_from_the_process_beside() {
        let mut translating = translating();
        assert!(translating.is_tracking());
        let end = |text: &str, port| Endpoint::new(text.parse().unwrap(), port);
        let flow = |local, remote| Flow { protocol: Protocol::TCP, local, remote };
        let one = flow(end("192.0.2.1", 5000), end("2001:db8::1", 443));
        assert_eq!(translating.translate(&one), Some(one.reversed()));
        assert_eq!(translating.translate(&flow(one.local, one.local)), None);
    }

    #[test]
    fn a_process_that_has_died_answers_nothing_and_holds_nobody_up() {
        let helper = Helper::fork(|_, _| {}).unwrap();
        let mut translating = Translating { helper: Some(helper) };
        assert!(!translating.is_tracking());
        assert!(translating.helper.is_none());
    }
}
