//! `cargo xtask setup`, and what every other verb does first: looks what this machine lacks and installs it.

mod cargo_tools;
mod packages;
mod rust_src;

use anyhow::Result;

pub(crate) use self::rust_src::{compiler, compiler_release};
use crate::place::Place;

/// What a verb can't do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Needs {
    /// The sources of core and bpf-linker: enough to build everything.
    Build,
    /// That, and QEMU.
    Guests,
    /// That, and mmdebstrap.
    Userlands,
    /// QEMU and what the release checks of `.ci/run` call.
    Checks,
    /// What `Build` has, and what packages are made with.
    Packages,
}

impl Needs {
    /// What guests need, with a whole distribution around some of them or without.
    pub(crate) fn of_guests(with_userland: bool) -> Self {
        if with_userland {
            Self::Userlands
        } else {
            Self::Guests
        }
    }
}

/// Installs what is missing, and says so line by line; without a word when nothing is.
pub(crate) fn ensure(place: &Place, needs: Needs) -> Result<()> {
    for item in items(needs) {
        if (item.present)().is_none() {
            eprintln!("setup: {}: missing, installing …", item.name);
            let how = (item.install)(place)?;
            eprintln!("setup: {}: {how}", item.name);
        }
    }
    Ok(())
}

/// The verb: the same with a line for what is there already.
pub(crate) fn run(place: &Place, needs: Needs) -> Result<()> {
    for item in items(needs) {
        let line = match (item.present)() {
            Some(found) => found,
            None => (item.install)(place)?,
        };
        println!("{}: {line}", item.name);
    }
    Ok(())
}

/// One thing to have.
struct Item {
    name: &'static str,
    /// Where or which it is; `None` if it is missing.
    present: fn() -> Option<String>,
    /// Installs it and says how.
    install: fn(&Place) -> Result<String>,
}

fn items(needs: Needs) -> Vec<Item> {
    let mut items = vec![
        Item {
            name: "rust-src",
            present: rust_src::present,
            install: rust_src::install,
        },
        Item {
            name: "bpf-linker",
            present: cargo_tools::linker_present,
            install: cargo_tools::linker_install,
        },
    ];
    if matches!(needs, Needs::Guests | Needs::Userlands | Needs::Checks) {
        items.insert(
            0,
            Item {
                name: "qemu",
                present: packages::qemu_present,
                install: packages::qemu_install,
            },
        );
    }
    if needs == Needs::Userlands {
        items.push(Item {
            name: "mmdebstrap",
            present: packages::mmdebstrap_present,
            install: packages::mmdebstrap_install,
        });
    }
    if needs == Needs::Checks {
        items.push(Item {
            name: "cargo-deny",
            present: cargo_tools::deny_present,
            install: cargo_tools::deny_install,
        });
    }
    if needs == Needs::Packages {
        items.push(Item {
            name: "rpmbuild",
            present: packages::rpmbuild_present,
            install: packages::rpmbuild_install,
        });
    }
    items
}
