//! Addresses shown to the contact's peer, where that is not one's own.
//!
//! A knock goes through the contact's peer, and this peer believes only its own cookies. The one
//! address that it sees by itself is the source of the connection; the address of the other family,
//! and a mapped port, have to be shown to it by echoes as well.

use std::net::{IpAddr, SocketAddr};

use halloo_wire::peer::Attested;
use halloo_wire::peer_datagram::{EchoAnswer, PeerDatagram};

use super::Node;
use crate::net::Net;

/// What has been shown to the contact's peer.
#[derive(Debug, Default)]
pub(super) struct Shown {
    asked: Vec<u64>,
    list: Vec<Attested>,
}

/// Questions that may be open: two families, a mapped port, and their repetitions.
const MAX_ASKED: usize = 8;

impl Node {
    /// Asks the contact's peer to attest what it does not see by itself.
    pub(super) fn show_to_contact_peer(&mut self, net: &mut Net) {
        if self.links.len() < 2 {
            return;
        }
        let peer = self.links[1].addr;
        let ipv4 = self.local.ips.iter().any(IpAddr::is_ipv4);
        let ipv6 = self.local.ips.iter().any(IpAddr::is_ipv6);
        if ipv4 && ipv6 {
            self.ask(peer.v6, 0, EchoAnswer::Here, net);
        }
        if self.mapped.is_some() && ipv4 {
            self.ask(peer.v4, 0, EchoAnswer::Here, net);
        }
    }

    /// An echo reply has come. True when it answers one of our own questions.
    pub(super) fn shown_to_contact_peer(&mut self, it: &PeerDatagram, net: &mut Net) -> bool {
        let PeerDatagram::EchoReply { txid, cookie, observed, .. } = *it else { return false };
        if !self.shown_there.asked.contains(&txid) {
            return false;
        }
        self.shown_there.asked.retain(|&t| t != txid);
        let mapped = self.mapped.map(|(addr, _)| addr);
        if observed.is_ipv6() || Some(observed) == mapped {
            self.shown_there.list.retain(|a| a.addr != observed);
            self.shown_there.list.push(Attested { addr: observed, cookie });
        } else if let Some(mapped) = mapped {
            // The cookie shows where we are, so the peer may be asked to try the mapped port.
            let peer = self.links[1].addr.v4;
            self.ask(peer, cookie, EchoAnswer::ToPort(mapped.port()), net);
        }
        true
    }

    /// What goes into a knock at the contact's peer.
    pub(super) fn attested_there(&self, net: &Net) -> Vec<Attested> {
        match self.links.len() {
            1 => self.prober.attested(net.now()),
            _ => self.shown_there.list.clone(),
        }
    }

    fn ask(&mut self, peer: SocketAddr, cookie: u64, answer: EchoAnswer, net: &mut Net) {
        let txid = self.rng.u64();
        if self.shown_there.asked.len() == MAX_ASKED {
            self.shown_there.asked.remove(0);
        }
        self.shown_there.asked.push(txid);
        let request = PeerDatagram::EchoRequest { txid, cookie, answer };
        self.send_datagram(halloo_nat::SocketId::MAIN, peer, request.encode(), net);
    }
}
