//! Which sockets have a cookie, or both ends of a connection: what is told of one under another name is found without looking at all.

use std::{
    collections::{BTreeSet, HashMap, hash_map::Entry},
    net::SocketAddr,
};

use crate::observe::SocketKey;

/// By what a socket can be known again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Identity {
    /// Its cookie.
    Cookie(u64),
    /// Local and remote address; another network namespace may have the same.
    Ends(SocketAddr, SocketAddr),
}

impl Identity {
    /// Those of a socket of which so much is known.
    pub(super) fn of(
        cookie: Option<u64>,
        src: Option<SocketAddr>,
        dst: Option<SocketAddr>,
    ) -> [Option<Self>; 2] {
        let ends = src.zip(dst).map(|(src, dst)| Self::Ends(src, dst));
        [cookie.map(Self::Cookie), ends]
    }
}

/// The sockets by their identities.
#[derive(Debug, Default)]
pub(super) struct Identities(HashMap<Identity, BTreeSet<SocketKey>>);

impl Identities {
    /// Notes that a socket has these identities instead of those.
    pub(super) fn change(
        &mut self,
        key: SocketKey,
        before: [Option<Identity>; 2],
        now: [Option<Identity>; 2],
    ) {
        if before == now {
            return;
        }
        for identity in before.into_iter().flatten() {
            if let Entry::Occupied(mut keys) = self.0.entry(identity) {
                keys.get_mut().remove(&key);
                if keys.get().is_empty() {
                    keys.remove();
                }
            }
        }
        for identity in now.into_iter().flatten() {
            self.0.entry(identity).or_default().insert(key);
        }
    }

    /// The sockets that have one of these.
    pub(super) fn any_of(
        &self,
        identities: [Option<Identity>; 2],
    ) -> impl Iterator<Item = SocketKey> {
        let sets = identities.into_iter().flatten();
        sets.filter_map(move |identity| self.0.get(&identity))
            .flatten()
            .copied()
    }
}
