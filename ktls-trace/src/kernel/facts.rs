//! Everything that is known about the running kernel before anything is attached.

use std::{fs, path::Path};

use super::{
    Plan,
    btf::{self, Resolved},
    modules::{self, Tls},
    symbols::Symbols,
    without::Without,
};

/// The kernel as the plan sees it: plain data, so that a test can make one up.
#[derive(Clone, Debug)]
pub struct Facts {
    /// `uname -r`.
    pub release: String,
    /// Its functions; an error text if the table could not be read.
    pub symbols: Result<Symbols, String>,
    /// Its layout; an error text if there is no BTF.
    pub layout: Result<Resolved, String>,
    /// Whether kernel TLS is there.
    pub tls: Tls,
}

impl Facts {
    /// Looks at the running kernel, with its BTF in a folder and as if it lacked some of it.
    pub fn gather(btf_directory: &Path, without: &Without) -> Self {
        Self::assemble(
            release(),
            read_symbols(),
            btf::read(btf_directory, without).map_err(|error| error.to_string()),
            modules::tls_is_loaded(),
        )
    }

    /// Looks at what hooks take: which functions there are is told by their types, and the tables, which take longer
    /// than the rest of a start, are read only if something would go unobserved otherwise.
    pub fn for_hooks(btf_directory: &Path, without: &Without) -> Self {
        let layout = btf::read(btf_directory, without).map_err(|error| error.to_string());
        let functions = layout.as_ref().map(|resolved| &resolved.functions);
        let tls_is_loaded = modules::tls_is_loaded();
        let by_types = Self::assemble(
            release(),
            functions.map(Symbols::from_types).map_err(Clone::clone),
            layout,
            tls_is_loaded,
        );
        let plan = Plan::new(&by_types, &without.functions);
        if plan.obstacle.is_some() || plan.unserved().is_empty() {
            return by_types;
        }
        Self::assemble(
            by_types.release,
            read_symbols(),
            by_types.layout,
            tls_is_loaded,
        )
    }

    /// What a run that uses no hooks needs to know: tables and types are not even opened.
    pub fn without_hooks() -> Self {
        let unread = || "not read: hooks are not wanted".to_owned();
        Self::assemble(
            release(),
            Err(unread()),
            Err(unread()),
            modules::tls_is_loaded(),
        )
    }

    /// Puts together what was read from this kernel, or from a recording of another.
    pub fn assemble(
        release: String,
        symbols: Result<Symbols, String>,
        layout: Result<Resolved, String>,
        tls_is_loaded: bool,
    ) -> Self {
        let built_in = symbols
            .as_ref()
            .is_ok_and(|symbols| symbols.get("tls_sw_sendmsg").is_some());
        let tls = if built_in || tls_is_loaded {
            Tls::Present
        } else {
            Tls::NotLoaded
        };
        Self {
            release,
            symbols,
            layout,
            tls,
        }
    }
}

/// The tables of functions.
fn read_symbols() -> Result<Symbols, String> {
    Symbols::read().map_err(|error| format!("/proc/kallsyms: {error}"))
}

/// `uname -r`.
pub fn release() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease").map_or_else(
        |_| "unknown".to_owned(),
        |release| release.trim().to_owned(),
    )
}
