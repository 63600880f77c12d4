//! Which of its addresses a rendezvous peer answers from.
//!
//! A machine may have several addresses in one network, as most servers with IPv6 do. Who asked
//! one of them does not take an answer from another, and neither does a NAT on the way. The system
//! says to which address a datagram came, and can be told from which one leaves; between the two,
//! this remembers it. QUIC does the same for its own packets.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{PoisonError, RwLock};

/// Remotes kept that do not use their family's usual address. When there are more, all of them are
/// forgotten, and learnt again from what they send next.
const MAX_OTHERS: usize = 4096;

/// The addresses of this machine to which remotes send.
#[derive(Default)]
pub(crate) struct OwnAddrs(RwLock<Inner>);

#[derive(Default)]
struct Inner {
    /// What the first remote of each family sent to: most use the same.
    usual: [Option<IpAddr>; 2],
    /// Those who use another.
    others: HashMap<SocketAddr, IpAddr>,
}

impl OwnAddrs {
    /// Something came from `remote` to `own`.
    pub(crate) fn heard(&self, remote: SocketAddr, own: IpAddr) {
        let family = family(remote);
        {
            let inner = self.0.read().unwrap_or_else(PoisonError::into_inner);
            let known = match inner.others.is_empty() {
                true => inner.usual[family],
                false => inner.of(remote),
            };
            if known == Some(own) {
                return;
            }
        }
        let mut inner = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let usual = *inner.usual[family].get_or_insert(own);
        if usual == own {
            inner.others.remove(&remote);
            return;
        }
        if inner.others.len() >= MAX_OTHERS && !inner.others.contains_key(&remote) {
            inner.others.clear();
        }
        inner.others.insert(remote, own);
    }

    /// From which address `remote` expects to hear; `None` when it has not been heard, nor has
    /// anybody else of its family.
    pub(crate) fn toward(&self, remote: SocketAddr) -> Option<IpAddr> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).of(remote)
    }

    /// Nothing leaves from that address any more: this machine has lost it.
    pub(crate) fn lost(&self, own: IpAddr) {
        let mut inner = self.0.write().unwrap_or_else(PoisonError::into_inner);
        inner.others.retain(|_, other| *other != own);
        for usual in &mut inner.usual {
            usual.take_if(|it| *it == own);
        }
    }
}

impl Inner {
    fn of(&self, remote: SocketAddr) -> Option<IpAddr> {
        self.others.get(&remote).copied().or(self.usual[family(remote)])
    }
}

fn family(remote: SocketAddr) -> usize {
    usize::from(remote.is_ipv6())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_remote_hears_from_the_address_that_it_used() {
        let own = OwnAddrs::default();
        assert_eq!(own.toward(remote(1)), None);
        own.heard(remote(1), ip(1));
        own.heard(remote(2), ip(2));
        assert_eq!([1, 2, 3].map(|n| own.toward(remote(n))), [1, 2, 1].map(|n| Some(ip(n))));
        own.heard(remote(2), ip(1));
        assert_eq!(own.toward(remote(2)), Some(ip(1)));
    }

    #[test]
    fn an_address_that_is_lost_is_not_used() {
        let own = OwnAddrs::default();
        own.heard(remote(1), ip(1));
        own.heard(remote(2), ip(2));
        own.lost(ip(1));
        assert_eq!((own.toward(remote(1)), own.toward(remote(2))), (None, Some(ip(2))));
        own.lost(ip(2));
        assert_eq!(own.toward(remote(2)), None);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let own = OwnAddrs::default();
        own.heard(remote(0), ip(1));
        for n in 1..=3 * MAX_OTHERS as u16 {
            own.heard(remote(n), ip(2));
            assert_eq!(own.toward(remote(n)), Some(ip(2)));
        }
        assert!(own.0.read().unwrap_or_else(PoisonError::into_inner).others.len() <= MAX_OTHERS);
    }

    fn ip(n: u8) -> IpAddr {
        [203, 0, 113, n].into()
    }

    fn remote(n: u16) -> SocketAddr {
        ([198, 51, 100, 1], n).into()
    }
}
