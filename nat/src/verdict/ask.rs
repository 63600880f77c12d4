//! One question to a rendezvous peer, asked until it is answered.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use halloo_wire::path::SocketId;
use halloo_wire::peer_datagram::{EchoAnswer, PeerDatagram};

/// Milliseconds from a question to each time that it is asked.
pub const ECHO_SCHEDULE_MS: [u32; 5] = [0, 150, 450, 1_050, 2_250];
/// Times that an answer from the second port is asked for. It may be filtered, which is the
/// commonest case, and then it never comes.
const FILTER_TRIES: usize = 3;
/// How long the last one may take to be answered.
const ANSWER_TIME: Duration = Duration::from_millis(1_000);

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Question {
    /// Where does our peer see the main socket?
    Home,
    /// Where does its second port?
    SecondPort,
    /// Where does it by its address of the other family?
    OtherFamily,
    /// Where does another peer?
    OtherPeer,
    /// Where does our peer see the socket that has spoken to nobody?
    FreshSocket,
    /// Does an answer from the second port reach that socket?
    Filter,
    /// Which port does the NAT choose for this socket?
    Choice {
        /// The port inside.
        inside: u16,
        /// How many were opened before it.
        place: usize,
    },
    /// Does this mapped port lead to us?
    Mapping(u16),
}

/// A question under way.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    pub(super) question: Question,
    pub(super) socket: SocketId,
    /// Who is asked.
    pub(super) to: SocketAddr,
    /// Who answers.
    pub(super) answers_from: SocketAddr,
    pub(super) txid: u64,
    cookie: u64,
    answer: EchoAnswer,
    start: Instant,
    asked: usize,
}

impl Ask {
    pub(super) fn new(
        question: Question,
        socket: SocketId,
        to: SocketAddr,
        txid: u64,
        now: Instant,
    ) -> Self {
        Self {
            question,
            socket,
            to,
            answers_from: to,
            txid,
            cookie: 0,
            answer: EchoAnswer::Here,
            start: now,
            asked: 0,
        }
    }

    /// Asks for an answer that needs a cookie.
    pub(super) fn with(mut self, cookie: u64, answer: EchoAnswer) -> Self {
        self.cookie = cookie;
        self.answer = answer;
        self
    }

    pub(super) fn answered_from(mut self, addr: SocketAddr) -> Self {
        self.answers_from = addr;
        self
    }

    pub(super) fn datagram(&self) -> Vec<u8> {
        let (txid, cookie, answer) = (self.txid, self.cookie, self.answer);
        PeerDatagram::EchoRequest { txid, cookie, answer }.encode()
    }

    /// When it is asked again, or given up.
    pub(super) fn due(&self) -> Instant {
        let schedule = self.schedule();
        let at = |ms: u32| self.start + Duration::from_millis(ms.into());
        match schedule.get(self.asked) {
            Some(&ms) => at(ms),
            None => at(schedule.last().copied().unwrap_or_default()) + ANSWER_TIME,
        }
    }

    /// Counts it as asked. False when it was asked often enough.
    pub(super) fn ask(&mut self, now: Instant) -> bool {
        let tries = self.schedule().len();
        if self.asked == tries {
            return false;
        }
        while self.asked < tries && self.due() <= now {
            self.asked += 1;
        }
        true
    }

    fn schedule(&self) -> &'static [u32] {
        match self.question {
            Question::Filter => &ECHO_SCHEDULE_MS[..FILTER_TRIES],
            _ => &ECHO_SCHEDULE_MS,
        }
    }
}
