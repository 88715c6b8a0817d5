//! What a run is to do without, as if this kernel did not have it: functions, members of structures, and
//! `sock_diag`. To see what a verdict is worth when a source of facts is missing.

use std::{cell::RefCell, str::FromStr};

use super::{
    btf::{self, FunctionId, Lookup, Place},
    symbols::HOOKED,
};

/// The name that stands for asking the kernel about sockets.
const SOCK_DIAG: &str = "sock_diag";
/// The name that stands for hooks by trampoline.
const FENTRY: &str = "fentry";

/// One thing to do without.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A function that is not hooked.
    Function(String),
    /// A member or argument that is not read, as [`btf::Resolved::missing`] names it.
    Member(String),
    /// Sockets are not asked about.
    SockDiag,
    /// Every hook is a kprobe.
    Fentry,
}

/// A name that nothing here goes by.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "neither a function that is hooked, nor a member that is read (as tcp_sock.nonagle), nor sock_diag or fentry"
)]
pub struct Unknown;

impl FromStr for Item {
    type Err = Unknown;

    fn from_str(name: &str) -> Result<Self, Unknown> {
        if name == SOCK_DIAG {
            Ok(Self::SockDiag)
        } else if name == FENTRY {
            Ok(Self::Fentry)
        } else if HOOKED.contains(&name) {
            Ok(Self::Function(name.to_owned()))
        } else if members().iter().any(|member| member == name) {
            Ok(Self::Member(name.to_owned()))
        } else {
            Err(Unknown)
        }
    }
}

/// What to do without.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Without {
    /// Functions that are not hooked.
    pub functions: Vec<String>,
    /// Members and arguments that are not read.
    members: Vec<String>,
    /// Whether sockets are not asked about.
    pub sock_diag: bool,
    /// Whether every hook is a kprobe.
    fentry: bool,
}

impl FromIterator<Item> for Without {
    fn from_iter<T: IntoIterator<Item = Item>>(items: T) -> Self {
        let mut without = Self::default();
        for item in items {
            match item {
                Item::Function(name) => without.functions.push(name),
                Item::Member(path) => without.members.push(path),
                Item::SockDiag => without.sock_diag = true,
                Item::Fentry => without.fentry = true,
            }
        }
        without
    }
}

/// Everything that the layout asks for.
fn members() -> Vec<String> {
    /// Notes what is asked for.
    struct Asked(RefCell<Vec<String>>);

    impl Lookup for Asked {
        fn member(&self, path: &str) -> Option<Place> {
            self.0.borrow_mut().push(path.to_owned());
            None
        }

        fn argument(&self, function: &str, name: &str) -> Option<u32> {
            self.0.borrow_mut().push(format!("{function}({name})"));
            None
        }

        fn function(&self, _name: &str) -> Option<FunctionId> {
            None
        }

        fn has_tls(&self) -> bool {
            false
        }
    }

    let asked = Asked(RefCell::default());
    btf::resolve(&asked);
    asked.0.into_inner()
}

/// Types of which some are passed over.
pub(super) struct Reduced<'a, T> {
    /// The kernel's.
    pub(super) types: T,
    /// What to pass over.
    pub(super) without: &'a Without,
}

impl<T: Lookup> Lookup for Reduced<'_, T> {
    fn member(&self, path: &str) -> Option<Place> {
        let skipped = self.without.members.iter().any(|member| member == path);
        if skipped {
            None
        } else {
            self.types.member(path)
        }
    }

    fn argument(&self, function: &str, name: &str) -> Option<u32> {
        let asked = format!("{function}({name})");
        let skipped = self.without.members.contains(&asked);
        if skipped {
            None
        } else {
            self.types.argument(function, name)
        }
    }

    fn function(&self, name: &str) -> Option<FunctionId> {
        if self.without.fentry {
            None
        } else {
            self.types.function(name)
        }
    }

    fn has_tls(&self) -> bool {
        self.types.has_tls()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_by_what_they_stand_for() {
        let names = [
            "tls_push_sg",
            "tcp_sock.nonagle",
            "tls_push_sg(flags)",
            "sock_diag",
            "fentry",
        ];
        let without: Without = names
            .into_iter()
            .map(|name| name.parse::<Item>().unwrap())
            .collect();
        assert_eq!(without.functions, ["tls_push_sg"]);
        assert_eq!(without.members, ["tcp_sock.nonagle", "tls_push_sg(flags)"]);
        assert!(without.sock_diag && without.fentry);
    }

    #[test]
    fn a_name_that_stands_for_nothing_is_refused() {
        for name in ["tls_push_gs", "tcp_sock.no_such_member", ""] {
            assert_eq!(name.parse::<Item>(), Err(Unknown), "{name}");
        }
    }
}
