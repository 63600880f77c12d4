//! Real addresses that this endpoint has dialled by itself: rendezvous peers, mostly.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, RwLock};

use crate::socket::PathSocket;
use crate::sync::{read, write};
use crate::udp::canonical;

/// Addresses that are remembered after their last connection ended, so that what QUIC still has to
/// say there is heard: a stream that outlives its connection's handle, a late close.
const MAX_PAST: usize = 256;

/// From whom QUIC is taken when strangers are refused.
#[derive(Debug, Default)]
pub(crate) struct Dialled {
    known: RwLock<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// How many connections are held to each.
    addrs: HashMap<SocketAddr, usize>,
    /// Those that came down to none, oldest first. Some may be held again since.
    past: VecDeque<SocketAddr>,
}

/// Keeps an address known as long as this lives, and a while longer.
#[derive(Debug)]
pub(crate) struct Acquaintance {
    socket: Arc<PathSocket>,
    addr: SocketAddr,
}

impl Acquaintance {
    /// Makes one. What comes from a virtual address is known by other means.
    pub(crate) fn new(socket: &Arc<PathSocket>, addr: SocketAddr) -> Self {
        let addr = canonical(addr);
        if socket.net.is_real(addr) {
            *write(&socket.dialled.known).addrs.entry(addr).or_insert(0) += 1;
        }
        Self { socket: Arc::clone(socket), addr }
    }
}

impl Drop for Acquaintance {
    fn drop(&mut self) {
        write(&self.socket.dialled.known).release(self.addr);
    }
}

impl Dialled {
    pub(crate) fn contains(&self, addr: SocketAddr) -> bool {
        read(&self.known).addrs.contains_key(&addr)
    }
}

impl Known {
    fn release(&mut self, addr: SocketAddr) {
        let Some(held) = self.addrs.get_mut(&addr) else { return };
        *held = held.saturating_sub(1);
        if *held > 0 {
            return;
        }
        self.past.retain(|it| *it != addr);
        self.past.push_back(addr);
        if self.past.len() > MAX_PAST
            && let Some(oldest) = self.past.pop_front()
            && self.addrs.get(&oldest) == Some(&0)
        {
            self.addrs.remove(&oldest);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_is_known_while_it_is_used_and_a_while_longer() {
        let socket = Arc::new(PathSocket::bind("127.0.0.1:0".parse().unwrap()).unwrap());
        let addr = |i: usize| SocketAddr::from(([192, 0, 2, 1], i as u16 + 1));
        let held = Acquaintance::new(&socket, addr(0));
        for i in 1..=MAX_PAST + 1 {
            drop(Acquaintance::new(&socket, addr(i)));
        }
        assert!(socket.dialled.contains(addr(0)));
        assert!(!socket.dialled.contains(addr(1)), "the oldest is forgotten");
        assert!(socket.dialled.contains(addr(MAX_PAST + 1)));
        drop(held);
        assert!(socket.dialled.contains(addr(0)));
        assert_eq!(read(&socket.dialled.known).addrs.len(), MAX_PAST);
    }
}
