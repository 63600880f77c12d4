//! Sockets beside the main one.
//!
//! A birthday search (RFC 5128, 3.4) sends from hundreds of ports at once, and then needs one of
//! them for good. They are received from where the main socket is, so that a path on one of them
//! is as fast as any other.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, RwLock};

use halloo_wire::path::SocketId;

use crate::sync::{read, write};
use crate::udp::Udp;

/// Sockets that may be open beside the main one: one search, which is 256 on either side.
pub const MAX_EXTRA_SOCKETS: usize = 256;

/// The list that receiving goes through. It is replaced as a whole.
type List = Arc<[(SocketId, Arc<Udp>)]>;

/// The sockets beside the main one.
#[derive(Debug)]
pub(crate) struct Extras {
    list: RwLock<List>,
    /// Whether there is any, so that a socket without them never looks.
    any: AtomicBool,
    next: AtomicU16,
}

impl Extras {
    pub(crate) fn new() -> Self {
        Self {
            list: RwLock::new(Arc::new([])),
            any: AtomicBool::new(false),
            next: AtomicU16::new(1),
        }
    }

    /// Opens `n` sockets like `main`, all or none of them.
    pub(crate) fn open(&self, main: &Udp, n: usize) -> io::Result<Vec<SocketId>> {
        let sockets = (0..n.min(MAX_EXTRA_SOCKETS + 1)).map(|_| main.another(0).map(Arc::new));
        let sockets = sockets.collect::<io::Result<Vec<_>>>()?;
        let mut list = write(&self.list);
        if list.len() + n > MAX_EXTRA_SOCKETS {
            return Err(io::Error::other("too many sockets are open already"));
        }
        let new: Vec<_> = sockets.into_iter().map(|it| (self.free_id(&list), it)).collect();
        let ids = new.iter().map(|(id, _)| *id).collect();
        *list = list.iter().cloned().chain(new).collect();
        self.any.store(!list.is_empty(), Ordering::Relaxed);
        Ok(ids)
    }

    /// An id that was not given for as long as possible.
    fn free_id(&self, list: &List) -> SocketId {
        loop {
            let id = SocketId(self.next.fetch_add(1, Ordering::Relaxed));
            if id != SocketId::MAIN && list.iter().all(|(it, _)| *it != id) {
                return id;
            }
        }
    }

    pub(crate) fn close(&self, id: SocketId) {
        let mut list = write(&self.list);
        *list = list.iter().filter(|(it, _)| *it != id).cloned().collect();
        self.any.store(!list.is_empty(), Ordering::Relaxed);
    }

    pub(crate) fn get(&self, id: SocketId) -> Option<Arc<Udp>> {
        read(&self.list).iter().find(|(it, _)| *it == id).map(|(_, socket)| Arc::clone(socket))
    }

    /// All of them; `None` when there are none.
    pub(crate) fn list(&self) -> Option<List> {
        self.any.load(Ordering::Relaxed).then(|| Arc::clone(&read(&self.list)))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn sockets_have_a_limit_and_names_of_their_own() {
        let main = Udp::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let extras = Extras::new();
        assert!(extras.list().is_none());
        let ids = extras.open(&main, MAX_EXTRA_SOCKETS - 1).unwrap();
        assert!(extras.open(&main, 2).is_err(), "all or none");
        let last = extras.open(&main, 1).unwrap();
        assert!(extras.open(&main, 1).is_err());
        assert!(!ids.contains(&last[0]) && !ids.contains(&SocketId::MAIN));

        extras.close(ids[0]);
        assert!(extras.get(ids[0]).is_none());
        let again = extras.open(&main, 1).unwrap();
        assert_ne!(again[0], ids[0], "a late datagram of a closed one is not taken for it");
        for id in ids.iter().chain(&last).chain(&again) {
            extras.close(*id);
        }
        assert!(extras.list().is_none());
    }
}
